"""One connection to the engine: a byte stream, the socket under it, and one request after the other.

A connection belongs to exactly one request (or stream) at a time, and whoever holds it can end it with `cut`,
which never waits and so needs no shield. That is the whole of this client's safety under cancellation: there
is no shared slot that a cancelled task could forget to give back. A connection that was not used to its
proper end is cut, never reused.
"""

import errno
import math
import select
import socket
import ssl
import stat
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import cast, final

import trio

from supervisor.engine.wire import LAST_CHUNK, Head, ResponseParser, chunk, request_head

RECEIVE_BYTES = 64 * 1024
"""Bytes asked for in one receive."""

RETRY_CONNECT = 0.01
"""Seconds between attempts while the engine's accept queue is full."""


AnyStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@final
class Connection:
    """A connected stream that carries one exchange at a time.

    Attributes:
        stream: reads and writes, TLS included.
        last_used: `trio.current_time()` when its last exchange ended.
        exchanges: how many requests it has carried.
    """

    def __init__(
        self,
        stream: AnyStream,
        sock: trio.socket.SocketType,
        plain: socket.socket | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        self.stream = stream
        self._socket = sock
        self._plain = plain  # the same socket as the standard library's, where nothing is between it and us
        self._end = end  # ends what else the connection is made of
        self._parser = ResponseParser()
        self.last_used = -math.inf
        self.exchanges = 0

    def cut(self) -> None:
        """Close at once, without a word to the engine. Tasks that wait on it get `trio.ClosedResourceError`.
        Idempotent.
        """
        self._socket.close()
        if self._end is not None:
            end, self._end = self._end, None
            end()

    @property
    def reusable(self) -> bool:
        """The last exchange came to its proper end and neither side wants to close."""
        return self._parser.reusable

    @property
    def answered(self) -> bool:
        """At least one byte of the present answer has arrived."""
        return self._parser.started

    @property
    def quiet(self) -> bool:
        """Nothing has arrived while nobody was listening: neither an end of file nor stray bytes."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def exchange(
        self,
        method: bytes,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        content: AsyncIterable[bytes] | bytes = b"",
    ) -> Head:
        """Send a request and return the head of the answer; the body follows through `receive`.

        `content` given as an iterable is sent in chunks (the headers must say so), one piece at a time as the
        engine takes them.

        Error handling: whatever is raised, the connection is of no further use and must be cut.

        Raises:
            trio.BrokenResourceError: the connection broke.
            ValueError: the answer is not HTTP.
        """
        if self.exchanges:
            self._parser.next_response()
        self.exchanges += 1
        head = request_head(method, target, headers)
        try:
            if isinstance(content, bytes):
                await self._send(head + content)
            else:
                await self._send(head)
                async for piece in content:
                    if piece:
                        await self.stream.send_all(chunk(piece))
                await self.stream.send_all(LAST_CHUNK)
        except trio.BrokenResourceError as broken:
            # An engine that refuses a large body answers and closes: its answer is what the caller should
            # see.
            try:
                return await self._head(method)
            except (trio.BrokenResourceError, ValueError):
                raise broken from None
        return await self._head(method)

    async def _send(self, data: bytes) -> None:
        """Send without giving way to other tasks if the socket takes it at once, as it nearly always does."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._plain is not None:
            with suppress(OSError):  # full or broken: `send_all` waits, or says so
                data = data[self._plain.send(data) :]
        if data:
            await self.stream.send_all(data)

    async def _receive(self) -> None:
        """Wait for bytes, or the end, and give them to the parser."""
        if self._plain is None:
            self._parser.receive(await self.stream.receive_some(RECEIVE_BYTES))
            return
        await trio.lowlevel.wait_readable(self._plain)
        try:
            self._parser.receive(self._plain.recv(RECEIVE_BYTES))
        except BlockingIOError:
            pass  # woken for nothing; the caller asks again
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def _head(self, method: bytes) -> Head:
        while (head := self._parser.head(method)) is None:
            await self._receive()
        return head

    async def receive(self) -> bytes:
        """Return a piece of the answer's body, b"" at its end. Raises as `exchange` does."""
        while (piece := self._parser.body()) is None:
            await self._receive()
        return piece

    def trailing(self) -> bytes:
        """Take what arrived together with the head of a 101: the first bytes of the new protocol."""
        return self._parser.trailing()


Connector = Callable[[], Awaitable[Connection]]
"""Makes a new connection. Raises `OSError`, `trio.BrokenResourceError` (TLS) or `ssl.SSLError`."""


def unix_connector(path: str) -> Connector:
    """Return a connector to the unix stream socket at `path`."""

    async def connect() -> Connection:
        while True:
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock = trio.socket.from_stdlib_socket(plain)
            try:
                await sock.connect(path)
                # A full accept queue makes connect(2) on a unix socket fail with EAGAIN, which Trio takes for
                # "in progress".
                sock.getpeername()
            except PermissionError as error:
                sock.close()
                raise PermissionError(f"{error.strerror}: {_whose(path)}") from error
            except OSError as error:
                sock.close()
                if error.errno != errno.ENOTCONN:
                    raise
                await trio.sleep(RETRY_CONNECT)
            except BaseException:
                sock.close()
                raise
            else:
                return Connection(trio.SocketStream(sock), sock, plain)

    return connect


def _whose(path: str) -> str:
    """Return for whom the socket is, as far as we may know."""
    try:
        file = Path(path)
        mode = stat.filemode(file.stat().st_mode)
        return f"the socket is for user {file.owner()} and group {file.group()} ({mode})"
    except (OSError, KeyError):
        return "nor may its owner be looked up"


def _cause(error: OSError) -> str:
    """Return what Trio leaves out of its summary of several attempts: why (the first of) them failed."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cast("BaseExceptionGroup[BaseException]", cause).exceptions[0]
    return "" if cause is None else f": {cause}"


def tcp_connector(host: str, port: int, tls: ssl.SSLContext | None) -> Connector:
    """Return a connector to a TCP port, with TLS (handshake and certificate check included) when `tls` is
    given.
    """

    async def connect() -> Connection:
        try:
            plain = await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise OSError(f"{error}{_cause(error)}") from error
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection = Connection(plain, plain.socket)
        if tls is None:
            return connection
        try:
            secured = trio.SSLStream(plain, tls, server_hostname=host, https_compatible=True)
            await secured.do_handshake()
        except BaseException:
            connection.cut()
            raise
        return Connection(secured, plain.socket)

    return connect
