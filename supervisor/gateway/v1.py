"""The words of `terminal-supervisor.v1` (docs/protocol-v1.md): binary for the terminal, JSON for control,
absolute offsets."""

import math
from collections.abc import Iterator

import trio

from supervisor.errors import PeerError
from supervisor.gateway.history import CLEAR, read_history
from supervisor.gateway.house import House, Presented
from supervisor.gateway.viewer import OUTPUT_PIECE, Opening
from supervisor.protocol import v1
from supervisor.protocol.answers import is_automatic
from supervisor.protocol.closing import CLOSINGS, EndReason, close_reason
from supervisor.protocol.messages import Resize
from supervisor.session.attachment import (
    Answer,
    Attachment,
    Attendance,
    Ended,
    Event,
    Gap,
    Notice,
    Output,
    TimeoutWarning,
    TimeoutWarningCleared,
)
from supervisor.session.session import Session


class V1Speaker:
    """One connection's side of the protocol."""

    def __init__(self, house: House, has_token: bool) -> None:
        self._house = house
        self._has_token = has_token
        self._auth = v1.Auth()
        self._size: Resize | None = None

    def greeting(self) -> list[str]:
        """Nothing: the client speaks first."""
        return []

    def authenticate(self, message: str | bytes) -> Opening:
        """Take the `auth` message."""
        auth = v1.parse_client_text(message) if isinstance(message, str) else None
        if not isinstance(auth, v1.Auth):
            raise PeerError("the first message must be auth")
        presented = Presented(
            auth.config, auth.signature, auth.api_key, auth.access_token, auth.token, auth.environment
        )
        identity = self._house.identify(presented, self._has_token)
        self._auth = v1.Auth(offset=auth.offset, role=auth.role)  # the rest is not needed any more
        self._size = auth.size
        size = auth.size or Resize(80, 24)
        return Opening(identity, auth.session_id, size.cols, size.rows)

    def welcome(self) -> list[str]:
        """Nothing: `hello` comes with the session."""
        return []

    async def attach(self, session: Session, resumed: bool) -> tuple[Attachment, Iterator[str | bytes]]:
        """Say hello, and for an empty screen what the session has shown so far."""
        settings = session.settings
        offset, history, incomplete = 0, b"", False
        if resumed and self._auth.offset is not None:
            offset = self._auth.offset
            if offset > session.scrollback.end:
                raise PeerError("asked for output that was not written yet")
            incomplete = offset < session.scrollback.start
        elif resumed:
            shown = await read_history(session)
            offset, history, incomplete = shown.offset, CLEAR + shown.data, shown.full_screen
        attachment = session.attach(
            offset=offset, window=settings.output_window, role=self._auth.role, acknowledges=True
        )
        self._resize(attachment)
        if incomplete:
            session.redraw()
        hello = v1.hello(
            session_id=session.id,
            resumed=resumed,
            role=self._auth.role,
            offset=offset,
            replay=len(history),
            window=settings.output_window,
            scrollback=settings.scrollback,
            isolated=self._house.provider.isolated,
            notice=self._house.notice(session),
            idle_timeout=settings.idle_timeout,
            max_duration=settings.max_duration,
            ends_in=session.deadlines.duration.deadline - trio.current_time(),
        )
        return attachment, _opening_frames(hello, history)

    async def hear(self, message: str | bytes, attachment: Attachment) -> None:
        """Input is binary; the rest are control messages."""
        writes = attachment.role == "writer"
        if isinstance(message, bytes):
            if writes:
                self._resize(attachment)  # the window of whoever types counts
                await attachment.session.type(message, is_activity=not is_automatic(message))
            return
        match v1.parse_client_text(message):
            case Resize() as size:
                self._size = size
                self._resize(attachment)
            case v1.Ack(offset):
                attachment.acknowledge(offset)
            case v1.Ping() as ping:
                attachment.post(Answer(v1.pong(ping)))
            case v1.Leave() if writes:
                attachment.session.end(EndReason.LEFT)
            case v1.Auth():
                raise PeerError("authenticated already")
            case _:
                pass

    def held_until(self) -> float:
        """Never: input does not wait."""
        return math.inf

    async def release(self, attachment: Attachment) -> None:
        """Input does not wait."""

    def _resize(self, attachment: Attachment) -> None:
        if self._size and attachment.role == "writer":
            attachment.session.resize(self._size.cols, self._size.rows)

    async def frames(self, event: Event) -> list[str | bytes]:
        """Output as it is; everything else by its message."""
        match event:
            case Output():
                return [event.data]
            case Gap():
                return [v1.gap(event.start, event.end)]
            case Notice():
                return [v1.notice(event.text)]
            case TimeoutWarning():
                return [v1.warning(event.kind, event.seconds, warning_text(event))]
            case TimeoutWarningCleared():
                return [v1.warning_cleared(event.kind)]
            case Attendance():
                return [v1.viewers(writers=event.writers, viewers=event.viewers)]
            case Answer():
                return [event.text]
            case Ended():
                return []

    def at_once(self, output: bytes) -> bytes:
        """Output as it is."""
        return output

    def quiet_after(self) -> float:
        """Never: nothing is held back."""
        return math.inf

    def flush(self) -> list[str]:
        """Nothing is held back."""
        return []

    def farewell(self, ended: Ended, message: str | None) -> list[str]:
        """`exit` for a command that ended, `error` for all else."""
        if ended.status is not None:
            return [v1.exited(ended.status.code, ended.status.signal)]
        return [v1.error(ended.reason, message)]

    def close_frame(self, reason: EndReason) -> tuple[int, str]:
        """As in the table."""
        closing = CLOSINGS[reason]
        return closing.code, close_reason(closing.reason)

    def is_leave(self, code: int, reason: str) -> bool:
        """Never by its close: leaving has a message of its own."""
        return False


def _opening_frames(hello: str, history: bytes) -> Iterator[str | bytes]:
    yield hello
    for position in range(0, len(history), OUTPUT_PIECE):
        yield history[position : position + OUTPUT_PIECE]


def warning_text(warning: TimeoutWarning) -> str:
    """Return the sentence that a person reads before a timeout."""
    seconds = round(warning.seconds)
    if warning.kind == "idle":
        return f"This session ends in {seconds} s because nothing is typed. Press a key to keep it."
    return f"This session ends in {seconds} s: it reaches its maximum duration."
