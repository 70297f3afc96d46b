"""A client's dialogue, whichever protocol it speaks: authenticate, attach to a session, pump, say why it
ends.

The order of events is the same for all; a `Speaker` knows the words. Input and output are two tasks, so that
a paste cannot hold up the output that it causes; only the output task (and the farewell after it) sends
messages. While it waits for something to tell, a little output is sent by whoever has read it.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Protocol, cast

import attrs
import trio

from supervisor.admission.door import Presence, Refusal
from supervisor.errors import HardeningError, PeerError, SandboxError, SessionRefusedError, SupervisorError
from supervisor.gateway.house import House, Identity
from supervisor.gateway.websocket import CLOSE_TIMEOUT, ConnectionLostError, WebSocket
from supervisor.observability import metrics
from supervisor.observability.audit import audit_limited
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import CLOSINGS, EndReason, reason_for
from supervisor.session.attachment import Attachment, Ended, Event
from supervisor.session.session import Session

log = get_logger(__name__)

OUTPUT_PIECE = 64 * 1024  # bytes of output per frame: small enough that a neighbour's keystroke gets its turn
MAX_EARLY = 64 * 1024  # characters or bytes that a client may type before its session is there


@attrs.frozen
class Opening:
    """What a client asked for when it authenticated; the size of its window is 80x24 unless it said so."""

    identity: Identity
    session_id: str | None
    cols: int = 80
    rows: int = 24


class Speaker(Protocol):
    """The words of one protocol, for one connection."""

    def greeting(self) -> Iterable[str | bytes]:
        """Return the frames that are sent before the client has said anything."""
        ...

    def authenticate(self, message: str | bytes) -> Opening:
        """Understand the first message, or raise what is wrong with it."""
        ...

    def welcome(self) -> Iterable[str | bytes]:
        """Return the frames that are sent once the client is known, while its sandbox is being started."""
        ...

    async def attach(self, session: Session, resumed: bool) -> tuple[Attachment, Iterable[str | bytes]]:
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

    async def frames(self, event: Event) -> Iterable[str | bytes]:
        """Return the frames that tell `event`."""
        ...

    def at_once(self, output: bytes) -> str | bytes | None:
        """Return the frame for a little output that goes out at once, empty when there is nothing to tell;
        None when it cannot, and nothing has changed."""
        ...

    def quiet_after(self) -> float:
        """Return the seconds without output after which `flush` wants to be called (infinite when not)."""
        ...

    def flush(self) -> Iterable[str | bytes]:
        """Return frames for what was held back."""
        ...

    def farewell(self, ended: Ended, message: str | None) -> Iterable[str | bytes]:
        """Return the frames that say why it ends; the close follows."""
        ...

    def close_frame(self, reason: EndReason) -> tuple[int, str]:
        """Return the close code and its reason text."""
        ...

    def is_leave(self, code: int, reason: str) -> bool:
        """Whether a client that closes like this wants its session ended."""
        ...


async def converse(
    websocket: WebSocket, speaker: Speaker, house: House, presence: Presence, refusal: Refusal | None = None
) -> None:
    """Serve one client until it or its session ends; never raises for anything that a client can do.

    Args:
        websocket, speaker, house: where, in which words, and for whom.
        presence: of this connection.
        refusal: why it is not served, unless it has the right to bypass limits.
    """
    message: str | None = None
    try:
        ended = await _dialogue(websocket, speaker, house, presence, refusal)
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, ConnectionLostError):
            metrics.websockets_closed.labels(EndReason.GONE.value, str(cause.code)).inc()
            await websocket.close(cause.code, cause.reason)
            return
        ended = Ended(reason_for(cause))
        if isinstance(cause, (PeerError, SessionRefusedError)):
            message = str(cause)  # meant for the client, as the others are not
            log.info("client refused", reason=ended.reason.value, problem=message)
            metrics.refusals.labels(ended.reason.value).inc()
        elif isinstance(cause, SandboxError):
            metrics.refusals.labels(ended.reason.value).inc()
            log.warning("no session", reason=ended.reason.value, problem=str(cause))
            if isinstance(cause, HardeningError):
                audit_limited(
                    "sandbox is not as the policy asks",
                    "critical",
                    "",
                    trio.current_time(),
                    problem=str(cause),
                )
        else:
            log.error("connection failed", exc_info=error)
    code, text = speaker.close_frame(ended.reason)
    metrics.websockets_closed.labels(ended.reason.value, str(code)).inc()
    try:
        for frame in speaker.farewell(ended, message):
            await websocket.send(frame)
    except (ConnectionLostError, SessionRefusedError):
        return
    await websocket.close(code, text)


async def _dialogue(
    websocket: WebSocket, speaker: Speaker, house: House, presence: Presence, refusal: Refusal | None
) -> Ended:
    async with trio.open_nursery() as nursery:
        with websocket.kept_alive(nursery, house.registry.alarms):
            ended = await _serve(nursery, websocket, speaker, house, presence, refusal)
        nursery.cancel_scope.cancel()
    return ended


async def _serve(
    nursery: trio.Nursery,
    websocket: WebSocket,
    speaker: Speaker,
    house: House,
    presence: Presence,
    refusal: Refusal | None,
) -> Ended:
    for frame in speaker.greeting():
        await websocket.send(frame)
    if refusal and not house.settings.allow_bypass:
        raise refusal.error()
    opening = await _authenticate(websocket, speaker, house, presence)
    if refusal and not opening.identity.bypasses_limits:
        raise refusal.error()
    for frame in speaker.welcome():
        await websocket.send(frame)
    listener = _Listener(websocket, speaker)
    nursery.start_soon(listener.run)
    session, resumed = await house.open_session(
        opening.identity, presence.client, opening.session_id, opening.cols, opening.rows
    )
    attachment, frames = await speaker.attach(session, resumed)
    try:
        for frame in frames:
            await websocket.send(frame)
        listener.admit(attachment)
        attachment.send_at_once = partial(_send_at_once, websocket, speaker)
        ended = await _tell(websocket, speaker, attachment)
        if ended.reason is EndReason.HANDOVER:
            # What the client typed before it heard of this belongs to its session: the listener goes on.
            with trio.move_on_after(CLOSE_TIMEOUT):
                for frame in speaker.farewell(ended, None):
                    await websocket.send(frame)
                await websocket.begin_close(*speaker.close_frame(ended.reason))
                await trio.sleep_forever()
            raise ConnectionLostError
        return ended
    finally:
        session.detach(attachment)
        if not resumed and listener.attachment is None:
            # The client never learnt the session's id, so nobody can come back to it.
            session.end(EndReason.LEFT)


async def _authenticate(websocket: WebSocket, speaker: Speaker, house: House, presence: Presence) -> Opening:
    opening: Opening | None = None
    with house.patience(house.settings.auth_timeout):
        try:
            opening = speaker.authenticate(await websocket.receive())
        except SessionRefusedError as error:
            if error.reason == EndReason.CREDENTIALS:
                presence.failed()
            raise
    if opening is not None:
        websocket.authenticated()
        presence.authenticated()
        return opening
    if house.closing:
        raise SessionRefusedError(house.closing.value, CLOSINGS[house.closing].message)
    raise SessionRefusedError(EndReason.AUTH_TIMEOUT.value, "No authentication message came in time.")


class _Listener:
    """Hears the client: at first only to notice that it goes, remembering what it types meanwhile; once it
    has been admitted to its session, to act on it.
    """

    def __init__(self, websocket: WebSocket, speaker: Speaker) -> None:
        self._websocket = websocket
        self._speaker = speaker
        self._waiting = trio.CancelScope()
        self.attachment: Attachment | None = None

    def admit(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self._waiting.cancel()

    async def run(self) -> None:
        early: list[str | bytes] = []
        with self._waiting:
            while sum(map(len, early)) < MAX_EARLY:
                early.append(await self._websocket.receive())
            await trio.sleep_forever()
        assert self.attachment is not None
        for message in early:
            await self._speaker.hear(message, self.attachment)
        while True:
            await self._hear_next(self.attachment)

    async def _hear_next(self, attachment: Attachment) -> None:
        message: str | bytes | None = None
        try:
            if (deadline := self._speaker.held_until()) == math.inf:
                message = await self._websocket.receive()
            else:
                with trio.move_on_at(deadline):
                    message = await self._websocket.receive()
        except ConnectionLostError as lost:
            # A viewer that has been let go has no say in what becomes of the session.
            if not attachment.was_replaced and self._speaker.is_leave(lost.code, lost.reason):
                attachment.session.end(EndReason.LEFT)
            raise
        if attachment.was_replaced:
            return
        if message is None:
            await self._speaker.release(attachment)
            return
        await self._speaker.hear(message, attachment)
        if delay := attachment.session.messages.charge(1, trio.current_time()):
            await trio.sleep(delay)


async def _tell(websocket: WebSocket, speaker: Speaker, attachment: Attachment) -> Ended:
    while True:
        event: Event | None = None
        if (patience := speaker.quiet_after()) == math.inf:  # a scope costs more than all else here
            event = await attachment.next_event(OUTPUT_PIECE)
        else:
            with trio.move_on_after(patience):
                event = await attachment.next_event(OUTPUT_PIECE)
        if isinstance(event, Ended):
            await websocket.flush()
            return event
        for frame in speaker.flush() if event is None else await speaker.frames(event):
            await websocket.send(frame)


def _send_at_once(websocket: WebSocket, speaker: Speaker, output: bytes) -> bool:
    if not websocket.is_free or (frame := speaker.at_once(output)) is None:
        return False
    if frame:
        websocket.send_at_once(frame)
    return True


def _cause(error: Exception) -> Exception:
    """Of several errors at once return the one that explains the others: what nobody raised on purpose before
    a refusal or a breach, and these before the loss of the connection that came of them.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    leaves = [_cause(each) for each in group.exceptions]
    told = [leaf for leaf in leaves if not isinstance(leaf, ConnectionLostError)]
    return next((leaf for leaf in told if not isinstance(leaf, SupervisorError)), (told or leaves)[0])
