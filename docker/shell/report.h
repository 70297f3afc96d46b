/*
 * Says to the container's gate which commands are started: a byte each, on a pipe that was inherited for that
 * (docs/gate.md). It is for counting, and holds nobody up: a byte that does not fit is not said.
 */
#ifndef REPORT_H
#define REPORT_H

/* Find the pipe, which the commands shall not get. The first descriptor behind it and the standard streams:
 * what is open from there on is nobody's. */
int report_start(void);

/* Say that a command has been started. */
void report_command(void);

#endif
