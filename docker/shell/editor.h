/*
 * The line editor: Emacs keys as people know them from bash, without any key that runs, expands or inserts
 * something that the user has not typed. docs/restricted-shell.md lists them.
 */
#ifndef EDITOR_H
#define EDITOR_H

#include "text.h"

enum edit_result {
    EDIT_LINE,      /* Enter: the line is to be run */
    EDIT_CANCELLED, /* Ctrl-C, or a line that cannot be run */
    EDIT_ENDED      /* Ctrl-D on an empty line, or the terminal is gone */
};

/* Let the user edit `line`, which may begin with something in it, behind `prompt`. */
enum edit_result edit_line(const struct line *prompt, struct line *line);

#endif
