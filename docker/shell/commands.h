/*
 * The allow list: names of the commands that may be run, from an option or from a file in the image.
 */
#ifndef COMMANDS_H
#define COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#define COMMANDS_FILE "/etc/terminal-supervisor/commands"
#define DEFAULT_COMMAND "ably"

/* Allow the names in `list`, separated by commas. NULL, or what is wrong with it. */
const char *commands_from_option(const char *list);

/* Allow the names in the file: one a line, `#` begins a comment. Without a file, DEFAULT_COMMAND alone. NULL,
 * or what is wrong: a list that is not understood allows nothing, so the shell does not start with it. */
const char *commands_from_file(const char *path);

/* The allowed names and the shell's own, in the order of the alphabet; NULL behind the last one. */
const char *command_name(size_t index);

bool command_allowed(const char *name);

/* Whether `name`, one of these, can be run here: the shell's own can, the others where COMMAND_PATH has them. */
bool command_installed(const char *name);

#endif
