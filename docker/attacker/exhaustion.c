/* Attacks that use up what others need. All are bounded, and end what they started. */
#define _GNU_SOURCE
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

enum { CHILDREN = 300 };

static pid_t children[CHILDREN];

static void end_children(int count)
{
    int error = errno;
    for (int i = 0; i < count; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < count; i++) waitpid(children[i], NULL, 0);
    errno = error;
}

static void fork_bomb(const char *argument UNUSED)
{
    int count = 0;
    for (; count < CHILDREN; count++) {
        pid_t child = fork();
        if (child == 0) {
            pause();
            _exit(0);
        }
        if (child < 0) break;
        children[count] = child;
    }
    end_children(count);
    if (count < CHILDREN) stopped("fork");
    succeeded("%d processes", count);
}

static void *wait_for_ever(void *nothing)
{
    pause();
    return nothing;
}

static void thread_bomb(const char *argument UNUSED)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int count = 0; count < CHILDREN; count++) {
        pthread_t thread;
        int error = pthread_create(&thread, &small, wait_for_ever, NULL);
        if (error) {
            errno = error;
            stopped("pthread_create");
        }
    }
    succeeded("%d threads", CHILDREN);
}

/* So many megabytes. The kernel's killer takes this process, which is the largest. */
static void memory_bomb(const char *argument)
{
    long size = strtol(argument, NULL, 10) << 20;
    char *memory = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) stopped("mmap");
    for (long at = 0; at < size; at += 4096) memory[at] = 1;
    succeeded("%s MB of memory", argument);
}

static double seconds(const struct timespec *time)
{
    return (double)time->tv_sec + (double)time->tv_nsec / 1e9;
}

/* More CPU time than `argument`, in hundredths of a CPU, by eight processes for a second. */
static void cpu_hog(const char *argument)
{
    struct timespec begin, now;
    struct rusage used;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    int count = 0;
    for (; count < 8; count++) {
        children[count] = (pid_t)must(fork(), "fork");
        if (children[count] == 0)
            for (;;) (void)*(volatile int *)&count;
    }
    do {
        usleep(50000);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (seconds(&now) - seconds(&begin) < 1);
    end_children(count);
    clock_gettime(CLOCK_MONOTONIC, &now);
    getrusage(RUSAGE_CHILDREN, &used);
    double took = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    double share = took / (seconds(&now) - seconds(&begin));
    errno = EAGAIN;
    if (share * 100 < strtod(argument, NULL)) stopped("CPU time");
    succeeded("%.2f CPUs", share);
}

static void open_many(const char *path, int flags, int each, int processes, const char *what)
{
    int ready[2], count = 0;
    must(pipe2(ready, O_CLOEXEC), "pipe");
    for (; count < processes; count++) {
        children[count] = (pid_t)must(fork(), "fork");
        if (children[count] == 0) {
            struct rlimit limit;
            int error = 0;
            if (getrlimit(RLIMIT_NOFILE, &limit) == 0) { /* as many as the hard limit lets it */
                limit.rlim_cur = limit.rlim_max;
                setrlimit(RLIMIT_NOFILE, &limit);
            }
            for (int i = 0; i < each && !error; i++)
                if (open(path, flags) < 0) error = errno;
            write_all(ready[1], &error, sizeof error, "pipe");
            pause();
            _exit(0);
        }
    }
    int error = 0;
    for (int i = 0, one; i < count; i++)
        if (must(read(ready[0], &one, sizeof one), "pipe") && one) error = one;
    end_children(count);
    errno = error;
    if (error) stopped(path);
    succeeded("%d %s at once", each * processes, what);
}

static void many_files(const char *argument UNUSED)
{
    open_many("/dev/null", O_RDONLY, 1000, 20, "open files");
}

static void many_terminals(const char *argument UNUSED)
{
    open_many("/dev/ptmx", O_RDWR | O_NOCTTY, 200, 3, "terminals, of those that all of the host share,");
}

static void many_signals(const char *argument UNUSED)
{
    enum { MANY = 1000 };
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (int i = 0; i < MANY; i++) must(sigqueue(getpid(), SIGRTMIN, (union sigval){0}), "sigqueue");
    succeeded("%d queued signals", MANY);
}

static void another_terminal(const char *argument UNUSED)
{
    must(open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), "/dev/ptmx");
    succeeded("a second terminal");
}

const struct attack exhaustion_attacks[] = {
    {"fork-bomb", fork_bomb},
    {"thread-bomb", thread_bomb},
    {"memory-bomb", memory_bomb},
    {"cpu-hog", cpu_hog},
    {"many-files", many_files},
    {"many-terminals", many_terminals},
    {"many-signals", many_signals},
    {"another-terminal", another_terminal},
    {NULL, NULL},
};
