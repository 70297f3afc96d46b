"""The existing React client's protocol: its messages, parsed and built.

One kind of frame carries everything, so what is a message and what is typed text is told apart by form alone.
Before authentication a frame is the authentication message. After it, a frame that is exactly one JSON object
with a known `type` is a control message, and everything else, JSON or not, is input for the terminal. Towards
the client, a control message is a frame that begins with `CONTROL_PREFIX`; `supervisor.protocol.output` keeps
programs from faking one. The order that the client needs on each new connection: control `connecting`, then
(authenticated) `connected`, `hello`, `OPENER`, on a resume `ESC c` and the history, output.
"""

import json
from collections.abc import Mapping
from typing import Final, Literal

import attrs

from supervisor.errors import PeerError
from supervisor.protocol.closing import CLOSINGS, EndReason
from supervisor.protocol.messages import Ignored, Input, Json, Resize, parse_object, size_or_none
from supervisor.protocol.output import OutputEncoder
from supervisor.protocol.sizeprobe import SizeProbe

__all__ = [
    "CONTROL_PREFIX",
    "OPENER",
    "AblyAuth",
    "Ignored",
    "Input",
    "OutputEncoder",
    "Resize",
    "SizeProbe",
    "control",
    "farewell",
    "hello",
    "parse_auth",
    "parse_message",
    "status",
]

CONTROL_PREFIX: Final = "\x00\x00ABLY_CTRL:"
"""What a control message to the client begins with."""

OPENER: Final = '{"stream":true,"stdin":true,"stdout":true,"stderr":true,"hijack":true}'
"""First output frame on each connection.

The client holds back the first 200 characters of output until it has seen something that looks like this (the
handshake of an engine's attach), swallows it, and passes everything afterwards. Without it a bare prompt is
never shown.
"""

MAX_CONTROL_LENGTH: Final = 4096
"""Characters of the longest control message that is parsed in full; the client's longest has about 100."""

MAX_ENVIRONMENT: Final = 64
"""Variables that an authentication message may hold; the client sends two."""

# What JSON.stringify makes of {type: "data", data: …}, the one control message that may be long.
_DATA_HEAD: Final = '{"type":"data","data":'


@attrs.frozen
class AblyAuth:
    """The authentication message: claims, nothing of it verified.

    Attributes:
        config: the signed config, a JSON text, verbatim.
        signature: its signature, or what the client says it is.
        api_key, access_token: unsigned credentials; not to be trusted when there is a config.
        session_id: the session that the client wants to resume.
        environment: variables that the browser asks for; see `supervisor.admission.environment`.
    """

    config: str | None = attrs.field(default=None, repr=False)
    signature: str | None = attrs.field(default=None, repr=False)
    api_key: str | None = attrs.field(default=None, repr=False)
    access_token: str | None = attrs.field(default=None, repr=False)
    session_id: str | None = attrs.field(default=None, repr=False)
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)

    @property
    def has_config(self) -> bool:
        """Whether the client sent a signed config, as those do that understand prefixed control messages."""
        return self.config is not None


def parse_auth(text: str | bytes) -> AblyAuth:
    """Return the authentication message that the client's first frame holds; unknown fields are ignored.

    Raises:
        PeerError: it is not one. The message says what is wrong and repeats nothing of it.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            raise PeerError("the authentication message is not UTF-8") from None
    message = parse_object(text)
    return AblyAuth(
        config=optional_text(message, "config"),
        signature=optional_text(message, "signature"),
        api_key=optional_text(message, "apiKey"),
        access_token=optional_text(message, "accessToken"),
        session_id=optional_text(message, "sessionId"),
        environment=optional_environment(message),
    )


def optional_text(message: Mapping[str, Json], name: str) -> str | None:
    """Return the text `name` of `message`; None when it is absent, null or empty.

    Raises:
        PeerError: it is something else.
    """
    value = message.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise PeerError(f"{name} is not a text")
    return value


def optional_environment(message: Mapping[str, Json]) -> dict[str, str]:
    """Return `environmentVariables` of `message`, an object of texts; empty when it is absent or null.

    Raises:
        PeerError: it is something else, or holds too many.
    """
    value = message.get("environmentVariables")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PeerError("environmentVariables is not an object")
    if len(value) > MAX_ENVIRONMENT:
        raise PeerError("environmentVariables has too many entries")
    texts = {name: text for name, text in value.items() if isinstance(text, str)}
    if len(texts) != len(value):
        raise PeerError("environmentVariables holds a value that is not a text")
    return texts


def parse_message(text: str) -> Input | Resize | Ignored:
    """Return what a frame means that arrives after authentication. Every text means something: nothing is an
    error.

    The cost is a scan of the text at most: only short texts are parsed as JSON, and of long ones only those
    whose whole form is that of a `data` message, as one JSON string.
    """
    if not text.startswith("{") or not text.endswith("}"):
        return _input(text)
    if len(text) > MAX_CONTROL_LENGTH:
        return _long_data(text)
    try:
        message = parse_object(text)
    except PeerError:
        return _input(text)
    match message.get("type"):
        case "resize":
            size = message if "cols" in message else message.get("data")
            if not isinstance(size, dict):
                return Ignored()
            return size_or_none(size.get("cols"), size.get("rows")) or Ignored()
        case "data":
            data = message.get("data")
            return _input(data) if isinstance(data, str) else Ignored()
        case "readline-control":
            return Ignored()
        case _:
            return _input(text)


def _long_data(text: str) -> Input:
    if text.startswith(_DATA_HEAD):
        try:
            data = json.loads(text[len(_DATA_HEAD) : -1])
        except (ValueError, RecursionError):
            return _input(text)
        if isinstance(data, str):
            return _input(data)
    return _input(text)


def _input(text: str) -> Input:
    # A lone surrogate, which JSON can spell, has no UTF-8 form: it becomes a question mark.
    return Input(text.encode("utf-8", "replace"))


def status(
    payload: Literal["connecting", "connected", "error", "disconnected", "warning"],
    reason: str | None = None,
    code: int | None = None,
) -> dict[str, Json]:
    """Return a status message. The client prints the reason of an `error`, draws a box for `disconnected`
    (with the code), and ignores payloads that it does not know, such as `warning`.
    """
    message: dict[str, Json] = {"type": "status", "payload": payload}
    if reason is not None:
        message["reason"] = reason
    if code is not None:
        message["code"] = code
    return message


def hello(session_id: str) -> dict[str, Json]:
    """Return the message that names the session; the client stores the id and sends it when it reconnects."""
    return {"type": "hello", "sessionId": session_id}


def farewell(reason: EndReason, message: str | None = None) -> dict[str, Json] | None:
    """Return the status message to send before the close for `reason`, or None where that close must come
    without one.

    Any status of this kind makes the client forget its session id, so there is none before a close after
    which it shall resume. `message` replaces the table's sentence.
    """
    closing = CLOSINGS[reason]
    if closing.ably_status is None:
        return None
    return status(closing.ably_status, message or closing.message, closing.ably_code)


def control(message: Mapping[str, Json], *, prefixed: bool) -> str:
    """Return the frame that carries `message`. Clients before signed configs want it without the prefix."""
    text = json.dumps(message, separators=(",", ":"))
    return CONTROL_PREFIX + text if prefixed else text
