/* Tries what a session must not be able to do, each by its name, and prints `name result`: 0, or the number of the error. Run in
 * containers by test_seccomp.py, with the policy's profile and without any. Exotic calls get arguments that can do no harm. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

/* Numbers that all architectures share (asm-generic/unistd.h), for C libraries older than the calls. */
enum { CLONE3 = 435, IO_URING_SETUP = 425, OPEN_TREE = 428, MOVE_MOUNT = 429, FSOPEN = 430, FSMOUNT = 432, PIDFD_GETFD = 438,
       MOUNT_SETATTR = 442, MEMFD_SECRET = 447, LANDLOCK_CREATE_RULESET = 444, PIDFD_OPEN = 434, CLOSE_RANGE = 436 };

static void report(const char *name, long result)
{
    printf("%s %d\n", name, result < 0 ? errno : 0);
    fflush(stdout);
}

/* What happens in a child that may not survive it: its exit status, 128 plus the signal that ended it. */
#define IN_CHILD(name, call)                                                          \
    do {                                                                              \
        fflush(stdout);                                                               \
        pid_t child = fork();                                                         \
        if (child == 0) _exit((call) < 0 ? errno : 0);                                \
        int status;                                                                   \
        waitpid(child, &status, 0);                                                   \
        printf("%s %d\n", name, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)); \
    } while (0)

#if defined __x86_64__
static long int80(void) /* getpid by the gate of 32-bit programs */
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory");
    return result;
}
#endif

int main(void)
{
    static char none[4096]; /* calls that succeed write to it */
    struct sched_param priority = {0};
    struct rlimit limit = {0, 0};
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);

    report("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, ""));
    report("umount2", syscall(SYS_umount2, "/nowhere", 0));
    report("pivot_root", syscall(SYS_pivot_root, "/nowhere", "/nowhere"));
    report("chroot", syscall(SYS_chroot, "/"));
    report("open_tree", syscall(OPEN_TREE, -1, "", 0));
    report("move_mount", syscall(MOVE_MOUNT, -1, "", -1, "", 0));
    report("fsopen", syscall(FSOPEN, "nothing", 0));
    report("fsmount", syscall(FSMOUNT, -1, 0, 0));
    report("mount_setattr", syscall(MOUNT_SETATTR, -1, "", 0, none, 0));
    IN_CHILD("unshare-user", syscall(SYS_unshare, CLONE_NEWUSER));
    IN_CHILD("unshare-fs", syscall(SYS_unshare, CLONE_FS));
    report("setns", syscall(SYS_setns, -1, 0));
    IN_CHILD("clone-user", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    IN_CHILD("clone-high", syscall(SYS_clone, 1L << 40 | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    IN_CHILD("clone-plain", syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    report("clone3", syscall(CLONE3, none, 0));
    report("bpf", syscall(SYS_bpf, -1, none, 64));
    report("perf_event_open", syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0));
    IN_CHILD("ptrace", ptrace(PTRACE_TRACEME, 0, 0, 0));
    report("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0));
    report("process_vm_writev", syscall(SYS_process_vm_writev, getpid(), NULL, 0, NULL, 0, 0));
    report("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0));
    report("pidfd_getfd", syscall(PIDFD_GETFD, -1, 0, 0));
    report("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    report("init_module", syscall(SYS_init_module, none, 0, ""));
    report("finit_module", syscall(SYS_finit_module, -1, "", 0));
    report("delete_module", syscall(SYS_delete_module, "nothing", 0));
    report("add_key", syscall(SYS_add_key, "user", "name", "x", 1, -3));
    report("request_key", syscall(SYS_request_key, "user", "name", NULL, 0));
    report("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    report("userfaultfd", syscall(SYS_userfaultfd, 1));
    report("io_uring_setup", syscall(IO_URING_SETUP, 1, none));
    report("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, none, 0));
    report("name_to_handle_at", syscall(SYS_name_to_handle_at, -1, "", NULL, NULL, 0));
    report("memfd_create", syscall(SYS_memfd_create, "x", 0));
    report("memfd_secret", syscall(MEMFD_SECRET, 0));
    report("execveat", syscall(SYS_execveat, -1, "", NULL, NULL, AT_EMPTY_PATH));
    report("fanotify_init", syscall(SYS_fanotify_init, -1, 0));
    report("quotactl", syscall(SYS_quotactl, 0, NULL, 0, NULL));
    report("swapon", syscall(SYS_swapon, "/nowhere", 0));
    report("reboot", syscall(SYS_reboot, 0, 0, 0, NULL));
    report("acct", syscall(SYS_acct, "/nowhere"));
    report("settimeofday", syscall(SYS_settimeofday, (void *)-1, NULL));
    report("syslog", syscall(SYS_syslog, 10, NULL, 0));
    report("sethostname", syscall(SYS_sethostname, "x", 1));
    report("mbind", syscall(SYS_mbind, 0, 0, 0, NULL, 0, 0));
    report("msgget", syscall(SYS_msgget, 0, 0600 | 01000));
    report("shmget", syscall(SYS_shmget, 0, 4096, 0600 | 01000));
    report("semget", syscall(SYS_semget, 0, 1, 0600 | 01000));
    report("mq_open", syscall(SYS_mq_open, "x", 0));
    report("vmsplice", syscall(SYS_vmsplice, -1, NULL, 0, 0));
    report("remap_file_pages", syscall(SYS_remap_file_pages, 0, 0, 0, 0, 0));
    report("personality-unusual", syscall(SYS_personality, 0x0040000));
    report("personality-query", syscall(SYS_personality, 0xffffffff));
    report("mknod-device", syscall(SYS_mknodat, AT_FDCWD, "/tmp/zero", S_IFCHR | 0600, makedev(1, 5)));
    report("mknod-fifo", syscall(SYS_mknodat, AT_FDCWD, "/tmp/fifo", S_IFIFO | 0600, 0));
    report("socket-raw", socket(AF_INET, SOCK_RAW, 1));
    report("socket-raw6", socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58));
    report("socket-ping", socket(AF_INET, SOCK_DGRAM, 1));
    report("socket-packet", socket(AF_PACKET, SOCK_DGRAM, 0));
    report("socket-vsock", socket(40, SOCK_STREAM, 0));
    report("socket-alg", socket(38, SOCK_SEQPACKET, 0));
    report("socket-sctp", socket(AF_INET, SOCK_STREAM, 132));
    report("socket-audit", socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT));
    report("socket-netfilter", socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER));
    report("socket-high", syscall(SYS_socket, 1L << 32 | AF_PACKET, SOCK_RAW, 0));
    report("socket-tcp", socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    report("socket-udp6", socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 17));
    report("socket-unix", socket(AF_UNIX, SOCK_SEQPACKET, 0));
    report("socket-route", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    report("tiocsti", syscall(SYS_ioctl, terminal, 0x5412L, "x"));
    report("tiocsti-high", syscall(SYS_ioctl, terminal, 0x100005412L, "x"));
    report("tiocsti-higher", syscall(SYS_ioctl, terminal, 0x8000000000005412UL, "x"));
    report("tioclinux", syscall(SYS_ioctl, terminal, 0x541cL, "\2"));
    report("tioclinux-high", syscall(SYS_ioctl, terminal, 0x10000541cL, "\2"));
    report("tiocsetd", syscall(SYS_ioctl, terminal, 0x5423L, none));
    report("tcgets", syscall(SYS_ioctl, terminal, 0x5401L, none));
    report("tcgets-high", syscall(SYS_ioctl, terminal, 0x100005401L, none));
    report("setpriority-other", setpriority(PRIO_PROCESS, 1, 19));
    report("setpriority-user", setpriority(PRIO_USER, 0, 19));
    report("sched-other", syscall(SYS_sched_setscheduler, 1, 5, &priority));
    report("affinity-other", syscall(SYS_sched_setaffinity, 1, 64, none));
    report("ioprio-other", syscall(SYS_ioprio_set, 1, 1, 0));
    report("prlimit-other", syscall(SYS_prlimit64, 1, RLIMIT_CPU, &limit, NULL));
    report("prlimit-read-other", syscall(SYS_prlimit64, 1, RLIMIT_CPU, NULL, none));
    /* Arguments of 32 bits with more above: what the kernel does not heed, the filter must not either. */
    report("prlimit-other-high", syscall(SYS_prlimit64, 1L << 32 | 1, RLIMIT_CPU, NULL, none));
    report("setpriority-other-high", syscall(SYS_setpriority, 1L << 32 | PRIO_PROCESS, 1L << 32 | 1, 19));
    report("sched-other-high", syscall(SYS_sched_setscheduler, 1L << 32 | 1, 5, &priority));
    report("schedparam-other", syscall(SYS_sched_setparam, 1, &priority));
    report("schedattr-other", syscall(SYS_sched_setattr, 1, none, 0));
    report("ioprio-group", syscall(SYS_ioprio_set, 2, 0, 0));
    report("ioprio-user", syscall(SYS_ioprio_set, 3, 0, 0));
    report("setpriority-group", setpriority(PRIO_PGRP, 0, 19));
    report("personality-high", syscall(SYS_personality, 1L << 32 | 0x0040000));
    report("mknod-device-high", syscall(SYS_mknodat, AT_FDCWD, "/tmp/zero2", 1L << 32 | S_IFCHR | 0600, makedev(1, 5)));
    report("socket-raw-high", syscall(SYS_socket, AF_INET, 1L << 32 | SOCK_RAW, 1));
    report("socket-protocol-high", syscall(SYS_socket, AF_INET, SOCK_STREAM, 1L << 32 | 132));
    report("socketpair-tipc", syscall(SYS_socketpair, 30, SOCK_STREAM, 0, none));
    report("socketpair-high", syscall(SYS_socketpair, 1L << 32 | 30, SOCK_STREAM, 0, none));
    report("prctl-high", syscall(SYS_prctl, 1L << 32 | 35, 6, 0, 0, 0));
    report("prctl-mm", prctl(35, 6, 0, 0, 0));
    report("prctl-seccomp", prctl(22, 2, NULL));
    report("prctl-dispatch", prctl(59, 0, 0, 0, 0));
    report("prctl-ptracer", prctl(0x59616d61, -1, 0, 0, 0));
    report("prctl-speculation", prctl(52, 0, 0, 0, 0));
    report("seccomp", syscall(SYS_seccomp, 2, 0, NULL));
    report("splice", syscall(SYS_splice, -1, NULL, -1, NULL, 0, 0));
    report("tee", syscall(SYS_tee, -1, -1, 0, 0));
    report("sync", syscall(SYS_sync));
    report("syncfs", syscall(SYS_syncfs, 1));
    report("process_madvise", syscall(440, -1, NULL, 0, 0, 0));
    report("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, "", 0));
    report("io_uring_enter", syscall(426, -1, 0, 0, 0, NULL, 0));
    report("io_uring_register", syscall(427, -1, 0, NULL, 0));
    report("swapoff", syscall(SYS_swapoff, "/nowhere"));
    report("fsconfig", syscall(431, -1, 0, NULL, NULL, 0));
    report("fspick", syscall(433, -1, "", 0));
    report("nfsservctl", syscall(SYS_nfsservctl, 0, NULL, NULL));
    report("clock_settime", syscall(SYS_clock_settime, 0, NULL));
    report("adjtimex", syscall(SYS_adjtimex, NULL));
    report("vhangup", syscall(SYS_vhangup));
    IN_CHILD("clone-net", syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0));
    IN_CHILD("clone-pid", syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0));
    IN_CHILD("clone-cgroup", syscall(SYS_clone, CLONE_NEWCGROUP | SIGCHLD, 0, 0, 0, 0));
    report("prctl-name", prctl(PR_SET_NAME, "probe"));
    report("prctl-name-high", syscall(SYS_prctl, 1L << 32 | PR_SET_NAME, "probe"));
    report("sched-self", syscall(SYS_sched_setscheduler, 0, 0, &priority));
    report("setpriority-self", setpriority(PRIO_PROCESS, 0, 5));
    report("prlimit-self", syscall(SYS_prlimit64, 0, RLIMIT_CPU, NULL, none));
    report("landlock", syscall(LANDLOCK_CREATE_RULESET, NULL, 0, 1));
    report("pidfd_open", syscall(PIDFD_OPEN, getpid(), 0));
    report("close_range", syscall(CLOSE_RANGE, 1000, ~0U, 0));
#if defined __x86_64__
    report("ioperm", syscall(SYS_ioperm, 0x80, 1, 0));
    report("iopl", syscall(SYS_iopl, 0));
    report("modify_ldt", syscall(SYS_modify_ldt, 0, none, 0));
    report("uselib", syscall(SYS_uselib, "/nowhere"));
    report("ustat", syscall(SYS_ustat, 0, none));
    report("sysfs", syscall(SYS_sysfs, 3));
    IN_CHILD("int80", int80());
    IN_CHILD("x32", syscall(0x40000000 | SYS_getpid));
#endif
    return 0;
}
