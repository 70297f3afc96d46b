"""One WebSocket as the viewers use it: whole messages in, whole frames out, a heartbeat, and an end that
cannot hang.

wsproto does the framing (RFC 6455); this is its I/O. One task calls `receive`, one calls `send`; what the
protocol owes the peer is sent in between. All write under one lock, so that frames never interleave. Where a
frame was cut off, by a cancellation or a stall, nothing can follow: the connection counts as lost from then
on. Reading never waits for writing, so a peer whose output stalls is still heard.
"""

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.frame_protocol import CloseReason

from supervisor.alarms import Alarms
from supervisor.errors import PeerError, SessionRefusedError
from supervisor.gateway.heartbeat import Heartbeat
from supervisor.gateway.stream import receive_when_ready, send_now, send_steadily
from supervisor.protocol.closing import EndReason
from supervisor.session.limiter import TokenBucket
from supervisor.settings import Settings

READ_SIZE = 64 * 1024
TEXT, BINARY = 1, 2  # opcodes (RFC 6455, section 11.8)
# Frames that are no whole message: fragments, pings, pongs. Each costs more to parse than to send.
FRAME_RATE = 64  # a second
FRAME_BURST = 4096  # at once: a message of the largest size in fragments of 256 bytes
CLOSE_TIMEOUT = 2.0  # seconds to deliver our close frame and get the peer's


class ConnectionLostError(Exception):
    """The client has closed the connection, or it broke.

    Attributes:
        code: close code, 1006 when there was no close frame, 1005 when there was none in it.
        reason: the client's words in it.
    """

    def __init__(self, code: int = CloseReason.ABNORMAL_CLOSURE, reason: str = "") -> None:
        super().__init__(f"closed with {int(code)}")
        self.code = int(code)
        self.reason = reason


class WebSocket:
    """The server's end of a WebSocket over `stream`, of which `rest` has been read already, after the
    upgrade.

    Attributes:
        heard: when something came from the peer.
        reading: whether somebody waits for what comes.

    Resource handling: the stream stays the caller's, to be closed however the conversation ends.
    """

    def __init__(self, stream: trio.abc.Stream, rest: bytes, settings: Settings) -> None:
        self._stream = stream
        self._settings = settings
        self._limit = settings.max_auth_message_size
        self._protocol = Connection(ConnectionType.SERVER, trailing_data=rest)
        self._events: Iterator[Event] = self._protocol.events()
        self._message = bytearray()  # the fragments of the next message, so far
        self.reading = False
        self.heard = trio.current_time()
        self._frames = TokenBucket(FRAME_RATE, FRAME_BURST, self.heard)
        self._pong: bytes | None = None  # the answer that is owed
        self._nursery: trio.Nursery | None = None
        self._writing = trio.Lock()
        self._unsent = b""  # the rest of a control frame of which the kernel took a part
        self._cut_off = False
        self._closing = False  # nothing may follow our close frame

    def __repr__(self) -> str:
        return f"<WebSocket {self._protocol.state.name}{' cut off' if self._cut_off else ''}>"

    def authenticated(self) -> None:
        """Accept messages of the full size from now on."""
        self._limit = self._settings.max_message_size

    # ------------------------------------------------------------------ in

    async def receive(self) -> str | bytes:
        """Return the next message; a cancelled call loses nothing.

        Raises:
            ConnectionLostError: there is none any more.
            SessionRefusedError: it is larger than allowed (`too_large`), or text that is not UTF-8
                (`not_utf8`), or too many frames come at once (`rate_limit`).
            PeerError: the frames are wrong.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            event = next(self._events, None)
            if event is None:
                await self._read()
                waited = True
            elif (message := self._take(event)) is not None:
                if not waited:  # a flood of messages delays nobody
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return message
            else:
                await trio.lowlevel.checkpoint()  # nor does one of other frames

    async def _read(self) -> None:
        self.reading = True
        try:
            data = await receive_when_ready(self._stream, READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        finally:
            self.reading = False
        if not data:
            raise ConnectionLostError
        self.heard = trio.current_time()
        self._protocol.receive_data(bytes(data))
        self._events = self._protocol.events()

    def _take(self, event: Event) -> str | bytes | None:
        """Act on a frame, or a part of one; return the message that it completes."""
        match event:
            case TextMessage() | BytesMessage():
                if event.frame_finished and not event.message_finished:
                    self._charge_frame()
                return self._assemble(event)
            case Ping(payload):
                self._charge_frame()
                # Only the newest needs an answer (RFC 6455, section 5.5.3), so a flood of them costs one.
                is_owed, self._pong = self._pong is not None, bytes(payload)
                if not is_owed and self._nursery is not None:
                    self._nursery.start_soon(self._write_in_turn, self._owed_pong)
            case CloseConnection(code, reason):
                # wsproto reports what it could not parse as a close, too, in an unchanged state.
                if self._protocol.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED):
                    raise ConnectionLostError(code, reason or "")
                if code == CloseReason.INVALID_FRAME_PAYLOAD_DATA:
                    raise SessionRefusedError(EndReason.NOT_UTF8.value, "A text message is not UTF-8.")
                raise PeerError("a frame breaks the WebSocket protocol")
            case _:
                self._charge_frame()
        return None

    def _charge_frame(self) -> None:
        if self._frames.charge(1, trio.current_time()):
            raise SessionRefusedError(EndReason.RATE_LIMIT.value, "Too many frames at once.")

    def _assemble(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        self._message += event.data.encode() if isinstance(event, TextMessage) else event.data
        if len(self._message) > self._limit:
            raise SessionRefusedError(
                EndReason.TOO_LARGE.value, f"A message may have at most {self._limit} bytes."
            )
        if not event.message_finished:
            return None
        message, self._message = self._message, bytearray()
        return message.decode() if isinstance(event, TextMessage) else bytes(message)

    # ------------------------------------------------------------------ out

    async def send(self, message: str | bytes) -> None:
        """Send one message; waits for the peer to take it. Where it need not wait, nobody else has a turn.

        Raises:
            ConnectionLostError: the peer is gone.
            SessionRefusedError: it took nothing for the stall timeout (`slow_consumer`).
        """
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        await self._begin_writing()
        try:
            self._check_writable()
            await self._transmit(_head(opcode, len(payload)), payload)
        finally:
            self._writing.release()

    @property
    def is_free(self) -> bool:
        """Whether frames can be sent without a wait: nobody is sending, and nothing forbids it."""
        return (
            isinstance(self._stream, trio.SocketStream)
            and not self._is_taken
            and self._protocol.state is ConnectionState.OPEN
        )

    @property
    def _is_taken(self) -> bool:
        return self._writing.locked() or self._closing or self._cut_off or bool(self._unsent)

    def send_at_once(self, message: str | bytes) -> None:
        """Send one message and wait for nobody: what the kernel does not take is sent by another task. Only
        while `is_free`. Whoever reads will notice that the peer is gone.
        """
        opcode, payload = (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        frame = _head(opcode, len(payload)) + payload
        with suppress(trio.BrokenResourceError):
            self._unsent = frame[send_now(self._stream, [frame]) :]
            if self._unsent and self._nursery:
                self._nursery.start_soon(self._write_in_turn, bytes)

    async def flush(self) -> None:
        """Wait until what `send_at_once` has begun is sent.

        Raises:
            ConnectionLostError, SessionRefusedError: as `send`.
        """
        if self._unsent or self._writing.locked():
            await self._write(bytes)

    async def _write(self, frame: Callable[[], bytes], *, says_goodbye: bool = False) -> None:
        """Write a control frame, which is made when its turn has come."""
        await self._begin_writing()
        try:
            self._check_writable(says_goodbye and self._protocol.state is ConnectionState.REMOTE_CLOSING)
            await self._transmit(frame())
        finally:
            self._writing.release()

    async def _say_goodbye(self, code: int, reason: str) -> None:
        await self._write(lambda: self._protocol.send(CloseConnection(code, reason)), says_goodbye=True)

    async def _begin_writing(self) -> None:
        """As `self._writing.acquire`, but where nobody writes the others need not have a turn first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._writing.acquire_nowait()
        except trio.WouldBlock:
            await self._writing.acquire()

    async def _write_in_turn(self, frame: Callable[[], bytes]) -> None:
        """Write a control frame that has no use, and no place, once a goodbye has got ahead of it."""
        try:
            await self._write(frame)
        except ConnectionLostError:
            if not self._closing:
                raise

    def _owed_pong(self) -> bytes:
        payload, self._pong = self._pong or b"", None
        return self._protocol.send(Pong(payload))

    def _check_writable(self, answers_close: bool = False) -> None:
        if self._cut_off or not (answers_close or self._protocol.state is ConnectionState.OPEN):
            raise ConnectionLostError

    async def _transmit(self, *pieces: bytes) -> None:
        if self._unsent:
            pieces, self._unsent, self._cut_off = (self._unsent, *pieces), b"", True
        try:
            sent = send_now(self._stream, pieces)
            if sent == sum(map(len, pieces)):
                self._cut_off = False
                return
            if sent == 0:
                await trio.lowlevel.checkpoint_if_cancelled()  # while nothing is out, nothing is cut
            self._cut_off = True  # unless all of it gets out
            rest = b"".join(pieces)[sent:]
            await send_steadily(self._stream, rest, self._settings.stall_timeout)
        except trio.TooSlowError:
            raise SessionRefusedError(
                EndReason.SLOW_CONSUMER.value, "The connection is too slow for the output."
            ) from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._cut_off = True
            raise ConnectionLostError from None
        self._cut_off = False

    @contextmanager
    def kept_alive(self, nursery: trio.Nursery, alarms: Alarms) -> Generator[None]:
        """Answer pings, and see that the connection is neither taken for dead nor dead, while the block runs.

        Args:
            nursery: for short tasks. It gets a ConnectionLostError when the peer does not answer.
            alarms: that outlive it.
        """

        async def give_up() -> None:
            raise ConnectionLostError

        heartbeat = Heartbeat(self, self._settings, alarms, lambda: nursery.start_soon(give_up))
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None
            heartbeat.stop()

    def send_in_passing(self, frame: bytes) -> bool:
        """Send a control frame, and return true; or false, while other frames are on their way, or none may
        be sent any more.
        """
        if self._is_taken:
            return False
        if not isinstance(self._stream, trio.SocketStream):
            if self._nursery is not None:
                self._nursery.start_soon(self._write_in_turn, lambda: frame)
            return True
        sent = 0
        if self.is_free:
            with suppress(trio.BrokenResourceError):  # who reads will notice
                if sent := send_now(self._stream, [frame]):
                    self._unsent = frame[sent:]
        return sent > 0

    async def begin_close(self, code: int, reason: str) -> None:
        """Say goodbye, and leave it to who calls `receive` to hear what the peer had sent before it heard of
        it; the peer's goodbye is a `ConnectionLostError` there.

        Raises:
            ConnectionLostError, SessionRefusedError: as `send`.
        """
        self._closing = True
        await self._say_goodbye(code, reason)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, or answer the peer's, within a moment, and whatever it does; nobody else may use the
        connection any more.
        """
        with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionLostError, SessionRefusedError, PeerError):
            await self._say_goodbye(code, reason)
            while self._protocol.state is not ConnectionState.CLOSED:
                await self.receive()


def _head(opcode: int, length: int) -> bytes:
    """Return the head of a whole, unmasked message (RFC 6455, section 5.2).

    wsproto would do that too; but output is most of what a supervisor does, and this way it is not copied.
    """
    if length < 126:
        return bytes((0x80 | opcode, length))
    if length < 1 << 16:
        return struct.pack("!BBH", 0x80 | opcode, 126, length)
    return struct.pack("!BBQ", 0x80 | opcode, 127, length)
