"""Egress of real session containers, at a real engine; the world outside is a network namespace, and a rule
keeps every packet of these tests on this machine.
"""

import json
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
from conftest import opt_outs
from sandbox.conftest import docker_settings, execute, until_waiting

from egress.world import VISITOR, Attempt, words
from supervisor.attacks.outside import (
    CDN,
    ENDPOINT,
    FOREIGN_RESOLVER,
    HOST_RESOLVER,
    METADATA,
    NAME_SERVERS,
    PRIVATE,
    SERVERS,
    UNLISTED,
)
from supervisor.attacks.world import connect_outside, ip, namespace, nft_table, serving, set_kernel
from supervisor.egress import nftables
from supervisor.egress.events import EgressEvent
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import Measure
from supervisor.observability.audit import BURST
from supervisor.observability.redaction import session_digest
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.network import ensure_network
from supervisor.sandbox.network_command import network_down, network_status, network_up
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.netns]

LISTED, TENANT = "api.listed.example", "tenant.other.example"
EMBEDDED = "127.0.0.11"
LIMIT = 120.0
PATIENCE = 3.0  # seconds of a busy machine's, beyond what is promised
REQUEST = LeaseRequest("egress-test", ("sleep", "60"), lifetime=60.0)

ATTACKS: tuple[tuple[Attempt, str], ...] = (
    (("tls", UNLISTED, 443, LISTED), f"outside {UNLISTED} 443"),
    (("tcp", UNLISTED, 80, ""), f"outside {UNLISTED} 80"),
    (("udp", UNLISTED, 443, ""), f"outside {UNLISTED} 443"),
    (("tcp", ENDPOINT, 7007, ""), f"outside {ENDPOINT} 7007"),
    (("tls", CDN, 443, TENANT), f"outside {CDN} 443"),
    (("dns", FOREIGN_RESOLVER, 53, "unlisted.example"), UNLISTED),
    (("dns-tcp", FOREIGN_RESOLVER, 53, "unlisted.example"), UNLISTED),
    (("tcp", METADATA, 80, ""), f"outside {METADATA} 80"),
    (("tls", PRIVATE, 443, LISTED), f"outside {PRIVATE} 443"),
)


@contextmanager
def nothing_leaves(device: str) -> Iterator[None]:
    """Drop, wherever it comes from, what is for a test's address and does not go to the world outside."""
    table = f"ts-test-{device}"
    addresses = ", ".join((*SERVERS, *NAME_SERVERS, "203.0.113.1"))
    chains = f"""
        chain leaving {{
            type filter hook postrouting priority 300; policy accept;
            ip daddr {{ {addresses} }} oifname != {{ "lo", "{device}" }} drop
        }}"""
    with nft_table(table, chains):
        yield


@pytest.fixture
async def outside(capable: None) -> AsyncIterator[list[str]]:
    """The world outside, next to this machine; yields what has arrived there."""
    tag = f"ts{secrets.token_hex(3)}"
    with namespace(tag) as prefix, nothing_leaves(tag):
        ip("link", "add", tag, "type", "veth", "peer", "name", "eth0", "netns", tag)
        try:
            connect_outside(tag, [], [], tag)
            async with serving(prefix) as arrived:
                yield arrived
        finally:
            ip("link", "delete", tag)


def egress_settings(request: pytest.FixtureRequest, network: str, **changes: object) -> Settings:
    values: dict[str, object] = {
        "network": network,
        "egress_domains": ("*.listed.example",),
        "egress_dns_servers": (HOST_RESOLVER,),
        "reconcile_interval": 1.0,
        "hardening_without": tuple(name for name in opt_outs() if name != "egress"),
    }
    return docker_settings(request, **{**values, **changes})


@asynccontextmanager
async def visiting(provider: DockerProvider) -> AsyncIterator["Visitor"]:
    async with provider.lease(REQUEST):
        yield Visitor(provider)


@attrs.frozen
class Visitor:
    """Tries things in the container of the session that is leased."""

    provider: DockerProvider

    async def attempts(self, *attempts: Attempt) -> list[str]:
        container = self.provider.occupied[REQUEST.session_id].container
        script = await trio.Path(VISITOR).read_text()
        status, output = await execute(container, "python3", "-c", script, *words(attempts))
        assert status == 0, output
        return output.replace("\r", "").split("\n")[:-1]


def denied(results: list[str]) -> bool:
    return all(not result or result.startswith("-") for result in results)


@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_a_session_reaches_listed_names_only(
    request: pytest.FixtureRequest, network_name: str, outside: list[str], transport: str
) -> None:
    events: list[EgressEvent] = []
    settings = egress_settings(request, network_name, transport=transport)
    with trio.fail_after(LIMIT):
        async with open_docker_provider(settings) as provider, visiting(provider) as visitor:
            assert provider.egress is not None
            provider.egress.listen(events.append)
            names = (LISTED, "cdn.listed.example", "inward.listed.example", "private.listed.example")
            asked = await visitor.attempts(*(("dns", EMBEDDED, 53, name) for name in names))
            assert asked == [ENDPOINT, CDN, METADATA, PRIVATE]
            outside.clear()
            # What the engine's own resolver is asked does not get out either.
            exfiltration = ("dns", EMBEDDED, 53, "c2VjcmV0.unlisted.example")
            assert await visitor.attempts(exfiltration) == ["NXDOMAIN"]
            assert denied(await visitor.attempts(*(attack for attack, _ in ATTACKS)))
            assert outside == []
            assert await visitor.attempts(("tls", ENDPOINT, 443, LISTED)) == [f"outside {ENDPOINT} 443"]
            owners = {provider.session_at(event.source) for event in events}
            assert owners == {(provider.occupied[REQUEST.session_id].name, REQUEST.session_id)}
    assert "c2VjcmV0.unlisted.example" in {event.name for event in events}


async def test_what_is_denied_is_in_the_audit_log_with_its_session(
    request: pytest.FixtureRequest, network_name: str, outside: list[str], audit_log: Path
) -> None:
    secret, nobody = "c2VjcmV0.unlisted.example", "fd00:7::9"
    events: list[EgressEvent] = []

    def told() -> list[dict[str, object]]:
        lines = audit_log.read_text().splitlines() if audit_log.exists() else []
        assert not any(REQUEST.session_id in line for line in lines)
        return [each for each in map(json.loads, lines) if each["event"] == "egress denied"]

    with trio.fail_after(LIMIT):
        async with (
            open_docker_provider(egress_settings(request, network_name), verify=False) as provider,
            visiting(provider) as visitor,
        ):
            assert provider.egress is not None
            provider.egress.listen(events.append)
            sandbox = provider.occupied[REQUEST.session_id]
            assert await visitor.attempts(("dns", EMBEDDED, 53, secret)) == ["NXDOMAIN"]
            assert denied(await visitor.attempts(("udp", UNLISTED, 443, "")))
            # The engine gives sessions no IPv6. One that had it nevertheless:
            inside = ["nsenter", f"--net=/proc/{sandbox.pid}/ns/net", "--"]
            set_kernel(inside, "net.ipv6.conf.eth0.disable_ipv6=0")
            address = ("fd00:7::2/64", "dev", "eth0", "nodad")
            await trio.run_process([*inside, "ip", "address", "add", *address])
            command = [*inside, sys.executable, "-I", str(VISITOR), *words([("tcp", nobody, 7007, "")])]
            await trio.run_process(command, capture_stdout=True)
            wanted = {
                (secret, "", "dns", 53, "a name that is not listed"),
                ("", UNLISTED, "udp", 443, "neither TCP nor DNS"),
                ("", nobody, "icmpv6", 0, "IPv6"),
            }
            keys = ("name", "destination", "protocol", "port", "reason")
            while not wanted <= {tuple(each[key] for key in keys) for each in told()}:
                await trio.sleep(0.02)
            # Who is denied without end is told of a few times a minute.
            events.clear()
            assert denied(await visitor.attempts(*[("udp", UNLISTED, 443, "")] * 2 * BURST))
            while len(events) <= BURST:
                await trio.sleep(0.02)
            assert len(told()) == BURST
            assert {(each["session"], each["container"], each["severity"]) for each in told()} == {
                (session_digest(REQUEST.session_id), sandbox.name, "warning")
            }


@asynccontextmanager
async def host_firewall(settings: Settings, hook: str) -> AsyncIterator[str]:
    """A chain of the host's own that drops by default, as far as it is about the sessions' bridge; yields the
    bridge.
    """
    async with Docker(settings.docker_host) as docker:
        bridge = (await ensure_network(docker, settings)).bridge
    table = f"ts-test-{bridge}"
    devices = ["iifname"] if hook == "input" else ["iifname", "oifname"]
    others = " ".join(f'{device} != "{bridge}"' for device in devices)
    rules = f"""table inet {table} {{
        chain unknown {{
            type filter hook {hook} priority filter; policy drop;
            {others} accept
        }}
    }}"""
    await nftables.apply(rules)
    try:
        yield bridge
    finally:
        with trio.CancelScope(shield=True):  # a call has a deadline
            await nftables.apply(f"delete table inet {table}")


async def test_a_host_that_drops_what_it_does_not_know_is_told_what_to_let_through(
    request: pytest.FixtureRequest, network_name: str, outside: list[str]
) -> None:
    settings = egress_settings(request, network_name)
    with trio.fail_after(LIMIT):
        async with host_firewall(settings, "input") as bridge:
            with pytest.raises(ConfigurationError) as caught:
                async with open_docker_provider(settings):
                    raise AssertionError
    for part in ("egress of the network", bridge, "firewall", "10053", "10443"):
        assert part in str(caught.value)


async def test_a_host_that_forwards_nothing_has_sessions_all_the_same(
    request: pytest.FixtureRequest, network_name: str, outside: list[str]
) -> None:
    """What sessions send is never forwarded."""
    settings = egress_settings(request, network_name)
    attempts = (("dns", EMBEDDED, 53, LISTED), ("tls", ENDPOINT, 443, LISTED))
    with trio.fail_after(LIMIT):
        async with (
            host_firewall(settings, "forward"),
            open_docker_provider(settings) as provider,
            visiting(provider) as visitor,
        ):
            found = [(await visitor.attempts(each))[0] for each in attempts]
            assert found == [ENDPOINT, f"outside {ENDPOINT} 443"]


def told(pool: WarmPool) -> tuple[bool, bool]:
    """Return what is said: whether egress is filtered, and whether the network is ready."""
    return pool.security.holds(Measure.EGRESS), pool.security.network_ready


async def test_flushed_rules_stop_new_sessions_cold_and_warm(
    request: pytest.FixtureRequest, network_name: str, outside: list[str]
) -> None:
    settings = egress_settings(request, network_name)
    with trio.fail_after(LIMIT):
        async with open_docker_provider(settings) as provider:
            watch = provider.egress
            assert watch is not None
            pool = WarmPool(provider, 1, 600.0, 600.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run)
                await until_waiting(pool, 1)
                assert told(pool) == (True, True)
                await nftables.remove(watch.plan)
                with trio.fail_after(settings.reconcile_interval + PATIENCE):
                    while watch.problem is None:
                        await trio.sleep(0.01)
                assert told(pool) == (False, False)
                for each in (pool, provider):
                    with pytest.raises(SandboxError, match="not safe"):
                        async with each.lease(REQUEST):
                            pass
                assert pool.statistics().waiting == 1
                await watch.wait_ready()
                assert told(pool) == (True, True)
                async with pool.lease(REQUEST):
                    assert pool.statistics().warm == 1
                nursery.cancel_scope.cancel()


async def test_the_network_is_put_up_and_taken_down_by_command(
    request: pytest.FixtureRequest, network_name: str, outside: list[str]
) -> None:
    settings = egress_settings(request, network_name)
    with trio.fail_after(LIMIT):
        assert (await network_status(settings)).keeper == 0
        up = await network_up(settings)
        try:
            assert up.problem is None
            assert "ready" in str(up)
            assert (await network_up(settings)).keeper == up.keeper
            # A supervisor with other settings does not take it for its own.
            with pytest.raises(ConfigurationError, match="domains"):
                async with open_docker_provider(attrs.evolve(settings, egress_domains=("other.example",))):
                    pass
            async with (
                open_docker_provider(settings, verify=False) as provider,
                visiting(provider) as visitor,
            ):
                assert provider.egress is not None
                assert provider.egress.keeper == up.keeper
                assert denied(await visitor.attempts(("tcp", UNLISTED, 80, "")))
            status = await network_status(settings)
            assert status.keeper == up.keeper
            assert status.denied
        finally:
            assert len(await network_down(settings)) == 3
        assert await nftables.listing(up.plan) is None
