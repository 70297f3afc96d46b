"""A proxy in front of the real engine, in which calls go wrong. Each request has a connection of its own
there, so that each can be looked at.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

FULL = b'{"message":"mkdir /var/lib/docker/overlay2/x: no space left on device"}'
TROUBLES = ("error", "cut", "lost", "late", "silence")
LATE = 0.5
"""Seconds for which an answer is held back."""


@attrs.define
class Proxy:
    """What lies between a client and its engine.

    Attributes:
        path: where it listens.
        engine: path of the engine's socket.
        call: pattern of the method and the target of the calls that go wrong.
        trouble: how: `error`, `cut` (before the engine hears of it), `lost` (obeyed, but the answer is lost),
            `late` (the answer takes `LATE`), `silence`, or `flight` (the engine hears of it when `landing` is
            set, whatever has become of the client by then); empty: they do not.
        troubled: how many went wrong.
    """

    path: Path
    engine: str
    call: str = ""
    trouble: str = ""
    troubled: int = 0
    landing: trio.Event = attrs.field(factory=trio.Event)
    _listening: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope])

    def cut_events(self) -> None:
        """Cut off whoever listens to the engine's events, or waits to."""
        for scope in self._listening:
            scope.cancel()

    async def serve(self, stream: trio.SocketStream) -> None:
        """Handle one connection: one request."""
        with trio.CancelScope() as scope:
            try:
                async with stream:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        piece = await stream.receive_some()
                        if not piece:
                            raise trio.BrokenResourceError
                        head += piece
                    if re.match(rb"GET /v[\d.]+/events", head):
                        self._listening.add(scope)
                    await self._answer(stream, head)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # either side has gone
            finally:
                self._listening.discard(scope)

    async def _answer(self, stream: trio.SocketStream, head: bytes) -> None:
        wrong = self.trouble and re.match(self.call, head.decode("latin-1"))
        self.troubled += bool(wrong)
        match self.trouble if wrong else "":
            case "error":
                status = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
                length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(FULL)
                await stream.send_all(status + length + FULL)
            case "cut":
                pass
            case "silence":
                await trio.sleep_forever()
            case "lost":
                await self._forward(stream, head, heard=False)
            case "flight":
                await self.landing.wait()
                await self._forward(stream, head, heard=False)
            case "late":
                await self._forward(stream, head, after=LATE)
            case _:
                await self._forward(stream, head)

    async def _forward(
        self, stream: trio.SocketStream, head: bytes, *, heard: bool = True, after: float = 0
    ) -> None:
        if b"upgrade" not in head.lower():
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)
            head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        async with await trio.open_unix_socket(self.engine) as engine, trio.open_nursery() as nursery:
            await engine.send_all(head)

            async def ask() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    async for piece in stream:
                        await engine.send_all(piece)

            nursery.start_soon(ask)
            piece = await engine.receive_some()
            if heard:
                await trio.sleep(after)
                while piece:
                    await stream.send_all(piece)
                    piece = await engine.receive_some()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(directory: Path, docker_host: str) -> AsyncIterator[Proxy]:
    """A proxy in `directory` to the engine at `docker_host` (unix)."""
    proxy = Proxy(directory / "engine.sock", docker_host.removeprefix("unix://"))
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(proxy.path))
    listener.listen(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [trio.SocketListener(listener)])
        yield proxy
        nursery.cancel_scope.cancel()
