"""Every public call ends, in virtual time and on an engine that never answers: when docs/engine.md says, and
when `timeout=` says.
"""

import inspect
import io
import math
from collections.abc import Awaitable
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from supervisor.engine import Docker, DockerNetwork, DockerTimeoutError, DockerVolume
from supervisor.engine.connection import Connection

ORDINARY, STOPPING, LONG = 60.0, 70.0, 3600.0
NO_CALLS = {
    "Docker.close",
    "DockerContainers.container",
    "DockerContainers.exec",
    "DockerContainer.created_with_tty",
}
EXPECTED = {
    "DockerContainer.stop": STOPPING,
    "DockerContainer.restart": STOPPING,
    "DockerContainer.wait": math.inf,
    "DockerContainer.stats": math.inf,
    "DockerLog.subscribe": math.inf,
    **dict.fromkeys(
        [
            "DockerContainer.commit",
            "DockerContainer.get_archive",
            "DockerContainer.log",
            "DockerContainer.put_archive",
            "DockerContainers.prune",
            "DockerImages.build",
            "DockerImages.export_image",
            "DockerImages.import_image",
            "DockerImages.import_rootfs",
            "DockerImages.prune",
            "DockerImages.prune_builds",
            "DockerImages.pull",
            "DockerImages.push",
            "DockerNetworks.prune",
            "DockerVolumes.prune",
        ],
        LONG,
    ),
}
ARGUMENTS: dict[str, Any] = {
    "cmd": ["true"],
    "config": {"Image": "i"},
    "container_id": "c",
    "data": b"x",
    "from_image": "i",
    "h": 1,
    "id": "v",
    "name": "n",
    "net_specs": "n",
    "newname": "n",
    "path": "/",
    "private_port": 80,
    "repo": "r",
    "w": 1,
}
WITH: dict[str, dict[str, Any]] = {
    "DockerContainer.log": {"stdout": True},
    "DockerImages.build": {"fileobj": io.BytesIO()},
    "Exec.resize": {"h": 1},
}


class Silent(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError


async def silent_connector() -> Connection:
    await trio.sleep_forever()
    raise AssertionError


def client() -> Docker:
    docker = Docker("unix:///nowhere.sock", transport=Silent())
    docker.api.connector = silent_connector
    return docker


def nouns(docker: Docker) -> dict[str, Any]:
    """An object of each public class, by the class's name."""
    container = docker.containers.container("c")
    objects = [
        *(docker, docker.containers, docker.images, docker.networks, docker.volumes, docker.system),
        *(docker.events, container, container.logs, docker.containers.exec("e")),
        *(DockerNetwork(docker, "n"), DockerVolume(docker, "v")),
    ]
    return {type(each).__name__: each for each in objects}


CALLS = sorted(
    f"{cls}.{name}"
    for cls, each in nouns(client()).items()
    for name, _ in inspect.getmembers(type(each), inspect.isfunction)
    if not name.startswith("_") and f"{cls}.{name}" not in NO_CALLS
)


async def ask(docker: Docker, call: str, **options: Any) -> None:
    """Make the call with what it needs, and wait for what it waits for first."""
    cls, _, name = call.partition(".")
    method = getattr(nouns(docker)[cls], name)
    needed = [
        each.name
        for each in inspect.signature(method).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    result = method(**{each: ARGUMENTS[each] for each in needed}, **WITH.get(call, {}), **options)
    if isinstance(result, Awaitable):
        await result
    else:
        async with result:
            pass


@pytest.mark.filterwarnings("ignore:images.get:DeprecationWarning")
@pytest.mark.parametrize("call", CALLS)
async def test_every_call_ends(autojump_clock: MockClock, call: str) -> None:
    expected = EXPECTED.get(call, ORDINARY)
    begin = trio.current_time()
    with trio.move_on_after(100_000) as scope:
        if expected == math.inf:
            await ask(client(), call)
        else:
            with pytest.raises(DockerTimeoutError):
                await ask(client(), call)
    if expected == math.inf:
        assert scope.cancelled_caught
    else:
        assert trio.current_time() - begin == pytest.approx(expected)
    cls, _, name = call.partition(".")
    if "timeout" in inspect.signature(getattr(nouns(client())[cls], name)).parameters:
        begin = trio.current_time()
        with pytest.raises(DockerTimeoutError, match=r"within 2\.5 s"):
            await ask(client(), call, timeout=2.5)
        assert trio.current_time() - begin == pytest.approx(2.5)


def test_no_call_is_forgotten() -> None:
    assert len(CALLS) > 60
    assert set(EXPECTED) | set(WITH) <= set(CALLS)
    without = {
        call
        for call in CALLS
        if "timeout"
        not in inspect.signature(getattr(nouns(client())[call.split(".")[0]], call.split(".")[1])).parameters
    }
    # Whatever it gets are credentials; until it is open, and `patience`; passes its parameters on to `log`.
    assert without == {"Docker.auth", "DockerEvents.subscribe", "DockerLog.subscribe"}
