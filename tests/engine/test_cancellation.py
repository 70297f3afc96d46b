"""Cancellation: at every checkpoint of each kind of call, and in a storm of random moments.

`ENGINE_CANCEL_STORM` is the number of cancellations of the storm (default 1000; the full proof is 10000).
"""

import logging
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from engine.conftest import IMAGE, LABEL
from engine.standin import MULTIPLEXED, Request, StandIn, chunked, reply
from supervisor.engine import Docker, DockerContainer, DockerError, EngineTransport
from supervisor.engine.transport import MAX_IDLE
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

log = logging.getLogger(__name__)
STORM = int(os.environ.get("ENGINE_CANCEL_STORM", "1000"))


def descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def idle(docker: Docker) -> int:
    """Assert that no connection is in use; return how many rest."""
    assert isinstance(docker.api.transport, EngineTransport)
    statistics = docker.api.transport.statistics()
    assert statistics.in_use == 0
    return statistics.idle


def config(label: str, *command: str, tty: bool = False) -> dict[str, object]:
    return {
        "Image": IMAGE,
        "Cmd": list(command) or ["sleep", "600"],
        "Tty": tty,
        "OpenStdin": True,
        "Labels": {LABEL: label},
        "HostConfig": {"NetworkMode": "none", "Init": True},
    }


class Engine:
    """Scripts a stand-in that keeps containers, so that a lost one can be seen."""

    def __init__(self, standin: StandIn) -> None:
        self.containers: set[str] = set()
        self.made = 0
        standin.answer("POST", "/containers/create", self.create)
        standin.answer("GET", "/containers/x/json", reply(200, {"Id": "x", "Config": {"Tty": False}}))
        standin.answer("POST", "/containers/x/attach", self.stream)
        standin.answer("POST", "/containers/x/exec", reply(201, {"Id": "e"}))
        standin.answer("POST", "/exec/e/start", self.stream)
        standin.answer("GET", "/containers/x/logs", chunked(b"\1\0\0\0\0\0\0\1a", b"\1\0\0\0\0\0\0\1b"))
        standin.answer("POST", "/images/create", chunked(b"{}\n", b"{}\n"))
        standin.answer("PUT", "/containers/x/archive", reply(200))
        standin.answer("GET", "/images/i/get", chunked(b"x" * 1000, b"y" * 1000))
        standin.answer("GET", "/events", chunked(b'{"timeNano": 1}\n', b'{"timeNano": 2}\n'))
        for number in range(1, 300):
            standin.answer("DELETE", f"/containers/c{number}", self.delete)
            standin.answer("POST", f"/containers/c{number}/start", reply(204))

    async def create(self, request: Request, stream: trio.SocketStream) -> None:
        self.made += 1
        name = f"c{self.made}"
        self.containers.add(name)
        await stream.send_all(reply(201, {"Id": name, "Warnings": []}))

    async def delete(self, request: Request, stream: trio.SocketStream) -> None:
        self.containers.remove(request.path.rsplit("/", 1)[1])
        await stream.send_all(reply(204))

    async def stream(self, request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(MULTIPLEXED + b"\1\0\0\0\0\0\0\1a")
        while await stream.receive_some():
            pass
        await stream.aclose()


async def _create(docker: Docker) -> None:
    container = await docker.containers.create({})
    with trio.CancelScope(shield=True):
        await container.delete()


async def _run(docker: Docker) -> None:
    container = await docker.containers.run({"Image": "i"})
    with trio.CancelScope(shield=True):
        await container.delete()


async def _attach(docker: Docker) -> None:
    async with docker.containers.container("x").attach(stdout=True, stdin=True) as stream:
        await stream.write_in(b"x")
        await stream.read_out()
        await stream.send_eof()
        assert await stream.read_out() is None


async def _exec(docker: Docker) -> None:
    execution = await docker.containers.container("x").exec(["true"])
    async with execution.start() as stream:
        await stream.receive_some()


async def _progress(docker: Docker) -> None:
    await docker.images.pull("i")
    await docker.containers.container("x").log(stdout=True)
    async with docker.images.export_image("i") as content:
        await content.read()


async def _archive(docker: Docker) -> None:
    await docker.containers.container("x").put_archive("/", b"x" * 100_000)


async def _events(docker: Docker) -> None:
    async with docker.events.subscribe(reconnect=False) as events:
        async for _ in events:
            pass


@pytest.mark.parametrize("scenario", [_create, _run, _attach, _exec, _progress, _archive, _events])
async def test_at_every_checkpoint_of_each_kind_of_call(
    standin: StandIn, scenario: Callable[[Docker], Awaitable[None]]
) -> None:
    engine = Engine(standin)

    async def fresh() -> None:
        # Negotiation and the first connection are part of it.
        async with Docker(standin.url, timeout=5) as docker:
            try:
                await scenario(docker)
            finally:
                idle(docker)

    async def nothing_is_left() -> None:
        while standin.open:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert engine.containers == set()

    with trio.fail_after(30):
        assert await cancel_at_every_checkpoint(fresh, nothing_is_left) > 2


@pytest.mark.engine
async def test_creating_on_the_real_engine_at_every_checkpoint(docker: Docker, label: str) -> None:
    async def create_without_a_name() -> None:
        container = await docker.containers.create(config(label))
        with trio.CancelScope(shield=True):
            await container.delete()

    async def nothing_is_left() -> None:
        assert await docker.containers.list(all=True, filters={"label": f"{LABEL}={label}"}) == []
        idle(docker)

    with trio.fail_after(60):
        assert await cancel_at_every_checkpoint(create_without_a_name, nothing_is_left) > 2


@pytest.mark.engine
async def test_a_sessions_life_on_the_real_engine_at_every_checkpoint(docker: Docker, label: str) -> None:
    await docker.version()
    before = descriptors()
    names: list[str] = []

    async def life() -> None:
        names.append(f"{LABEL}-{label}-{len(names)}")
        container = docker.containers.container(names[-1])
        try:
            await docker.containers.create(config(label, "sh", tty=True), name=names[-1])
            async with container.attach(stdin=True, stdout=True, stderr=True, tty=True) as stream:
                await container.start()
                await container.resize(h=24, w=80)
                await stream.send_all(b"exit 3\n")
                while await stream.receive_some():
                    pass
            assert (await container.wait())["StatusCode"] == 3
        finally:
            with trio.move_on_after(10, shield=True):
                try:
                    await container.delete(force=True)
                except DockerError as error:
                    if error.status != 404:
                        raise

    async def nothing_is_left() -> None:
        assert await docker.containers.list(all=True, filters={"label": f"{LABEL}={label}"}) == []
        assert descriptors() - idle(docker) <= before

    with trio.fail_after(110):
        checkpoints = await cancel_at_every_checkpoint(life, nothing_is_left, resumptions=False)
    assert checkpoints > 10  # output that comes in one piece has fewer


class Storm:
    """Random calls, each cancelled after up to `longest` seconds (mostly much less), until `enough` were."""

    def __init__(
        self, docker: Docker, label: str, targets: list[DockerContainer], enough: int, longest: float
    ) -> None:
        self.cancelled: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self._docker = docker
        self._label = label
        self._target, self._archived, self._executing = targets
        self._enough = enough
        self._longest = longest
        self._random = random.Random(7)
        often = [self.listing, self.inspect, self.inspect, self.images, self.creation, self.attach, self.logs]
        self._calls = [*often, *often, *often, self.events, self.archive, self.execution]

    async def worker(self) -> None:
        while self.cancelled.total() < self._enough:
            call = self._random.choice(self._calls)
            with trio.move_on_after(self._random.random() ** 3 * self._longest) as scope:
                await call()
            (self.cancelled if scope.cancelled_caught else self.finished)[call.__name__] += 1

    async def every_call_once(self) -> None:
        for call in set(self._calls):
            await call()

    async def listing(self) -> None:
        await self._docker.containers.list(all=True)

    async def inspect(self) -> None:
        await self._docker.containers.get(self._target.id)

    async def images(self) -> None:
        await self._docker.images.list()

    async def creation(self) -> None:
        container = await self._docker.containers.create(config(self._label))
        with trio.CancelScope(shield=True):
            await container.delete(force=True)

    async def attach(self) -> None:
        async with self._target.attach(stdin=True, stdout=True) as stream:
            await stream.send_all(b"x\n")
            await stream.receive_some()

    async def execution(self) -> None:
        execution = await self._executing.exec(["true"])
        async with execution.start() as stream:
            await stream.receive_some()

    async def archive(self) -> None:
        (await self._archived.get_archive("/etc/hostname")).close()

    async def logs(self) -> None:
        await self._target.log(stdout=True, tail=1)

    async def events(self) -> None:
        async with self._docker.events.subscribe(since=1, until=2) as events:
            assert await events.get() is None


@pytest.mark.engine
async def test_after_a_storm_of_cancellations_everything_still_works(docker: Docker, label: str) -> None:
    # An engine does one thing after the other to a container; so that not everything waits for the execs,
    # there are three.
    targets = [await docker.containers.create(config(label, "cat")) for _ in range(3)]
    for target in targets:
        await target.start()
    storm = Storm(docker, label, targets, STORM, longest=0.3)
    before = descriptors()
    with trio.fail_after(30 + STORM / 20):
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(storm.worker)
        took = trio.current_time() - begin
        log.info("%d cancelled, %d finished in %.1f s", storm.cancelled.total(), storm.finished.total(), took)
        log.info("cancelled %s, finished %s, then %r", dict(storm.cancelled), dict(storm.finished), docker)
        assert idle(docker) <= MAX_IDLE
        assert descriptors() <= before + MAX_IDLE
        left = await docker.containers.list(all=True, filters={"label": f"{LABEL}={label}"})
        assert {container.id for container in left} == {target.id for target in targets}
        await storm.every_call_once()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(storm.inspect)
