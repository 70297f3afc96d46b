"""The WebSocket listener: where it listens, whom it answers, and how much a connection may hold."""

from pathlib import Path
from typing import Literal

import attrs

from supervisor.settings.knob import (
    KIB,
    MIB,
    Between,
    as_is,
    boolean,
    listed,
    milliseconds,
    one_of,
    parse_size,
    path,
    setting,
)


@attrs.frozen(kw_only=True, slots=False)
class GatewaySettings:
    """See `Settings`."""

    host: str = setting("HOST", "127.0.0.1", as_is, "Address to listen on.")
    port: int = setting("PORT", 8080, int, "Port to listen on; 0 picks a free one.", Between(0, 65535))
    insecure_plain_ws: bool = setting(
        "INSECURE_PLAIN_WS",
        False,
        boolean,
        "Allow unencrypted ws:// on an address that is not loopback (behind a TLS proxy).",
    )
    tls_certificate: Path | None = setting(
        "TLS_CERTIFICATE_FILE", None, path, "Certificate chain (PEM); turns TLS on."
    )
    tls_key: Path | None = setting(
        "TLS_KEY_FILE", None, path, "Private key (PEM); default: in the certificate file."
    )
    allowed_hosts: tuple[str, ...] = setting(
        "ALLOWED_HOSTS",
        (),
        listed,
        "Further values of the Host header to answer to, comma separated (loopback names always).",
    )
    allowed_origins: tuple[str, ...] = setting(
        "ALLOWED_ORIGINS",
        (),
        listed,
        "Origins of pages that may open a WebSocket, besides this server's own page.",
    )
    max_connections: int = setting(
        "MAX_CONNECTIONS", 1000, int, "Open connections at once, all kinds together.", Between(1, 100_000)
    )
    max_pending_connections: int = setting(
        "MAX_PENDING_CONNECTIONS",
        256,
        int,
        "Open connections that have not authenticated; the oldest is closed for a newer one.",
        Between(1, 100_000),
    )
    handshake_timeout: float = setting(
        "HANDSHAKE_TIMEOUT_MS", 10.0, milliseconds, "Time for a request head to arrive.", Between(0.1, 120)
    )
    auth_timeout: float = setting(
        "AUTH_TIMEOUT_MS",
        10.0,
        milliseconds,
        "Time from the upgrade to the authentication message.",
        Between(0.1, 120),
    )
    ping_interval: float = setting(
        "PING_INTERVAL_MS",
        25.0,
        milliseconds,
        "Silence after which a frame of two bytes is sent; every fourth is a ping.",
        Between(1, 3600),
    )
    ping_timeout: float = setting(
        "PING_TIMEOUT_MS",
        40.0,
        milliseconds,
        "Silence after a ping that counts as a dead peer.",
        Between(1, 3600),
    )
    max_message_size: int = setting(
        "MAX_WEBSOCKET_MESSAGE_SIZE",
        MIB,
        parse_size,
        "Largest message after authentication, bytes.",
        Between(KIB, 64 * MIB),
    )
    max_auth_message_size: int = setting(
        "MAX_AUTH_MESSAGE_SIZE",
        64 * KIB,
        parse_size,
        "Bytes accepted before authentication.",
        Between(KIB, MIB),
    )
    output_window: int = setting(
        "OUTPUT_WINDOW_SIZE",
        256 * KIB,
        parse_size,
        "Output that may be under way to a client before the program waits, bytes.",
        Between(16 * KIB, 8 * MIB),
    )
    unacknowledged_rate: int = setting(
        "UNACKNOWLEDGED_OUTPUT_RATE",
        8 * MIB,
        parse_size,
        "Output to a client that does not acknowledge, bytes per second (xterm.js takes 5 to 35 MB/s).",
        Between(64 * KIB, 1024 * MIB),
    )
    stall_timeout: float = setting(
        "VIEWER_STALL_TIMEOUT_MS",
        30.0,
        milliseconds,
        "Time without progress after which a viewer is dropped.",
        Between(1, 3600),
    )
    control_format: Literal["auto", "prefixed", "plain"] = setting(
        "CONTROL_MESSAGE_FORMAT",
        "auto",
        as_is,
        "Control messages to existing clients.",
        one_of("auto", "prefixed", "plain"),
    )
