/* What all attacks share. Each runs in a process of its own and ends it by one of the first two functions. */
#ifndef ATTACKER_H
#define ATTACKER_H

#include <stddef.h>

enum { PLANTED = 42 /* exit status of a program that should not have run, or not with these rights */ };

struct attack {
    const char *name;
    void (*run)(const char *argument); /* empty without one */
};

/* Lists of attacks, one for each file; they end with a name of NULL. */
extern const struct attack file_attacks[], kernel_attacks[], process_attacks[], exhaustion_attacks[], network_attacks[];

/* End: it worked, and this is what came of it. */
_Noreturn void succeeded(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* End: something, errno says what, stood in the way of this step. */
_Noreturn void stopped(const char *step);
/* Return what is not negative; otherwise that step was stopped. */
long must(long result, const char *step);

/* Make the file `path` a copy of this program, to be executed. */
void copy_myself(const char *path);
/* Copy this program into an open file. */
void copy_myself_into(int fd);
/* Execute `path` with that argument in a child; return its exit status, or -1 with errno. */
int status_of(const char *path, const char *argument);
/* Write all of it; what fails was stopped at that step. */
void write_all(int fd, const void *from, size_t n, const char *step);

/* Answer whoever connects to that TCP port, until killed. */
_Noreturn void serve(int port);
/* Connect to a lifeline socket in a child, and say what a gate says. */
_Noreturn void pretend(const char *path, int version);

#endif
