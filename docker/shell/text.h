/*
 * Text as the shell keeps it: lines of Unicode code points, their way from and to UTF-8 (RFC 3629), and the
 * columns that they take on a screen.
 */
#ifndef TEXT_H
#define TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE_LIMIT = 4096 }; /* characters of a line; more is refused with a bell */

struct line {
    size_t length;
    uint32_t text[LINE_LIMIT];
};

/* A decoder that takes byte after byte, and only the shortest form of a code point. All zero is its start. */
struct utf8 {
    uint32_t value, least;
    unsigned missing;
};

enum utf8_result {
    UTF8_MORE,      /* the character is not complete yet */
    UTF8_DONE,      /* it is in `value` */
    UTF8_BAD,       /* this byte and what came before it are no character */
    UTF8_BAD_BEFORE /* what came before is no character; give this byte once more */
};

enum utf8_result utf8_decode(struct utf8 *decoder, unsigned char byte);

/* Write the UTF-8 form of `character` to `out` and return its length, 1 to 4 bytes. */
size_t utf8_encode(uint32_t character, char out[4]);

/* Whether `character` may stand in a line: no control, surrogate or line separator. */
bool is_printable(uint32_t character);

/* Columns that a printable character takes: 0, 1 or 2. */
unsigned columns_of(uint32_t character);

/* Replace `line` by the UTF-8 text `bytes`. False: that is not printable, or too long. */
bool line_from_utf8(struct line *line, const char *bytes);

#endif
