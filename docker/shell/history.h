/*
 * The lines that were entered, newest first. In memory only: there is no history file.
 */
#ifndef HISTORY_H
#define HISTORY_H

#include "text.h"

enum { HISTORY_LIMIT = 100 }; /* lines; the oldest is forgotten */

/* Remember `line`, unless it is empty or equal to the newest. */
void history_add(const struct line *line);

/* The line that was entered `age` lines ago (0 is the newest), or NULL. */
const struct line *history_line(size_t age);

#endif
