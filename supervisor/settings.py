"""Every knob once: its name, environment variable, default, unit, range and one sentence.

Settings are a frozen value, made at start from the environment (and `.env`), validated all at once, and
handed to whoever needs them. Nothing else reads the environment. Durations are seconds inside the program;
variables that end in `_MS` are milliseconds, as their established names say.
"""

import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import attrs

from supervisor.errors import ConfigurationError
from supervisor.measures import OPTIONAL, parse_opt_outs

KIB = 1024
MIB = 1024 * KIB
MINUTE = 60.0

ALIASES = {"SIGNING_SECRET": "TERMINAL_SERVER_SIGNING_SECRET"}
"""Other names of variables."""

_SIZE_UNITS = {"": 1, "k": KIB, "m": MIB, "g": 1024 * MIB}


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: a number, with `k`, `m` or `g` for powers of 1024 (as Docker writes
    sizes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 256m or 268435456")
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def _milliseconds(text: str) -> float:
    return float(text) / 1000


def _boolean(text: str) -> bool:
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("must be true or false")


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _text(text: str) -> str:
    return text


def _path(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


@attrs.frozen
class Between:
    """A check: what is allowed is a range of numbers."""

    low: float
    high: float

    def __call__(self, value: float) -> bool:
        """Return whether `value` is wrong."""
        return not self.low <= value <= self.high


@attrs.frozen
class OneOf:
    """A check: what is allowed is a list of words."""

    words: tuple[str, ...]

    def __call__(self, value: str) -> bool:
        """Return whether `value` is wrong."""
        return value not in self.words


def _between(low: float, high: float) -> Between:
    return Between(low, high)


def _one_of(*allowed: str) -> OneOf:
    return OneOf(allowed)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _list(text))


def _ports(ports: tuple[int, ...]) -> str | None:
    wrong = [port for port in ports if not 1 <= port <= 65535 or port == 53]
    if wrong or not ports:
        return "must be numbers from 1 to 65535, one at least, and not 53"
    return None


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})+")


def _domains(entries: tuple[str, ...]) -> str | None:
    for entry in entries:
        if len(entry) > 253 or not _DOMAIN.fullmatch(entry) or entry.rpartition(".")[2].isdigit():
            return f"{entry!r} is no name (ably.com), nor all below one (*.ably.com), in small letters"
    return None


def _addresses(values: tuple[str, ...]) -> str | None:
    try:
        for value in values:
            ipaddress.ip_address(value)
    except ValueError as error:
        return str(error)
    return None


def _opt_outs(names: tuple[str, ...]) -> str | None:
    try:
        parse_opt_outs(names)
    except ValueError as error:
        return str(error)
    return None


def _matches(pattern: str, meaning: str) -> Callable[[Any], str | None]:
    return lambda value: None if re.fullmatch(pattern, value) else f"must be {meaning}"


def _setting(
    env: str,
    default: Any,
    parse: Callable[[str], Any],
    doc: str,
    check: Callable[[Any], str | bool | None] | None = None,
    secret: bool = False,
) -> Any:
    metadata = {"env": env, "parse": parse, "doc": doc, "check": check, "secret": secret}
    return attrs.field(default=default, repr=not secret, metadata=metadata)


@attrs.frozen(kw_only=True)
class Settings:
    """The effective configuration. `describe()` lists every field with its variable, unit and sentence."""

    # gateway
    host: str = _setting("HOST", "127.0.0.1", _text, "Address to listen on.")
    port: int = _setting("PORT", 8080, int, "Port to listen on; 0 picks a free one.", _between(0, 65535))
    insecure_plain_ws: bool = _setting(
        "INSECURE_PLAIN_WS",
        False,
        _boolean,
        "Allow unencrypted ws:// on an address that is not loopback (behind a TLS proxy).",
    )
    tls_certificate: Path | None = _setting(
        "TLS_CERTIFICATE_FILE", None, _path, "Certificate chain (PEM); turns TLS on."
    )
    tls_key: Path | None = _setting(
        "TLS_KEY_FILE", None, _path, "Private key (PEM); default: in the certificate file."
    )
    allowed_hosts: tuple[str, ...] = _setting(
        "ALLOWED_HOSTS",
        (),
        _list,
        "Further values of the Host header to answer to, comma separated (loopback names always).",
    )
    allowed_origins: tuple[str, ...] = _setting(
        "ALLOWED_ORIGINS",
        (),
        _list,
        "Origins of pages that may open a WebSocket, besides this server's own page.",
    )
    max_connections: int = _setting(
        "MAX_CONNECTIONS", 1000, int, "Open connections at once, all kinds together.", _between(1, 100_000)
    )
    max_pending_connections: int = _setting(
        "MAX_PENDING_CONNECTIONS",
        256,
        int,
        "Open connections that have not authenticated; the oldest is closed for a newer one.",
        _between(1, 100_000),
    )
    handshake_timeout: float = _setting(
        "HANDSHAKE_TIMEOUT_MS", 10.0, _milliseconds, "Time for a request head to arrive.", _between(0.1, 120)
    )
    auth_timeout: float = _setting(
        "AUTH_TIMEOUT_MS",
        10.0,
        _milliseconds,
        "Time from the upgrade to the authentication message.",
        _between(0.1, 120),
    )
    ping_interval: float = _setting(
        "PING_INTERVAL_MS",
        25.0,
        _milliseconds,
        "Silence after which a WebSocket ping is sent.",
        _between(1, 3600),
    )
    ping_timeout: float = _setting(
        "PING_TIMEOUT_MS",
        40.0,
        _milliseconds,
        "Silence after a ping that counts as a dead peer.",
        _between(1, 3600),
    )
    max_message_size: int = _setting(
        "MAX_WEBSOCKET_MESSAGE_SIZE",
        MIB,
        parse_size,
        "Largest message after authentication, bytes.",
        _between(KIB, 64 * MIB),
    )
    max_auth_message_size: int = _setting(
        "MAX_AUTH_MESSAGE_SIZE",
        64 * KIB,
        parse_size,
        "Bytes accepted before authentication.",
        _between(KIB, MIB),
    )
    output_window: int = _setting(
        "OUTPUT_WINDOW_SIZE",
        256 * KIB,
        parse_size,
        "Output that may be under way to a client before the program waits, bytes.",
        _between(16 * KIB, 8 * MIB),
    )
    unacknowledged_rate: int = _setting(
        "UNACKNOWLEDGED_OUTPUT_RATE",
        8 * MIB,
        parse_size,
        "Output to a client that does not acknowledge, bytes per second (xterm.js takes 5 to 35 MB/s).",
        _between(64 * KIB, 1024 * MIB),
    )
    stall_timeout: float = _setting(
        "VIEWER_STALL_TIMEOUT_MS",
        30.0,
        _milliseconds,
        "Time without progress after which a viewer is dropped.",
        _between(1, 3600),
    )
    control_format: Literal["auto", "prefixed", "plain"] = _setting(
        "CONTROL_MESSAGE_FORMAT",
        "auto",
        _text,
        "Control messages to existing clients.",
        _one_of("auto", "prefixed", "plain"),
    )

    # admission
    signing_secret: str = _setting(
        "TERMINAL_SERVER_SIGNING_SECRET",
        "",
        _text,
        "Key of the config signatures (also SIGNING_SECRET).",
        secret=True,
    )
    further_secrets: tuple[str, ...] = _setting(
        "FURTHER_SIGNING_SECRETS",
        (),
        _list,
        "Further keys whose signatures are accepted, comma separated: the old ones, while a key is replaced.",
        secret=True,
    )
    jwt_mode: Literal["permissive", "strict"] = _setting(
        "JWT_VALIDATION_MODE",
        "permissive",
        _text,
        "strict: access tokens must be JSON Web Tokens that expire; permissive: those that are may not have.",
        _one_of("permissive", "strict"),
    )
    jwt_keys: Path | None = _setting(
        "JWT_KEYS_FILE",
        None,
        _path,
        "Keys that access tokens must be signed with: a JWKS file or public keys in PEM.",
    )
    jwt_audience: str = _setting(
        "JWT_AUDIENCE", "", _text, "Audience (aud) that access tokens must name, where there are keys."
    )
    jwt_issuer: str = _setting(
        "JWT_ISSUER", "", _text, "Issuer (iss) that access tokens must name, where there are keys."
    )
    signed_config_max_age: float = _setting(
        "SIGNED_CONFIG_MAX_AGE_MS",
        24 * 3600.0,
        _milliseconds,
        "Age after which a signed config is refused.",
        _between(1, 1e7),
    )
    allow_unsigned: bool = _setting(
        "ALLOW_UNSIGNED_CREDENTIALS",
        False,
        _boolean,
        "Accept unsigned credentials although a signing secret is set.",
    )
    allow_bypass: bool = _setting(
        "ALLOW_BYPASS_RATE_LIMIT",
        False,
        _boolean,
        "Heed bypassRateLimit in signed configs (for tests of a page).",
    )
    access_token: str = _setting(
        "LOCAL_ACCESS_TOKEN",
        "",
        _text,
        "Reusable token for programs where no signing secret is set.",
        secret=True,
    )
    max_sessions: int = _setting("MAX_SESSIONS", 100, int, "Sessions at once.", _between(1, 100_000))
    max_anonymous_sessions: int = _setting(
        "MAX_ANONYMOUS_SESSIONS",
        50,
        int,
        "Sessions at once of visitors without an access token that somebody vouches for.",
        _between(0, 100_000),
    )
    max_authenticated_sessions: int = _setting(
        "MAX_AUTHENTICATED_SESSIONS",
        50,
        int,
        "Sessions at once of visitors with such a token.",
        _between(0, 100_000),
    )
    max_sessions_per_credential: int = _setting(
        "MAX_SESSIONS_PER_CREDENTIAL",
        10,
        int,
        "Sessions at once of one authenticated visitor.",
        _between(1, 100_000),
    )
    max_sessions_per_address: int = _setting(
        "MAX_SESSIONS_PER_IP",
        20,
        int,
        "Sessions at once from one address (IPv6: one /64).",
        _between(1, 100_000),
    )
    profiles: Path | None = _setting(
        "PROFILES_FILE", None, _path, "Kinds of session that signed configs may choose from, in TOML."
    )
    webhook_url: str = _setting(
        "WEBHOOK_URL",
        "",
        _text,
        "Where starts and ends of sessions are posted to; empty: nowhere.",
        _matches(r"(https?://[^\s@]+)?", "an http:// or https:// address without a password"),
    )
    webhook_secret: str = _setting(
        "WEBHOOK_SECRET", "", _text, "Key of the signatures on what is posted.", secret=True
    )
    webhook_queue: int = _setting(
        "WEBHOOK_QUEUE_SIZE",
        1000,
        int,
        "Events that may wait for delivery; the oldest is dropped.",
        _between(1, 100_000),
    )
    waiting_line: int = _setting(
        "WAITING_LINE_SIZE",
        0,
        int,
        "Visitors who may wait for a session when all are in use; 0: they are refused.",
        _between(0, 10_000),
    )
    waiting_timeout: float = _setting(
        "WAITING_LINE_TIMEOUT_MS",
        60.0,
        _milliseconds,
        "How long a visitor waits in that line.",
        _between(1, 3600),
    )
    throttling: bool = _setting(
        "ENABLE_CONNECTION_THROTTLING",
        True,
        _boolean,
        "Limit connections and requests by address, and new connections altogether.",
    )
    max_connections_per_address: int = _setting(
        "MAX_CONNECTIONS_PER_IP_PER_MINUTE",
        10,
        int,
        "WebSockets that one address (IPv6: one /64) may open in a window.",
        _between(1, 1_000_000),
    )
    throttle_window: float = _setting(
        "CONNECTION_THROTTLE_WINDOW_MS",
        60.0,
        _milliseconds,
        "That window; a minute unless changed.",
        _between(1, 3600),
    )
    throttle_block: float = _setting(
        "CONNECTION_BLOCK_MS",
        60.0,
        _milliseconds,
        "First block of an address beyond a limit; each further one is twice as long, up to an hour.",
        _between(1, 3600),
    )
    max_connections_at_once_per_address: int = _setting(
        "MAX_CONNECTIONS_PER_IP",
        50,
        int,
        "Open connections at once from one address.",
        _between(1, 100_000),
    )
    max_requests_per_address: int = _setting(
        "MAX_REQUESTS_PER_IP_PER_MINUTE",
        600,
        int,
        "Requests for pages from one address in a window.",
        _between(1, 1_000_000),
    )
    max_failures_per_address: int = _setting(
        "MAX_FAILED_AUTHENTICATIONS_PER_IP_PER_MINUTE",
        10,
        int,
        "Failed authentications of one address before it is blocked.",
        _between(1, 1_000_000),
    )
    max_resumes_per_session: int = _setting(
        "MAX_RESUME_ATTEMPTS_PER_SESSION_PER_MINUTE",
        3,
        int,
        "Connections to a session that exists.",
        _between(1, 1_000_000),
    )
    resume_block: float = _setting(
        "RESUME_BLOCK_MS",
        5 * MINUTE,
        _milliseconds,
        "First block of a session that is resumed too often.",
        _between(1, 3600),
    )
    max_new_connections: int = _setting(
        "MAX_NEW_CONNECTIONS_PER_SECOND",
        200,
        int,
        "New connections from addresses where nobody has authenticated yet; more are refused unread.",
        _between(1, 100_000),
    )
    exempt_networks: tuple[str, ...] = _setting(
        "RATE_LIMIT_EXEMPT_NETWORKS",
        (),
        _list,
        "Networks (CIDR) without limits by address, comma separated; loopback is not one unless named.",
    )
    limiter_entries: int = _setting(
        "RATE_LIMIT_ENTRIES",
        20_000,
        int,
        "Addresses that each limit remembers; the least useful gives way.",
        _between(16, 10_000_000),
    )
    trusted_proxy: bool = _setting(
        "TRUSTED_PROXY_ENABLED",
        False,
        _boolean,
        "Believe the proxies in TRUSTED_PROXY_IPS whose connections they pass on.",
    )
    trusted_proxies: tuple[str, ...] = _setting(
        "TRUSTED_PROXY_IPS", (), _list, "Addresses or networks (CIDR) of these proxies, comma separated."
    )
    trusted_proxy_header: Literal["x-forwarded-for", "forwarded", "none"] = _setting(
        "TRUSTED_PROXY_HEADER",
        "x-forwarded-for",
        _text,
        "Header in which they say so; none where PROXY_PROTOCOL says it.",
        _one_of("x-forwarded-for", "forwarded", "none"),
    )
    proxy_protocol: bool = _setting(
        "PROXY_PROTOCOL",
        False,
        _boolean,
        "Expect a PROXY header (version 1 or 2) at the start of each connection from these proxies.",
    )
    environment_allow: tuple[str, ...] = _setting(
        "CLIENT_ENVIRONMENT_ALLOW", (), _list, "Further names that a client may set in environmentVariables."
    )

    # session
    idle_timeout: float = _setting(
        "TERMINAL_IDLE_TIMEOUT_MS",
        10 * MINUTE,
        _milliseconds,
        "Time without a key before a session ends.",
        _between(1, 1e6),
    )
    max_duration: float = _setting(
        "MAX_SESSION_DURATION_MS", 30 * MINUTE, _milliseconds, "Longest life of a session.", _between(1, 1e6)
    )
    timeout_warning: float = _setting(
        "TIMEOUT_WARNING_MS",
        60.0,
        _milliseconds,
        "How long before a timeout the user is warned.",
        _between(0, 3600),
    )
    resume_grace: float = _setting(
        "RESUME_GRACE_MS",
        5 * MINUTE,
        _milliseconds,
        "Life of a session that nobody watches.",
        _between(0, 1e6),
    )
    scrollback: int = _setting(
        "MAX_OUTPUT_BUFFER_SIZE",
        MIB,
        parse_size,
        "Output kept for a resume, bytes.",
        _between(64 * KIB, 64 * MIB),
    )
    input_rate: int = _setting(
        "INPUT_RATE", 256 * KIB, parse_size, "Input per session, bytes per second.", _between(64, 1024 * MIB)
    )
    input_burst: int = _setting(
        "INPUT_BURST",
        2 * MIB,
        parse_size,
        "Input accepted at once before the rate applies, bytes.",
        _between(KIB, 256 * MIB),
    )
    message_rate: int = _setting(
        "INPUT_MESSAGE_RATE",
        1000,
        int,
        "Messages to a session per second; more wait.",
        _between(1, 1_000_000),
    )
    message_burst: int = _setting(
        "INPUT_MESSAGE_BURST",
        10_000,
        int,
        "Messages accepted at once before that rate applies.",
        _between(1, 10_000_000),
    )
    output_rate: int = _setting(
        "OUTPUT_RATE",
        0,
        parse_size,
        "Output of a session, bytes per second: a faster program waits; 0: as fast as its viewers.",
        _between(0, 1 << 40),
    )

    # sandbox
    provider: Literal["docker", "local"] = _setting(
        "SANDBOX_PROVIDER",
        "docker",
        _text,
        "Where sessions run; local has no isolation.",
        _one_of("docker", "local"),
    )
    transport: Literal["lifeline", "attach"] = _setting(
        "SANDBOX_TRANSPORT",
        "lifeline",
        _text,
        "How the terminal's bytes travel.",
        _one_of("lifeline", "attach"),
    )
    docker_host: str = _setting(
        "DOCKER_HOST", "", _text, "The engine's socket; empty: where set-up or the system has one."
    )
    image: str = _setting(
        "DOCKER_IMAGE_NAME", "terminal-supervisor-sandbox:latest", _text, "Image of the session containers."
    )
    container_user: str = _setting(
        "CONTAINER_USER",
        "",
        _text,
        "User of a container's programs: a name in the image, or uid:gid; empty: the image's.",
        _matches(r"([A-Za-z_][A-Za-z0-9_.-]*|[0-9]+)?(:[0-9]+)?", "a name, a number or uid:gid"),
    )
    gate: Path | None = _setting(
        "GATE_FILE", None, _path, "The gate's program on this host; empty: where set-up puts it."
    )
    local_user: str = _setting(
        "LOCAL_USER",
        "nobody",
        _text,
        "User of the programs of provider local, where the supervisor is root.",
    )
    command: tuple[str, ...] = _setting(
        "SESSION_COMMAND",
        (),
        _words,
        "Command of a session; empty: the image's (the restricted shell in the default image).",
    )
    allowed_commands: tuple[str, ...] = _setting(
        "ALLOWED_COMMANDS", (), _list, "Commands of the restricted shell; empty: the list in the image."
    )
    network: str = _setting(
        "DOCKER_NETWORK_NAME",
        "ably_cli_restricted",
        _text,
        "Network of the session containers; none for no network.",
        _matches(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", "a name of letters, digits, _ . -"),
    )
    program_directories: tuple[str, ...] = _setting(
        "CONTAINER_PROGRAM_DIRECTORIES",
        (),
        _list,
        "Further directories of the image to read and execute from; /usr, /opt and those in PATH always.",
    )
    egress_domains: tuple[str, ...] = _setting(
        "EGRESS_DOMAINS",
        ("*.ably.io", "*.ably.net", "*.ably-realtime.com", "ably.com", "*.ably.com"),
        _list,
        "Names that sessions may connect to: a name, or *. and a name for all below it; empty: no network.",
        _domains,
    )
    egress_ports: tuple[int, ...] = _setting(
        "EGRESS_PORTS", (443,), _numbers, "TCP ports of these names, TLS on all of them.", _ports
    )
    egress_dns_servers: tuple[str, ...] = _setting(
        "EGRESS_DNS_SERVERS",
        (),
        _list,
        "Addresses of the DNS servers that are asked about these names; empty: those of this host.",
        _addresses,
    )
    hardening_without: tuple[str, ...] = _setting(
        "HARDENING_WITHOUT",
        (),
        _list,
        f"Measures to go without, by name, on a host that cannot have them: {', '.join(OPTIONAL)}. "
        "`terminal-supervisor check` says which hold.",
        _opt_outs,
    )
    memory_limit: int = _setting(
        "CONTAINER_MEMORY_LIMIT",
        256 * MIB,
        parse_size,
        "Memory of a container, swap included.",
        _between(16 * MIB, 1 << 40),
    )
    cpu_limit: float = _setting(
        "CONTAINER_CPU_LIMIT", 1.0, float, "CPUs of a container.", _between(0.01, 1024)
    )
    pids_limit: int = _setting(
        "CONTAINER_PIDS_LIMIT", 50, int, "Processes of a container.", _between(4, 32768)
    )
    tmpfs_size: int = _setting(
        "CONTAINER_TMPFS_SIZE", 64 * MIB, parse_size, "Size of /tmp.", _between(64 * KIB, 1 << 36)
    )
    config_size: int = _setting(
        "CONTAINER_CONFIG_SIZE",
        10 * MIB,
        parse_size,
        "Size of the CLI's config directory.",
        _between(64 * KIB, 1 << 36),
    )
    config_directory: str = _setting(
        "CONTAINER_CONFIG_DIRECTORY",
        "/home/appuser/.ably",
        _text,
        "The CLI's config directory in the container.",
        _matches(r"/[A-Za-z0-9_./-]+", "an absolute path"),
    )
    warm_pool_size: int = _setting(
        "WARM_POOL_SIZE",
        2,
        int,
        "Containers that wait, ready, for the next session; 0: none.",
        _between(0, 1000),
    )
    warm_pool_max_age: float = _setting(
        "WARM_POOL_MAX_AGE_MS",
        30 * MINUTE,
        _milliseconds,
        "Age at which a waiting container is replaced.",
        _between(10, 1e6),
    )
    start_timeout: float = _setting(
        "SANDBOX_START_TIMEOUT_MS", 30.0, _milliseconds, "Time for a container to come up.", _between(1, 600)
    )
    hangup_grace: float = _setting(
        "HANGUP_GRACE_MS", 2.0, _milliseconds, "Time for programs to go after a hang-up.", _between(0, 60)
    )

    # set-up
    base_image: str = _setting(
        "SANDBOX_BASE_IMAGE",
        "",
        _text,
        "Registry image that the default sandbox image is based on; empty: a base made from Debian packages.",
    )
    base_packages: tuple[str, ...] = _setting(
        "SANDBOX_PACKAGES",
        (),
        _list,
        "Debian packages whose programs the made base has; empty: libraries only, and no program.",
    )
    cli_package: str = _setting(
        "CLI_NPM_PACKAGE",
        "@ably/cli",
        _text,
        "CLI from npm to bake into the default sandbox image, with or without a version; none for no CLI.",
    )
    state: Path | None = _setting(
        "STATE_DIRECTORY",
        None,
        _path,
        "Where set-up keeps what it makes; empty: .state, or in ~/.local/state when installed.",
    )

    # operation
    reconcile_interval: float = _setting(
        "RECONCILE_INTERVAL_MS",
        60.0,
        _milliseconds,
        "Time between two searches for left-over containers.",
        _between(1, 1e5),
    )
    monitoring: bool = _setting(
        "ENABLE_RESOURCE_MONITORING",
        True,
        _boolean,
        "Measure what sessions use, and tell who hits a limit.",
    )
    monitor_interval: float = _setting(
        "RESOURCE_MONITORING_INTERVAL_MS",
        5.0,
        _milliseconds,
        "Time between two looks at a session's resources.",
        _between(0.1, 3600),
    )
    alert_percent: float = _setting(
        "RESOURCE_ALERT_PERCENT",
        90.0,
        float,
        "Part of a limit at which operators are told.",
        _between(1, 100),
    )
    warn_after: int = _setting(
        "RESOURCE_WARN_AFTER",
        2,
        int,
        "Strikes (intervals with a process ended for memory, or refused for their number) until a session is "
        "warned; 0: never.",
        _between(0, 100_000),
    )
    throttle_after: int = _setting(
        "RESOURCE_THROTTLE_AFTER",
        4,
        int,
        "Strikes until it is slowed down; 0: never.",
        _between(0, 100_000),
    )
    end_after: int = _setting(
        "RESOURCE_END_AFTER", 24, int, "Strikes until it is ended; 0: never.", _between(0, 100_000)
    )
    audit_log: str = _setting(
        "SECURITY_AUDIT_LOG",
        "true",
        _text,
        "Where audit events go: true, into the log; a path, into that file; false, nowhere.",
        _matches(r"true|false|/.+", "true, false or an absolute path"),
    )
    admin_listen: str = _setting(
        "ADMIN_LISTEN",
        "auto",
        _text,
        "The operator's listener: auto (a unix socket of this user, named by PORT), none, unix:/path, or a "
        "loopback address with a port.",
    )
    admin_token: str = _setting(
        "ADMIN_TOKEN",
        "",
        _text,
        "Bearer token of the operator's listener; needed where that is a port.",
        secret=True,
    )
    log_format: Literal["console", "json"] = _setting(
        "LOG_FORMAT", "console", _text, "Log lines.", _one_of("console", "json")
    )
    log_level: str = _setting(
        "LOG_LEVEL",
        "info",
        _text,
        "Least level that is logged.",
        _one_of("debug", "info", "warning", "error"),
    )
    shutdown_grace: float = _setting(
        "SHUTDOWN_GRACE_MS",
        2.0,
        _milliseconds,
        "Time for viewers to read the farewell at shutdown.",
        _between(0, 600),
    )

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach the listener."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def state_directory(self) -> Path:
        """Where set-up keeps what it makes."""
        if self.state is not None:
            return self.state
        checkout = Path(__file__).parents[1]
        if (checkout / "pyproject.toml").exists():
            return checkout / ".state"
        return Path("~/.local/state/terminal-supervisor").expanduser()

    @property
    def gate_file(self) -> Path:
        """The gate's program on this host."""
        return self.gate or self.state_directory / "bin/gate"

    def __attrs_post_init__(self) -> None:
        problems: list[str] = []
        for field in attrs.fields(Settings):
            value, check = getattr(self, field.name), field.metadata["check"]
            if check and (problem := check(value)):
                told = problem if isinstance(problem, str) else f"must be {allowed(field)}"
                shown = "(secret)" if field.metadata["secret"] else written(field, value)
                problems.append(f"{field.metadata['env']}={shown}: {told}")
        if not self.egress_domains:  # nowhere to go, so there is no need for a network
            object.__setattr__(self, "network", "none")
        if not self.loopback:
            if not self.signing_secret:
                problems.append(
                    f"HOST={self.host}: without TERMINAL_SERVER_SIGNING_SECRET only loopback is possible; "
                    "set a secret or HOST=127.0.0.1"
                )
            if self.provider == "local":
                problems.append(
                    f"HOST={self.host}: SANDBOX_PROVIDER=local has no isolation and listens on loopback only"
                )
            if not self.tls_certificate and not self.insecure_plain_ws:
                problems.append(
                    f"HOST={self.host}: plain ws:// shows credentials on the wire; set TLS_CERTIFICATE_FILE, "
                    "or INSECURE_PLAIN_WS=true when a proxy before this server does TLS"
                )
        if self.signing_secret and len(self.signing_secret) < 16:
            problems.append("TERMINAL_SERVER_SIGNING_SECRET: must have at least 16 characters")
        if self.trusted_proxy and not self.trusted_proxies:
            problems.append("TRUSTED_PROXY_ENABLED=true: TRUSTED_PROXY_IPS must name the proxies")
        if self.proxy_protocol and not self.trusted_proxy:
            problems.append("PROXY_PROTOCOL=true: needs TRUSTED_PROXY_ENABLED and TRUSTED_PROXY_IPS")
        if any(len(secret) < 16 for secret in self.further_secrets):
            problems.append("FURTHER_SIGNING_SECRETS: each must have at least 16 characters")
        if self.further_secrets and not self.signing_secret:
            problems.append("FURTHER_SIGNING_SECRETS: needs TERMINAL_SERVER_SIGNING_SECRET beside it")
        if (self.jwt_audience or self.jwt_issuer) and not self.jwt_keys:
            problems.append("JWT_AUDIENCE and JWT_ISSUER: need JWT_KEYS_FILE")
        if self.webhook_url and len(self.webhook_secret) < 16:
            problems.append("WEBHOOK_SECRET: must have at least 16 characters, where WEBHOOK_URL is set")
        if self.access_token and len(self.access_token) < 16:
            problems.append("LOCAL_ACCESS_TOKEN: must have at least 16 characters")
        if self.admin_token and len(self.admin_token) < 16:
            problems.append("ADMIN_TOKEN: must have at least 16 characters")
        if problems:
            raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems))


def allowed(field: "attrs.Attribute[Any]") -> str:
    """Return what a setting may be, in the units of its variable; empty where its sentence says it."""
    match field.metadata["check"]:
        case Between(low, high):
            return f"{written(field, low)} to {written(field, high)}"
        case OneOf(words):
            return f"one of {', '.join(words)}"
        case _:
            return "true or false" if field.metadata["parse"] is _boolean else ""


def written(field: "attrs.Attribute[Any]", value: Any) -> str:
    """Return a value as it is written in the field's variable; parsing it gives the value again."""
    name, parse = field.metadata["env"], field.metadata["parse"]
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        words = [str(word) for word in cast("tuple[object, ...]", value)]
        return shlex.join(words) if name.endswith("COMMAND") else ",".join(words)
    if parse is _milliseconds:
        return f"{value * 1000:.0f}"
    if parse is parse_size:
        for unit, letter in ((MIB, "m"), (KIB, "k")):
            if value and value % unit == 0:
                return f"{value // unit}{letter}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def load_settings(
    environment: Mapping[str, str] | None = None, also_wrong: Iterable[str] = (), **overrides: Any
) -> Settings:
    """Return the settings that `environment` (default: this process's) asks for; `overrides` win. What is
    `also_wrong` is told with the rest.

    Raises:
        ConfigurationError: names every variable that is wrong, its value and what is allowed, all at once.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    problems = list(also_wrong)
    for field in attrs.fields(Settings):
        name = field.metadata["env"]
        text = source.get(name)
        for alias, of in ALIASES.items():
            if text is None and of == name:
                text = source.get(alias)
        # An empty list is a list; an empty anything else is the default.
        lists = isinstance(field.default, tuple)
        if text is None or (text == "" and not lists and field.default not in ("", None)):
            continue
        try:
            values[field.name] = field.metadata["parse"](text)
        except ValueError as error:
            shown = "(secret)" if field.metadata["secret"] else repr(text)
            problems.append(f"{name}={shown}: {error}")
    try:
        settings = Settings(**{**values, **overrides})
    except ConfigurationError as error:
        if not problems:
            raise
        problems += str(error).split("\n  ")[1:]
        raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems)) from None
    if problems:
        raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems))
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Return the `NAME=value` lines of `path` ({} when there is no such file); values may be quoted as in a
    shell.

    Raises:
        ConfigurationError: a line is neither empty, a comment nor an assignment.
    """
    if not path.exists():
        return {}
    result: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise ConfigurationError(f"{path}:{number}: not NAME=value")
        parts = shlex.split(value, comments=True)
        result[name.strip()] = " ".join(parts)
    return result
