/*
 * Shows the line that is being edited: a prompt and the text behind it, over as many rows as they take. A
 * text that is higher than the screen is shown in part, around the cursor.
 */
#ifndef SCREEN_H
#define SCREEN_H

#include "text.h"

/* A new line begins at the start of the row where the terminal's cursor is. */
void screen_begin(void);

/* Show `prompt` and `line`, the cursor on character `cursor`, in the place of what was shown before. */
void screen_show(const struct line *prompt, const struct line *line, size_t cursor);

/* Show one more character at the end, where the cursor is. False: that takes a call of screen_show. */
bool screen_append(uint32_t character);

/* The window changed its size: what is shown may be damaged. */
void screen_resized(void);

/* Leave the line as it is and go to the start of the row below it. */
void screen_end(void);

#endif
