"""Attach and exec streams: the raw bytes of a process's terminal, or of its standard streams, after an HTTP
upgrade.

With a TTY the stream is the terminal's bytes. Without one the engine multiplexes stdout and stderr: 8 bytes
of header (stream, three zero bytes, length of what follows, big-endian), then the data (Engine API,
"ContainerAttach", stream format).

Back-pressure is real in both directions: what is not read stays in the socket, then in the engine, then stops
the process. Warning: an engine cannot kill, inspect or remove a container whose attach stream nobody reads
(moby/moby#41827). Close the stream first, then end the container; and never take the stream's end for the
process's end.
"""

import operator
import secrets
import string
import struct
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self, final

import attrs
import trio

from supervisor.engine.api import Api
from supervisor.engine.connection import RECEIVE_BYTES, Connection
from supervisor.engine.reply import deadline_in
from supervisor.engine.types import Timeout

_HEADER = struct.Struct(">BxxxL")
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
"""Content type of a multiplexed answer, as engines with API 1.42 and later say; older ones say `raw-stream`
to both kinds.
"""
WHOLE_FRAME = 64 * 1024
"""Bytes up to which a frame is handed out as one message. Engines write frames of at most 32 KiB."""


class Message(NamedTuple):
    """A piece of output.

    Attributes:
        stream: 1 stdout (always, with a TTY), 2 stderr, 3 a message of the engine itself.
        data: at least one byte.
    """

    stream: int
    data: bytes


@attrs.frozen
class Opening:
    """The request that opens a stream.

    Attributes:
        path, params, body: of the POST.
        tty: whether the process has a terminal; None: the engine's answer tells (API 1.42 and later).
    """

    path: str
    params: Mapping[str, Any] | None = None
    body: Any = None
    tty: bool | None = None


def no_detach_keys() -> bytes:
    """Return detach keys for attach that nobody types: 16 random bytes, the first of which does not occur in
    UTF-8.

    An empty value would mean "the default": Ctrl-P is then held back until the next key, and Ctrl-P Ctrl-Q
    ends the stream. Keys are separated by commas; the engine takes any single byte for one.
    """
    first = 0xF8 + secrets.randbelow(8)
    return b",".join(bytes([byte]) for byte in (first, *(0x80 + secrets.randbelow(128) for _ in range(15))))


def no_exec_detach_keys() -> str:
    """Return detach keys for exec, which must be text: NUL, then 15 random letters. NUL alone is held back
    until the next key.
    """
    return ",".join(("ctrl-@", *(secrets.choice(string.ascii_letters) for _ in range(15))))


class Demultiplexer:
    """Takes the engine's frames apart, without any input or output. Frames longer than `WHOLE_FRAME` come in
    pieces.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = 0
        self._remaining = 0

    @property
    def inside(self) -> bool:
        """An end of file now would be in the middle of a frame."""
        return bool(self._remaining or self._buffer)

    def receive(self, data: bytes | bytearray) -> None:
        """Take bytes from the connection."""
        self._buffer += data

    def next(self) -> Message | None:
        """Return the next piece, None when more bytes are needed.

        Raises:
            ValueError: the bytes are no frames.
        """
        while not self._remaining:
            if len(self._buffer) < _HEADER.size:
                return None
            if self._buffer[0] > 3 or any(self._buffer[1:4]):
                raise ValueError(f"not a frame of a multiplexed stream: {bytes(self._buffer[:8])!r}")
            self._stream, self._remaining = _HEADER.unpack_from(self._buffer)
            del self._buffer[: _HEADER.size]
        if len(self._buffer) < min(self._remaining, WHOLE_FRAME):
            return None
        data = bytes(self._buffer[: self._remaining])
        del self._buffer[: len(data)]
        self._remaining -= len(data)
        return Message(self._stream, data)


class _OneAtATime:
    """Raises in the second task that enters: two readers would tear the stream apart."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {self._what} this stream")
        self._busy = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._busy = False


@final
class Stream(trio.abc.HalfCloseableStream):
    """A process's input and output, named as in aiodocker (`read_out`, `write_in`, `close`) and usable as a
    Trio stream.

    It connects on first use, or on entering `async with`. One task may read while another writes.

    Resource handling: a connection of its own, no task. `aclose` (or leaving `async with`) closes both
    directions at once; `send_eof` closes only the input. Closing an exec stream does not end its process: the
    Engine API has no means for that.

    Error handling: `DockerError` when opening is refused; then Trio's stream errors:
    `trio.BrokenResourceError` (the cause attached), `trio.ClosedResourceError`, `trio.BusyResourceError`.
    """

    def __init__(self, api: Api, setup: Callable[[], Awaitable[Opening]], timeout: Timeout) -> None:
        self._api = api
        self._setup = setup
        self._timeout = timeout
        self._opening = trio.Lock()
        self._reading = _OneAtATime("reading from")
        self._connection: Connection | None = None
        self._closed = False
        self._frames: Demultiplexer | None = None
        self._rest = Message(1, b"")  # received and not handed out yet

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _open(self) -> trio.abc.Stream:
        self._check()
        if self._connection is not None:
            return self._connection.stream
        async with self._opening:
            if self._connection is None:
                with deadline_in(self._api.seconds(self._timeout), "opening a stream"):
                    opening = await self._setup()
                    connection, head = await self._api.upgrade(
                        opening.path, params=opening.params, body=opening.body, timeout=self._timeout
                    )
                self._connection = connection
                early = connection.trailing()
                if head.get(b"content-type") == MULTIPLEXED.encode() or opening.tty is False:
                    self._frames = Demultiplexer()
                    self._frames.receive(early)
                else:
                    self._rest = Message(1, early)
                try:
                    self._check()
                except trio.ClosedResourceError:
                    connection.cut()  # closed by another task in the meantime
                    raise
        return self._connection.stream

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return 1 to `max_bytes` bytes of output, b"" at its end. Without a TTY, stdout and stderr come as
        one, in the engine's order.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        stream = await self._open()
        with self._reading:
            if not self._rest.data and self._frames is None:
                return bytes(await stream.receive_some(max_bytes or RECEIVE_BYTES))
            message = await self._message(stream)
            if message is None:
                return b""
            part = message.data[:max_bytes]
            self._rest = message._replace(data=message.data[len(part) :])
            return part

    async def read_out(self) -> Message | None:
        """Return the next piece of output, None at its end."""
        stream = await self._open()
        with self._reading:
            return await self._message(stream)

    async def _message(self, stream: trio.abc.Stream) -> Message | None:
        if self._rest.data:
            await trio.lowlevel.checkpoint()
            message, self._rest = self._rest, Message(1, b"")
            return message
        if self._frames is None:
            data = await stream.receive_some(RECEIVE_BYTES)
            return Message(1, bytes(data)) if data else None
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            while (frame := self._frames.next()) is None:
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    if self._frames.inside:
                        raise trio.BrokenResourceError("the stream ended inside a frame")
                    return None
                self._frames.receive(data)
        except ValueError as error:
            raise trio.BrokenResourceError(str(error)) from error
        return frame

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the process's input. Waits while the process does not read."""
        await (await self._open()).send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` would probably not wait."""
        await (await self._open()).wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End the process's input (as `StdinOnce` or an exec's stdin has it) and go on reading.

        Raises:
            NotImplementedError: over TLS, which Trio cannot close in one direction.
        """
        stream = await self._open()
        if not isinstance(stream, trio.abc.HalfCloseableStream):
            raise NotImplementedError("a TLS connection cannot be closed in one direction")
        await stream.send_eof()

    async def aclose(self) -> None:
        """Close both directions at once, whoever waits on them. Idempotent."""
        self._closed = True
        if self._connection is not None:
            self._connection.cut()
        await trio.lowlevel.checkpoint()

    async def write_in(self, data: bytes) -> None:
        """Do as `send_all`: aiodocker's name for it."""
        await self.send_all(data)

    async def close(self) -> None:
        """Do as `aclose`: aiodocker's name for it."""
        await self.aclose()
