#include "keys.h"

#include <string.h>

enum { BEL = 7, ESC = 27, DEL = 127 };

static const struct key none = {KEY_NONE, 0};

static struct key from_ground(struct key_parser *parser, unsigned char byte) {
    if (parser->utf8.missing == 0) {
        if (byte == ESC) {
            parser->state = ESCAPE;
            return none;
        }
        if (byte < 0x20 || byte == DEL)
            return (struct key){KEY_CONTROL, byte};
    }
    switch (utf8_decode(&parser->utf8, byte)) {
    case UTF8_MORE:
        return none;
    case UTF8_DONE:
        if (is_printable(parser->utf8.value))
            return (struct key){KEY_TEXT, parser->utf8.value};
        return (struct key){KEY_BAD, 0};
    case UTF8_BAD_BEFORE:
        return from_ground(parser, byte); /* the decoder is empty now: at most one more call */
    case UTF8_BAD:
        break;
    }
    return (struct key){KEY_BAD, 0};
}

static struct key from_escape(struct key_parser *parser, unsigned char byte) {
    parser->count = 0;
    parser->state = GROUND;
    switch (byte) {
    case ESC:
        parser->state = ESCAPE;
        return none;
    case '[':
        parser->state = CSI;
        return none;
    case 'O':
        parser->state = SS3;
        return none;
    case ']': /* OSC */
    case 'P': /* DCS */
    case 'X': /* SOS */
    case '^': /* PM */
    case '_': /* APC */
        parser->state = STRING;
        return none;
    case 3:
    case '\r':
    case '\n': /* whoever presses Escape and then Enter or Ctrl-C means the latter */
        return (struct key){KEY_CONTROL, byte};
    }
    if (byte >= 0x80) {
        parser->state = META_CHARACTER;
        if (utf8_decode(&parser->utf8, byte) != UTF8_MORE)
            parser->state = GROUND;
        return none;
    }
    if (byte >= 0x20 || byte == '\b')
        return (struct key){KEY_META, byte};
    return none;
}

/* Which key `ESC [ parameters final` is; the forms of xterm, rxvt and the Linux console. */
static enum key_kind csi_key(const char *parameters, unsigned char final) {
    if (final == '~') {
        static const struct {
            const char *parameters;
            enum key_kind kind;
        } numbered[] = {
            {"1", KEY_HOME},   {"7", KEY_HOME},          {"4", KEY_END},         {"8", KEY_END},
            {"3", KEY_DELETE}, {"200", KEY_PASTE_BEGIN}, {"201", KEY_PASTE_END},
        };
        for (size_t i = 0; i < sizeof numbered / sizeof *numbered; i++)
            if (strcmp(parameters, numbered[i].parameters) == 0)
                return numbered[i].kind;
        return KEY_NONE;
    }
    bool plain = *parameters == 0 || strcmp(parameters, "1") == 0;
    bool by_word = strcmp(parameters, "1;3") == 0 || strcmp(parameters, "1;5") == 0; /* Alt, Ctrl */
    if (!plain && !by_word)
        return KEY_NONE;
    switch (final) {
    case 'A':
        return KEY_UP;
    case 'B':
        return KEY_DOWN;
    case 'C':
        return by_word ? KEY_WORD_RIGHT : KEY_RIGHT;
    case 'D':
        return by_word ? KEY_WORD_LEFT : KEY_LEFT;
    case 'H':
        return KEY_HOME;
    case 'F':
        return KEY_END;
    }
    return KEY_NONE;
}

static struct key from_csi(struct key_parser *parser, unsigned char byte) {
    if (byte >= 0x20 && byte < 0x40) { /* parameters and intermediates */
        if (parser->count < PARAMETERS_LIMIT)
            parser->parameters[parser->count] = (char)byte;
        parser->count++;
        return none;
    }
    if (byte == '[' && parser->count == 0) { /* function keys of the Linux console: ESC [ [ A */
        parser->state = CSI_LINUX;
        return none;
    }
    if (byte == 'M' && parser->count == 0) { /* mouse report of X10: three bytes follow */
        parser->state = MOUSE;
        return none;
    }
    parser->state = GROUND;
    if (parser->count > PARAMETERS_LIMIT)
        return none;
    parser->parameters[parser->count] = 0;
    return (struct key){csi_key(parser->parameters, byte), 0};
}

static struct key from_ss3(struct key_parser *parser, unsigned char byte) {
    if (byte >= '0' && byte <= ';') { /* modifiers, in some terminals */
        parser->count++;
        return none;
    }
    parser->state = GROUND;
    return (struct key){parser->count == 0 ? csi_key("", byte) : KEY_NONE, 0};
}

/* Alt with a character that is not ASCII: its bytes are swallowed too. */
static struct key from_meta_character(struct key_parser *parser, unsigned char byte) {
    enum utf8_result result = utf8_decode(&parser->utf8, byte);
    if (result == UTF8_MORE)
        return none;
    parser->state = GROUND;
    return result == UTF8_BAD_BEFORE ? from_ground(parser, byte) : none;
}

/* Within a sequence: ESC begins another one, and any control character says that this one was cut short (no
 * sequence has one within). So Ctrl-C and Enter work, whatever came before them. True when `byte` was such a
 * one. */
static bool cut_short(struct key_parser *parser, unsigned char byte, struct key *key) {
    if (parser->state == GROUND || parser->state == ESCAPE || parser->state == STRING_ESCAPE)
        return false;
    if (byte >= 0x20 && byte != DEL)
        return false;
    bool in_string = parser->state == STRING;
    parser->utf8 = (struct utf8){0};
    parser->state = GROUND;
    *key = none;
    if (byte == ESC)
        parser->state = in_string ? STRING_ESCAPE : ESCAPE;
    else if (!(in_string && byte == BEL)) /* BEL is how xterm ends a string */
        *key = (struct key){KEY_CONTROL, byte};
    return true;
}

struct key key_from_byte(struct key_parser *parser, unsigned char byte) {
    struct key key;
    if (cut_short(parser, byte, &key))
        return key;
    switch (parser->state) {
    case GROUND:
        return from_ground(parser, byte);
    case ESCAPE:
        return from_escape(parser, byte);
    case META_CHARACTER:
        return from_meta_character(parser, byte);
    case CSI:
        return from_csi(parser, byte);
    case SS3:
        return from_ss3(parser, byte);
    case CSI_LINUX:
        parser->state = GROUND;
        return none;
    case MOUSE:
        if (++parser->count == 3)
            parser->state = GROUND;
        return none;
    case STRING:
        return none;
    case STRING_ESCAPE: /* ESC \ ends the string; with anything else a sequence of its own begins */
        if (byte != '\\')
            return from_escape(parser, byte);
        parser->state = GROUND;
        return none;
    }
    return none;
}
