"""Why connections and sessions end: one table from reason to close code, texts and metric label.

A reason is decided once, where the end happens, and carried outwards; nobody else invents close codes. `code`
is what clients of `terminal-supervisor.v1` get (docs/protocol-v1.md). `ably_code` is what the existing React
client gets: its treatment of codes is fixed, so a reason has the code after which that client does the right
thing. That client gives up on 4000 to 4004, 4008, 4009 and 1013, shows `ably_reason`, and starts a new
session when Enter is pressed; after any other code it reconnects by itself with the session id that it
stored.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, cast

import attrs

from supervisor.errors import PeerError, SandboxError, SessionRefusedError

MAX_CLOSE_REASON = 123
"""Bytes that a close frame has for its reason: 125 less the code (RFC 6455, section 5.5)."""


class EndReason(StrEnum):
    """Why a connection or a session ended. The values are metric labels."""

    USER_EXIT = "user_exit"
    """The session's command ended by itself."""
    LEFT = "left"
    """A client ended its session explicitly."""
    IDLE = "idle"
    """Nobody typed for too long."""
    MAX_DURATION = "max_duration"
    """The session reached its longest life."""
    ABANDONED = "abandoned"
    """Nobody was attached for longer than the grace for a resume."""
    ENDED = "ended"
    """The session ended on the server: its sandbox was lost, or an operator ended it."""
    RESOURCES = "resources"
    """The session hit the limits of its resources again and again."""
    RECORDING = "recording"
    """The session must be recorded, and cannot be."""
    SHUTDOWN = "shutdown"
    """The server is going away."""
    HANDOVER = "handover"
    """Another process of this server goes on with the session."""
    CREDENTIALS = "credentials"
    """Credentials are missing, wrong, expired, or not those of the session."""
    RATE_LIMIT = "rate_limit"
    """Too many attempts, or too much input."""
    POLICY = "policy"
    """A request that this server does not allow."""
    REPLACED = "replaced"
    """The session was resumed from another connection."""
    CAPACITY = "capacity"
    """All sessions that may exist do."""
    UNAVAILABLE = "unavailable"
    """A sandbox could not be started."""
    SLOW_CONSUMER = "slow_consumer"
    """The client did not take its output."""
    AUTH_TIMEOUT = "auth_timeout"
    """No authentication message arrived in time."""
    PROTOCOL = "protocol"
    """A message that the protocol does not have."""
    TOO_LARGE = "too_large"
    """A message above the limit."""
    UNSUPPORTED_DATA = "unsupported_data"
    """A kind of frame that has no meaning here."""
    NOT_UTF8 = "not_utf8"
    """A text frame that is not UTF-8."""
    GONE = "gone"
    """The client closed the connection or vanished; a close code can only answer its own."""
    INTERNAL = "internal"
    """This program failed."""


@attrs.frozen
class Closing:
    """What a client is told about an end.

    Attributes:
        code: WebSocket close code for `terminal-supervisor.v1`.
        reason: label in that close frame, and in the `error` message before it.
        ably_code: WebSocket close code for the existing client.
        ably_reason: text in that close frame, which the existing client shows.
        message: sentence for people.
        session_survives: whether the session that the connection belonged to goes on and can be resumed.
        ably_status: payload of the status message that goes before the close to the existing client. None
            where that client shall resume by itself: any such status makes it forget its session id.
    """

    code: int
    reason: str
    ably_code: int
    ably_reason: str
    message: str
    session_survives: bool
    ably_status: Literal["disconnected", "error"] | None = None


_SESSION_ENDED = "Session ended by user"

CLOSINGS: Mapping[EndReason, Closing] = MappingProxyType(
    {
        EndReason.USER_EXIT: Closing(
            4000, "user-exit", 4000, "user-exit", _SESSION_ENDED, False, "disconnected"
        ),
        EndReason.LEFT: Closing(4000, "user-exit", 4000, "user-exit", _SESSION_ENDED, False, "disconnected"),
        EndReason.IDLE: Closing(
            4002,
            "idle",
            4002,
            "Session ended after inactivity",
            "The session ended because nothing was typed for a long time.",
            False,
            "disconnected",
        ),
        EndReason.MAX_DURATION: Closing(
            4004,
            "max-duration",
            4004,
            "Session reached its maximum duration",
            "The session ended because it reached its maximum duration.",
            False,
            "disconnected",
        ),
        EndReason.ABANDONED: Closing(
            4004,
            "ended",
            4004,
            "Session ended on the server",
            "The session ended because nobody was connected to it.",
            False,
            "disconnected",
        ),
        EndReason.ENDED: Closing(
            4004,
            "ended",
            4004,
            "Session ended on the server",
            "The session was ended on the server.",
            False,
            "disconnected",
        ),
        EndReason.RESOURCES: Closing(
            4004,
            "resources",
            4004,
            "Session used too many resources",
            "The session ended because it hit the limits of its resources again and again.",
            False,
            "disconnected",
        ),
        EndReason.RECORDING: Closing(
            4004,
            "recording",
            4004,
            "Session cannot be recorded",
            "Sessions of this server must be recorded, and this one cannot be now.",
            False,
            "disconnected",
        ),
        EndReason.SHUTDOWN: Closing(
            1001,
            "shutdown",
            1001,
            "The server is going away",
            "The server is going away. Reconnecting gives a new session.",
            False,
        ),
        # 1012 is "service restart" (IANA's registry of close codes); both clients come back at once with the
        # session's id.
        EndReason.HANDOVER: Closing(
            1012,
            "handover",
            1012,
            "The server is being renewed",
            "The server is being renewed. The session goes on in a moment.",
            True,
        ),
        EndReason.CREDENTIALS: Closing(
            4001,
            "credentials",
            4001,
            "Credentials not accepted",
            "These credentials are not accepted.",
            True,
            "error",
        ),
        EndReason.RATE_LIMIT: Closing(
            4003,
            "rate-limit",
            4003,
            "Please wait before trying again.",
            "Too much at once. Please wait before trying again.",
            True,
            "error",
        ),
        EndReason.POLICY: Closing(
            4008, "policy", 4008, "Not allowed", "This server does not allow that.", True, "error"
        ),
        EndReason.REPLACED: Closing(
            4008,
            "replaced",
            4008,
            "session resumed elsewhere",
            "The session was resumed in another window.",
            True,
            "disconnected",
        ),
        EndReason.CAPACITY: Closing(
            4009,
            "capacity",
            4009,
            "Server at capacity",
            "All terminals are in use. Please try again later.",
            True,
            "error",
        ),
        EndReason.UNAVAILABLE: Closing(
            1013,
            "unavailable",
            1013,
            "No terminal could be started",
            "A terminal could not be started. Please try again later.",
            True,
            "error",
        ),
        EndReason.SLOW_CONSUMER: Closing(
            4010,
            "slow-consumer",
            4010,
            "Connection too slow",
            "The connection did not take the output. Reconnecting continues the session.",
            True,
        ),
        # 1008 is recoverable for the existing client, which can miss its own open event and then never
        # authenticates.
        EndReason.AUTH_TIMEOUT: Closing(
            1000,
            "auth-timeout",
            1008,
            "No authentication message",
            "No authentication message arrived in time.",
            True,
        ),
        # The existing client would send the same bad message up to 15 times more after a recoverable code.
        EndReason.PROTOCOL: Closing(
            1002,
            "protocol",
            4008,
            "Message not understood",
            "The client sent a message that this server does not understand.",
            True,
            "error",
        ),
        EndReason.TOO_LARGE: Closing(
            1009, "too-large", 1009, "Message too large", "The client sent a message that is too large.", True
        ),
        EndReason.UNSUPPORTED_DATA: Closing(
            1003,
            "unsupported-data",
            1003,
            "Unsupported data",
            "The client sent a kind of data that has no meaning here.",
            True,
        ),
        EndReason.NOT_UTF8: Closing(
            1007, "not-utf8", 1007, "Not UTF-8", "The client sent text that is not UTF-8.", True
        ),
        EndReason.GONE: Closing(1000, "gone", 1000, "Goodbye", "The client closed the connection.", True),
        EndReason.INTERNAL: Closing(
            1011,
            "internal",
            1011,
            "Internal error",
            "The server failed. Reconnecting continues the session if it still exists.",
            True,
        ),
    }
)


def reason_for(error: BaseException) -> EndReason:
    """Return why a connection ends that `error` ended.

    In a group an error that nobody raised on purpose outweighs all others: an end with a fault of ours in it
    is told as ours.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        reasons = [reason_for(member) for member in group.exceptions]
        return EndReason.INTERNAL if EndReason.INTERNAL in reasons else reasons[0]
    if isinstance(error, SessionRefusedError):
        try:
            return EndReason(error.reason)
        except ValueError:
            return EndReason.INTERNAL
    if isinstance(error, PeerError):
        return EndReason.PROTOCOL
    if isinstance(error, SandboxError):
        return EndReason.UNAVAILABLE
    return EndReason.INTERNAL


def close_reason(text: str) -> str:
    """Return as much of `text` as a close frame has room for, cut between code points."""
    return text.encode("utf-8", "replace")[:MAX_CLOSE_REASON].decode("utf-8", "ignore")
