/*
 * The environment of the commands. It is made from scratch: PATH, HOME, USER, LOGNAME and SHELL are the
 * shell's own, and of what the shell was given only names on an allow list go on, bounded in number and
 * length. So nothing that steers a loader or an interpreter (LD_PRELOAD, NODE_OPTIONS, BASH_ENV, ...) reaches
 * a command.
 */
#ifndef ENVIRONMENT_H
#define ENVIRONMENT_H

#define COMMAND_PATH "/usr/local/bin:/usr/bin:/bin"
#define SHELL_PATH "/usr/local/bin/restricted-shell"
#define DEFAULT_USER "appuser"
#define DEFAULT_HOME "/home/appuser"

/* Let the names in `list`, separated by commas, pass too. NULL, or what is wrong with it. */
const char *environment_keep(const char *list);

/* Make the environment of the commands from the shell's own, `given`. */
char **environment_for_commands(char **given);

/* The value of `name` in `given`, or NULL. */
const char *environment_value(char **given, const char *name);

#endif
