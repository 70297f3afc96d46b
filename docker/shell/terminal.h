/*
 * The shell's terminal: its modes, its foreground process group, its size, bytes in and bytes out. While a
 * line is edited the terminal hands every key to the shell; while a command runs it is an ordinary terminal
 * with the usual keys.
 */
#ifndef TERMINAL_H
#define TERMINAL_H

#include "text.h"

/* Results of terminal_byte besides a byte. */
enum { TERMINAL_ENDED = -1, TERMINAL_RESIZED = -2, TERMINAL_QUIET = -3 };

/* Take the terminal on descriptors 0 to 2. NULL, or why that is not possible. */
const char *terminal_start(void);

/* Modes for editing; the shell is the foreground process group again, whatever a command has left behind. */
void terminal_edit_modes(void);

/* Ordinary modes for a command. Each starts with the same ones. */
void terminal_command_modes(void);

/* The modes that the terminal had at the start. Safe in a signal handler. */
void terminal_restore(void);

/* Wait for one byte; for `milliseconds` at most (then TERMINAL_QUIET), or for ever when that is negative.
 * Never takes more than the one byte: what is typed ahead stays for the command that is about to run. */
int terminal_byte(int milliseconds);

/* Whether terminal_byte would return at once. */
bool terminal_pending(void);

void terminal_size(size_t *columns, size_t *rows);

/* Output is kept until put_flush. */
void put_text(const char *text);
void put_character(uint32_t character);
void put_number(size_t number);
void put_flush(void);

#endif
