"""Requests to the engine and what their answers mean: versions, deadlines, statuses, JSON. Everything above
speaks in nouns, not in HTTP.

Every call has a deadline: the client's default (`Docker(timeout=…)`), or the call's own `timeout=`, where
None means none. Cancellation takes effect at once, anywhere, by cutting the connection that the call owns.
What the engine makes of the request then is its own affair: it may have been obeyed.
"""

import json
import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, final

import httpx
import trio

from supervisor.engine.address import Address
from supervisor.engine.connection import Connection
from supervisor.engine.errors import DockerConnectionError, DockerError, DockerUnreachableError
from supervisor.engine.params import encode_query
from supervisor.engine.reply import MAX_ERROR, Reply, deadline_in, explanation, parse_json, refusal
from supervisor.engine.types import SENTINEL, Body, Sentinel, SupportsRead, Timeout
from supervisor.engine.wire import Head, Headers

DEFAULT_TIMEOUT = 60.0
"""Seconds that an ordinary call may take: a loaded engine takes whole seconds to start a container, never a
minute.
"""
LONG_TIMEOUT = 3600.0
"""Seconds that a call may take which moves or makes images, or copies files, unless told otherwise."""

OLDEST_VERSION = (1, 40)
NEWEST_VERSION = (1, 53)
"""The versions of the Engine API that this client knows; it asks for the newest that both sides speak."""

_UPLOAD_BYTES = 1024 * 1024
_JSON = (b"Content-Type", b"application/json")


@final
class Api:
    """Sends requests for one `Docker`.

    Attributes:
        version: `auto` until negotiated, then `v1.41` or the like.
        timeout: default seconds per call, `math.inf` for none.
        closed: no further call is made.
        transport: sends the requests.
        on_call: told of each call: method and path, seconds until the answer's head, and what came of it:
            `ok`, the status of a refusal, `unanswered` or `given up`. Streams that upgrade are not calls.
        connector: makes the connections of streams.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        address: Address,
        version: str,
        timeout: float | None,
    ) -> None:
        self.transport = transport
        self.connector = address.connector
        self.version = version
        self.timeout = math.inf if timeout is None else timeout
        self.closed = False
        self.on_call: Callable[[str, float, str], None] = _tell_nobody
        self._where = address.url
        self._origin = httpx.URL(f"http://{address.host}")
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
        reply = await self._send(self._request("GET", "/_ping"), "GET /_ping", self.timeout, math.inf)
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
        with deadline_in(self.timeout, "GET /_ping"):
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
        with deadline_in(seconds, what) as deadline:
            request = self._request(method, await self.target(path, params), body, content, headers)
            return await self._send(request, what, seconds, deadline)

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
        with deadline_in(seconds, what) as deadline:
            request = self._request(method, await self.target(path, params), body)
            reply = await self._send(request, what, seconds, deadline)
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
        with deadline_in(seconds, what) as deadline:
            request = self._request(method, await self.target(path, params), body, content, headers)
            reply = await self._send(request, what, seconds, deadline)
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
            raise DockerUnreachableError(f"cannot connect to the engine at {self._where}: {error}") from error

    async def _send(self, request: httpx.Request, what: str, seconds: float, deadline: float) -> Reply:
        began, outcome = trio.current_time(), "given up"
        try:
            response = await self.transport.handle_async_request(request)
            outcome = str(response.status_code) if response.status_code >= 400 else "ok"
        except httpx.ConnectError as error:
            outcome = "unanswered"
            raise DockerUnreachableError(f"cannot connect to the engine at {self._where}: {error}") from error
        except httpx.TransportError as error:
            outcome = "unanswered"
            raise DockerConnectionError(f"{what}: no answer from {self._where}: {error}") from error
        finally:
            self.on_call(what, trio.current_time() - began, outcome)
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


def _tell_nobody(_what: str, _seconds: float, _outcome: str) -> None:
    """What `on_call` does unless somebody wants to know."""


@final
class _Upload(httpx.AsyncByteStream):
    """A request body from an async iterable."""

    def __init__(self, content: AsyncIterable[bytes]) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._content)


@final
class _FileUpload(httpx.AsyncByteStream):
    """A request body from a file, which is read in a thread. Cancelling waits for the present read."""

    def __init__(self, file: SupportsRead) -> None:
        self._file = file

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await trio.to_thread.run_sync(self._file.read, _UPLOAD_BYTES)
        if not piece:
            raise StopAsyncIteration
        return piece


async def _not_switched(connection: Connection, head: Head, what: str) -> DockerError:
    """Return the error for an answer other than 101 to a request for a stream."""
    data = b""
    while len(data) < MAX_ERROR and (piece := await connection.receive()):
        data += piece
    if 200 <= head.status < 300:
        return DockerError(head.status, f"{what}: the engine did not switch to a raw stream")
    return DockerError(head.status, explanation(data, head.status))
