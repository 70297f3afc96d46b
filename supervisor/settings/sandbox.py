"""What a session runs in: engine, image, command, network, limits, pool."""

from pathlib import Path
from typing import Literal

import attrs

from supervisor.measures import OPTIONAL
from supervisor.settings.knob import (
    KIB,
    MIB,
    MINUTE,
    Between,
    addresses,
    as_is,
    domains,
    if_any,
    listed,
    matches,
    milliseconds,
    numbers,
    one_of,
    opt_outs,
    optional,
    parse_size,
    path,
    ports,
    setting,
    words,
)


@attrs.frozen(kw_only=True, slots=False)
class SandboxSettings:
    """See `Settings`."""

    provider: Literal["docker", "local"] = setting(
        "SANDBOX_PROVIDER",
        "docker",
        as_is,
        "Where sessions run; local has no isolation.",
        one_of("docker", "local"),
    )
    transport: Literal["lifeline", "attach"] = setting(
        "SANDBOX_TRANSPORT",
        "lifeline",
        as_is,
        "How the terminal's bytes travel.",
        one_of("lifeline", "attach"),
    )
    docker_host: str = setting(
        "DOCKER_HOST", "", as_is, "The engine's socket; empty: where set-up or the system has one."
    )
    runtime: str = setting(
        "CONTAINER_RUNTIME",
        "",
        as_is,
        "OCI runtime of the session containers, by its name at the engine; empty: the engine's default.",
        matches(r"|[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "a name of letters, digits, _ . -"),
    )
    image: str = setting(
        "DOCKER_IMAGE_NAME", "terminal-supervisor-sandbox:latest", as_is, "Image of the session containers."
    )
    container_user: str = setting(
        "CONTAINER_USER",
        "",
        as_is,
        "User of a container's programs: a name in the image, or uid:gid; empty: the image's.",
        matches(r"([A-Za-z_][A-Za-z0-9_.-]*|[0-9]+)?(:[0-9]+)?", "a name, a number or uid:gid"),
    )
    gate: Path | None = setting(
        "GATE_FILE", None, path, "The gate's program on this host; empty: where set-up puts it."
    )
    local_user: str = setting(
        "LOCAL_USER",
        "nobody",
        as_is,
        "User of the programs of provider local, where the supervisor is root.",
    )
    command: tuple[str, ...] = setting(
        "SESSION_COMMAND",
        (),
        words,
        "Command of a session; empty: the image's (the restricted shell in the default image).",
    )
    allowed_commands: tuple[str, ...] = setting(
        "ALLOWED_COMMANDS", (), listed, "Commands of the restricted shell; empty: the list in the image."
    )
    network: str = setting(
        "DOCKER_NETWORK_NAME",
        "ably_cli_restricted",
        as_is,
        "Network of the session containers; none for no network.",
        matches(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", "a name of letters, digits, _ . -"),
    )
    program_directories: tuple[str, ...] = setting(
        "CONTAINER_PROGRAM_DIRECTORIES",
        (),
        listed,
        "Further directories of the image to read and execute from; /usr, /opt and those in PATH always.",
    )
    egress_domains: tuple[str, ...] = setting(
        "EGRESS_DOMAINS",
        ("*.ably.io", "*.ably.net", "*.ably-realtime.com", "ably.com", "*.ably.com"),
        listed,
        "Names that sessions may connect to: a name, or *. and a name for all below it; empty: no network.",
        domains,
    )
    egress_ports: tuple[int, ...] = setting(
        "EGRESS_PORTS", (443,), numbers, "TCP ports of these names, TLS on all of them.", ports
    )
    egress_dns_servers: tuple[str, ...] = setting(
        "EGRESS_DNS_SERVERS",
        (),
        listed,
        "Addresses of the DNS servers that are asked about these names; empty: those of this host.",
        addresses,
    )
    hardening_without: tuple[str, ...] = setting(
        "HARDENING_WITHOUT",
        (),
        listed,
        f"Measures to go without, by name, on a host that cannot have them: {', '.join(OPTIONAL)}. "
        "`terminal-supervisor check` says which hold.",
        opt_outs,
    )
    memory_limit: int = setting(
        "CONTAINER_MEMORY_LIMIT",
        256 * MIB,
        parse_size,
        "Memory of a container, swap included.",
        Between(16 * MIB, 1 << 40),
    )
    cpu_limit: float = setting("CONTAINER_CPU_LIMIT", 1.0, float, "CPUs of a container.", Between(0.01, 1024))
    pids_limit: int = setting("CONTAINER_PIDS_LIMIT", 50, int, "Processes of a container.", Between(4, 32768))
    sessions_memory_limit: int | None = setting(
        "SESSIONS_MEMORY_LIMIT",
        None,
        optional(parse_size),
        "Memory of all containers together; empty: nine tenths of the host's, 0: no limit.",
        if_any(16 * MIB, 1 << 50),
    )
    sessions_cpu_limit: float | None = setting(
        "SESSIONS_CPU_LIMIT",
        None,
        optional(float),
        "CPUs of all containers together; empty: nine tenths of the host's, 0: no limit.",
        if_any(0.01, 65536),
    )
    sessions_pids_limit: int | None = setting(
        "SESSIONS_PIDS_LIMIT",
        None,
        optional(int),
        "Processes of all containers together; empty: nine tenths of what the host can have, 0: no limit.",
        if_any(4, 1 << 22),
    )
    sessions_cgroup: str = setting(
        "SESSIONS_CGROUP",
        "",
        as_is,
        "Control group of all containers, which exists and has limits, as the engine's --cgroup-parent takes "
        "it; empty: one that the supervisor makes, where it is root.",
        matches(r"|/[A-Za-z0-9_.@:/-]+|[A-Za-z0-9_.@:-]+\.slice", "a path (/a/b) or a slice (a.slice)"),
    )
    tmpfs_size: int = setting(
        "CONTAINER_TMPFS_SIZE", 64 * MIB, parse_size, "Size of /tmp.", Between(64 * KIB, 1 << 36)
    )
    config_size: int = setting(
        "CONTAINER_CONFIG_SIZE",
        10 * MIB,
        parse_size,
        "Size of the CLI's config directory.",
        Between(64 * KIB, 1 << 36),
    )
    config_directory: str = setting(
        "CONTAINER_CONFIG_DIRECTORY",
        "/home/appuser/.ably",
        as_is,
        "The CLI's config directory in the container.",
        matches(r"/[A-Za-z0-9_./-]+", "an absolute path"),
    )
    warm_pool_size: int = setting(
        "WARM_POOL_SIZE",
        2,
        int,
        "Containers that wait, ready, for the next session; 0: none.",
        Between(0, 1000),
    )
    warm_pool_max_age: float = setting(
        "WARM_POOL_MAX_AGE_MS",
        30 * MINUTE,
        milliseconds,
        "Age at which a waiting container is replaced.",
        Between(10, 1e6),
    )
    start_timeout: float = setting(
        "SANDBOX_START_TIMEOUT_MS", 30.0, milliseconds, "Time for a container to come up.", Between(1, 600)
    )
    hangup_grace: float = setting(
        "HANGUP_GRACE_MS", 2.0, milliseconds, "Time for programs to go after a hang-up.", Between(0, 60)
    )
