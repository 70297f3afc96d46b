"""Engines of other versions: the oldest that is supported, on the real engine; newer ones, from recordings,
and the newest from a fixture that was written after its API's definition.
"""

import json
from urllib.parse import parse_qs

import pytest
import trio

from engine.conftest import IMAGE, LABEL
from engine.recording import FIXTURES, scenario, script
from engine.standin import StandIn
from supervisor.engine import Docker, DockerStreamError, Message

FIXTURE = json.loads((FIXTURES / "written-1.53.json").read_text())
RECORDINGS = {path.stem: json.loads(path.read_text()) for path in FIXTURES.glob("recorded-*.json")}


@pytest.mark.engine
async def test_the_scenario_on_the_real_engine(docker: Docker) -> None:
    with trio.fail_after(60):
        await scenario(docker)


@pytest.mark.parametrize("name", sorted(RECORDINGS))
async def test_the_scenario_on_recorded_engines(standin: StandIn, client: Docker, name: str) -> None:
    recording = RECORDINGS[name]
    script(standin, recording)
    with trio.fail_after(20):
        await scenario(client)
    assert client.api_version == f"v{recording['api_version']}"
    assert len(standin.requests) == len(recording["exchanges"])


def test_there_are_recordings() -> None:
    assert len(RECORDINGS) >= 2


@pytest.fixture
async def newer(standin: StandIn) -> StandIn:
    """An engine that speaks API 1.53."""
    script(standin, FIXTURE)
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
