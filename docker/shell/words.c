#include "words.h"

#include <string.h>

static bool is_operator(uint32_t character) {
    return character < 0x80 && character != 0 && strchr(";|&<>()`", (int)character) != NULL;
}

struct splitter {
    const struct line *line;
    struct words *words;
    size_t at;   /* next character of the line */
    size_t used; /* bytes of words->bytes */
    bool in_word;
};

static void add(struct splitter *splitter, uint32_t character) {
    splitter->used += utf8_encode(character, splitter->words->bytes + splitter->used);
}

static void begin_word(struct splitter *splitter) {
    if (!splitter->in_word)
        splitter->words->argv[splitter->words->count++] = splitter->words->bytes + splitter->used;
    splitter->in_word = true;
}

static void end_word(struct splitter *splitter) {
    if (splitter->in_word)
        splitter->words->bytes[splitter->used++] = 0;
    splitter->in_word = false;
}

/* Take what follows an opening quote up to the closing one. Within double quotes a backslash escapes `"` and
 * itself. */
static bool quoted(struct splitter *splitter, uint32_t quote) {
    const struct line *line = splitter->line;
    while (splitter->at < line->length) {
        uint32_t character = line->text[splitter->at++];
        if (character == quote)
            return true;
        if (quote == '"' && character == '\\' && splitter->at < line->length) {
            uint32_t next = line->text[splitter->at];
            if (next == '"' || next == '\\') {
                character = next;
                splitter->at++;
            }
        }
        add(splitter, character);
    }
    return false;
}

static enum split_result split(struct splitter *splitter) {
    const struct line *line = splitter->line;
    while (splitter->at < line->length) {
        uint32_t character = line->text[splitter->at++];
        if (character == '\n')
            break;
        if (character == ' ' || character == '\t') {
            end_word(splitter);
        } else if (character == '\'' || character == '"') {
            begin_word(splitter); /* even '' is a word */
            if (!quoted(splitter, character))
                return SPLIT_UNCLOSED;
        } else if (character == '\\') {
            if (splitter->at == line->length)
                return SPLIT_BACKSLASH;
            character = line->text[splitter->at++];
            if (character == '\n') /* commands in documentation go on in the next line like this */
                continue;
            begin_word(splitter);
            add(splitter, character);
        } else if (is_operator(character)) {
            splitter->words->operator = character;
            return SPLIT_OPERATOR;
        } else {
            begin_word(splitter);
            add(splitter, character);
        }
    }
    end_word(splitter);
    return SPLIT_WORDS;
}

enum split_result split_line(const struct line *line, struct words *words) {
    struct splitter splitter = {.line = line, .words = words};
    words->count = 0;
    enum split_result result = split(&splitter);
    if (result != SPLIT_WORDS)
        words->count = 0;
    words->argv[words->count] = NULL;
    words->consumed = splitter.at;
    return result;
}
