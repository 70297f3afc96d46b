"""Cancelled at every checkpoint, a lease leaves nothing: on the real engine, where what is left shows."""

import gc
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings, until_waiting
from supervisor.engine import Docker
from supervisor.reaping.engine_health import EngineHealth
from supervisor.sandbox.identity import LABEL_INSTANCE
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.providers import open_docker_provider, open_provider
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider
from supervisor.settings import Settings
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

LIMIT = 280.0  # seconds for all rounds of one test; a quiet machine takes a third of it


FEWEST = {"lifeline": 34, "attach": 36, "claim": 12, "local": 12}
"""Checkpoints: less than there are (37, 39, 13, 14) only by what comes in one piece or two; fewer say that
something is not tried any more."""


def descriptors() -> set[str]:
    """Open descriptors of this process, as what they are."""
    gc.collect()
    return {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.exists()}


def children() -> list[str]:
    """Child processes of this one, zombies included."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def tasks() -> Counter[str]:
    """Names of all tasks that there are, but for one that comes and goes whatever leases do: that which asks
    for a sign of life while the engine's health is looked at.
    """

    def below(task: trio.lowlevel.Task) -> Iterator[str]:
        yield task.name
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from below(child)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    watching = f"{EngineHealth.__module__}.EngineHealth._lacking.<locals>.watch"
    return Counter(name for name in below(root) if name != watching)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(f"\n{text}")


async def use(provider: SandboxProvider) -> None:
    """A lease with everything in it: output, input, a resize, the end."""
    request = LeaseRequest("test", ("sh", "-c", "echo ready; read line; exit 3"), hangup_grace=0.5)
    async with provider.lease(request) as terminal:
        while not (await terminal.receive_some()).startswith(b"ready"):
            pass
        await terminal.resize(100, 30)
        await terminal.send_all(b"go\r")
        while await terminal.receive_some():
            pass
        assert (await terminal.wait_closed()).code == 3


@pytest.mark.engine
@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_nothing_is_left_of_a_cancelled_lease(
    request: pytest.FixtureRequest, transport: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = docker_settings(request, transport=transport)
    open_before = descriptors()
    with (
        trio.fail_after(LIMIT),
        tempfile.TemporaryDirectory() as sockets,  # other supervisors may use the usual one
    ):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            Docker(settings.docker_host) as docker,
        ):
            containers = provider.containers
            containers.site = attrs.evolve(containers.site, sockets=Path(sockets))
            mine = {"label": [f"{LABEL_INSTANCE}={containers.site.identity.instance}"]}
            await use(provider)
            before = tasks()

            async def nothing_left() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert tasks() == before
                assert containers.pending.names() == []
                assert await docker.containers.list(all=True, filters=mine) == []
                assert os.listdir(sockets) == []  # noqa: PTH208 - an async function, and one directory

            begin = trio.current_time()
            count = await cancel_at_every_checkpoint(lambda: use(provider), nothing_left)
            say(capsys, f"{transport}: {count} checkpoints, {trio.current_time() - begin:.0f} s")
            assert count >= FEWEST[transport]
    assert descriptors() == open_before


@pytest.mark.engine
async def test_a_cancelled_claim_leaves_nothing_but_a_full_pool(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = docker_settings(request, transport="lifeline")
    with trio.fail_after(LIMIT):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            Docker(settings.docker_host) as docker,
            trio.open_nursery() as nursery,
        ):
            mine = {"label": [f"{LABEL_INSTANCE}={provider.estate.identity.instance}"]}
            pool = WarmPool(provider, 1, 600.0, 600.0)
            nursery.start_soon(pool.run)

            async def full() -> None:
                await until_waiting(pool, 1)
                await trio.testing.wait_all_tasks_blocked()
                assert len(await docker.containers.list(all=True, filters=mine)) == 1
                assert len(provider.containers.pending.names()) == 1
                assert provider.occupied == {}
                [usage] = pool.usages()
                assert 0 < usage.memory < usage.memory_limit == settings.memory_limit

            await full()
            await use(pool)
            await full()
            open_before = descriptors()
            count = await cancel_at_every_checkpoint(lambda: use(pool), full)
            say(capsys, f"claim: {count} checkpoints, {pool.statistics().warm} served warm")
            assert count >= FEWEST["claim"]
            assert pool.statistics().cold == 0
            assert len(descriptors()) <= len(open_before) + 2, "connections to the engine rest for a while"
            nursery.cancel_scope.cancel()


@pytest.mark.netns
async def test_nothing_is_left_of_a_cancelled_local_lease(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(LIMIT):
        async with open_provider(Settings(provider="local")) as provider:
            await use(provider)
            # Children that are there already are other tests' services.
            before, open_before, children_before = tasks(), descriptors(), children()

            async def nothing_left() -> None:
                assert tasks() == before
                assert descriptors() == open_before
                assert set(children()) <= set(children_before)

            count = await cancel_at_every_checkpoint(lambda: use(provider), nothing_left)
            say(capsys, f"local: {count} checkpoints")
            assert count >= FEWEST["local"]
