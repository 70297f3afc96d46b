/*
 * From the terminal's bytes to keys. Whatever is not text, a control character or a known key is swallowed
 * whole: escape sequences (ECMA-48), strings such as OSC and DCS, a terminal's answers to questions that
 * somebody asked it, mouse reports, bytes that are not UTF-8. So none of it can end up in the line.
 */
#ifndef KEYS_H
#define KEYS_H

#include "text.h"

enum key_kind {
    KEY_NONE,    /* the byte belongs to something that is not complete, or that means nothing here */
    KEY_TEXT,    /* a printable character, in `character` */
    KEY_CONTROL, /* a control character, 0 to 31 or 127 */
    KEY_META,    /* ESC and then an ASCII character or DEL */
    KEY_UP,
    KEY_DOWN,
    KEY_LEFT,
    KEY_RIGHT,
    KEY_HOME,
    KEY_END,
    KEY_DELETE,
    KEY_WORD_LEFT,
    KEY_WORD_RIGHT,
    KEY_PASTE_BEGIN,
    KEY_PASTE_END,
    KEY_BAD /* bytes that are not UTF-8, or a character that may not stand in a line */
};

struct key {
    enum key_kind kind;
    uint32_t character;
};

enum key_state { GROUND, ESCAPE, META_CHARACTER, CSI, CSI_LINUX, SS3, STRING, STRING_ESCAPE, MOUSE };

enum { PARAMETERS_LIMIT = 8 }; /* bytes; the keys that are known need five */

/* The parser. All zero is its start. Its size is fixed, however long the sequence. */
struct key_parser {
    enum key_state state;
    struct utf8 utf8;
    char parameters[PARAMETERS_LIMIT + 1];
    size_t count; /* bytes of the sequence so far; more than PARAMETERS_LIMIT are counted, not kept */
};

/* Take one byte; return the key that it completes. */
struct key key_from_byte(struct key_parser *parser, unsigned char byte);

#endif
