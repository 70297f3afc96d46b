"""Engines of other versions: the oldest that is supported, on the real engine; newer ones, from a fixture."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio

from engine.conftest import IMAGE, LABEL
from engine.standin import UPGRADED, Request, StandIn, chunked, reply
from supervisor.engine import Docker, DockerStreamError, Message

FIXTURE = json.loads((Path(__file__).parent / "fixtures/api-1.53.json").read_text())


def answer_of(exchange: dict[str, Any]) -> Any:
    """The bytes of an exchange's answer, or a function that sends them and ends the connection."""
    kind = exchange.get("content_type", "application/json")
    if exchange.get("status") == 101:

        async def switch(request: Request, stream: trio.SocketStream) -> None:
            await stream.send_all(UPGRADED % kind.encode() + bytes.fromhex(exchange["hex"]))
            await stream.aclose()

        return switch
    if "chunks" in exchange:
        data = chunked(*(piece.encode() for piece in exchange["chunks"]))
        return data.replace(b"application/json", kind.encode(), 1)
    body = bytes.fromhex(exchange["hex"]) if "hex" in exchange else exchange.get("body", b"")
    return reply(exchange.get("status", 200), body, kind)


@pytest.fixture
async def newer(standin: StandIn) -> StandIn:
    """An engine that speaks API 1.53."""
    standin.api_version = FIXTURE["api_version"]
    for exchange in FIXTURE["exchanges"]:
        standin.answer(exchange["method"], exchange["path"], answer_of(exchange))
    return standin


async def test_a_newer_engine(newer: StandIn, client: Docker) -> None:
    container = client.containers.container("new")
    with trio.fail_after(10):
        assert (await client.version())["MinAPIVersion"] == "1.44"
        assert client.api_version == "v1.53"
        created = await client.containers.create({"HostConfig": {"ConsoleSize": [24, 80]}, "Tty": True})
        assert created["Warnings"] == []
        assert (await container.show())["HostConfig"]["ConsoleSize"] == [24, 80]
        assert await container.port(80) is None
        await container.stop(t=1, signal="SIGHUP")
        assert await container.wait(condition="next-exit") == {"StatusCode": 0}
        (sample,) = await container.stats(stream=False)
        assert sample["pids_stats"]["limit"] == 50
        (image,) = await client.images.list()
        assert "VirtualSize" not in image
        assert "Hostname" not in (await client.images.inspect("debian"))["Config"]
        assert (await client.images.prune_builds(reserved_space=1, max_used_space=2))["CachesDeleted"] is None
        assert (await client.volumes.prune(filters={"all": True}))["VolumesDeleted"] == []
        assert (await (await client.networks.get("net")).show())["EnableIPv4"]
    queries = {request.path: parse_qs(request.query) for request in newer.requests}
    assert queries["/containers/new/stop"] == {"t": ["1"], "signal": ["SIGHUP"]}
    assert queries["/build/prune"] == {"reserved-space": ["1"], "max-used-space": ["2"]}
    assert queries["/volumes/prune"] == {"filters": ['{"all": ["true"]}']}


async def test_newer_engines_say_what_a_stream_is(newer: StandIn, client: Docker) -> None:
    container = client.containers.container("new")
    with trio.fail_after(10):
        await client.version()
        async with container.attach(stdout=True, stderr=True) as stream:
            assert await stream.read_out() == Message(2, b"err")
        assert await container.log(stdout=True, stderr=True) == ["out\n", "err\n"]
        terminal = client.containers.container("terminal")
        assert "".join(await terminal.log(stdout=True)) == "hi\r\n"
    asked = [request.path for request in newer.requests if request.path.endswith("/json")]
    assert asked == []  # nobody had to ask whether there is a terminal


async def test_errors_and_events_of_newer_engines(newer: StandIn, client: Docker) -> None:
    with trio.fail_after(10):
        with pytest.raises(DockerStreamError, match="manifest unknown"):
            await client.images.pull("none")
        async with client.events.subscribe(reconnect=False) as events:
            assert [each["Action"] async for each in events] == ["die", "destroy"]


@pytest.mark.engine
async def test_the_oldest_supported_version_on_the_real_engine(docker_host: str, label: str) -> None:
    config = {
        "Image": IMAGE,
        "Cmd": ["sh", "-c", "read a; echo $a"],
        "OpenStdin": True,
        "Labels": {LABEL: label},
        "HostConfig": {"NetworkMode": "none"},
    }
    with trio.fail_after(30):
        async with Docker(docker_host, api_version="v1.40") as docker:
            container = await docker.containers.create(config)
            try:
                async with container.attach(stdin=True, stdout=True) as stream:
                    await container.start()
                    await stream.write_in(b"typed\n")
                    assert await stream.read_out() == Message(1, b"typed\n")
                assert (await container.wait())["StatusCode"] == 0
                assert await container.log(stdout=True) == ["typed\n"]
                assert (await container.stats(stream=False))[0]["id"] == container.id
                await docker.images.inspect(IMAGE)
                await docker.networks.list()
            finally:
                await container.delete(force=True)
            async with docker.events.subscribe(since=0, until=1) as events:
                assert await events.get() is None
