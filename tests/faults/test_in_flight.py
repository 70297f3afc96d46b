"""A supervisor is killed while a create call of its is under way: the engine obeys when nobody waits."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from faults.engine_proxy import proxied
from faults.supervised import containers_of, is_running, supervised
from faults.visitor import SessionOverError, visit
from supervisor.engine import Docker

pytestmark = pytest.mark.engine

CREATE = r"POST /v[\d.]+/containers/create"


async def call_in(url: str) -> None:
    """Ask for a session, and see the server go."""
    with suppress(SessionOverError, OSError):
        async with visit(url) as visitor:
            await visitor.read_to_end()


@pytest.mark.parametrize("guarded", [True, False], ids=["guard", "no-guard"])
async def test_a_create_in_flight_leaves_nothing(
    docker_host: str, workbench_image: str, tmp_path: Path, guarded: bool
) -> None:
    """The guard removes what comes of it; without one, the next start does, before its port opens."""
    with trio.fail_after(120):
        async with (
            Docker(docker_host) as docker,
            proxied(tmp_path, docker_host) as proxy,
            supervised(f"unix://{proxy.path}", tmp_path, WARM_POOL_SIZE="0") as one,
            trio.open_nursery() as nursery,
        ):
            instance, [guard] = one.instance, one.guards()
            proxy.call, proxy.trouble = CREATE, "flight"
            nursery.start_soon(call_in, one.url)
            while not proxy.troubled:
                await trio.sleep(0.01)
            if not guarded:
                os.kill(guard, signal.SIGKILL)
            one.kill()
            while is_running(one.process.pid) or (not guarded and is_running(guard)):
                await trio.sleep(0.01)
            assert await containers_of(docker, instance) == set(), "the engine has not heard of it yet"
            proxy.landing.set()
            if guarded:
                while is_running(guard):
                    await trio.sleep(0.05)
                removed = one.log.read_text().count("guard removed containers of a dead supervisor")
                assert removed == 1, "it was there"
            else:
                while not await containers_of(docker, instance):
                    await trio.sleep(0.05)
                async with supervised(docker_host, tmp_path):
                    assert await containers_of(docker, instance) == set(), "before its port opened"
            assert await containers_of(docker, instance) == set()
