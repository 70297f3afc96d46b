"""Each call of the engine fails once in each way: a session is had or refused, and nothing is left.

A proxy in front of the real engine does it. Each request has a connection of its own there, so that each can
be looked at.
"""

import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
from sandbox.conftest import docker_settings

from faults.supervised import containers_of
from supervisor.engine import Docker
from supervisor.errors import SandboxError
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest

pytestmark = pytest.mark.engine

CALLS = {
    "create": r"POST /v[\d.]+/containers/create",
    "start": r"POST /v[\d.]+/containers/[^/]+/start",
    "inspect": r"GET /v[\d.]+/containers/[^/]+/json",
    "kill": r"POST /v[\d.]+/containers/[^/]+/kill",
    "delete": r"DELETE /v[\d.]+/containers/",
    "ping": r"GET /_ping|GET /v[\d.]+/_ping",
    "events": r"GET /v[\d.]+/events",
}
FULL = b'{"message":"mkdir /var/lib/docker/overlay2/x: no space left on device"}'


@attrs.define
class Proxy:
    """`trouble`: `error`, `cut` (before it), `lost` (obeyed, but the answer is lost) or `silence`."""

    path: Path
    engine: str
    call: str = ""
    trouble: str = ""
    troubled: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head:
                    piece = await stream.receive_some()
                    if not piece:
                        raise trio.BrokenResourceError
                    head += piece
                trouble = (
                    self.trouble if self.call and re.match(CALLS[self.call], head.decode("latin-1")) else ""
                )
                self.troubled += bool(trouble)
                match trouble:
                    case "error":
                        status = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
                        length = b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(FULL)
                        await stream.send_all(status + length + FULL)
                    case "cut":
                        pass
                    case "silence":
                        await trio.sleep_forever()
                    case _:
                        await self._forward(stream, head, heard=trouble != "lost")
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # either side has gone

    async def _forward(self, stream: trio.SocketStream, head: bytes, *, heard: bool) -> None:
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
            async for piece in engine:
                if not heard:
                    break
                await stream.send_all(piece)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(directory: Path, docker_host: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(directory / "engine.sock", docker_host.removeprefix("unix://"))
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(proxy.path))
    listener.listen(100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, [trio.SocketListener(listener)])
        yield proxy
        nursery.cancel_scope.cancel()


async def test_every_call_in_every_way(
    request: pytest.FixtureRequest, docker_host: str, tmp_path: Path
) -> None:
    counts = {"had": 0, "refused": 0}
    slowest = 0.0
    with trio.fail_after(240):
        async with Docker(docker_host) as docker, proxied(tmp_path, docker_host) as proxy:
            settings = docker_settings(request, docker_host=f"unix://{proxy.path}", start_timeout=4.0)
            async with open_docker_provider(settings, verify=False) as provider:
                instance = provider.containers.site.identity.instance
                for call in CALLS:
                    for trouble in ("error", "cut", "lost", "silence"):
                        proxy.call, proxy.trouble, proxy.troubled = call, trouble, 0
                        began = trio.current_time()
                        try:
                            async with provider.lease(
                                LeaseRequest("test", ("bash", "-c", "exit 3"))
                            ) as terminal:
                                assert (await terminal.wait_closed()).code == 3
                                counts["had"] += 1
                        except SandboxError:
                            counts["refused"] += 1
                        slowest = max(slowest, trio.current_time() - began)
                        proxy.trouble = ""
                        provider.containers.site.health.ask()
                        while provider.containers.site.health.problem:
                            await trio.sleep(0.02)
                        provider.containers.pending.hurry()
                # An unanswered create is doubted for a minute, and the engine removes at its own pace.
                while await containers_of(docker, instance):
                    await trio.sleep(0.1)
                # The last trouble may still be noticed: visitors are told to try again, and so does this.
                had = False
                while not had:
                    with contextlib.suppress(SandboxError):
                        async with provider.lease(LeaseRequest("test", ("bash", "-c", "exit 3"))) as terminal:
                            had = (await terminal.wait_closed()).code == 3
                    await trio.sleep(0.1)
    print(f"\n{counts['had']} sessions had, {counts['refused']} refused; {slowest:.1f} s at most")
