"""The sessions' network: made once, never taken over, and proved to isolate by packets that do not arrive."""

from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings, execute
from supervisor.engine import Docker, DockerError, DockerNetwork
from supervisor.errors import ConfigurationError
from supervisor.sandbox.containers import program
from supervisor.sandbox.isolation import PORT, prove_isolation
from supervisor.sandbox.network import (
    OPTIONS,
    SECURITY_LABEL,
    NetworkFacts,
    differences,
    ensure_network,
)
from supervisor.sandbox.providers import open_docker_provider
from supervisor.settings import Settings

LIMIT = 60.0
BRIDGE = "com.docker.network.bridge"

GOOD: dict[str, Any] = {
    "Name": "n",
    "Id": "0",
    "Driver": "bridge",
    "EnableIPv6": False,
    "Attachable": False,
    "Options": dict(OPTIONS),
    "Labels": dict(SECURITY_LABEL),
}


def test_a_good_network() -> None:
    assert differences(GOOD) == []
    assert differences({**GOOD, "Options": {**OPTIONS, f"{BRIDGE}.name": "b"}}) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"Driver": "host"}, "driver: host instead of bridge"),
        ({"EnableIPv6": True}, "IPv6: True instead of False"),
        ({"Attachable": True}, "attachable: True instead of False"),
        (
            {"Options": {**OPTIONS, "com.docker.network.bridge.enable_icc": "true"}},
            "enable_icc: true instead",
        ),
        (
            {"Options": {"com.docker.network.bridge.enable_icc": "false"}},
            "host_binding_ipv4: not set instead",
        ),
        ({"Options": None}, "enable_icc: not set"),
        ({"Labels": None}, "security-level: not set instead of restricted"),
    ],
)
def test_a_bad_network(change: dict[str, Any], complaint: str) -> None:
    assert complaint in "; ".join(differences({**GOOD, **change}))


@pytest.mark.engine
async def test_it_is_made_once(docker_host: str, network_name: str) -> None:
    settings = Settings(docker_host=docker_host, network=network_name)
    found: list[NetworkFacts] = []
    with trio.fail_after(LIMIT):
        async with Docker(docker_host) as docker:

            async def ensure() -> None:
                found.append(await ensure_network(docker, settings))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(ensure)
            await ensure()
            assert len(set(found)) == 1
            shown = await (await docker.networks.get(network_name)).show()
            assert shown["Options"] == OPTIONS
            assert shown["Labels"]["security-level"] == "restricted"


@pytest.mark.engine
async def test_two_of_one_name_are_of_no_use(docker_host: str, network_name: str) -> None:
    """Engines before API 1.44 have them, when others than supervisors make them."""
    made: list[DockerNetwork] = []
    with trio.fail_after(LIMIT):
        async with Docker(docker_host) as docker:
            for _ in range(2):
                config = {"Name": network_name, "Driver": "bridge", "CheckDuplicate": False}
                with suppress(DockerError):  # 409
                    made.append(await docker.networks.create(config))
            complaint = "networks called" if len(made) == 2 else "enable_icc"
            try:
                with pytest.raises(ConfigurationError, match=complaint):
                    await ensure_network(docker, Settings(network=network_name))
            finally:
                for network in made:
                    await network.delete()


@pytest.mark.engine
async def test_another_ones_network_is_not_taken(docker_host: str, network_name: str) -> None:
    settings = Settings(docker_host=docker_host, network=network_name)
    with trio.fail_after(LIMIT):
        async with Docker(docker_host) as docker:
            await docker.networks.create({"Name": network_name, "Driver": "bridge"})
            with pytest.raises(ConfigurationError) as caught:
                await ensure_network(docker, settings)
            shown = await (await docker.networks.get(network_name)).show()
    text = str(caught.value)
    assert all(
        part in text for part in ("enable_icc", "host_binding_ipv4", "security-level", "docker network rm")
    )
    assert shown["Options"] == {}, "it is left as it was"


@pytest.mark.engine
async def test_no_network_needs_none(docker_host: str) -> None:
    async with Docker(docker_host) as docker:
        assert await ensure_network(docker, Settings(network="none")) == NetworkFacts("none", "")


@pytest.mark.engine
async def test_containers_on_it_do_not_reach_each_other(
    request: pytest.FixtureRequest, network_name: str
) -> None:
    settings = docker_settings(request, network=network_name)
    with trio.fail_after(LIMIT):
        async with open_docker_provider(settings, verify=False) as provider:
            await prove_isolation(provider.containers)
            assert provider.containers.pending.names() == []


@pytest.mark.engine
async def test_where_they_do_it_is_noticed(
    request: pytest.FixtureRequest, docker_host: str, network_name: str
) -> None:
    with trio.fail_after(LIMIT):
        async with (
            Docker(docker_host) as docker,
            open_docker_provider(docker_settings(request), verify=False) as provider,
        ):
            await docker.networks.create({"Name": network_name, "Driver": "bridge"})
            provider.containers.policy = attrs.evolve(provider.containers.policy, network=network_name)
            with pytest.raises(ConfigurationError, match=r"reach each other \(TCP and UDP\).*br_netfilter"):
                await prove_isolation(provider.containers)


@pytest.mark.engine
async def test_a_check_that_proves_nothing_does_not_pass(request: pytest.FixtureRequest) -> None:
    """On the loopback alone there is no neighbour: silence would be no proof."""
    async with open_docker_provider(docker_settings(request), verify=False) as provider:
        containers = provider.containers
        with trio.fail_after(LIMIT):
            async with containers.create(
                [program("netprobe"), "listen", str(PORT), "30"],
                role="test",
                lifetime=30,
                mounts=containers.site.program_mounts("netprobe"),
            ) as container:
                await container.start()
                probe = program("netprobe")
                assert await execute(container.engine, probe, "contact", "127.0.0.1", str(PORT), "500") == (
                    3,
                    "",
                )
                assert await execute(container.engine, probe, "contact", "127.0.0.1", "9", "200") == (0, "")
                assert await execute(container.engine, probe, "contact", "192.0.2.1", str(PORT), "200") == (
                    0,
                    "",
                )
                assert await execute(container.engine, probe, "contact", "nowhere", str(PORT), "200") == (
                    64,
                    "",
                )
                assert await execute(container.engine, probe) == (64, "")
