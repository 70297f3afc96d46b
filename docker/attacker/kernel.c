/* Attacks on the kernel's surface: mounts, namespaces, calls that nobody in a session needs. */
#define _GNU_SOURCE
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Numbers that all architectures share (asm-generic/unistd.h), for C libraries older than the calls. */
enum { CLONE3 = 435, IO_URING_SETUP = 425, MOVE_MOUNT = 429, FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432 };

#define UNUSED __attribute__((unused))

static void mount_tmpfs(const char *argument UNUSED)
{
    must(mount("none", "/run", "tmpfs", 0, ""), "mount");
    umount2("/run", MNT_DETACH);
    succeeded("mounted a file system of its own, without limits");
}

static void mount_by_descriptor(const char *argument UNUSED)
{
    int fs = (int)must(syscall(FSOPEN, "tmpfs", 0), "fsopen");
    must(syscall(FSCONFIG, fs, 6 /* create */, NULL, NULL, 0), "fsconfig");
    int made = (int)must(syscall(FSMOUNT, fs, 0, 0), "fsmount");
    must(syscall(MOVE_MOUNT, made, "", AT_FDCWD, "/run", 4 /* empty path */), "move_mount");
    umount2("/run", MNT_DETACH);
    succeeded("mounted a file system of its own, by the newer calls");
}

static void unmask(const char *path)
{
    char text[64];
    must(umount2(path, MNT_DETACH), "umount2");
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    errno = ENODATA;
    if (must(read(fd, text, sizeof text), path) == 0) stopped(path);
    succeeded("took the mask off %s", path);
}

static void change_root(const char *argument UNUSED)
{
    must(unshare(CLONE_NEWNS), "unshare");
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount");
    must(mount("none", "/run", "tmpfs", 0, ""), "mount");
    must(mkdir("/run/old", 0700), "mkdir");
    must(syscall(SYS_pivot_root, "/run", "/run/old"), "pivot_root");
    succeeded("another file system is the root");
}

static void change_root_directory(const char *argument UNUSED)
{
    must(chroot("/tmp"), "chroot");
    succeeded("/tmp is the root");
}

static void say_capabilities(void)
{
    char line[128], found[64] = "?";
    FILE *status = fopen("/proc/self/status", "re");
    if (!status) stopped("/proc/self/status");
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "CapEff: %63s", found) == 1) break;
    succeeded("all rights in a user namespace of its own (capabilities %s)", found);
}

static void user_namespace(const char *argument UNUSED)
{
    must(unshare(CLONE_NEWUSER), "unshare");
    say_capabilities();
}

/* In a child: the C library's own idea of the process would be wrong. */
static void wait_for(long child, const char *step)
{
    int status;
    if (must(child, step) == 0) _exit(0);
    waitpid((pid_t)child, &status, 0);
    succeeded("a process in a user namespace of its own, by %s", step);
}

static void user_namespace_high_bits(const char *argument UNUSED)
{
    wait_for(syscall(SYS_clone, 1L << 40 | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0), "clone");
}

static void user_namespace_clone3(const char *argument UNUSED)
{
    unsigned long arguments[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    wait_for(syscall(CLONE3, arguments, sizeof arguments), "clone3");
}

static void other_namespaces(const char *argument UNUSED)
{
    must(unshare(CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare");
    succeeded("network, mounts, names and IPC of its own");
}

static void key_of_the_user(const char *argument UNUSED)
{
    long ring = -4 /* KEY_SPEC_USER_KEYRING */, key = must(syscall(SYS_add_key, "user", "intruder", "x", 1, ring), "add_key");
    syscall(SYS_keyctl, 9 /* KEYCTL_UNLINK */, key, ring);
    succeeded("a key %ld that all containers of this user share", key);
}

static void ring(const char *argument UNUSED)
{
    static char parameters[120];
    must(syscall(IO_URING_SETUP, 1, parameters), "io_uring_setup");
    succeeded("a ring for I/O that no system call filter sees");
}

static void load_bpf(const char *argument UNUSED)
{
    struct bpf_insn program[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insn_cnt = 2, .insns = (unsigned long)program,
                                 .license = (unsigned long)"GPL"};
    must(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes), "bpf");
    succeeded("a program of its own runs in the kernel");
}

static void measure(const char *argument UNUSED)
{
    struct perf_event_attr what = {.type = PERF_TYPE_SOFTWARE, .size = sizeof what, .config = PERF_COUNT_SW_CPU_CLOCK};
    must(syscall(SYS_perf_event_open, &what, -1, 0, -1, 0), "perf_event_open");
    succeeded("measures all that the host's first CPU does");
}

static void fault_handler(const char *argument UNUSED)
{
    must(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
    succeeded("holds the kernel up at page faults of its choice");
}

static void no_randomness(const char *argument UNUSED)
{
    must(personality(ADDR_NO_RANDOMIZE), "personality");
    succeeded("addresses are not random any more (%x)", personality(0xffffffff));
}

static void system_v_memory(const char *argument UNUSED)
{
    int id = (int)must(syscall(SYS_shmget, 0, 1 << 20, 0600 | 01000), "shmget");
    syscall(SYS_shmctl, id, 0 /* IPC_RMID */, NULL);
    succeeded("memory that outlives its process");
}

static void calls_of_other_machines(const char *argument UNUSED)
{
#if defined __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    errno = (int)-result;
    if (result <= 0) stopped("int 0x80");
    succeeded("system calls of 32-bit programs, by their own numbers (pid %ld)", result);
#else
    errno = ENOSYS;
    stopped("int 0x80");
#endif
}

static void kernel_log(const char *argument UNUSED)
{
    static char text[100];
    long n = must(klogctl(3 /* read all */, text, sizeof text), "syslog");
    succeeded("%ld bytes of the kernel's log", n);
}

static void host_clock(const char *argument UNUSED)
{
    struct timex now = {0};
    must(adjtimex(&now), "adjtimex");
    now.modes = ADJ_TICK; /* to what it is */
    must(adjtimex(&now), "adjtimex");
    succeeded("the speed of the host's clock can be set (tick %ld)", now.tick);
}

static void host_name(const char *argument UNUSED)
{
    char before[65], after[65] = "";
    must(gethostname(before, sizeof before), "gethostname");
    must(sethostname("owned", 5), "sethostname");
    gethostname(after, sizeof after);
    must(sethostname(before, strlen(before)), "sethostname");
    succeeded("the name was %s", after);
}

static void first_in_line(const char *argument UNUSED)
{
    must(setpriority(PRIO_PROCESS, 0, -19), "setpriority");
    succeeded("priority %d, before everybody else", getpriority(PRIO_PROCESS, 0));
}

static void real_time(const char *argument UNUSED)
{
    struct sched_param priority = {.sched_priority = 1};
    must(syscall(SYS_sched_setscheduler, 0, SCHED_RR, &priority), "sched_setscheduler");
    succeeded("runs in real time, before everybody else");
}

static void another_user(const char *argument)
{
    uid_t uid = (uid_t)strtoul(argument, NULL, 10);
    must(syscall(SYS_setresuid, uid, uid, uid), "setresuid");
    succeeded("became user %u", geteuid());
}

/* Push a character into the terminal's input as if it had been typed, and read it. */
static void push_input(unsigned long request)
{
    struct termios modes, raw;
    char pushed = '!', got = 0;
    must(tcgetattr(0, &modes), "tcgetattr");
    raw = modes;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 5;
    must(tcsetattr(0, TCSANOW, &raw), "tcsetattr");
    long result = syscall(SYS_ioctl, 0, request, &pushed);
    int error = errno;
    if (result == 0 && read(0, &got, 1) < 0) got = 0;
    tcsetattr(0, TCSANOW, &modes);
    errno = error;
    must(result, "TIOCSTI");
    errno = ENODATA;
    if (got != pushed) stopped("TIOCSTI");
    succeeded("typed %c as if the user had", got);
}

static void push(const char *argument UNUSED)
{
    push_input(0x5412);
}

static void push_high_bits(const char *argument UNUSED)
{
    push_input(0x8000000100005412UL);
}

static void line_discipline(const char *argument UNUSED)
{
    int other = 27; /* N_NULL */
    must(ioctl(0, TIOCSETD, &other), "TIOCSETD");
    other = 0;
    must(ioctl(0, TIOCSETD, &other), "TIOCSETD");
    succeeded("the terminal had another line discipline, whose code is seldom run");
}

const struct attack kernel_attacks[] = {
    {"mount", mount_tmpfs},
    {"mount-by-descriptor", mount_by_descriptor},
    {"unmask", unmask},
    {"pivot-root", change_root},
    {"chroot", change_root_directory},
    {"user-namespace", user_namespace},
    {"user-namespace-high-bits", user_namespace_high_bits},
    {"user-namespace-clone3", user_namespace_clone3},
    {"other-namespaces", other_namespaces},
    {"keyring", key_of_the_user},
    {"io-uring", ring},
    {"bpf", load_bpf},
    {"perf-events", measure},
    {"userfaultfd", fault_handler},
    {"personality", no_randomness},
    {"system-v-memory", system_v_memory},
    {"calls-of-32-bit", calls_of_other_machines},
    {"kernel-log", kernel_log},
    {"host-clock", host_clock},
    {"host-name", host_name},
    {"priority", first_in_line},
    {"real-time", real_time},
    {"another-user", another_user},
    {"push-input", push},
    {"push-input-high-bits", push_high_bits},
    {"line-discipline", line_discipline},
    {NULL, NULL},
};
