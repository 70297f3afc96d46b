/* Attacks on other processes: the session's own gate, and, where process namespaces are shared, everybody's. */
#define _GNU_SOURCE
#include "attacker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIDFD_OPEN = 434, PIDFD_GETFD = 438, GATE = 1 };

#define UNUSED __attribute__((unused))

static void trace_child(const char *argument UNUSED)
{
    int status;
    pid_t child = (pid_t)must(fork(), "fork");
    if (child == 0) {
        pause();
        _exit(0);
    }
    long result = ptrace(PTRACE_ATTACH, child, 0, 0);
    int error = errno;
    if (result == 0) waitpid(child, &status, 0);
    kill(child, SIGKILL);
    errno = error;
    must(result, "ptrace");
    succeeded("controls another process of its user");
}

static void trace_gate(const char *argument UNUSED)
{
    must(ptrace(PTRACE_SEIZE, GATE, 0, 0), "ptrace"); /* without stopping it; the end of this process lets go */
    succeeded("controls its gate");
}

/* The first readable address of the gate. */
static unsigned long address_in_gate(void)
{
    unsigned long address = 0;
    FILE *maps = fopen("/proc/1/maps", "re");
    if (!maps) stopped("/proc/1/maps");
    if (fscanf(maps, "%lx", &address) != 1) stopped("/proc/1/maps");
    return address;
}

static void gate_memory_by_call(const char *argument UNUSED)
{
    char bytes[4];
    struct iovec here = {bytes, sizeof bytes}, there = {(void *)address_in_gate(), sizeof bytes};
    must(syscall(SYS_process_vm_readv, GATE, &here, 1, &there, 1, 0), "process_vm_readv");
    succeeded("reads its gate's memory (%.3s)", bytes + 1);
}

static void gate_memory_by_file(const char *argument UNUSED)
{
    char bytes[4];
    int fd = (int)must(open("/proc/1/mem", O_RDWR | O_CLOEXEC), "/proc/1/mem");
    must(pread(fd, bytes, sizeof bytes, (off_t)address_in_gate()), "/proc/1/mem");
    succeeded("reads and writes its gate's memory (%.3s)", bytes + 1);
}

static void gate_descriptors(const char *argument UNUSED)
{
    char link[100];
    DIR *directory = opendir("/proc/1/fd");
    if (!directory) stopped("/proc/1/fd");
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        if (*entry->d_name != '.' && readlinkat(dirfd(directory), entry->d_name, link, sizeof link) > 0) count++;
    errno = EACCES;
    if (!count) stopped("/proc/1/fd");
    succeeded("sees the %d descriptors of its gate", count);
}

/* Take the lifeline out of the gate: whoever has it speaks with the supervisor in the gate's name. */
static void steal_lifeline(const char *argument UNUSED)
{
    int gate = (int)must(syscall(PIDFD_OPEN, GATE, 0), "pidfd_open"), error = 0;
    for (int number = 3; number < 32; number++) {
        int domain = 0, fd = (int)syscall(PIDFD_GETFD, gate, number, 0);
        socklen_t size = sizeof domain;
        if (fd < 0) error = errno;
        else if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX)
            succeeded("has the gate's lifeline (descriptor %d)", number);
    }
    errno = error;
    stopped("pidfd_getfd");
}

static void signal_gate(const char *argument UNUSED)
{
    must(kill(GATE, SIGURG), "kill"); /* a TERM would end the session; this one it does not heed */
    succeeded("signals reach the gate");
}

static void gate_limits(const char *argument UNUSED)
{
    struct rlimit limit;
    must(syscall(SYS_prlimit64, GATE, RLIMIT_NOFILE, NULL, &limit), "prlimit");
    must(syscall(SYS_prlimit64, GATE, RLIMIT_NOFILE, &limit, NULL), "prlimit");
    succeeded("sets its gate's limits");
}

static void gate_priority(const char *argument UNUSED)
{
    must(setpriority(PRIO_PROCESS, GATE, getpriority(PRIO_PROCESS, GATE)), "setpriority");
    succeeded("sets its gate's priority");
}

static void gate_cpus(const char *argument UNUSED)
{
    cpu_set_t cpus;
    must(sched_getaffinity(GATE, sizeof cpus, &cpus), "sched_getaffinity");
    must(sched_setaffinity(GATE, sizeof cpus, &cpus), "sched_setaffinity");
    succeeded("chooses its gate's CPUs");
}

static void gate_oom(const char *argument UNUSED)
{
    must(open("/proc/1/oom_score_adj", O_WRONLY | O_CLOEXEC), "/proc/1/oom_score_adj");
    succeeded("chooses who dies first when memory is short");
}

/* ---- where a namespace is the host's ---- */

static void host_processes(const char *argument UNUSED)
{
    int count = 0;
    DIR *directory = opendir("/proc");
    if (!directory) stopped("/proc");
    for (struct dirent *entry; (entry = readdir(directory));) count += strspn(entry->d_name, "0123456789") > 0;
    errno = ESRCH;
    if (count < 12) stopped("/proc");
    succeeded("sees %d processes of the host", count);
}

/* `PID,NAME`: the value of a variable in another session's environment. */
static void neighbours_environment(const char *argument)
{
    static char text[65536], path[64];
    size_t length = strcspn(argument, ",");
    const char *name = argument + length + 1;
    snprintf(path, sizeof path, "/proc/%.*s/environ", (int)length, argument);
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    long n = must(read(fd, text, sizeof text - 1), path);
    for (char *entry = text; entry < text + n; entry += strlen(entry) + 1)
        if (strncmp(entry, name, strlen(name)) == 0) succeeded("read %s of another session", entry);
    errno = ENODATA;
    stopped(path);
}

static void signal_neighbour(const char *argument)
{
    must(kill((pid_t)strtol(argument, NULL, 10), 0), "kill");
    succeeded("signals reach another session");
}

static void enter_host(const char *process)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/mnt", process);
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    must(setns(fd, 0), "setns");
    succeeded("sees the file system of the host, as the supervisor does");
}

/* A System V segment by its key. */
static void host_memory(const char *argument)
{
    int id = (int)must(shmget((key_t)strtol(argument, NULL, 10), 0, 0), "shmget");
    const char *memory = shmat(id, NULL, SHM_RDONLY);
    if ((long)memory == -1) stopped("shmat");
    succeeded("reads memory that processes of the host share (%.16s)", memory);
}

const struct attack process_attacks[] = {
    {"trace-process", trace_child},
    {"trace-gate", trace_gate},
    {"gate-memory-by-call", gate_memory_by_call},
    {"gate-memory-by-file", gate_memory_by_file},
    {"gate-descriptors", gate_descriptors},
    {"steal-lifeline", steal_lifeline},
    {"signal-gate", signal_gate},
    {"gate-limits", gate_limits},
    {"gate-priority", gate_priority},
    {"gate-cpus", gate_cpus},
    {"gate-oom", gate_oom},
    {"host-processes", host_processes},
    {"neighbours-credentials", neighbours_environment},
    {"signal-neighbour", signal_neighbour},
    {"enter-host", enter_host},
    {"host-memory", host_memory},
    {NULL, NULL},
};
