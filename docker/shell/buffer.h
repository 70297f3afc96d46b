/*
 * The text of the line that is edited, and the cursor in it: what keys do to it. Nothing here knows of
 * screens or terminals.
 */
#ifndef BUFFER_H
#define BUFFER_H

#include "text.h"

struct buffer {
    struct line *line;
    size_t cursor; /* index of the character that it stands on, or the line's length */
    bool cut;      /* characters did not fit: what is there is not what was typed, and must not be run */
};

/* Insert before the cursor. False: the line is full. */
bool buffer_insert(struct buffer *buffer, uint32_t character);

/* Erase characters `from` up to `to`; the cursor goes there. False: there are none. */
bool buffer_erase(struct buffer *buffer, size_t from, size_t to);

/* The same, and keep them for buffer_yank. */
bool buffer_cut_out(struct buffer *buffer, size_t from, size_t to);

/* Insert what was cut out last. */
bool buffer_yank(struct buffer *buffer);

/* Exchange the characters before and on the cursor (at the end: the last two), and go behind them. */
bool buffer_transpose(struct buffer *buffer);

/* Where the character before `index` begins, and where the one at `index` ends, accents included. */
size_t buffer_before(const struct buffer *buffer, size_t index);
size_t buffer_after(const struct buffer *buffer, size_t index);

/* Begin of the word before `index`, and end of the one behind it: letters and digits. */
size_t buffer_word_begin(const struct buffer *buffer, size_t index);
size_t buffer_word_end(const struct buffer *buffer, size_t index);

/* Begin of the argument before `index`: anything but blanks. */
size_t buffer_argument_begin(const struct buffer *buffer, size_t index);

/* Whether `character` separates arguments. */
bool is_blank(uint32_t character);

#endif
