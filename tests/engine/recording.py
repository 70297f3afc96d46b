"""A scenario on an engine, its recording, and playing the recording back.

The scenario runs on the real engine here, and on what was recorded from engines that are not:

    cd tests && python -m engine.recording unix:///run/docker.sock > engine/fixtures/recorded-1.51.json

(The engine needs the tests' image.) A recording has each answer's status, content type and body as they came;
what names the machine it was made on is replaced, and the list of packages in the image's labels is left out.
"""

import json
import re
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import httpx
import pytest
import trio

from engine.conftest import IMAGE, LABEL
from engine.standin import UPGRADED, Request, StandIn, chunked, reply
from supervisor.engine import Docker, DockerError, EngineTransport
from supervisor.engine import types as shapes
from supervisor.engine.connection import AnyStream, Connection
from supervisor.engine.wire import Head

NAME = f"{LABEL}-recording"
FIXTURES = Path(__file__).parent / "fixtures"
Exchange = dict[str, Any]


def conforms(value: Any, shape: Any, where: str = "") -> list[str]:
    """In what `value` differs from `shape`: a TypedDict, or what one is made of."""
    origin = get_origin(shape)
    if shape is Any:
        return []
    if origin in (Union, types.UnionType):
        each = [conforms(value, one, where) for one in get_args(shape)]
        return min(each, key=len)
    if is_typeddict(shape):
        if not isinstance(value, dict):
            return [f"{where} is {value!r}"]
        hints = get_type_hints(shape)
        missing = [f"{where}.{name} is missing" for name in shape.__required_keys__ if name not in value]
        known = [(name, hint) for name, hint in hints.items() if name in value]
        return missing + [
            wrong for name, hint in known for wrong in conforms(value[name], hint, f"{where}.{name}")
        ]
    if origin in (list, dict):
        inner = value.values() if isinstance(value, dict) else value
        if not isinstance(value, origin):
            return [f"{where} is {value!r}"]
        return [wrong for one in inner for wrong in conforms(one, get_args(shape)[-1], f"{where}[]")]
    return [] if isinstance(value, shape or type(None)) else [f"{where} is {value!r}"]


async def scenario(docker: Docker) -> None:
    """Use what engines answer differently, and check the answers against the types they are said to have."""
    wrong: list[str] = []

    def check(value: Any, shape: Any) -> Any:
        wrong.extend(conforms(value, shape, getattr(shape, "__name__", str(shape))))
        return value

    check(await docker.version(), shapes.Version)
    config = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", "read a; echo out $a; echo err >&2; exec sleep 600"],
        "OpenStdin": True,
        "Labels": {LABEL: NAME},
        "HostConfig": {"NetworkMode": "none", "Init": True},
    }
    container = await docker.containers.create(config, name=NAME)
    assert container["Warnings"] == []
    assert (await container.show())["State"]["Status"] == "created"
    async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
        await container.start()
        await container.start()  # a second time it is 304
        await stream.write_in(b"typed\n")
        said: dict[int, bytes] = {}
        while len(said) < 2:
            message = await stream.read_out()
            assert message is not None
            said[message.stream] = message.data
        assert said == {1: b"out typed\n", 2: b"err\n"}
    assert sorted(await container.log(stdout=True, stderr=True)) == ["err\n", "out typed\n"]
    (listed,) = await docker.containers.list(filters={"label": [f"{LABEL}={NAME}"]})
    assert (listed["State"], listed.id) == ("running", container.id)
    check(await container.top(), shapes.TopResult)
    (sample,) = await container.stats(stream=False)
    assert sample["pids_stats"]["current"] >= 1
    execution = await container.exec(["sh", "-c", "echo $A; exit 5"], environment={"A": "b"}, tty=True)
    async with execution.start() as stream:
        assert await stream.receive_some() == b"b\r\n"
        assert await stream.receive_some() == b""
    assert check(await execution.inspect(), shapes.ExecState)["ExitCode"] in (5, None)
    await container.rename(f"{NAME}-2")
    with await container.get_archive("/etc/hostname") as archive:
        assert archive.getnames() == ["hostname"]
    check(await container.commit(repository=NAME, tag="1"), shapes.IdResult)
    await container.stop(t=1)
    check(await container.wait(), shapes.WaitResult)
    for call in (container.kill, docker.containers.container("none-such").show):
        with pytest.raises(DockerError, match=r"^\[40[49]\] .*ontainer"):
            await call()
    await container.delete(v=True)
    check(await docker.containers.prune(filters={"label": [f"{LABEL}={NAME}"]}), shapes.ContainersPruned)

    assert (await docker.images.inspect(f"{NAME}:1"))["RepoTags"] == [f"{NAME}:1"]
    check(await docker.images.list(filters={"reference": [NAME]}), list[shapes.ImageSummary])
    check(await docker.images.history(f"{NAME}:1"), list[shapes.ImageLayer])
    check(await docker.images.delete(f"{NAME}:1"), list[shapes.ImageDeleted])
    check(await docker.images.prune(filters={"label": [NAME]}), shapes.ImagesPruned)
    check(await docker.images.prune_builds(), shapes.BuildsPruned)

    network = await docker.networks.create({"Name": NAME, "Labels": {LABEL: NAME}})
    assert (await network.show())["Name"] == NAME
    assert await network.delete()
    check(await docker.networks.prune(filters={"label": [NAME]}), shapes.NetworksPruned)
    volume = await docker.volumes.create({"Name": NAME, "Labels": {LABEL: NAME}})
    check(await volume.show(), shapes.Volume)
    check(await docker.volumes.list(filters={"label": [f"{LABEL}={NAME}"]}), shapes.VolumeList)
    await volume.delete()
    check(await docker.volumes.prune(filters={"label": [NAME]}), shapes.VolumesPruned)
    async with docker.events.subscribe(
        since=0, until=9999999999, filters={"container": container.id}, reconnect=False
    ) as events:
        actions: list[str] = []
        while not {"create", "destroy"} <= set(actions):
            actions.append(check(await events.get(), shapes.Event)["Action"])
    assert wrong == []


class _Recorder(httpx.AsyncBaseTransport):
    """Writes down what passes; answers that go on for ever, up to what has come within a second."""

    def __init__(self, transport: EngineTransport, exchanges: list[Exchange]) -> None:
        self._transport = transport
        self._exchanges = exchanges

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = b""
        with trio.move_on_after(1 if request.url.path.endswith("/events") else 30):
            async for piece in response.stream:
                body += piece
        await response.stream.aclose()
        kind = response.headers.get("content-type", "")
        if not request.url.path.endswith(("/_ping", "/info")):
            self._exchanges.append(
                _exchange(request.method, request.url.path, response.status_code, kind, body)
            )
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(body))


class _Tap(trio.abc.HalfCloseableStream):
    """Passes on, and writes down what is received."""

    def __init__(self, stream: AnyStream, received: bytearray) -> None:
        assert isinstance(stream, trio.SocketStream)
        self._stream = stream
        self._received = received

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        self._received += data
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _exchange(method: str, path: str, status: int, kind: str, body: bytes) -> Exchange:
    path = "/" + path.split("/", 2)[2]
    body = re.sub(rb'(\.packages":")[^"]*', rb"\1", body)
    exchange: Exchange = {"method": method, "path": path, "status": status, "content_type": kind}
    try:
        exchange["body"] = json.loads(body)
    except ValueError:
        exchange.update({"chunks": [body.decode()]} if path == "/events" else {"hex": body.hex()})
    if path == "/version":
        exchange["body"]["KernelVersion"] = "6.12.0"
        for component in exchange["body"]["Components"]:
            component["Details"].pop("KernelVersion", None)
    return exchange


async def record(url: str) -> dict[str, Any]:
    """Run the scenario on the engine at `url` and return the recording."""
    exchanges: list[Exchange] = []
    taps: list[tuple[Exchange, bytearray]] = []
    async with Docker(url) as plain:
        transport = plain.api.transport
        assert isinstance(transport, EngineTransport)
        async with Docker(url, transport=_Recorder(transport, exchanges)) as docker:
            upgrade = docker.api.upgrade

            async def tapped(path: str, **options: Any) -> tuple[Connection, Head]:
                connection, head = await upgrade(path, **options)
                early = bytearray(connection.trailing())
                assert not early
                connection.stream = _Tap(connection.stream, early)  # type: ignore[assignment]
                kind = head.get(b"content-type").decode()
                taps.append((_exchange("POST", f"/v/{path}", head.status, kind, b"\xff"), early))
                return connection, head

            docker.api.upgrade = tapped  # type: ignore[method-assign]
            await scenario(docker)
            version = await plain.version()
    for exchange, received in taps:
        exchanges.append({**exchange, "hex": received.hex()})
    about = f"Recorded from Docker Engine {version['Version']} by tests/engine/recording.py."
    return {"about": about, "api_version": version["ApiVersion"], "exchanges": exchanges}


def script(engine: StandIn, recording: dict[str, Any]) -> None:
    """Let `engine` give the answers of `recording`: those of one method and path in their order."""
    engine.api_version = recording["api_version"]
    answers: dict[tuple[str, str], list[Any]] = {}
    for exchange in recording["exchanges"]:
        key = (exchange["method"], exchange["path"])
        answers.setdefault(key, []).append(answer_of(exchange))
    for (method, path), each in answers.items():
        engine.answer(method, path, *each)


def answer_of(exchange: Exchange) -> Any:
    """The bytes of an exchange's answer, or a function that sends them and ends the connection."""
    kind = exchange.get("content_type", "application/json")
    if exchange.get("status") == 101:

        async def switch(request: Request, stream: trio.SocketStream) -> None:
            await stream.send_all(UPGRADED % kind.encode() + bytes.fromhex(exchange["hex"]))
            await stream.send_eof()
            while await stream.receive_some():
                pass
            await stream.aclose()

        return switch
    if "chunks" in exchange:
        data = chunked(*(piece.encode() for piece in exchange["chunks"]))
        return data.replace(b"application/json", kind.encode(), 1)
    body = bytes.fromhex(exchange["hex"]) if "hex" in exchange else exchange.get("body", b"")
    return reply(exchange.get("status", 200), body, kind)


if __name__ == "__main__":
    json.dump(trio.run(record, sys.argv[1]), sys.stdout, indent=1)
