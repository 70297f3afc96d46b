"""Who may come in: credentials, capacities, limits by address, proxies."""

from pathlib import Path
from typing import Literal

import attrs

from supervisor.settings.knob import (
    MINUTE,
    Between,
    as_is,
    boolean,
    listed,
    matches,
    milliseconds,
    one_of,
    path,
    setting,
)


@attrs.frozen(kw_only=True, slots=False)
class AdmissionSettings:
    """See `Settings`."""

    signing_secret: str = setting(
        "TERMINAL_SERVER_SIGNING_SECRET",
        "",
        as_is,
        "Key of the config signatures (also SIGNING_SECRET).",
        secret=True,
    )
    further_secrets: tuple[str, ...] = setting(
        "FURTHER_SIGNING_SECRETS",
        (),
        listed,
        "Further keys whose signatures are accepted, comma separated: the old ones, while a key is replaced.",
        secret=True,
    )
    jwt_mode: Literal["permissive", "strict"] = setting(
        "JWT_VALIDATION_MODE",
        "permissive",
        as_is,
        "strict: access tokens must be JSON Web Tokens that expire; permissive: those that are may not have.",
        one_of("permissive", "strict"),
    )
    jwt_keys: Path | None = setting(
        "JWT_KEYS_FILE",
        None,
        path,
        "Keys that access tokens must be signed with: a JWKS file or public keys in PEM.",
    )
    jwt_audience: str = setting(
        "JWT_AUDIENCE", "", as_is, "Audience (aud) that access tokens must name, where there are keys."
    )
    jwt_issuer: str = setting(
        "JWT_ISSUER", "", as_is, "Issuer (iss) that access tokens must name, where there are keys."
    )
    signed_config_max_age: float = setting(
        "SIGNED_CONFIG_MAX_AGE_MS",
        24 * 3600.0,
        milliseconds,
        "Age after which a signed config is refused.",
        Between(1, 1e7),
    )
    allow_unsigned: bool = setting(
        "ALLOW_UNSIGNED_CREDENTIALS",
        False,
        boolean,
        "Accept unsigned credentials although a signing secret is set.",
    )
    allow_bypass: bool = setting(
        "ALLOW_BYPASS_RATE_LIMIT",
        False,
        boolean,
        "Heed bypassRateLimit in signed configs (for tests of a page).",
    )
    access_token: str = setting(
        "LOCAL_ACCESS_TOKEN",
        "",
        as_is,
        "Reusable token for programs where no signing secret is set.",
        secret=True,
    )
    max_sessions: int = setting("MAX_SESSIONS", 100, int, "Sessions at once.", Between(1, 100_000))
    max_anonymous_sessions: int = setting(
        "MAX_ANONYMOUS_SESSIONS",
        50,
        int,
        "Sessions at once of visitors without an access token that somebody vouches for.",
        Between(0, 100_000),
    )
    max_authenticated_sessions: int = setting(
        "MAX_AUTHENTICATED_SESSIONS",
        50,
        int,
        "Sessions at once of visitors with such a token.",
        Between(0, 100_000),
    )
    max_sessions_per_credential: int = setting(
        "MAX_SESSIONS_PER_CREDENTIAL",
        10,
        int,
        "Sessions at once of one authenticated visitor.",
        Between(1, 100_000),
    )
    max_sessions_per_address: int = setting(
        "MAX_SESSIONS_PER_IP",
        20,
        int,
        "Sessions at once from one address (IPv6: one /64).",
        Between(1, 100_000),
    )
    profiles: Path | None = setting(
        "PROFILES_FILE", None, path, "Kinds of session that signed configs may choose from, in TOML."
    )
    webhook_url: str = setting(
        "WEBHOOK_URL",
        "",
        as_is,
        "Where starts and ends of sessions are posted to; empty: nowhere.",
        matches(r"(https?://[^\s@]+)?", "an http:// or https:// address without a password"),
    )
    webhook_secret: str = setting(
        "WEBHOOK_SECRET", "", as_is, "Key of the signatures on what is posted.", secret=True
    )
    webhook_queue: int = setting(
        "WEBHOOK_QUEUE_SIZE",
        1000,
        int,
        "Events that may wait for delivery; the oldest is dropped.",
        Between(1, 100_000),
    )
    waiting_line: int = setting(
        "WAITING_LINE_SIZE",
        0,
        int,
        "Visitors who may wait for a session when all are in use; 0: they are refused.",
        Between(0, 10_000),
    )
    waiting_timeout: float = setting(
        "WAITING_LINE_TIMEOUT_MS",
        60.0,
        milliseconds,
        "How long a visitor waits in that line.",
        Between(1, 3600),
    )
    throttling: bool = setting(
        "ENABLE_CONNECTION_THROTTLING",
        True,
        boolean,
        "Limit connections and requests by address, and new connections altogether.",
    )
    max_connections_per_address: int = setting(
        "MAX_CONNECTIONS_PER_IP_PER_MINUTE",
        10,
        int,
        "WebSockets that one address (IPv6: one /64) may open in a window.",
        Between(1, 1_000_000),
    )
    throttle_window: float = setting(
        "CONNECTION_THROTTLE_WINDOW_MS",
        60.0,
        milliseconds,
        "That window; a minute unless changed.",
        Between(1, 3600),
    )
    throttle_block: float = setting(
        "CONNECTION_BLOCK_MS",
        60.0,
        milliseconds,
        "First block of an address beyond a limit; each further one is twice as long, up to an hour.",
        Between(1, 3600),
    )
    max_connections_at_once_per_address: int = setting(
        "MAX_CONNECTIONS_PER_IP",
        50,
        int,
        "Open connections at once from one address.",
        Between(1, 100_000),
    )
    max_requests_per_address: int = setting(
        "MAX_REQUESTS_PER_IP_PER_MINUTE",
        600,
        int,
        "Requests for pages from one address in a window.",
        Between(1, 1_000_000),
    )
    max_failures_per_address: int = setting(
        "MAX_FAILED_AUTHENTICATIONS_PER_IP_PER_MINUTE",
        10,
        int,
        "Failed authentications of one address before it is blocked.",
        Between(1, 1_000_000),
    )
    max_resumes_per_session: int = setting(
        "MAX_RESUME_ATTEMPTS_PER_SESSION_PER_MINUTE",
        3,
        int,
        "Connections to a session that exists.",
        Between(1, 1_000_000),
    )
    resume_block: float = setting(
        "RESUME_BLOCK_MS",
        5 * MINUTE,
        milliseconds,
        "First block of a session that is resumed too often.",
        Between(1, 3600),
    )
    max_new_connections: int = setting(
        "MAX_NEW_CONNECTIONS_PER_SECOND",
        200,
        int,
        "New connections from addresses where nobody has authenticated yet; more are refused unread.",
        Between(1, 100_000),
    )
    exempt_networks: tuple[str, ...] = setting(
        "RATE_LIMIT_EXEMPT_NETWORKS",
        (),
        listed,
        "Networks (CIDR) without limits by address, comma separated; loopback is not one unless named.",
    )
    limiter_entries: int = setting(
        "RATE_LIMIT_ENTRIES",
        20_000,
        int,
        "Addresses that each limit remembers; the least useful gives way.",
        Between(16, 10_000_000),
    )
    trusted_proxy: bool = setting(
        "TRUSTED_PROXY_ENABLED",
        False,
        boolean,
        "Believe the proxies in TRUSTED_PROXY_IPS whose connections they pass on.",
    )
    trusted_proxies: tuple[str, ...] = setting(
        "TRUSTED_PROXY_IPS", (), listed, "Addresses or networks (CIDR) of these proxies, comma separated."
    )
    trusted_proxy_header: Literal["x-forwarded-for", "forwarded", "none"] = setting(
        "TRUSTED_PROXY_HEADER",
        "x-forwarded-for",
        as_is,
        "Header in which they say so; none where PROXY_PROTOCOL says it.",
        one_of("x-forwarded-for", "forwarded", "none"),
    )
    proxy_protocol: bool = setting(
        "PROXY_PROTOCOL",
        False,
        boolean,
        "Expect a PROXY header (version 1 or 2) at the start of each connection from these proxies.",
    )
    environment_allow: tuple[str, ...] = setting(
        "CLIENT_ENVIRONMENT_ALLOW", (), listed, "Further names that a client may set in environmentVariables."
    )
