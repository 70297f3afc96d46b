#define _GNU_SOURCE
#include "run.h"

#include "environment.h"
#include "report.h"
#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    HANGUP_GRACE = 1, /* seconds for a command that was stopped, between its hang-up and its end */
    REST_NAPS = 100   /* milliseconds for what a command left behind, between its hang-up and the prompt */
};

/* Process group of the command, 0 at the prompt. A process id fits, on Linux. */
static volatile sig_atomic_t foreground;

static void on_hangup(int number) {
    if (foreground > 0) {
        kill(-foreground, SIGHUP);
        kill(-foreground, SIGCONT);
    }
    terminal_restore();
    _exit(128 + number);
}

void run_start(void) {
    static const int ignored[] = {SIGINT,  SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU,   SIGTERM, SIGPIPE, SIGALRM,
                                  SIGUSR1, SIGUSR2, SIGXFSZ, SIGXCPU, SIGVTALRM, SIGPROF, SIGIO,   SIGPWR};
    struct sigaction action = {.sa_handler = SIG_IGN};
    sigset_t none;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        sigaction(ignored[i], &action, NULL);
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        sigaction(number, &action, NULL);
    action.sa_handler = SIG_DFL;
    sigaction(SIGCHLD, &action, NULL);
    action.sa_handler = on_hangup;
    sigaction(SIGHUP, &action, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child: become the terminal's foreground, with everything as a command expects it. */
static void take_foreground(void) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    /* From here on a Ctrl-C is for this process: blocked signals wait, where those that are ignored would be
     * lost. */
    sigprocmask(SIG_SETMASK, &all, NULL);
    setpgid(0, 0);
    tcsetpgrp(STDIN_FILENO, getpid());
    terminal_command_modes();
    /* Refused for KILL, STOP and the C library's own: those are right already. */
    for (int number = 1; number <= SIGRTMAX; number++)
        sigaction(number, &action, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the child: execute. */
static _Noreturn void become(char *const argv[], char *const environment[]) {
    static const char path[] = COMMAND_PATH;
    char file[sizeof path + LINE_LIMIT];
    int problem = ENOENT;
    take_foreground();
    for (const char *directory = path; *directory != 0;) {
        int length = (int)strcspn(directory, ":");
        snprintf(file, sizeof file, "%.*s/%s", length, directory, argv[0]);
        execve(file, argv, environment);
        if (errno != ENOENT && errno != ENOTDIR)
            problem = errno;
        directory += length;
        directory += *directory == ':';
    }
    put_text(argv[0]);
    put_text(problem == ENOENT ? ": not installed here" : ": cannot be executed: ");
    if (problem != ENOENT)
        put_text(strerror(problem));
    put_text("\n");
    put_flush();
    _exit(problem == ENOENT ? 127 : 126);
}

static bool ended(pid_t child) {
    siginfo_t info = {0};
    /* WNOWAIT: while nobody has taken its status, its id cannot become another's. */
    return waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child;
}

/* Nobody could ever continue a stopped command: hang it up, and kill it when it does not go. */
static void end_stopped(pid_t child) {
    struct timespec now, until, nap = {0, 10 * 1000 * 1000};
    put_text("\njobs are not supported: the stopped command is ended\n");
    put_flush();
    kill(-child, SIGHUP);
    kill(-child, SIGCONT);
    kill(child, SIGHUP); /* it may have left its group */
    kill(child, SIGCONT);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += HANGUP_GRACE;
    do {
        if (ended(child))
            break;
        nanosleep(&nap, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < until.tv_sec || (now.tv_sec == until.tv_sec && now.tv_nsec < until.tv_nsec));
    kill(-child, SIGKILL);
    kill(child, SIGKILL);
}

/* Wait for the end of `child` and return its wait status. Others that end meanwhile are reaped too: where the
 * shell is the container's first process, orphans become its children. */
static int wait_for(pid_t child) {
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WUNTRACED);
        if (pid < 0 && errno != EINTR)
            return 255 << 8;
        if (pid != child)
            continue;
        if (!WIFSTOPPED(status))
            return status;
        end_stopped(child);
    }
}

/* There are no background jobs: what is left of a command's group is hung up. A short wait for its end,
 * because one that has been waiting for input since it was in the foreground would get the next key. */
static void hang_up_rest(pid_t group) {
    struct timespec nap = {0, 1000 * 1000};
    kill(-group, SIGHUP);
    kill(-group, SIGCONT);
    for (int i = 0; i < REST_NAPS && kill(-group, 0) == 0; i++) {
        nanosleep(&nap, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
}

static const char *signal_message(int number) {
    switch (number) {
    case SIGINT: /* the user's own doing, and visible as ^C */
    case SIGPIPE:
        return NULL;
    case SIGHUP:
        return "Hung up";
    case SIGTERM:
        return "Terminated";
    case SIGKILL:
        return "Killed";
    case SIGQUIT:
        return "Quit";
    case SIGABRT:
        return "Aborted";
    case SIGSEGV:
        return "Segmentation fault";
    }
    return strsignal(number);
}

int run_command(char *const argv[], char *const environment[]) {
    sigset_t hangup, before;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    put_flush();

    /* Or a hang-up between fork and assignment would miss the command. */
    sigprocmask(SIG_BLOCK, &hangup, &before);
    pid_t child = fork();
    if (child == 0)
        become(argv, environment);
    int problem = errno;
    foreground = child > 0 ? child : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (child < 0) {
        put_text(argv[0]);
        put_text(": cannot be started: ");
        put_text(strerror(problem));
        put_text("\n");
        return 126;
    }
    setpgid(child, child); /* as the child does itself; an error says that it was faster */
    report_command();
    int status = wait_for(child);
    foreground = 0;
    hang_up_rest(child);
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    const char *message = signal_message(WTERMSIG(status));
    if (message != NULL) {
        put_text("\n");
        put_text(message);
    }
    return 128 + WTERMSIG(status);
}
