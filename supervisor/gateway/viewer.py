"""A client's dialogue, whichever protocol it speaks: authenticate, attach to a session, pump, say why it
ends.

The order of events is the same for all; a `Speaker` knows the words. Input and output are two tasks, so that
a paste cannot hold up the output that it causes; only the output task (and the farewell after it) writes.
"""

from typing import Protocol

import attrs
import trio

from supervisor.errors import PeerError, SessionRefusedError, SupervisorError
from supervisor.gateway.house import House, Identity
from supervisor.gateway.websocket import ConnectionClosed, WebSocket
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason, reason_for
from supervisor.protocol.v1 import Role
from supervisor.session.attachment import Attachment, Ended, Event
from supervisor.session.session import Session

log = get_logger(__name__)

OUTPUT_PIECE = 32 * 1024  # bytes of output per frame: small enough that a neighbour's keystroke gets its turn


@attrs.frozen
class Opening:
    """What a client asked for when it authenticated."""

    identity: Identity
    session_id: str | None
    cols: int
    rows: int
    role: Role = "writer"


class Speaker(Protocol):
    """The words of one protocol, for one connection."""

    acknowledges: bool

    def greeting(self) -> list[str | bytes]:
        """Return the frames that are sent before the client has said anything."""
        ...

    def authenticate(self, message: str | bytes) -> Opening:
        """Understand the first message, or raise what is wrong with it."""
        ...

    def attach(self, session: Session, resumed: bool) -> tuple[Attachment, list[str | bytes]]:
        """Attach to the session; return the place in it and the frames that come before its output."""
        ...

    async def hear(self, message: str | bytes, attachment: Attachment) -> None:
        """Act on a later message."""
        ...

    def held_until(self) -> float:
        """Return the time at which `release` wants to be called because input waits for its rest (infinite
        when none does)."""
        ...

    async def release(self, attachment: Attachment) -> None:
        """Pass on the input that waited."""
        ...

    async def frames(self, event: Event) -> list[str | bytes]:
        """Return the frames that tell `event`."""
        ...

    def quiet_after(self) -> float:
        """Return the seconds without output after which `flush` wants to be called (infinite when not)."""
        ...

    def flush(self) -> list[str | bytes]:
        """Return frames for what was held back."""
        ...

    def farewell(self, ended: Ended, message: str | None) -> list[str | bytes]:
        """Return the frames that say why it ends; the close follows."""
        ...

    def close_frame(self, reason: EndReason) -> tuple[int, str]:
        """Return the close code and its reason text."""
        ...

    def is_leave(self, code: int, reason: str | None) -> bool:
        """Whether a client that closes like this wants its session ended."""
        ...


async def converse(websocket: WebSocket, speaker: Speaker, house: House) -> None:
    """Serve one client until it or its session ends; never raises for anything that a client can do."""
    message: str | None = None
    try:
        ended = await _dialogue(websocket, speaker, house)
    except Exception as error:
        cause = _principal(error)
        if isinstance(cause, (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError)):
            return
        ended = Ended(reason_for(cause))
        if isinstance(cause, SupervisorError):
            message = str(cause)
            log.info("client refused", reason=ended.reason.value, problem=message)
        else:
            log.error("connection failed", exc_info=error)
    try:
        for frame in speaker.farewell(ended, message):
            await websocket.send(frame)
    except (ConnectionClosed, SessionRefusedError):
        return
    await websocket.close(*speaker.close_frame(ended.reason))


async def _dialogue(websocket: WebSocket, speaker: Speaker, house: House) -> Ended:
    for frame in speaker.greeting():
        await websocket.send(frame)
    opening: Opening | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(websocket.watch)
        with trio.move_on_after(house.settings.auth_timeout):
            opening = speaker.authenticate(await websocket.receive())
        if opening is None:
            raise SessionRefusedError(EndReason.AUTH_TIMEOUT.value, "No authentication message came in time.")
        websocket.authenticated()
        attached = _Attached()
        nursery.start_soon(_listen, websocket, speaker, attached)
        session, resumed = await house.open_session(
            opening.identity, opening.session_id, opening.cols, opening.rows
        )
        attachment, frames = speaker.attach(session, resumed)
        try:
            for frame in frames:
                await websocket.send(frame)
            attached.to(attachment)
            ended = await _tell(websocket, speaker, attachment)
        finally:
            session.detach(attachment)
            if not resumed and not attached.done.is_set():
                session.end(
                    EndReason.LEFT
                )  # the client never learnt the session's id, so nobody can come back to it
        nursery.cancel_scope.cancel()
    return ended


class _Attached:
    """Lets the listener wait until there is a session to type into, reading ahead meanwhile to notice a
    client that goes."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self._attachment: Attachment | None = None

    def to(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self.done.set()

    async def attachment(self) -> Attachment:
        await self.done.wait()
        assert self._attachment is not None
        return self._attachment


async def _listen(websocket: WebSocket, speaker: Speaker, attached: _Attached) -> None:
    while True:
        message: str | bytes | None = None
        try:
            with trio.move_on_at(speaker.held_until()):
                message = await websocket.receive()
        except ConnectionClosed as closed:
            if (
                attached.done.is_set()
                and closed.reason
                and speaker.is_leave(closed.reason.code, closed.reason.reason)
            ):
                (await attached.attachment()).session.end(EndReason.LEFT)
            raise
        attachment = await attached.attachment()
        if message is None:
            await speaker.release(attachment)
        else:
            await speaker.hear(message, attachment)


async def _tell(websocket: WebSocket, speaker: Speaker, attachment: Attachment) -> Ended:
    while True:
        event: Event | None = None
        with trio.move_on_after(speaker.quiet_after()):
            event = await attachment.next_event(OUTPUT_PIECE)
        if isinstance(event, Ended):
            return event
        for frame in speaker.flush() if event is None else await speaker.frames(event):
            await websocket.send(frame)


def _principal(error: Exception) -> Exception:
    """Of several errors at once return the one that explains the others: a refusal before a breach before a
    lost connection."""
    if not isinstance(error, ExceptionGroup):
        return error
    leaves = [_principal(each) for each in error.exceptions]
    for kind in (SessionRefusedError, PeerError, SupervisorError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    ordinary = (ConnectionClosed, trio.BrokenResourceError, trio.ClosedResourceError)
    return next((leaf for leaf in leaves if not isinstance(leaf, ordinary)), leaves[0])
