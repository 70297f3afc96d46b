"""The attacks. Which defences stop each was found out by trying; a run tries it again."""

from typing import Final

import attrs

from supervisor.attacks.attack import Attack, Habit, Stage
from supervisor.measures import Measure

SECCOMP, APPARMOR, USERNS, LANDLOCK = Measure.SECCOMP, Measure.APPARMOR, Measure.USERNS, Measure.LANDLOCK
READ_ONLY, TMPFS, LIMITS = Measure.READ_ONLY, Measure.TMPFS, Measure.LIMITS
CAPABILITIES, NO_NEW_PRIVILEGES = Measure.CAPABILITIES, Measure.NO_NEW_PRIVILEGES
NAMESPACES, UID = Measure.NAMESPACES, Measure.SESSION_UID
EGRESS, ISOLATION = Measure.EGRESS, Measure.ISOLATION
USER, DEVICES = Habit.USER, Habit.DEVICES

FILES: Final = (
    Attack("write-root", "a file in /", {APPARMOR, READ_ONLY, LANDLOCK, USER, UID}, "/owned"),
    Attack("write-etc", "a file in /etc", {APPARMOR, READ_ONLY, LANDLOCK, USER, UID}, "/etc/owned"),
    Attack(
        "write-programs", "a file in /usr/bin", {APPARMOR, READ_ONLY, LANDLOCK, USER, UID}, "/usr/bin/owned"
    ),
    Attack("add-root-user", "another root in /etc/passwd", {APPARMOR, READ_ONLY, LANDLOCK, USER, UID}),
    Attack(
        "plant-program",
        "a program where all look",
        {APPARMOR, READ_ONLY, LANDLOCK, USER, UID},
        "/usr/local/bin/planted",
    ),
    Attack("run-from-tmp", "run what was written to /tmp", {APPARMOR, TMPFS, LANDLOCK}, "/tmp/planted"),
    Attack("run-from-run", "run what was written to /run", {APPARMOR, TMPFS, LANDLOCK}, "/run/planted"),
    Attack(
        "run-from-config",
        "run what was written beside the CLI's config",
        {APPARMOR, TMPFS, LANDLOCK},
        "{config}/planted",
    ),
    Attack("map-code-in-tmp", "run it without executing it", {APPARMOR, TMPFS}, "/tmp"),
    Attack("run-from-memory", "run a program that is no file", {APPARMOR, SECCOMP}),
    Attack(
        "setuid-program", "become root by a program's owner", {NO_NEW_PRIVILEGES}, "{setuid}", given={USER}
    ),
    Attack(
        "capable-program",
        "get rights by a file's capabilities",
        {APPARMOR, NO_NEW_PRIVILEGES, CAPABILITIES},
        "{capable}",
        given={USER},
    ),
    Attack(
        "core-pattern",
        "have the host run a program at a crash",
        {APPARMOR, READ_ONLY, LANDLOCK, USER, UID, USERNS},
        "/proc/sys/kernel/core_pattern",
    ),
    Attack(
        "sysrq", "restart the host", {APPARMOR, READ_ONLY, LANDLOCK, USER, UID, USERNS}, "/proc/sysrq-trigger"
    ),
    Attack("host-interrupts", "watch when others type", {APPARMOR, READ_ONLY}, "/proc/interrupts"),
    Attack(
        "host-timers",
        "see what the host's programs do",
        {APPARMOR, READ_ONLY, USER, UID, USERNS},
        "/proc/timer_list",
    ),
    Attack(
        "host-memory-image",
        "read the host's memory",
        {APPARMOR, READ_ONLY, CAPABILITIES, USER, UID, USERNS},
        "/proc/kcore",
    ),
    Attack("fill-tmp", "fill memory by files in /tmp", {TMPFS}, "/tmp,80", bounded="80 MB"),
    Attack("fill-run", "fill memory by files in /run", {TMPFS}, "/run,48", bounded="48 MB"),
    Attack(
        "fill-config", "fill memory by files beside the CLI's config", {TMPFS}, "{config},24", bounded="24 MB"
    ),
    Attack(
        "fill-shm",
        "fill memory by files in /dev/shm",
        {APPARMOR, TMPFS, LANDLOCK},
        "/dev/shm,24",
        bounded="24 MB",
    ),
    Attack(
        "fill-disk",
        "fill the host's disk",
        {APPARMOR, READ_ONLY, LANDLOCK, USER, UID},
        "/etc,64",
        bounded="64 MB, for a moment",
    ),
    Attack("huge-file", "a file larger than any disk", {LIMITS}, "/tmp"),
    Attack(
        "device-in-tmp",
        "a device of its own making",
        {APPARMOR, SECCOMP, LANDLOCK, CAPABILITIES, TMPFS, USER, UID, USERNS},
        "/tmp",
    ),
    Attack(
        "host-disk",
        "the host's disk",
        {APPARMOR, SECCOMP, LANDLOCK, CAPABILITIES, TMPFS, DEVICES, USER, UID, USERNS},
    ),
    Attack(
        "file-by-handle",
        "the host's files, past all paths",
        {APPARMOR, SECCOMP, CAPABILITIES, USER, UID, USERNS},
    ),
    Attack(
        "release-agent",
        "have the host run a program as root",
        {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, NAMESPACES, USER, UID, USERNS},
    ),
)

KERNEL: Final = (
    Attack("mount", "a file system of its own", {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID}),
    Attack(
        "mount-by-descriptor",
        "the same by newer calls",
        {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID},
    ),
    Attack(
        "unmask",
        "what is hidden in /proc",
        {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID},
        "/proc/interrupts",
        given={READ_ONLY},
    ),
    Attack("pivot-root", "another root", {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID}),
    Attack("chroot", "another root, the old way", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID}),
    Attack("user-namespace", "all rights in a namespace of its own", {SECCOMP}),
    Attack("user-namespace-high-bits", "the same, past a filter that compares 64 bits", {SECCOMP}),
    Attack("user-namespace-clone3", "the same, by flags that no filter sees", {SECCOMP}),
    Attack("other-namespaces", "network and mounts of its own", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID}),
    Attack("keyring", "a key that all containers of its user share", {SECCOMP}),
    Attack("io-uring", "I/O that no filter sees", {SECCOMP}),
    # bpf, perf-events, userfaultfd and kernel-log take a capability on many hosts, and on others none.
    Attack("bpf", "a program in the kernel", {SECCOMP}),
    Attack("perf-events", "measure others", {SECCOMP}),
    Attack("userfaultfd", "hold the kernel up", {SECCOMP}),
    Attack("personality", "addresses that can be guessed", {SECCOMP}),
    Attack("system-v-memory", "memory that outlives its process", {SECCOMP}),
    Attack("calls-of-32-bit", "calls by numbers that the filter does not know", {SECCOMP}),
    Attack("kernel-log", "the host's kernel's log", {SECCOMP}),
    Attack("host-clock", "the host's clock", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID, USERNS}),
    Attack("host-name", "another host name", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID}),
    Attack("priority", "the CPU before everybody else", {APPARMOR, CAPABILITIES, USER, UID, USERNS}),
    Attack("real-time", "the CPU, always", {APPARMOR, CAPABILITIES, USER, UID, USERNS}),
    Attack("another-user", "be another session's user", {APPARMOR, CAPABILITIES, USER, UID}, "4242"),
    Attack("push-input", "type for the user (TIOCSTI)", {SECCOMP}),
    Attack("push-input-high-bits", "the same, past a filter that compares 64 bits", {SECCOMP}),
    Attack("line-discipline", "code for modems and the like", {SECCOMP}),
)

PROCESSES: Final = (
    Attack("trace-process", "control another program of its user", {APPARMOR, SECCOMP}),
    Attack("trace-gate", "control its gate", {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID}),
    Attack(
        "gate-memory-by-call", "its gate's memory", {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID}
    ),
    Attack(
        "gate-memory-by-file", "its gate's memory, by /proc", {APPARMOR, CAPABILITIES, LANDLOCK, USER, UID}
    ),
    Attack("gate-descriptors", "its gate's descriptors", {APPARMOR, CAPABILITIES, LANDLOCK, USER, UID}),
    Attack(
        "steal-lifeline",
        "speak with the supervisor in its gate's name",
        {APPARMOR, SECCOMP, CAPABILITIES, LANDLOCK, USER, UID},
    ),
    Attack("signal-gate", "signals to process 1", {APPARMOR, LANDLOCK}, landlock=6),
    Attack("gate-limits", "starve its gate", {APPARMOR, SECCOMP}),
    Attack("gate-priority", "slow its gate down", {SECCOMP}),
    Attack("gate-cpus", "slow its gate down by CPUs", {SECCOMP}),
    Attack("gate-oom", "have its gate killed when memory is short", {APPARMOR, LANDLOCK, USER, UID}),
)

EXHAUSTION: Final = (
    Attack("fork-bomb", "use up processes", {LIMITS}, bounded="300"),
    Attack("thread-bomb", "use up threads", {LIMITS}, bounded="300"),
    Attack("memory-bomb", "use up memory", {LIMITS}, "{memory}", bounded="320 MB"),
    Attack("cpu-hog", "use up the CPU", {LIMITS}, "{cpu}", bounded="1 s"),
    Attack("many-files", "use up open files", {LIMITS}, bounded="20,000"),
    Attack(
        "many-terminals",
        "use up the terminals that all of the host share",
        {APPARMOR, LANDLOCK},
        bounded="600",
    ),
    Attack("many-signals", "use up queued signals, root's among them", {LIMITS}, bounded="1,000"),
    Attack("another-terminal", "a terminal that nobody watches", {APPARMOR, LANDLOCK}),
)

SOCKETS: Final = (
    Attack(
        "raw-socket", "packets of its own making", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID}, "127.0.0.1"
    ),
    Attack("ping-socket", "echo requests", {SECCOMP}, "127.0.0.1"),
    Attack("sniff", "others' packets", {APPARMOR, SECCOMP, CAPABILITIES, USER, UID}),
    Attack(
        "another-address",
        "somebody else's address",
        {APPARMOR, SECCOMP, CAPABILITIES, USER, UID},
        "192.0.2.1",
    ),
    Attack(
        "tunnel",
        "a network interface of its own",
        {APPARMOR, SECCOMP, LANDLOCK, CAPABILITIES, TMPFS, USER, UID, USERNS},
        "/tmp",
    ),
    Attack("kernel-cipher", "the kernel's ciphers (AF_ALG)", {APPARMOR, SECCOMP}),
    Attack("hypervisor", "the hypervisor (AF_VSOCK)", {APPARMOR, SECCOMP}),
    Attack("server", "serve others", {LANDLOCK}, landlock=4),
)

_SAYS: Final = '"type":"status","payload":"disconnected"'

NETWORK: Final = tuple(
    attrs.evolve(each, stage=Stage.NETWORK, landlock=4)
    for each in (
        Attack(
            "unlisted-site",
            "a site that is not listed, under a listed name",
            {EGRESS},
            "{unlisted},443,api.listed.example",
        ),
        Attack("tls-without-a-name", "a listed host, without saying for whom", {EGRESS}, "{endpoint},443"),
        Attack(
            "other-tenant",
            "another site at a listed host's address",
            {EGRESS},
            "{cdn},443,tenant.other.example",
        ),
        Attack(
            "private-address",
            "the host's own network, by a listed name",
            {EGRESS},
            "{private},443,api.listed.example",
        ),
        Attack("metadata-service", "the host's rights in its cloud", {EGRESS, LANDLOCK}, "{metadata},80"),
        Attack(
            "unlisted-port", "a site that is not listed, without TLS", {EGRESS, LANDLOCK}, "{unlisted},80"
        ),
        Attack("other-port", "another service of a listed host", {EGRESS, LANDLOCK}, "{endpoint},7007"),
        Attack("datagrams", "a site that is not listed, by UDP", {EGRESS}, "{unlisted},443"),
        Attack("foreign-resolver", "another resolver", {EGRESS}, "{resolver},53,c2VjcmV0.unlisted.example"),
        Attack(
            "foreign-resolver-by-tcp",
            "another resolver, by TCP",
            {EGRESS},
            "{resolver},53,c2VjcmV0.unlisted.example",
        ),
        Attack(
            "names-as-messages",
            "messages in names that the engine's resolver is asked for",
            {EGRESS},
            "{embedded},53,c2VjcmV0.unlisted.example",
        ),
        Attack(
            "echo-outside",
            "a host outside, by ICMP",
            {APPARMOR, EGRESS, SECCOMP},
            "{unlisted}",
        ),
        Attack("host-port", "the supervisor's and other ports of the host", {EGRESS, LANDLOCK}, "{host}"),
        Attack("another-session", "another session's programs", {EGRESS, ISOLATION, LANDLOCK}, "{neighbour}"),
    )
)

SHARED: Final = tuple(
    attrs.evolve(each, stage=Stage.SHARED)
    for each in (
        Attack("host-processes", "what runs on the host", {NAMESPACES}),
        Attack(
            "neighbours-credentials",
            "another session's credentials",
            {APPARMOR, NAMESPACES, CAPABILITIES, USER, UID},
            "{neighbour},{variable}",
        ),
        # No capability is needed where users are remapped: the host's root owns the neighbour's namespace.
        Attack("signal-neighbour", "end another session", {APPARMOR, NAMESPACES, USER, UID}, "{neighbour}"),
        Attack(
            "enter-host",
            "the host's files",
            {APPARMOR, NAMESPACES, SECCOMP, CAPABILITIES, USER, UID},
            "{supervisor}",
        ),
        Attack(
            "host-memory", "memory that the host's programs share", {NAMESPACES, SECCOMP, USER, UID}, "{key}"
        ),
        Attack("host-loopback", "ports that only the host should reach", {NAMESPACES}, "127.0.0.1,{port}"),
        Attack("abstract-socket", "sockets of the host's programs", {NAMESPACES}, "{socket}"),
    )
)

KEYBOARD: Final = tuple(
    Attack(f"shell-{name}", wants, {Habit.SHELL}, keys, stage=Stage.KEYBOARD)
    for name, wants, keys in (
        ("semicolon", "a second command", "listed; unlisted{enter}"),
        ("and", "a second command, if the first succeeds", "listed && unlisted{enter}"),
        ("pipe", "a second command in a pipe", "listed | unlisted{enter}"),
        ("background", "a command in the background", "unlisted &{enter}"),
        ("substitution", "a command in an argument", 'listed "$(unlisted)"{enter}'),
        ("backticks", "the same, the old way", 'listed "`unlisted`"{enter}'),
        ("process-substitution", "a command as a file", "listed >(unlisted){enter}"),
        ("path", "a command by its path", "{programs}/unlisted{enter}"),
        ("eval", "a command as text", "eval unlisted{enter}"),
        ("assignment", "a command behind an assignment", "A=1 unlisted{enter}"),
        ("variable", "a command in a variable", 'listed "${{X@P}}"{enter}'),
        ("editor", "a command as the editor", "listed{edit}"),
        ("expand-key", "a command at a key", "listed $(unlisted){expand}"),
        # These two change the shell for whatever comes after them.
        ("function", "a command under a listed name", "listed() {{ unlisted; }}; listed{enter}"),
        ("prompt", "a command at each prompt", "PROMPT_COMMAND=unlisted{enter}{enter}"),
    )
)

DIALOGUE: Final = (
    Attack("impostor", "be taken for a session's gate", {Habit.PEER}, stage=Stage.DIALOGUE),
    Attack(
        "spoofed-message",
        "have the client obey output",
        {Habit.FRAMES},
        "{prefix}{{" + _SAYS + "}}",
        stage=Stage.DIALOGUE,
    ),
    Attack(
        "spoofed-plain-message",
        "the same in the older form",
        {Habit.FRAMES},
        "{{" + _SAYS + "}}",
        stage=Stage.DIALOGUE,
    ),
)

CATALOG: Final = (*FILES, *KERNEL, *PROCESSES, *EXHAUSTION, *SOCKETS, *NETWORK, *SHARED, *KEYBOARD, *DIALOGUE)
