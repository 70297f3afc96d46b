"""Requests to the engine and what their answers mean: versions, deadlines, statuses, JSON. Everything above
speaks in nouns, not in HTTP.

Every call has a deadline: the client's default (`Docker(timeout=…)`), or the call's own `timeout=`, where
None means none. Cancellation takes effect at once, anywhere, by cutting the connection that the call owns.
What the engine makes of the request then is its own affair: it may have been obeyed.
"""

import json
import math
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, cast, final

import httpx
import trio

from supervisor.engine.connection import Connection, Connector
from supervisor.engine.errors import DockerConnectionError, DockerError, DockerTimeoutError
from supervisor.engine.params import encode_query
from supervisor.engine.types import SENTINEL, Body, Sentinel, SupportsRead, Timeout
from supervisor.engine.wire import Head, Headers

DEFAULT_TIMEOUT = 60.0
"""Seconds that an ordinary call may take: a loaded engine takes whole seconds to start a container, never a
minute.
"""
LONG_TIMEOUT = 3600.0
"""Seconds that a call may take which moves or makes images, or copies files, unless told otherwise."""
MAX_REPLY = 256 * 1024 * 1024
"""Bytes of an answer that is read as a whole. A list of 10,000 containers is about 20 MB."""
MAX_ERROR = 64 * 1024
"""Bytes read of an answer that says what went wrong."""

OLDEST_VERSION = (1, 40)
NEWEST_VERSION = (1, 53)
"""The versions of the Engine API that this client knows; it asks for the newest that both sides speak."""

_UPLOAD_BYTES = 1024 * 1024
_JSON = (b"Content-Type", b"application/json")


@final
class deadline_in:  # noqa: N801 - used like a function
    """Bound the body to `seconds` (`math.inf` for no bound), counted from now, or ending at `deadline`.

    Raises:
        DockerTimeoutError: they passed.
    """

    def __init__(self, seconds: float, what: str, deadline: float | None = None) -> None:
        self._seconds = seconds
        self._what = what
        self._scope = trio.CancelScope(
            deadline=trio.current_time() + seconds if deadline is None else deadline
        )

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise DockerTimeoutError(f"{self._what}: no answer within {self._seconds:g} s") from None
        return False


@final
class Reply:
    """A good answer whose body has not been read yet. Close it, or leave it as an async context manager."""

    def __init__(self, response: httpx.Response, what: str, seconds: float, deadline: float) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("the transport must be an asynchronous one")
        self.status = response.status_code
        self.headers = response.headers
        self._stream = response.stream
        self._pieces: AsyncIterator[bytes] = aiter(response.stream)
        self._what = what
        self._seconds = seconds
        self._deadline = deadline

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def receive(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises:
            DockerConnectionError: it broke off.
            DockerTimeoutError: the call's deadline passed.
        """
        with deadline_in(self._seconds, self._what, self._deadline):
            return await self._piece()

    async def read(self, limit: int = MAX_REPLY) -> bytes:
        """Return the whole body, and close.

        Raises:
            DockerError: it is longer than `limit` bytes; or as `receive`.
        """
        with deadline_in(self._seconds, self._what, self._deadline):
            return await self.read_now(limit)

    async def read_now(self, limit: int = MAX_REPLY) -> bytes:
        """Do as `read`, but without a deadline of its own: for who has set it already."""
        pieces: list[bytes] = []
        size = 0
        async with self:
            while piece := await self._piece():
                size += len(piece)
                if size > limit:
                    raise DockerError(0, f"{self._what}: the answer is longer than {limit} bytes")
                pieces.append(piece)
        return b"".join(pieces)

    async def _piece(self) -> bytes:
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (httpx.HTTPError, httpx.StreamError) as error:
            await self.aclose()
            raise DockerConnectionError(f"{self._what}: the answer broke off: {error}") from error
        except BaseException:
            await self.aclose()
            raise
        return b""

    async def aclose(self) -> None:
        """Give the connection back. Does not wait for the rest of the body."""
        if isinstance(self._pieces, AsyncGenerator):  # of a transport that is not ours
            await cast("AsyncGenerator[bytes]", self._pieces).aclose()
        await self._stream.aclose()


@final
class Api:
    """Sends requests for one `Docker`.

    Attributes:
        version: `auto` until negotiated, then `v1.41` or the like.
        timeout: default seconds per call, `math.inf` for none.
        closed: no further call is made.
        transport: sends the requests.
        connector: makes the connections of streams.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        connector: Connector,
        where: str,
        version: str,
        timeout: float | None,
        origin: str = "http://docker",
    ) -> None:
        self.transport = transport
        self.connector = connector
        self.version = version
        self.timeout = math.inf if timeout is None else timeout
        self.closed = False
        self._where = where
        self._origin = httpx.URL(origin)
        self._host = (b"Host", self._origin.netloc)
        self._urls: dict[str, httpx.URL] = {}

    def seconds(self, timeout: Timeout, default: float | None = None) -> float:
        """Return the seconds that `timeout` means where `default` (None: the client's) is what SENTINEL
        stands for.
        """
        if isinstance(timeout, Sentinel):
            return self.timeout if default is None else default
        return math.inf if timeout is None else float(timeout)

    async def target(self, path: str, params: Mapping[str, Any] | None = None) -> str:
        """Return `path` and query under the version that both sides speak, which is asked for once."""
        if self.closed:
            raise RuntimeError("this client is closed")
        if self.version == "auto":
            self.version = await self._negotiate()
        query = encode_query(params)
        return f"/{self.version}/{path}?{query}" if query else f"/{self.version}/{path}"

    async def _negotiate(self) -> str:
        reply = await self._send(self._request("GET", "/_ping"), "GET /_ping", self.timeout)
        await reply.read_now(MAX_ERROR)
        offered = reply.headers.get("api-version", "")
        major, _, minor = offered.partition(".")
        if not (major.isdecimal() and minor.isdecimal()):
            raise DockerError(0, f"no Docker Engine at {self._where}: /_ping tells no API version")
        spoken = min((int(major), int(minor)), NEWEST_VERSION)
        if spoken < OLDEST_VERSION:
            raise DockerError(
                0, f"the engine at {self._where} speaks API {offered}; 1.40 is the oldest supported"
            )
        return f"v{spoken[0]}.{spoken[1]}"

    async def tells_stream_kinds(self) -> bool:
        """Return whether the content type of a stream says if it is multiplexed: since API 1.42."""
        await self.target("")
        major, minor = self.version.removeprefix("v").split(".")
        return (int(major), int(minor)) >= (1, 42)

    async def open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Timeout = SENTINEL,
        default: float | None = None,
    ) -> Reply:
        """Send a request and return its answer, if it is a good one.

        Args:
            method: of HTTP.
            path: below the version, without a slash in front; names in it already escaped.
            params: query, see `encode_query`.
            body: sent as JSON.
            content: sent as it is.
            headers: further fields.
            timeout: seconds for the whole call, reading the answer included.
            default: what SENTINEL stands for, None for the client's default.

        Raises:
            DockerError: the engine said no (or sent a redirect, which it does for paths that are not in
                canonical form).
            DockerConnectionError, DockerTimeoutError: as they say.
        """
        what, seconds = f"{method} /{path}", self.seconds(timeout, default)
        with deadline_in(seconds, what):
            request = self._request(method, await self.target(path, params), body, content, headers)
            return await self._send(request, what, seconds)

    async def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: Timeout = SENTINEL,
        default: float | None = None,
    ) -> Any:
        """Send a request as `open` does and return its JSON, None when the answer is empty."""
        what, seconds = f"{method} /{path}", self.seconds(timeout, default)
        with deadline_in(seconds, what):
            request = self._request(method, await self.target(path, params), body)
            reply = await self._send(request, what, seconds)
            data = await reply.read_now()
            return parse_json(data, what) if data else None

    async def done(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content: Body | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: Timeout = SENTINEL,
        default: float | None = None,
    ) -> int:
        """Send a request as `open` does, throw its answer's body away and return the status."""
        what, seconds = f"{method} /{path}", self.seconds(timeout, default)
        with deadline_in(seconds, what):
            request = self._request(method, await self.target(path, params), body, content, headers)
            reply = await self._send(request, what, seconds)
            await reply.read_now()
            return reply.status

    async def upgrade(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: Timeout = SENTINEL,
    ) -> tuple[Connection, Head]:
        """POST a request that turns its connection into a raw stream, and return that connection, now the
        caller's to cut.

        It is a connection of its own, made for this and never reused, so that long-lived streams are in
        nobody's way. `timeout` bounds the time until the stream is open.

        Raises:
            DockerError: the engine said no, or did not switch protocols.
            DockerConnectionError, DockerTimeoutError: as they say.
        """
        data = b"" if body is None else json.dumps(body).encode()
        fields = [
            self._host,
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"tcp"),
            (b"Content-Length", b"%d" % len(data)),
        ]
        if data:
            fields.append(_JSON)
        what = f"POST /{path}"
        with deadline_in(self.seconds(timeout), what):
            target = await self.target(path, params)
            connection = await self.connect()
            try:
                head = await connection.exchange(b"POST", target.encode("ascii"), fields, data)
                if head.status == 101:
                    return connection, head
                raise await _not_switched(connection, head, what)
            except (trio.BrokenResourceError, ValueError) as error:
                connection.cut()
                raise DockerConnectionError(f"{what}: no answer from {self._where}: {error}") from error
            except BaseException:
                connection.cut()
                raise

    async def connect(self) -> Connection:
        """Return a new connection to the engine, which is the caller's to cut.

        Raises:
            DockerConnectionError: there is none.
        """
        try:
            return await self.connector()
        except (OSError, trio.BrokenResourceError, ssl.SSLError) as error:
            raise DockerConnectionError(f"cannot connect to the engine at {self._where}: {error}") from error

    async def _send(self, request: httpx.Request, what: str, seconds: float) -> Reply:
        deadline = trio.current_time() + seconds
        try:
            response = await self.transport.handle_async_request(request)
        except httpx.ConnectError as error:
            raise DockerConnectionError(f"cannot connect to the engine at {self._where}: {error}") from error
        except httpx.TransportError as error:
            raise DockerConnectionError(f"{what}: no answer from {self._where}: {error}") from error
        reply = Reply(response, what, seconds, deadline)
        # 304 says that a container is started, or stopped, already.
        if 200 <= reply.status < 300 or reply.status == 304:
            return reply
        raise await refusal(reply)

    def _request(
        self,
        method: str,
        target: str,
        body: Any = None,
        content: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        fields: Headers = [self._host]
        if headers:
            fields += [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        stream: httpx.AsyncByteStream
        if body is not None:
            data = json.dumps(body).encode()
            fields += [_JSON, (b"Content-Length", b"%d" % len(data))]
            stream = httpx.ByteStream(data)
        elif content is None:
            if method in ("POST", "PUT"):
                fields.append((b"Content-Length", b"0"))
            stream = _EMPTY
        elif isinstance(content, bytes | bytearray | memoryview):
            fields.append((b"Content-Length", b"%d" % len(content)))
            stream = httpx.ByteStream(bytes(content))
        else:
            fields.append((b"Transfer-Encoding", b"chunked"))
            stream = _Upload(content) if isinstance(content, AsyncIterable) else _FileUpload(content)
        return httpx.Request(method, self._url(target), headers=fields, stream=stream)

    def _url(self, target: str) -> httpx.URL:
        # Parsing a URL is httpx's largest cost here (13 us); the same few are asked for again and again.
        url = self._urls.get(target)
        if url is None:
            if len(self._urls) >= 256:
                self._urls.clear()
            url = self._urls[target] = self._origin.copy_with(raw_path=target.encode("ascii"))
        return url


_EMPTY = httpx.ByteStream(b"")


@final
class _Upload(httpx.AsyncByteStream):
    """A request body from an async iterable."""

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._content)


@final
class _FileUpload(httpx.AsyncByteStream):
    """A request body from a file, which is read in a thread."""

    def __init__(self, file: SupportsRead) -> None:
        self._file = file

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await trio.to_thread.run_sync(self._file.read, _UPLOAD_BYTES)
        if not piece:
            raise StopAsyncIteration
        return piece


def parse_json(data: bytes, what: str) -> Any:
    """Return the value of `data`.

    Raises:
        DockerConnectionError: it is not JSON, so whatever answered is no engine.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise DockerConnectionError(f"{what}: the answer is not JSON: {data[:80]!r}") from error


async def refusal(reply: Reply) -> DockerError:
    """Return the error that a bad answer stands for: the engine's own message, where it is one."""
    try:
        data = await reply.read_now(MAX_ERROR)
    except DockerError as error:
        return DockerError(reply.status, f"(and its explanation did not arrive: {error.message})")
    return DockerError(reply.status, explanation(data, reply.status))


async def _not_switched(connection: Connection, head: Head, what: str) -> DockerError:
    """Return the error for an answer other than 101 to a request for a stream."""
    data = b""
    while len(data) < MAX_ERROR and (piece := await connection.receive()):
        data += piece
    if 200 <= head.status < 300:
        return DockerError(head.status, f"{what}: the engine did not switch to a raw stream")
    return DockerError(head.status, explanation(data, head.status))


def explanation(data: bytes, status: int) -> str:
    """Return the sentence in the body of a bad answer: the engine's JSON has it under `message`, proxies
    write text.
    """
    text = data.decode(errors="replace").strip()
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = text
    return (message if isinstance(message, str) else text) or f"HTTP status {status} without an explanation"
