/* The gate: PID 1 of a session container. docs/gate.md is its contract.
 *
 * It opens the session's PTY, hands the master to the supervisor over the lifeline (a unix socket), and makes
 * the child that will become the session's command. The child confines itself, reports what it sees, and
 * waits. The gate waits for one order, wakes the child to execute it, reports how the command ended, and ends,
 * and the container with it, as soon as the lifeline does. Whatever goes wrong, it dies: that is always safe,
 * because the kernel then kills everything else in here.
 *
 * It trusts the supervisor, not the session, which has the same user id: so it is not dumpable (no ptrace, no
 * /proc/1/fd or environ for the session), and the session inherits none of its descriptors. All signals stay
 * blocked; the two that matter come from a signalfd. The only place where it waits is `attend`. */
#include "sys.h"

enum death { /* exit statuses; docs/gate.md tells them to operators */
    DEATH_USAGE = 240,
    DEATH_SYSTEM,
    DEATH_TERMINAL,
    DEATH_CONNECT,
    DEATH_FRAME,
    DEATH_LIFELINE,
    DEATH_IDLE,
    DEATH_LIFETIME,
    DEATH_TERMINATED,
    DEATH_SURVIVORS,
    DEATH_CHILD,
};

enum {
    HEADER = 8,             /* bytes of a frame before its payload */
    MAX_PAYLOAD = 65536,    /* of EXEC */
    MIN_PAYLOAD = 18,       /* of EXEC: five numbers, one argument of one letter and its NUL */
    MAX_ARGUMENTS = 64,
    MAX_ENVIRONMENT = 256,
    MAX_SECONDS = 10000000, /* lifetime and idle bound */
    MAX_GRACE = 600000,     /* milliseconds */
    MAX_PATH = 4096,
    REAP_TIME = 10000,      /* milliseconds for killed processes to go */
    OOM_SCORE_DIGITS = 4,
    MAX_REPORT = 65536,     /* payload of SEEN */
    LEAST_ROOM = 16,        /* bytes of an entry's value: of two numbers */
    MAX_RULES = 64,         /* --allow and --connect, each */
    OPTION_COUNT = 1,       /* of EXEC, and the only one: the command says what it starts */
    TELLING = 3,            /* the command's descriptor for that */
    MAX_COUNT = 4096,       /* commands that one CMDS tells of */
    COUNT_PAUSE = 100,      /* milliseconds from one CMDS to the next */
    MAX_DESCRIPTOR = 0x7fffffff, /* descriptors are ints; gVisor refuses a range that ends higher */
};

static bool attached;       /* the terminal is the container's own (fd 0), and there is no lifeline */
static int lifeline;        /* the socket, or the terminal when attached */
static int terminal;        /* PTY slave */
static int signals;         /* signalfd: TERM and CHLD */
static int timer;           /* goes off at `deadline` */
static uint64_t deadline;   /* boot clock, milliseconds; 0 for none */
static enum death death_at_deadline;

static uint8_t *frame;      /* EXEC; memory that is shared with the child until that has taken it out */
static int wake;            /* eventfd: EXEC is there */
static uint32_t lifetime, grace; /* seconds, milliseconds */
static char *arguments[MAX_ARGUMENTS + 1];
static char *environment[MAX_ENVIRONMENT + 1];

/* A pipe, on which the command says what it starts, a byte each. Whatever the session writes there, and however
 * much, is a number of bytes. No eventfd: its flags would be the session's as well as ours, and who takes
 * O_NONBLOCK away, and what there is to read, holds us up for ever; of a pipe each end has flags of its own. */
static int told = -1, telling = -1; /* what we read from, and what the command has */
static bool counted;                /* by EXEC: that is relayed */
static uint64_t quiet_until;        /* boot clock, milliseconds: when CMDS may be said next */

static uint8_t order[HEADER]; /* the frame after EXEC, as far as it has come */
static size_t order_length;
static bool hung_up;
static long command;        /* the child's pid; 0 before the fork and once it has been reaped */
static bool claimed;        /* it has been woken */
static bool command_ended;
static int command_status;

_Noreturn static void die(enum death death)
{
    sys_exit((int)death);
}

/* The result of a system call that has no business failing. */
static long must(long result)
{
    if (result < 0) die(DEATH_SYSTEM);
    return result;
}

static size_t length_of(const char *text)
{
    size_t n = 0;
    while (text[n]) n++;
    return n;
}

/* Stops at the first difference, so a shorter NUL-terminated text may be compared with a longer one. */
static bool equal(const void *a, const void *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i]) return false;
    return true;
}

static uint32_t read_u16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t read_u32(const uint8_t *at)
{
    return read_u16(at) << 16 | read_u16(at + 2);
}

static void write_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* The number from 1 to `most` that an argument of ours is. */
static uint32_t parse_number(const char *text, uint32_t most)
{
    uint32_t value = 0;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || value > most) die(DEATH_USAGE);
        value = value * 10 + (uint32_t)(*text - '0');
    }
    if (value < 1 || value > most) die(DEATH_USAGE);
    return value;
}

/* ---- time ---- */

/* The boot clock, milliseconds. */
static uint64_t now(void)
{
    struct timespec time;
    must(sys_boot_clock(&time));
    return (uint64_t)time.seconds * 1000 + (uint64_t)time.nanoseconds / 1000000;
}

static struct timespec from_milliseconds(uint64_t milliseconds)
{
    return (struct timespec){(int64_t)(milliseconds / 1000), (int64_t)(milliseconds % 1000) * 1000000};
}

/* Die of `death` in so many milliseconds, if nothing ends us sooner. */
static void die_within(uint64_t milliseconds, enum death death)
{
    uint64_t at = now() + milliseconds;
    if (deadline && deadline <= at) return;
    deadline = at;
    death_at_deadline = death;
    struct itimerspec when = {{0, 0}, from_milliseconds(at)};
    must(sys_timer_set(timer, &when));
}

/* ---- the end ---- */

/* Signal every process but ourselves. The kernel does it under one lock: a process that is killed cannot fork
 * any more. ESRCH means that there is none. EPERM can only mean that an administrator has entered the
 * container as another user; those processes end with us. */
static void signal_all(int signal)
{
    long result = sys_kill(-1, signal);
    if (result != -ESRCH && result != -EPERM) must(result);
}

static void hang_up(void)
{
    if (!command || hung_up) return;
    hung_up = true;
    signal_all(SIGHUP);
    signal_all(SIGCONT); /* a stopped process would not notice */
    die_within(grace, DEATH_TERMINATED);
}

/* Reap whoever has ended, also orphans that became our children. True when no child is left. */
static bool reap(void)
{
    for (;;) {
        int status;
        long pid = sys_wait(&status);
        if (pid == -ECHILD) return true;
        if (must(pid) == 0) return false;
        if (pid == command) {
            if (!claimed) die(DEATH_CHILD);
            command = 0;
            command_ended = true;
            command_status = status;
            signal_all(SIGKILL);
            die_within(REAP_TIME, DEATH_SURVIVORS);
        }
    }
}

/* ---- what comes in ---- */

struct news {
    bool lifeline, child, commands;
};

/* Wait until there is something to read on the lifeline, a child has ended, or commands are to be told of.
 * Deadlines and TERM are dealt with here. */
static struct news attend(short lifeline_events)
{
    uint64_t at = now();
    bool quiet = counted && at < quiet_until;
    struct timespec limit = from_milliseconds(quiet ? quiet_until - at : 0);
    struct pollfd fds[4] = {{timer, POLLIN, 0}, {lifeline, lifeline_events, 0}, {signals, POLLIN, 0},
                            {counted && !quiet ? told : -1, POLLIN, 0}};
    long ready = sys_poll(fds, 4, quiet ? &limit : NULL);
    if (ready == -EINTR) return (struct news){false, false, false}; /* a tracer or freezer of the host's */
    must(ready);
    if (fds[0].revents) die(death_at_deadline);
    struct news news = {fds[1].revents != 0, false, fds[3].revents != 0};
    if (fds[2].revents) {
        struct signalfd_siginfo info;
        long got = sys_read(signals, &info, sizeof info);
        if (got != -EAGAIN && got != (long)sizeof info) die(DEATH_SYSTEM);
        if (got > 0 && info.signal == SIGCHLD) news.child = true;
        if (got > 0 && info.signal == SIGTERM) {
            if (!claimed) die(DEATH_TERMINATED);
            hang_up();
        }
    }
    return news;
}

/* Read at most `n` bytes of the lifeline; 0 when there is nothing now. Its end is ours. */
static size_t receive(uint8_t *to, size_t n)
{
    long got = sys_read(lifeline, to, n);
    if (got == -EAGAIN || got == -EINTR) return 0;
    if (got <= 0) die(DEATH_LIFELINE);
    return (size_t)got;
}

/* Read exactly `n` bytes: what follows them may be the user's first keys. */
static void receive_all(uint8_t *to, size_t n)
{
    while (n) {
        struct news news = attend(POLLIN);
        if (news.child) reap(); /* orphans of an administrator's `docker exec` */
        if (!news.lifeline) continue;
        size_t got = receive(to, n);
        to += got;
        n -= got;
    }
}

/* Take `count` NUL-terminated strings at `at` apart; returns where the next one starts, dies when one runs
 * past `end`. */
static uint8_t *take_strings(uint8_t *at, const uint8_t *end, char **strings, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        strings[i] = (char *)at;
        while (at < end && *at) at++;
        if (at == end) die(DEATH_FRAME);
        at++;
    }
    strings[count] = NULL;
    return at;
}

/* Take EXEC, which is at `at`, apart into `lifetime`, `grace`, `arguments` and `environment`. */
static void take_exec(uint8_t *at)
{
    uint8_t *payload = at + HEADER, *end = payload + read_u32(at + 4);
    lifetime = read_u32(payload);
    grace = read_u32(payload + 4);
    uint32_t options = read_u32(payload + 8);
    size_t argument_count = read_u16(payload + 12), environment_count = read_u16(payload + 14);
    counted = options == OPTION_COUNT;
    if (lifetime < 1 || lifetime > MAX_SECONDS || grace > MAX_GRACE) die(DEATH_FRAME);
    if (options > OPTION_COUNT || (counted && attached)) die(DEATH_FRAME);
    if (argument_count < 1 || argument_count > MAX_ARGUMENTS) die(DEATH_FRAME);
    if (environment_count > MAX_ENVIRONMENT) die(DEATH_FRAME);
    uint8_t *rest = take_strings(payload + 16, end, arguments, argument_count);
    rest = take_strings(rest, end, environment, environment_count);
    if (rest != end || !*arguments[0]) die(DEATH_FRAME);
    for (size_t i = 0; i < environment_count; i++) {
        const char *at = environment[i];
        while (*at && *at != '=') at++;
        if (!*at || at == environment[i]) die(DEATH_FRAME);
    }
}

static void receive_exec(void)
{
    receive_all(frame, HEADER);
    uint32_t n = read_u32(frame + 4);
    if (equal(frame, "TERM", 4) && n == 0 && !attached) die(DEATH_TERMINATED);
    if (!equal(frame, "EXEC", 4) || n < MIN_PAYLOAD || n > MAX_PAYLOAD) die(DEATH_FRAME);
    receive_all(frame + HEADER, n);
    take_exec(frame);
}

/* Read what follows EXEC on the lifeline: TERM or its end. When attached, only a hang-up brings us here. */
static void receive_order(void)
{
    if (attached) die(DEATH_LIFELINE);
    order_length += receive(order + order_length, HEADER - order_length);
    if (order_length < HEADER) return;
    if (!equal(order, "TERM\0\0\0\0", HEADER)) die(DEATH_FRAME);
    order_length = 0;
    hang_up();
}

/* ---- the terminal ---- */

/* The modes of a new terminal, and UTF-8 editing; or, `raw`, none at all. Going raw or back discards nothing
 * that waits. */
static void set_modes(bool raw)
{
    struct termios modes;
    if (sys_ioctl(terminal, TCGETS, (long)&modes) < 0) die(DEATH_TERMINAL);
    modes.input = raw ? 0 : ICRNL | IXON | IUTF8;
    modes.output = raw ? 0 : OPOST | ONLCR;
    modes.local = raw ? 0 : ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
    modes.characters[VMIN] = 1;
    modes.characters[VTIME] = 0;
    must(sys_ioctl(terminal, TCSETS, (long)&modes));
}

/* Open the container's own PTY and return its master. */
static int open_terminal(void)
{
    /* /dev/ptmx is a link to this one in a container; elsewhere it is a device of its own, and this one may
     * be closed */
    long master = sys_open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master == -ENOENT || master == -EACCES) master = sys_open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0) die(DEATH_TERMINAL);
    int locked = 0;
    if (sys_ioctl((int)master, TIOCSPTLCK, (long)&locked) < 0) die(DEATH_TERMINAL);
    long slave = sys_ioctl((int)master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) die(DEATH_TERMINAL);
    terminal = (int)slave;
    return (int)master;
}

static void connect_lifeline(const char *path)
{
    struct sockaddr_un address = {.family = AF_UNIX};
    size_t n = length_of(path);
    if (n == 0 || n >= sizeof address.path) die(DEATH_USAGE);
    memcpy(address.path, path, n);
    /* non-blocking: a full backlog must not hold us up for ever */
    lifeline = (int)must(sys_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (sys_connect(lifeline, &address) < 0) die(DEATH_CONNECT);
}

static const uint8_t ready_frame[] = {'R', 'E', 'D', 'Y', 0, 0, 0, 4, 0, 0, 0, 3};

/* Say REDY and give the master away. */
static void send_ready(int master)
{
    struct iovec part = {ready_frame, sizeof ready_frame};
    struct descriptor_message rights = {DESCRIPTOR_MESSAGE_LENGTH, SOL_SOCKET, SCM_RIGHTS, master, 0};
    struct msghdr message = {
        .parts = &part, .part_count = 1, .control = &rights, .control_length = sizeof rights};
    long sent = sys_sendmsg(lifeline, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent != (long)sizeof ready_frame) die(DEATH_CONNECT);
    must(sys_close(master));
}

/* Send on the terminal of --attach. A terminal takes a few bytes at once or is broken. */
static void write_terminal(const void *from, size_t n)
{
    if (sys_write(terminal, from, n) != (long)n) die(DEATH_CONNECT);
}

/* Say CMDS, if the command has told of something, and no more of that for a while. A supervisor that does not
 * read shall still have room for EXIT: so not while more than a part of the lifeline's buffer is full, which is
 * what POLLOUT means there. What has not been told of stays in the pipe, as far as that holds it. */
static void relay_commands(void)
{
    static uint8_t marks[MAX_COUNT];
    struct pollfd room = {lifeline, POLLOUT, 0};
    struct timespec at_once = {0, 0};
    quiet_until = now() + COUNT_PAUSE;
    if (sys_poll(&room, 1, &at_once) <= 0) return;
    long count = sys_read(told, marks, sizeof marks);
    if (count == -EAGAIN) return;
    if (must(count) == 0) { /* nobody is left who could */
        must(sys_close(told));
        counted = false;
        return;
    }
    uint8_t report[HEADER + 4] = {'C', 'M', 'D', 'S', 0, 0, 0, 4};
    write_u32(report + HEADER, (uint32_t)count);
    long sent = sys_send(lifeline, report, sizeof report, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent != (long)sizeof report) die(DEATH_LIFELINE);
}

static void send_exit(int status, int signal)
{
    uint8_t report[HEADER + 8] = {'E', 'X', 'I', 'T', 0, 0, 0, 8};
    write_u32(report + HEADER, (uint32_t)status);
    write_u32(report + HEADER + 4, (uint32_t)signal);
    long sent = sys_send(lifeline, report, sizeof report, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent != (long)sizeof report) die(DEATH_LIFELINE);
}

/* ---- the child ---- */

enum { STATUS_NO_TERMINAL = 125, STATUS_CANNOT_EXECUTE = 126, STATUS_NOT_FOUND = 127 };

/* As `must`, in the child. */
static long child_must(long result)
{
    if (result < 0) sys_exit(STATUS_NO_TERMINAL);
    return result;
}

/* Make the session, not us, the kernel's choice when memory runs out. Best effort: it protects the session's
 * own gate, whose death would only end the same session; /proc may be absent or read-only. */
static void volunteer_for_oom(void)
{
    long fd = sys_open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    sys_write((int)fd, "1000", OOM_SCORE_DIGITS);
    sys_close((int)fd);
}

/* ---- confinement (Landlock) ---- */

struct path_rule {
    uint64_t allowed;
    const char *path;
};
static struct path_rule path_rules[MAX_RULES];
static uint64_t port_rules[MAX_RULES];
static size_t path_rule_count, port_rule_count;

enum {
    LL_LIST = LL_READ_DIR,
    LL_READ = LL_READ_FILE | LL_READ_DIR,
    LL_RUN = LL_READ | LL_EXECUTE,
    LL_WRITE = LL_READ | LL_WRITE_FILE | LL_TRUNCATE | LL_REFER | LL_REMOVE_DIR | LL_REMOVE_FILE | LL_MAKE_DIR |
               LL_MAKE_REG | LL_MAKE_SOCK | LL_MAKE_FIFO | LL_MAKE_SYM,
    LL_DEVICE = LL_READ_FILE | LL_WRITE_FILE | LL_TRUNCATE | LL_IOCTL_DEV,
    LL_ALL = LL_RUN | LL_WRITE | LL_DEVICE | LL_MAKE_CHAR | LL_MAKE_BLOCK,
};

/* --allow KIND:PATH */
static void add_path(const char *word)
{
    static const struct { char kind; uint64_t allowed; } kinds[] = {
        {'l', LL_LIST}, {'r', LL_READ}, {'x', LL_RUN}, {'w', LL_WRITE}, {'d', LL_DEVICE}};
    if (path_rule_count == MAX_RULES || !word[0] || word[1] != ':' || word[2] != '/') die(DEATH_USAGE);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == word[0]) {
            path_rules[path_rule_count++] = (struct path_rule){kinds[i].allowed, word + 2};
            return;
        }
    die(DEATH_USAGE);
}

/* --connect PORT */
static void add_port(const char *word)
{
    if (port_rule_count == MAX_RULES) die(DEATH_USAGE);
    port_rules[port_rule_count++] = parse_number(word, 65535);
}

/* Which version of Landlock confines the child; 0 when nothing was asked for. */
static long confined;

/* Give up for ever what no rule allows, for this process and all that it will start. Without --allow, nothing.
 * Rights that this kernel's Landlock does not know cannot be taken away: the report says which version it
 * is. */
static void confine(void)
{
    if (!path_rule_count) return;
    long version = child_must(sys_landlock_create(NULL, 0, LANDLOCK_VERSION));
    uint64_t files = LL_ALL;
    if (version < 2) files &= ~(uint64_t)LL_REFER;
    if (version < 3) files &= ~(uint64_t)LL_TRUNCATE;
    if (version < 5) files &= ~(uint64_t)LL_IOCTL_DEV;
    struct landlock_ruleset rules = {
        .files = files,
        .tcp = version < 4 ? 0 : LL_BIND_TCP | (port_rule_count ? LL_CONNECT_TCP : 0),
        .scoped = version < 6 ? 0 : LL_SCOPE_ABSTRACT_UNIX | LL_SCOPE_SIGNAL,
    };
    int set = (int)child_must(sys_landlock_create(&rules, sizeof rules, 0));
    struct landlock_path own = {LL_DEVICE & files, terminal};
    child_must(sys_landlock_add(set, LANDLOCK_PATH, &own));
    for (size_t i = 0; i < path_rule_count; i++) {
        long fd = sys_open(path_rules[i].path, O_PATH | O_CLOEXEC);
        if (fd == -ENOENT || fd == -ENOTDIR || fd == -EACCES) continue; /* not in this image */
        struct landlock_path rule = {path_rules[i].allowed & files, (int)child_must(fd)};
        child_must(sys_landlock_add(set, LANDLOCK_PATH, &rule));
        child_must(sys_close(rule.fd));
    }
    for (size_t i = 0; i < port_rule_count && rules.tcp & LL_CONNECT_TCP; i++) {
        struct landlock_port rule = {LL_CONNECT_TCP, port_rules[i]};
        child_must(sys_landlock_add(set, LANDLOCK_PORT, &rule));
    }
    child_must(sys_landlock_restrict(set));
    child_must(sys_close(set));
    confined = version;
}

/* ---- confinement (AppArmor) ---- */

enum { STACK_VERB = 6, MAX_PROFILE_NAME = 200 };
static char stack_order[STACK_VERB + MAX_PROFILE_NAME] = "stack ";
static size_t stack_length; /* of the order, 0 for none */

/* --stack PROFILE */
static void add_profile(const char *name)
{
    size_t n = length_of(name);
    if (stack_length || n < 1 || n > MAX_PROFILE_NAME) die(DEATH_USAGE);
    memcpy(stack_order + STACK_VERB, name, n);
    stack_length = STACK_VERB + n;
}

/* Have that profile confine this process besides the one that confines the gate, from now on and for ever: what
 * either denies is denied. Not only from the execution on, so that the report shows it. */
static void stack_profile(void)
{
    if (!stack_length) return;
    int fd = (int)child_must(sys_open("/proc/self/attr/apparmor/current", O_WRONLY | O_CLOEXEC));
    if (sys_write(fd, stack_order, stack_length) != (long)stack_length) sys_exit(STATUS_NO_TERMINAL);
    child_must(sys_close(fd));
}

/* ---- the report ---- */

static uint8_t report[HEADER + MAX_REPORT];
static size_t report_length = HEADER;

/* Add an entry: name, NUL, result (bytes that follow, or a negative errno), and the bytes, which are in place
 * already. */
static void end_entry(const char *name, size_t at, long result)
{
    memcpy(report + report_length, name, at - report_length - 4);
    write_u32(report + at - 4, (uint32_t)result);
    report_length = at + (result > 0 ? (size_t)result : 0);
}

/* Where the bytes of an entry go; there must be room for a few. */
static size_t begin_entry(const char *name)
{
    size_t at = report_length + length_of(name) + 1 + 4;
    if (at + LEAST_ROOM > sizeof report) sys_exit(STATUS_NO_TERMINAL);
    return at;
}

static void report_file(const char *path)
{
    size_t at = begin_entry(path), n = 0;
    long fd = sys_open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC), got = fd;
    if (fd >= 0) {
        while (n < sizeof report - at && (got = sys_read((int)fd, report + at + n, sizeof report - at - n)) > 0)
            n += (size_t)got;
        child_must(sys_close((int)fd));
        if (got >= 0) got = n < sizeof report - at ? (long)n : -E2BIG;
    }
    end_entry(path, at, got);
}

static void report_link(const char *path)
{
    size_t at = begin_entry(path);
    end_entry(path, at, sys_readlink(path, report + at, sizeof report - at));
}

/* Whether one can be opened is all that is wanted of a device. */
static void report_device(const char *path)
{
    size_t at = begin_entry(path);
    long fd = sys_open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0) child_must(sys_close((int)fd));
    end_entry(path, at, fd < 0 ? fd : 0);
}

/* A number of the kernel's that is no file. */
static void report_number(const char *name, long value)
{
    size_t at = begin_entry(name);
    write_u32(report + at, (uint32_t)value);
    end_entry(name, at, value < 0 ? value : 4);
}

/* A resource limit of this process: soft, hard. Not every kernel has /proc/self/limits. */
static void report_limit(const char *name, int resource)
{
    size_t at = begin_entry(name);
    struct rlimit limit;
    long result = sys_limit(resource, &limit);
    for (int i = 0; i < 2; i++) {
        uint64_t value = i ? limit.hard : limit.soft;
        write_u32(report + at + 8 * i, (uint32_t)(value >> 32));
        write_u32(report + at + 8 * i + 4, (uint32_t)value);
    }
    end_entry(name, at, result < 0 ? result : 16);
}

/* Say SEEN: what the one who will be the session's command sees of itself. */
static void send_report(void)
{
    static const char *const files[] = {
        "/proc/version", "/proc/self/status", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/attr/current",
        "/proc/self/limits", "/proc/self/net/dev", "/proc/self/mountinfo",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes",
        "/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us",
        "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.swap.max", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/cpu.max"};
    static const char *const links[] = {
        "/proc/self/ns/cgroup", "/proc/self/ns/ipc", "/proc/self/ns/mnt", "/proc/self/ns/net", "/proc/self/ns/pid",
        "/proc/self/ns/user", "/proc/self/ns/uts"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) report_file(files[i]);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) report_link(links[i]);
    report_device("/dev/pts/ptmx");
    report_number("memfd_create", sys_no_file_in_memory());
    report_limit("limit core", RLIMIT_CORE);
    report_limit("limit fsize", RLIMIT_FSIZE);
    report_limit("limit nofile", RLIMIT_NOFILE);
    report_limit("limit sigpending", RLIMIT_SIGPENDING);
    report_number("no-new-privs", sys_no_new_privs());
    report_number("landlock", confined);
    memcpy(report, "SEEN", 4);
    write_u32(report + 4, (uint32_t)(report_length - HEADER));
    for (size_t sent = 0; sent < report_length;) {
        const uint8_t *from = report + sent;
        long n = attached ? sys_write(terminal, from, report_length - sent)
                          : sys_send(lifeline, from, report_length - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (child_must(n) == 0) sys_exit(STATUS_NO_TERMINAL);
        sent += (size_t)n;
    }
}

/* ---- execution ---- */

/* Complain on the terminal. What the terminal does not take is lost; the exit status says the same. */
static void complain(const char *what)
{
    const char *parts[] = {"cannot run ", arguments[0], ": ", what, "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) sys_write(1, parts[i], length_of(parts[i]));
}

/* Execute `path`; returns whether it may exist elsewhere, and notes in `denied` that here is one that cannot
 * be executed. */
static bool try_execute(const char *path, bool *denied)
{
    long error = sys_execve(path, arguments, environment);
    if (error == -EACCES) *denied = true;
    return error == -ENOENT || error == -ENOTDIR || error == -EACCES || error == -ENAMETOOLONG;
}

_Noreturn static void execute(void)
{
    const char *name = arguments[0], *search = NULL;
    static char path[MAX_PATH];
    size_t name_length = length_of(name), slash = 0;
    bool denied = false, elsewhere = true;
    while (name[slash] && name[slash] != '/') slash++;
    if (name[slash]) {
        elsewhere = try_execute(name, &denied);
    } else {
        for (char **entry = environment; *entry && !search; entry++)
            if (equal(*entry, "PATH=", 5)) search = *entry + 5;
        while (search && *search && elsewhere) {
            size_t n = 0;
            while (search[n] && search[n] != ':') n++;
            if (n > 0 && n + 1 + name_length < MAX_PATH) {
                memcpy(path, search, n);
                path[n] = '/';
                memcpy(path + n + 1, name, name_length + 1);
                elsewhere = try_execute(path, &denied);
            }
            search += n + (search[n] == ':');
        }
    }
    if (denied) complain("permission denied");
    else if (elsewhere) complain("not found");
    else complain("it cannot be executed");
    sys_exit(denied || !elsewhere ? STATUS_CANNOT_EXECUTE : STATUS_NOT_FOUND);
}

/* Lead a session whose terminal ours is, or, where that cannot be, a process group that will be in the terminal's
 * foreground; returns whether it is that.
 *
 * A terminal that comes from outside cannot change sessions in older versions of gVisor: it belongs to the first
 * process's, for ever, and TIOCSCTTY is not known (ENOTTY; every other kernel says EPERM or EINVAL to a process
 * that leads no session). */
static bool take_terminal(void)
{
    if (attached && sys_ioctl(terminal, TIOCSCTTY, 0) == -ENOTTY) {
        child_must(sys_setpgid(0, 0));
        return true;
    }
    child_must(sys_setsid());
    child_must(sys_ioctl(terminal, TIOCSCTTY, 0));
    return false;
}

_Noreturn static void become_command(void)
{
    bool only_a_group = take_terminal();
    for (int fd = 0; fd <= 2; fd++)
        if (fd != terminal) child_must(sys_dup3(terminal, fd));
    child_must(sys_set_dumpable(true)); /* else /proc/self belongs to root */
    volunteer_for_oom();
    child_must(sys_set_dumpable(false)); /* until the command is executed */
    stack_profile();
    confine();
    send_report();
    if (!attached) child_must(sys_close(lifeline));
    if (!attached) child_must(sys_close(told));
    if (terminal > 2) child_must(sys_close(terminal));
    child_must(sys_close(signals));
    child_must(sys_close(timer));
    uint64_t count;
    if (sys_read(wake, &count, sizeof count) != (long)sizeof count) sys_exit(STATUS_NO_TERMINAL);
    child_must(sys_close(wake));
    if (only_a_group) { /* not before: from then on our gate cannot read from the terminal */
        int own = (int)sys_getpid();
        child_must(sys_ioctl(0, TIOCSPGRP, (long)&own));
    }
    static uint8_t order_taken[HEADER + MAX_PAYLOAD];
    size_t n = HEADER + read_u32(frame + 4);
    memcpy(order_taken, frame, n);
    memset(frame, 0, n); /* it holds credentials; volatile inside, so not optimised away */
    take_exec(order_taken);
    if (counted) child_must(sys_dup3(telling, TELLING)); /* not one and the same: `signals` was made before */
    if (!attached) child_must(sys_close(telling));
    static const struct sigaction standard;
    for (int signal = 1; signal <= SIGNALS; signal++) {
        long result = sys_sigaction(signal, &standard);
        if (result != -EINVAL) child_must(result); /* KILL and STOP cannot be set */
    }
    child_must(sys_sigmask(0));
    execute();
}

/* ---- from start to end ---- */

/* Close whatever the container's start has left open above standard error. */
static void close_inherited(void)
{
    long result = sys_close_range(3, MAX_DESCRIPTOR);
    if (result != -ENOSYS && result != -EPERM) { /* those: Linux before 5.9, or a seccomp filter */
        must(result);
        return;
    }
    struct rlimit limit;
    must(sys_limit(RLIMIT_NOFILE, &limit));
    for (uint64_t fd = 3; fd < limit.soft && fd < 1U << 20; fd++) {
        result = sys_close((int)fd);
        if (result != -EBADF) must(result);
    }
}

_Noreturn __attribute__((used)) void gate_main(const long *stack)
{
    long argument_count = stack[0];
    const char *const *given = (const char *const *)(stack + 1);
    const char *path = NULL;
    uint32_t idle = 0;
    if (sys_getpid() != 1) die(DEATH_USAGE);
    must(sys_set_dumpable(false));
    must(sys_sigmask(~0UL));
    close_inherited();
    for (long i = 1; i < argument_count; i++) {
        const char *word = given[i];
        if (equal(word, "--attach", sizeof "--attach")) attached = true;
        else if (equal(word, "--idle", sizeof "--idle") && i + 1 < argument_count) idle = parse_number(given[++i], MAX_SECONDS);
        else if (equal(word, "--allow", sizeof "--allow") && i + 1 < argument_count) add_path(given[++i]);
        else if (equal(word, "--connect", sizeof "--connect") && i + 1 < argument_count) add_port(given[++i]);
        else if (equal(word, "--stack", sizeof "--stack") && i + 1 < argument_count) add_profile(given[++i]);
        else if (word[0] == '-' || path) die(DEATH_USAGE);
        else path = word;
    }
    if (attached == (path != NULL)) die(DEATH_USAGE);

    uint64_t heeded = 1UL << (SIGTERM - 1) | 1UL << (SIGCHLD - 1);
    signals = (int)must(sys_signalfd(heeded, SFD_CLOEXEC | SFD_NONBLOCK));
    timer = (int)must(sys_timer_create());
    if (idle) die_within((uint64_t)idle * 1000, DEATH_IDLE);
    long shared = must(sys_share(HEADER + MAX_PAYLOAD));
    frame = (uint8_t *)shared;
    wake = (int)must(sys_eventfd());

    if (attached) {
        lifeline = terminal = 0;
        set_modes(true);
        write_terminal(ready_frame, sizeof ready_frame);
        /* As leader of the terminal's session we must let go of it before the child can have it. We get a
         * SIGHUP for that, which stays blocked for ever. ENOTTY: it was not ours. */
        long result = sys_ioctl(terminal, TIOCNOTTY, 0);
        if (result != -ENOTTY) must(result);
    } else {
        int ends[2];
        must(sys_pipe(ends, O_CLOEXEC | O_NONBLOCK)); /* a full pipe holds nobody up, an empty one not us */
        told = ends[0];
        telling = ends[1];
        int master = open_terminal();
        set_modes(false);
        connect_lifeline(path);
        send_ready(master);
    }
    command = must(sys_fork());
    if (command == 0) become_command();
    if (!attached) must(sys_close(telling));
    receive_exec();
    if (!attached && !counted) must(sys_close(told));

    deadline = 0; /* the idle bound has been met */
    die_within((uint64_t)lifetime * 1000, DEATH_LIFETIME);
    if (attached) {
        set_modes(false);
        write_terminal("STRT\0\0\0\0", HEADER);
    }
    claimed = true;
    uint64_t one = 1;
    if (sys_write(wake, &one, sizeof one) != (long)sizeof one) die(DEATH_SYSTEM);
    must(sys_close(wake));

    for (bool alone = false; !command_ended || !alone;) {
        struct news news = attend(attached ? 0 : POLLIN);
        if (news.lifeline) receive_order();
        if (news.commands) relay_commands();
        if (news.child) alone = reap();
    }
    if (counted) relay_commands(); /* what was started just before the end */
    int signal = command_status & 0x7f, status = signal ? 128 + signal : command_status >> 8 & 0xff;
    if (!attached) send_exit(status, signal);
    sys_exit(status);
}
