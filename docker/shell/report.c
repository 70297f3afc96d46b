#define _GNU_SOURCE
#include "report.h"

#include "environment.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Set by who started us, together with the descriptor that it names, which is always the same. */
#define REPORT_VARIABLE "TERMINAL_SUPERVISOR_COMMANDS"
enum { REPORT_DESCRIPTOR = 3 };

extern char **environ;

static bool reporting;

int report_start(void) {
    struct stat status;
    const char *named = environment_value(environ, REPORT_VARIABLE);
    /* A variable alone, which others may have set, makes nothing else that is open a place to write to. */
    reporting = named != NULL && strcmp(named, "3") == 0 && fstat(REPORT_DESCRIPTOR, &status) == 0 &&
                S_ISFIFO(status.st_mode) && fcntl(REPORT_DESCRIPTOR, F_SETFD, FD_CLOEXEC) == 0;
    return reporting ? REPORT_DESCRIPTOR + 1 : REPORT_DESCRIPTOR;
}

void report_command(void) {
    if (reporting) {
        ssize_t said = write(REPORT_DESCRIPTOR, "", 1);
        (void)said; /* it does not fit: then so many have been said that one more makes no difference */
    }
}
