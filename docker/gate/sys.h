/* The kernel's interface, as far as the gate needs it: types, constants and one inline function per system
 * call.
 *
 * There is no libc. Every function returns what the kernel returns: a negative errno value on failure. The
 * constants are those that x86-64 and aarch64 share. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(__linux__) && !defined(__ELF__)
#error "the gate is for Linux"
#elif defined(__x86_64__)
#include "sys_x86_64.h"
#elif defined(__aarch64__)
#include "sys_aarch64.h"
#else
#error "the gate knows x86-64 and aarch64 only"
#endif

enum { EPERM = 1, ENOENT = 2, ESRCH = 3, EINTR = 4, E2BIG = 7, EBADF = 9, ECHILD = 10, EAGAIN = 11, EACCES = 13,
       ENOTDIR = 20, EINVAL = 22, ENOTTY = 25, ENAMETOOLONG = 36, ENOSYS = 38 };

enum { AT_FDCWD = -100, O_RDONLY = 0, O_WRONLY = 01, O_RDWR = 02, O_NOCTTY = 0400, O_NONBLOCK = 04000, O_CLOEXEC = 02000000,
       O_PATH = 010000000 };

enum { SIGHUP = 1, SIGKILL = 9, SIGTERM = 15, SIGCHLD = 17, SIGCONT = 18, SIGNALS = 64 };
enum { SIG_SETMASK = 2, SFD_NONBLOCK = 04000, SFD_CLOEXEC = 02000000 };
struct signalfd_siginfo { uint32_t signal; uint8_t rest[124]; };
struct sigaction { void *handler; unsigned long flags; void *restorer; uint64_t mask; };

enum { POLLIN = 1, POLLOUT = 4 };
struct pollfd { int fd; short events, revents; };

enum { CLOCK_BOOTTIME = 7, TFD_TIMER_ABSTIME = 1, TFD_CLOEXEC = 02000000, TFD_NONBLOCK = 04000 };
struct timespec { int64_t seconds, nanoseconds; };
struct itimerspec { struct timespec interval, value; };

enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_NONBLOCK = 04000, SOCK_CLOEXEC = 02000000 };
enum { SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_DONTWAIT = 0x40, MSG_NOSIGNAL = 0x4000 };
struct sockaddr_un { uint16_t family; char path[108]; };
struct iovec { const void *base; size_t length; };
struct msghdr {
    void *name;
    int name_length;
    struct iovec *parts;
    size_t part_count;
    void *control;
    size_t control_length;
    int flags;
};
struct descriptor_message { /* a control message (cmsghdr) with one descriptor */
    size_t length;
    int level, type;
    int descriptor, padding;
};
enum { DESCRIPTOR_MESSAGE_LENGTH = sizeof(size_t) + 3 * sizeof(int) };

enum { TCGETS = 0x5401, TCSETS = 0x5402, TIOCSCTTY = 0x540E, TIOCSPGRP = 0x5410, TIOCNOTTY = 0x5422, TIOCSPTLCK = 0x40045431,
       TIOCGPTPEER = 0x5441 };
enum { ICRNL = 0400, IXON = 02000, IUTF8 = 040000, OPOST = 01, ONLCR = 04 };
enum { ISIG = 01, ICANON = 02, ECHO = 010, ECHOE = 020, ECHOK = 040, ECHOCTL = 01000, ECHOKE = 04000, IEXTEN = 0100000 };
enum { VTIME = 5, VMIN = 6 };
struct termios { uint32_t input, output, control, local; uint8_t line, characters[19]; };

enum { PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_ANONYMOUS = 0x20, EFD_CLOEXEC = 02000000 };

/* Landlock (landlock(7), linux/landlock.h). The comment is the version of its interface that has the right. */
enum {
    LL_EXECUTE = 1, LL_WRITE_FILE = 1 << 1, LL_READ_FILE = 1 << 2, LL_READ_DIR = 1 << 3, LL_REMOVE_DIR = 1 << 4,
    LL_REMOVE_FILE = 1 << 5, LL_MAKE_CHAR = 1 << 6, LL_MAKE_DIR = 1 << 7, LL_MAKE_REG = 1 << 8, LL_MAKE_SOCK = 1 << 9,
    LL_MAKE_FIFO = 1 << 10, LL_MAKE_BLOCK = 1 << 11, LL_MAKE_SYM = 1 << 12,
    LL_REFER = 1 << 13,     /* 2 */
    LL_TRUNCATE = 1 << 14,  /* 3 */
    LL_IOCTL_DEV = 1 << 15, /* 5 */
    LL_BIND_TCP = 1, LL_CONNECT_TCP = 1 << 1,           /* 4 */
    LL_SCOPE_ABSTRACT_UNIX = 1, LL_SCOPE_SIGNAL = 1 << 1, /* 6 */
    LANDLOCK_VERSION = 1, LANDLOCK_PATH = 1, LANDLOCK_PORT = 2,
};
struct landlock_ruleset { uint64_t files, tcp, scoped; };
struct landlock_path { uint64_t allowed; int fd; } __attribute__((packed));
struct landlock_port { uint64_t allowed, port; };

enum { PR_SET_DUMPABLE = 4, PR_GET_NO_NEW_PRIVS = 39, RLIMIT_FSIZE = 1, RLIMIT_CORE = 4, RLIMIT_NOFILE = 7, RLIMIT_SIGPENDING = 11, WNOHANG = 1, WALL = 0x40000000 };
struct rlimit { uint64_t soft, hard; };

#define SYSCALL(number, a, b, c, d, e) \
    syscall6((number), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static inline long sys_read(int fd, void *to, size_t n) { return SYSCALL(NR_read, fd, to, n, 0, 0); }
static inline long sys_write(int fd, const void *from, size_t n) { return SYSCALL(NR_write, fd, from, n, 0, 0); }
static inline long sys_open(const char *path, int flags) { return SYSCALL(NR_openat, AT_FDCWD, path, flags, 0, 0); }
static inline long sys_close(int fd) { return SYSCALL(NR_close, fd, 0, 0, 0, 0); }
static inline long sys_close_range(unsigned first, unsigned last)
{
    return SYSCALL(NR_close_range, first, last, 0, 0, 0);
}
static inline long sys_readlink(const char *path, void *to, size_t n)
{
    return SYSCALL(NR_readlinkat, AT_FDCWD, path, to, n, 0);
}
static inline long sys_share(size_t n) /* memory that is the same in a child */
{
    return syscall6(NR_mmap, 0, (long)n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}
static inline long sys_eventfd(void) { return SYSCALL(NR_eventfd2, 0, EFD_CLOEXEC, 0, 0, 0); }
static inline long sys_landlock_create(const struct landlock_ruleset *rules, size_t n, unsigned flags)
{
    return SYSCALL(NR_landlock_create_ruleset, rules, n, flags, 0, 0);
}
static inline long sys_landlock_add(int fd, int kind, const void *rule)
{
    return SYSCALL(NR_landlock_add_rule, fd, kind, rule, 0, 0);
}
static inline long sys_landlock_restrict(int fd) { return SYSCALL(NR_landlock_restrict_self, fd, 0, 0, 0, 0); }
static inline long sys_dup3(int from, int to) { return SYSCALL(NR_dup3, from, to, 0, 0, 0); }
static inline long sys_ioctl(int fd, unsigned request, long value) { return SYSCALL(NR_ioctl, fd, request, value, 0, 0); }
static inline long sys_pipe(int ends[2], int flags) { return SYSCALL(NR_pipe2, ends, flags, 0, 0, 0); }
static inline long sys_poll(struct pollfd *fds, size_t n, struct timespec *limit)
{
    return SYSCALL(NR_ppoll, fds, n, limit, 0, 0);
}
static inline long sys_socket(int domain, int type) { return SYSCALL(NR_socket, domain, type, 0, 0, 0); }
static inline long sys_connect(int fd, const struct sockaddr_un *to)
{
    return SYSCALL(NR_connect, fd, to, sizeof *to, 0, 0);
}
static inline long sys_send(int fd, const void *from, size_t n, int flags)
{
    return SYSCALL(NR_sendto, fd, from, n, flags, 0);
}
static inline long sys_sendmsg(int fd, const struct msghdr *message, int flags)
{
    return SYSCALL(NR_sendmsg, fd, message, flags, 0, 0);
}
static inline long sys_signalfd(uint64_t mask, int flags)
{
    return SYSCALL(NR_signalfd4, -1, &mask, sizeof mask, flags, 0);
}
static inline long sys_sigmask(uint64_t blocked)
{
    return SYSCALL(NR_rt_sigprocmask, SIG_SETMASK, &blocked, 0, sizeof blocked, 0);
}
static inline long sys_sigaction(int signal, const struct sigaction *action)
{
    return SYSCALL(NR_rt_sigaction, signal, action, 0, sizeof action->mask, 0);
}
static inline long sys_timer_create(void)
{
    return SYSCALL(NR_timerfd_create, CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK, 0, 0, 0);
}
static inline long sys_timer_set(int fd, const struct itimerspec *when)
{
    return SYSCALL(NR_timerfd_settime, fd, TFD_TIMER_ABSTIME, when, 0, 0);
}
static inline long sys_boot_clock(struct timespec *now) { return SYSCALL(NR_clock_gettime, CLOCK_BOOTTIME, now, 0, 0, 0); }
static inline long sys_getpid(void) { return SYSCALL(NR_getpid, 0, 0, 0, 0, 0); }
static inline long sys_fork(void) { return SYSCALL(NR_clone, SIGCHLD, 0, 0, 0, 0); }
static inline long sys_setpgid(int pid, int group) { return SYSCALL(NR_setpgid, pid, group, 0, 0, 0); }
static inline long sys_setsid(void) { return SYSCALL(NR_setsid, 0, 0, 0, 0, 0); }
static inline long sys_kill(int pid, int signal) { return SYSCALL(NR_kill, pid, signal, 0, 0, 0); }
static inline long sys_wait(int *status) { return SYSCALL(NR_wait4, -1, status, WNOHANG | WALL, 0, 0); }
static inline long sys_execve(const char *path, char **arguments, char **environment)
{
    return SYSCALL(NR_execve, path, arguments, environment, 0, 0);
}
static inline long sys_set_dumpable(bool dumpable) { return SYSCALL(NR_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0); }
static inline long sys_no_new_privs(void) { return SYSCALL(NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }
static inline long sys_no_file_in_memory(void) /* flags that there are not, and no name: EINVAL, unless a filter forbids it */
{
    return SYSCALL(NR_memfd_create, 0, ~0U, 0, 0, 0);
}
static inline long sys_limit(int resource, struct rlimit *limit)
{
    return SYSCALL(NR_prlimit64, 0, resource, 0, limit, 0);
}
_Noreturn static inline void sys_exit(int status)
{
    for (;;) SYSCALL(NR_exit_group, status, 0, 0, 0, 0);
}

/* Compilers may turn loops and assignments into calls of these, also without a libc. */
__attribute__((used)) void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}
__attribute__((used)) void *memset(void *to, int value, size_t n)
{
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = (char)value;
    return to;
}
