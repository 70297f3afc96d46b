"""An engine that says what it is told to: scripted answers over a real unix socket.

For what a real engine does too rarely. `StandIn.answer` scripts a path; the answer is bytes that are sent as
they are, or an async function that gets the request and the connection.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio


class Request(NamedTuple):
    """A request as it came; the path without version and query."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Request, trio.SocketStream], Awaitable[None]]


def reply(status: int, body: Any = b"", content_type: str = "application/json", **headers: str) -> bytes:
    """Return an HTTP answer with a length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def chunked(*pieces: bytes, status: int = 200, end: bool = True) -> bytes:
    """Return an HTTP answer in chunks, without its end if so asked."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n" % status
    return head + body + (b"0\r\n\r\n" if end else b"")


UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: %b\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
RAW = UPGRADED % b"application/vnd.docker.raw-stream"
MULTIPLEXED = UPGRADED % b"application/vnd.docker.multiplexed-stream"


class StandIn:
    """The stand-in engine.

    Attributes:
        url: where it listens.
        api_version: what it says in `_ping`.
        requests: all requests that it got, `_ping` left out.
        connections, open: how many connections have been made, how many are open now.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"unix://{path}"
        self.api_version = "1.41"
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self._answers: dict[tuple[str, str], list[bytes | Behaviour]] = {}
        self.answer("GET", "/info", reply(200, {"SystemTime": "2026-01-02T03:04:05.06789+01:00"}))

    def answer(self, method: str, path: str, *answers: bytes | Behaviour) -> None:
        """Script `path`: the answers in order, the last one for ever."""
        self._answers[method, path] = list(answers)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        buffer = bytearray()
        try:
            async with stream:
                while (request := await self._request(stream, buffer)) is not None:
                    await self._serve_request(request, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.open -= 1

    async def _serve_request(self, request: Request, stream: trio.SocketStream) -> None:
        if request.path == "/_ping":
            await stream.send_all(reply(200, b"OK", "text/plain", Api_Version=self.api_version))
            return
        self.requests.append(request)
        answers = self._answers.get((request.method, request.path))
        if not answers:
            await stream.send_all(reply(404, {"message": f"not scripted: {request.method} {request.path}"}))
            return
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, bytes):
            await stream.send_all(answer)
        else:
            await answer(request, stream)

    async def _request(self, stream: trio.SocketStream, buffer: bytearray) -> Request | None:
        async def until(enough: Callable[[], int]) -> bytes:
            while (end := enough()) < 0:
                data = await stream.receive_some()
                if not data:
                    raise trio.BrokenResourceError
                buffer.extend(data)
            part = bytes(buffer[:end])
            del buffer[:end]
            return part

        async def line() -> bytes:
            return await until(lambda: end + 2 if (end := buffer.find(b"\r\n")) >= 0 else -1)

        async def exactly(count: int) -> bytes:
            return await until(lambda: count if len(buffer) >= count else -1)

        head = await until(lambda: end + 4 if (end := buffer.find(b"\r\n\r\n")) >= 0 else -1)
        first, *fields = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)
        }
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await line(), 16):
                body += (await exactly(size + 2))[:-2]
            await line()
        else:
            body = await exactly(int(headers.get("content-length", "0")))
        path, _, query = target.partition("?")
        if path.startswith("/v1."):
            path = "/" + path.split("/", 2)[2]
        return Request(method, path, query, headers, body)


@asynccontextmanager
async def standin_engine(path: Path) -> AsyncIterator[StandIn]:
    """Run a stand-in engine that listens at `path`."""
    engine = StandIn(path)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(path))
    sock.listen(128)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, engine.serve, [trio.SocketListener(sock)])
        try:
            yield engine
        finally:
            nursery.cancel_scope.cancel()


async def hang(request: Request, stream: trio.SocketStream) -> None:
    """Never answer."""
    await trio.sleep_forever()
