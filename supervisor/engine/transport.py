"""The `httpx` transport of this client: each request owns its connection, and finished ones rest in a short
stack.

Why not httpx's own: its pool counts connections, and a task cancelled between "connected" and "request sent"
leaves one that is neither idle nor closed, so a burst of cancellations ends in `PoolTimeout` with a healthy
engine (encode/httpcore #961, #1093). It also looks at every connection of the pool for each request. Here
nothing is counted: a connection is in the stack, or held by one request whose failure cuts it.

Any `httpx.AsyncBaseTransport` may take its place (`Docker(transport=…)`), for a proxy, a recorder or a test;
this one may serve an `httpx.AsyncClient`.
"""

import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple, final

import httpx
import trio

from supervisor.engine.connection import Connection, Connector
from supervisor.engine.wire import Head

MAX_IDLE = 16
"""Connections kept for the next requests; more are cut when their request ends."""
IDLE_SECONDS = 30.0
"""A connection that rested longer is not used again."""

_REPEATABLE = frozenset({"GET", "HEAD"})


class TransportStatistics(NamedTuple):
    """Connections of a transport.

    Attributes:
        in_use: held by requests, and by answers that have not been read to their end, or closed.
        idle: resting.
    """

    in_use: int
    idle: int


@final
class EngineTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over connections from `connector`.

    Resource handling: `aclose` cuts resting connections; those in use are cut by whoever uses them, on any
    failure and on cancellation, without waiting. There is no task and no timer.

    Error handling: raises httpx's errors: `ConnectError`, `RemoteProtocolError`, `ReadError`, `WriteError`.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._idle: list[Connection] = []
        self._closed = False
        self._in_use = 0

    def __repr__(self) -> str:
        return f"<EngineTransport {self._in_use} in use, {len(self._idle)} idle>"

    def statistics(self) -> TransportStatistics:
        """Return how many connections there are now."""
        return TransportStatistics(self._in_use, len(self._idle))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return its answer, whose stream must be closed."""
        if self._closed:
            raise RuntimeError("this client is closed")
        stream = request.stream
        if isinstance(stream, httpx.ByteStream):
            # Small bodies go out together with the head.
            content: bytes | httpx.AsyncByteStream = b"".join(stream)
        elif isinstance(stream, httpx.AsyncByteStream):
            content = stream
        else:
            raise TypeError("the request's body must be bytes or an async iterable of bytes")
        self._in_use += 1
        try:
            connection, head = await self._exchange(request, content)
        except BaseException:
            self._in_use -= 1
            raise
        return httpx.Response(
            head.status, headers=head.headers, stream=_Body(self, connection, request), request=request
        )

    async def _exchange(
        self, request: httpx.Request, content: bytes | httpx.AsyncByteStream
    ) -> tuple[Connection, Head]:
        while True:
            resting = self._resting()
            connection = resting or await self._connect(request)
            try:
                head = await connection.exchange(
                    request.method.encode("ascii"), request.url.raw_path, request.headers.raw, content
                )
            except (trio.BrokenResourceError, ValueError) as error:
                connection.cut()
                # The engine may close a resting connection just when it is taken: not the request's fault.
                if resting and not connection.answered and request.method in _REPEATABLE:
                    continue
                problem = str(error) or "the connection broke"
                raise httpx.RemoteProtocolError(problem, request=request) from error
            except BaseException:
                connection.cut()
                raise
            return connection, head

    def _resting(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.last_used > trio.current_time() - IDLE_SECONDS and connection.quiet:
                return connection
            connection.cut()
        return None

    async def _connect(self, request: httpx.Request) -> Connection:
        try:
            return await self._connector()
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else None
            raise httpx.ConnectError(str(cause or error), request=request) from error

    def release(self, connection: Connection) -> None:
        """Take `connection` back from the answer that held it: to rest if it can be used again, else to be
        cut.
        """
        self._in_use -= 1
        if connection.reusable and not self._closed and len(self._idle) < MAX_IDLE:
            connection.last_used = trio.current_time()
            self._idle.append(connection)
        else:
            connection.cut()

    async def aclose(self) -> None:
        """Cut the resting connections and make no new ones. Never waits."""
        self._closed = True
        while self._idle:
            self._idle.pop().cut()


@final
class _Body(httpx.AsyncByteStream):
    """The body of an answer: iterates once; closing gives the connection back."""

    def __init__(self, transport: EngineTransport, connection: Connection, request: httpx.Request) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._connection is None:
            raise StopAsyncIteration
        try:
            piece = await self._connection.receive()
        except (trio.BrokenResourceError, ValueError) as error:
            self._release()
            raise httpx.ReadError(str(error) or "the connection broke", request=self._request) from error
        except BaseException:
            self._release()
            raise
        if not piece:
            self._release()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Give the connection back: cut, unless the body has been read to its end. Never waits."""
        self._release()

    def _release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._transport.release(connection)
