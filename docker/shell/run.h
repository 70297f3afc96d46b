/*
 * Runs one command in the foreground, in a process group of its own, and has the terminal back afterwards
 * whatever it did.
 */
#ifndef RUN_H
#define RUN_H

/* Give signals the meaning that they have for this shell: the keyboard's, TERM and the like are for commands
 * only; HUP ends the command and the shell. */
void run_start(void);

/* Run `argv` with `environment`, found in COMMAND_PATH and nowhere else; return its exit status, 128 + n
 * after signal n. */
int run_command(char *const argv[], char *const environment[]);

#endif
