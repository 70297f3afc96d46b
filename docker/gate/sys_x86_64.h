/* x86-64: system call numbers (asm/unistd_64.h), the call itself, and the program's entry. */
enum {
    NR_read = 0, NR_write = 1, NR_close = 3, NR_mmap = 9, NR_rt_sigaction = 13, NR_rt_sigprocmask = 14, NR_ioctl = 16, NR_getpid = 39,
    NR_socket = 41, NR_connect = 42, NR_sendto = 44, NR_sendmsg = 46, NR_clone = 56, NR_execve = 59, NR_wait4 = 61,
    NR_kill = 62, NR_setpgid = 109, NR_setsid = 112, NR_prctl = 157, NR_clock_gettime = 228, NR_exit_group = 231, NR_openat = 257,
    NR_readlinkat = 267, NR_ppoll = 271, NR_timerfd_create = 283, NR_timerfd_settime = 286, NR_signalfd4 = 289, NR_eventfd2 = 290, NR_dup3 = 292,
    NR_pipe2 = 293, NR_prlimit64 = 302, NR_memfd_create = 319, NR_close_range = 436, NR_landlock_create_ruleset = 444, NR_landlock_add_rule = 445,
    NR_landlock_restrict_self = 446,
};

static long syscall6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* The kernel starts us with the stack pointer at argc (System V ABI, AMD64 supplement, 3.4.1). */
__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call gate_main\n"
        "    hlt\n");
