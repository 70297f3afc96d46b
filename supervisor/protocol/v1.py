"""`terminal-supervisor.v1`: its text messages, parsed and built, and the flow-control window. See
docs/protocol-v1.md.

Text frames carry one JSON object each, binary frames carry terminal bytes, so a text frame that is no message
of the protocol is an error and never input. schemas.json beside this file describes every message; the tests
hold this module against it.
"""

import json
from collections import deque
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import attrs

from supervisor.errors import PeerError
from supervisor.protocol.ably import optional_environment, optional_text
from supervisor.protocol.closing import CLOSINGS, EndReason
from supervisor.protocol.messages import (
    MAX_INTEGER,
    Ignored,
    Json,
    Resize,
    is_integer,
    parse_object,
    size_or_none,
)

SUBPROTOCOL: Final = "terminal-supervisor.v1"
"""Name that clients offer in Sec-WebSocket-Protocol."""

MAX_PING_ID: Final = 256
"""Characters of the longest ping id that is answered."""

Role: TypeAlias = Literal["writer", "viewer"]
TimeoutKind: TypeAlias = Literal["idle", "maxDuration"]
Scalar: TypeAlias = str | int | float | bool | None


@attrs.frozen
class Auth:
    """The client's first message: claims, nothing of it verified.

    Attributes:
        config, signature: a signed config, verbatim, and its signature.
        api_key, access_token: unsigned credentials.
        token: a token of this server's own page, for programs that have no cookie.
        session_id: the session to resume or share.
        offset: absolute offset of the next byte wanted; None when the client's screen is empty.
        size: the client's window, None when it did not say, or said something impossible.
        role: what the client wants to be.
        environment: variables that the client asks for; see `supervisor.admission.environment`.
    """

    config: str | None = attrs.field(default=None, repr=False)
    signature: str | None = attrs.field(default=None, repr=False)
    api_key: str | None = attrs.field(default=None, repr=False)
    access_token: str | None = attrs.field(default=None, repr=False)
    token: str | None = attrs.field(default=None, repr=False)
    session_id: str | None = attrs.field(default=None, repr=False)
    offset: int | None = None
    size: Resize | None = None
    role: Role = "writer"
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)


@attrs.frozen
class Ack:
    """Output up to the absolute `offset` has been rendered."""

    offset: int


@attrs.frozen
class Ping:
    """A question for a `pong` with the same id."""

    id: Scalar = None


@attrs.frozen
class Leave:
    """The session shall end now."""


ClientMessage: TypeAlias = Auth | Resize | Ack | Ping | Leave | Ignored


def parse_client_text(text: str) -> ClientMessage:
    """Return the message that a text frame holds. Unknown fields are ignored; a size that is out of range is
    `Ignored`.

    Raises:
        PeerError: it is no message of this protocol. The text repeats nothing of it.
    """
    message = parse_object(text)
    match message.get("type"):
        case "auth":
            return _auth(message)
        case "resize":
            return size_or_none(message.get("cols"), message.get("rows")) or Ignored()
        case "ack":
            return Ack(_offset(message))
        case "ping":
            return Ping(_ping_id(message.get("id")))
        case "leave":
            return Leave()
        case _:
            raise PeerError("a message has no type that this protocol knows")


def _auth(message: Mapping[str, Json]) -> Auth:
    return Auth(
        config=optional_text(message, "config"),
        signature=optional_text(message, "signature"),
        api_key=optional_text(message, "apiKey"),
        access_token=optional_text(message, "accessToken"),
        token=optional_text(message, "token"),
        session_id=optional_text(message, "sessionId"),
        offset=None if message.get("offset") is None else _offset(message),
        size=size_or_none(message.get("cols"), message.get("rows")),
        role=_role(message.get("role", "writer")),
        environment=optional_environment(message),
    )


def _role(value: Json) -> Role:
    if value == "writer":
        return "writer"
    if value == "viewer":
        return "viewer"
    raise PeerError("role is neither writer nor viewer")


def _offset(message: Mapping[str, Json]) -> int:
    offset = message.get("offset")
    if not is_integer(offset, 0, MAX_INTEGER):
        raise PeerError("offset is not a whole number of bytes")
    assert isinstance(offset, int)
    return offset


def _ping_id(value: Json) -> Scalar:
    if isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > MAX_PING_ID):
        raise PeerError("the id of a ping is not a short scalar")
    return value


def _build(message_type: str, **fields: Json) -> str:
    return json.dumps({"type": message_type, **fields}, separators=(",", ":"))


def hello(
    *,
    session_id: str,
    resumed: bool,
    role: Role,
    offset: int,
    replay: int,
    window: int,
    scrollback: int,
    isolated: bool,
    notice: str | None,
    idle_timeout: float,
    max_duration: float,
    ends_in: float,
) -> str:
    """Return the answer to `auth`. Sizes are bytes; the last three are seconds and travel as milliseconds."""
    return _build(
        "hello",
        sessionId=session_id,
        resumed=resumed,
        role=role,
        offset=offset,
        replay=replay,
        window=window,
        scrollback=scrollback,
        isolated=isolated,
        notice=notice,
        idleTimeoutMs=_milliseconds(idle_timeout),
        maxDurationMs=_milliseconds(max_duration),
        endsInMs=_milliseconds(ends_in),
    )


def gap(start: int, end: int) -> str:
    """Return the message that output bytes `start` to `end` are lost and the stream goes on at `end`."""
    return _build("gap", **{"from": start, "to": end})


def warning(kind: TimeoutKind, ends_in: float, message: str) -> str:
    """Return the warning that the session ends in `ends_in` seconds."""
    return _build("warning", kind=kind, endsInMs=_milliseconds(ends_in), message=message)


def notice(message: str) -> str:
    """Return a sentence about the session, for people; nothing needs to be done about it."""
    return _build("notice", message=message)


def warning_cleared(kind: TimeoutKind) -> str:
    """Return the message that the warning of this kind holds no longer."""
    return _build("warningCleared", kind=kind)


def viewers(*, writers: int, viewers: int) -> str:
    """Return the message that says how many are attached."""
    return _build("viewers", writers=writers, viewers=viewers)


def pong(ping: Ping) -> str:
    """Return the answer to `ping`."""
    return _build("pong", id=ping.id)


def exited(code: int | None, signal: int | None) -> str:
    """Return the message that the command ended, with an exit status or by a signal."""
    return _build("exit", code=code, signal=signal)


def error(reason: EndReason, message: str | None = None) -> str:
    """Return the message that goes before a close for `reason`; `message` replaces the table's sentence."""
    closing = CLOSINGS[reason]
    return _build("error", code=closing.code, reason=closing.reason, message=message or closing.message)


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


class Window:
    """How much output may be under way to one client.

    Offsets are absolute. `size` bytes may be unacknowledged; a `gap` counts as nothing, since nobody renders
    it. A client that acknowledges beyond what it was sent is wrong; one that goes back, or repeats itself,
    changes nothing.

    Args:
        size: bytes that may be unacknowledged.
        start: absolute offset of the first byte that will be sent.
    """

    def __init__(self, size: int, start: int = 0) -> None:
        self.size = size
        self.sent = start
        self.acked = start
        self._unacknowledged = 0
        self._gaps: deque[tuple[int, int]] = deque()  # beyond `acked`, in order

    def __repr__(self) -> str:
        return (
            f"<Window sent={self.sent} acked={self.acked} unacknowledged={self._unacknowledged}/{self.size}>"
        )

    @property
    def unacknowledged(self) -> int:
        """Bytes sent and not acknowledged."""
        return self._unacknowledged

    @property
    def allowance(self) -> int:
        """Bytes that may be sent now."""
        return max(0, self.size - self._unacknowledged)

    def on_sent(self, count: int) -> None:
        """Account for `count` bytes that were sent."""
        self.sent += count
        self._unacknowledged += count

    def on_gap(self, end: int) -> None:
        """Account for a `gap` message: the next byte sent is at `end`."""
        if end > self.sent:
            self._gaps.append((self.sent, end))
            self.sent = end

    def on_ack(self, offset: int) -> bool:
        """Take an acknowledgement; return whether it was progress.

        Raises:
            PeerError: it is beyond what was sent.
        """
        if offset > self.sent:
            raise PeerError("acknowledged more output than was sent")
        if offset <= self.acked:
            return False
        rendered = offset - self.acked
        while self._gaps and self._gaps[0][0] < offset:
            start, end = self._gaps[0]
            rendered -= min(end, offset) - max(start, self.acked)
            if end > offset:
                break
            self._gaps.popleft()
        self._unacknowledged -= rendered
        self.acked = offset
        return True
