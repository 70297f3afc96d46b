"""The last look at a container that is claimed, by files as kernels write them; and on the real engine."""

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from sandbox.conftest import docker_settings, until_waiting
from supervisor.engine import Docker, DockerError, DockerNetwork
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.waiting import unfit

HEAD = "Inter-|   Receive  |  Transmit\n face |bytes    packets |bytes\n"
LO = "    lo:       0       0    0\n"
ETH = "  eth0:     936      12    0\n"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    process = tmp_path / "proc/7"
    (process / "net").mkdir(parents=True)
    (process / "net/dev").write_text(HEAD + LO + ETH)
    (process / "cgroup").write_text("7:freezer:/docker/abc\n0::/docker/abc\n")
    (tmp_path / "cgroup/freezer/docker/abc").mkdir(parents=True)
    (tmp_path / "cgroup/docker/abc").mkdir(parents=True)
    return tmp_path


def look(host: Path, *, networked: bool = True) -> str | None:
    return unfit(7, networked=networked, proc=host / "proc", cgroups=host / "cgroup")


def test_one_that_is_well(host: Path) -> None:
    assert look(host) is None
    (host / "cgroup/freezer/docker/abc/freezer.state").write_text("THAWED\n")
    (host / "cgroup/docker/abc/cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert look(host) is None


def test_one_without_its_network(host: Path) -> None:
    (host / "proc/7/net/dev").write_text(HEAD + LO)
    assert "network" in (look(host) or "")
    assert look(host, networked=False) is None


def test_one_in_a_network_that_is_not_its_own(host: Path) -> None:
    file = host / "proc/7/net/dev"
    file.write_text(HEAD + LO + ETH + ETH.replace("eth0", "eth1"))
    assert "eth1" in (look(host) or "")
    assert "eth0, eth1" in (look(host, networked=False) or "")
    file.write_text(HEAD + LO + ETH)
    assert "eth0" in (look(host, networked=False) or "")
    file.write_text(HEAD + LO + ETH + ETH.replace("eth0", "sit0"))  # some kernels put these everywhere
    assert look(host) is None


@pytest.mark.parametrize("state", ["FROZEN", "FREEZING"])
def test_one_that_is_frozen_on_cgroup_version_1(host: Path, state: str) -> None:
    (host / "cgroup/freezer/docker/abc/freezer.state").write_text(f"{state}\n")
    assert "frozen" in (look(host) or "")


def test_one_that_is_frozen_on_cgroup_version_2(host: Path) -> None:
    (host / "cgroup/docker/abc/cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert "frozen" in (look(host) or "")


def test_one_that_has_ended(tmp_path: Path) -> None:
    assert unfit(7, networked=True, proc=tmp_path) == "it has ended"


@asynccontextmanager
async def another_network(docker: Docker, name: str) -> AsyncGenerator[DockerNetwork]:
    network = await docker.networks.create({"Name": f"{name}-elsewhere"})
    try:
        yield network
    finally:
        while True:  # as long as a container is in it
            try:
                await network.delete()
                break
            except DockerError:
                await trio.sleep(0.1)


@pytest.mark.engine
@pytest.mark.parametrize("trouble", ["pause", "disconnect", "connect", "update"])
async def test_one_that_somebody_meddled_with_is_replaced_and_never_served(
    request: pytest.FixtureRequest, docker_host: str, network_name: str, trouble: str
) -> None:
    settings = docker_settings(request, network=network_name)
    with trio.fail_after(90):
        async with (
            Docker(docker_host) as docker,
            open_docker_provider(settings, verify=False) as provider,
            AsyncExitStack() as stack,
            trio.open_nursery() as nursery,
        ):
            pool = WarmPool(provider, 1, 600.0, 600.0)
            nursery.start_soon(pool.run)
            await until_waiting(pool, 1)
            [name] = provider.containers.pending.names()
            container = docker.containers.container(name)
            match trouble:
                case "pause":
                    await container.pause()
                case "disconnect":
                    network = await docker.networks.get(network_name)
                    await network.disconnect({"Container": name, "Force": True})
                case "connect":
                    elsewhere = await stack.enter_async_context(another_network(docker, network_name))
                    await elsewhere.connect({"Container": name})
                case _:
                    await docker.api.done("POST", f"containers/{name}/update", body={"PidsLimit": 100})
                    while not pool.statistics().replaced:
                        await trio.sleep(0.02)
            # At once: the event may not have been heard yet.
            async with pool.lease(LeaseRequest("test", ("bash", "-c", "cat /proc/net/dev"))) as terminal:
                output = b""
                while piece := await terminal.receive_some():
                    output += piece
                assert (await terminal.wait_closed()).code == 0
                assert b"eth0" in output
                assert b"eth1" not in output
            if trouble != "pause":  # one that was thawed in time may serve
                assert pool.statistics().warm == 0 or pool.statistics().replaced
            nursery.cancel_scope.cancel()


@pytest.mark.engine
async def test_the_look_costs_next_to_nothing(request: pytest.FixtureRequest, network_name: str) -> None:
    settings = docker_settings(request, network=network_name)
    with trio.fail_after(60):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            provider.prepare(60.0) as sandbox,
        ):
            unfit(sandbox.pid, networked=True)
            began = time.perf_counter()
            for _ in range(200):
                assert unfit(sandbox.pid, networked=True) is None
            print(f"\na look at a claim takes {(time.perf_counter() - began) / 200 * 1e6:.0f} us")


@pytest.mark.engine
async def test_the_image_is_that_of_the_start_whatever_its_name_means_by_now(
    request: pytest.FixtureRequest, docker_host: str
) -> None:
    async with Docker(docker_host) as docker:
        base = await docker.images.inspect(request.getfixturevalue("workbench_image"))
        other = await docker.images.inspect(request.getfixturevalue("sandbox_image"))
        await docker.images.tag(base["Id"], repo="ts-test-moving", tag="latest")
        try:
            with trio.fail_after(90):
                async with (
                    open_docker_provider(
                        docker_settings(request, image="ts-test-moving:latest"), verify=False
                    ) as provider,
                    trio.open_nursery() as nursery,
                ):
                    pool = WarmPool(provider, 1, 600.0, 600.0)
                    nursery.start_soon(pool.run)
                    await until_waiting(pool, 1)
                    await docker.images.tag(other["Id"], repo="ts-test-moving", tag="latest")
                    for _ in range(2):  # warm, then warm or cold
                        async with pool.lease(LeaseRequest("test", ("bash", "-c", "exit 3"))) as terminal:
                            assert (await terminal.wait_closed()).code == 3, "the other image has no bash"
                    assert provider.unavailable is None
                    nursery.cancel_scope.cancel()
        finally:
            await docker.images.delete("ts-test-moving:latest", force=True)
