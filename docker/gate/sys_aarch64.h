/* aarch64: system call numbers (asm-generic/unistd.h), the call itself, and the program's entry. */
enum {
    NR_eventfd2 = 19, NR_dup3 = 24, NR_ioctl = 29, NR_openat = 56, NR_close = 57, NR_pipe2 = 59, NR_read = 63, NR_write = 64, NR_ppoll = 73,
    NR_signalfd4 = 74, NR_readlinkat = 78, NR_timerfd_create = 85, NR_timerfd_settime = 86, NR_exit_group = 94, NR_clock_gettime = 113,
    NR_kill = 129, NR_rt_sigaction = 134, NR_rt_sigprocmask = 135, NR_setpgid = 154, NR_setsid = 157, NR_prctl = 167, NR_getpid = 172,
    NR_socket = 198, NR_connect = 203, NR_sendto = 206, NR_sendmsg = 211, NR_clone = 220, NR_execve = 221, NR_mmap = 222, NR_wait4 = 260,
    NR_prlimit64 = 261, NR_memfd_create = 279, NR_close_range = 436, NR_landlock_create_ruleset = 444, NR_landlock_add_rule = 445,
    NR_landlock_restrict_self = 446,
};

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}

/* The kernel starts us with the stack pointer at argc; it is 16-byte aligned already. */
__asm__(".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    bl gate_main\n"
        "    brk #1\n");
