"""Stage `NETWORK`: a session on a bridge, with a neighbour, a port of the host, and a world outside that this
run has made.

Each try has a network of its own: with or without isolation, with egress kept or not.
"""

import functools
import secrets
from collections.abc import AsyncGenerator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from supervisor.attacks.attack import Attack, Defence, Outcome
from supervisor.attacks.cell import LIFETIME, made, tried, word
from supervisor.attacks.outside import (
    CDN,
    ENDPOINT,
    FOREIGN_RESOLVER,
    HOST_RESOLVER,
    METADATA,
    PRIVATE,
    UNLISTED,
)
from supervisor.attacks.weakened import weakened
from supervisor.egress import nftables
from supervisor.egress.watch import start_watch
from supervisor.measures import Measure
from supervisor.sandbox.containers import HardenedContainers, program
from supervisor.sandbox.egress import egress_plan
from supervisor.sandbox.network import BRIDGE_NAME, ICC, NetworkFacts, configuration, facts
from supervisor.sandbox.policy import DNS_PORT, Mount
from supervisor.settings import Settings

BRIDGES: Final = "tsa"
"""Prefix of the names of these networks' bridges."""
_PORT: Final = 7077
_EMBEDDED_RESOLVER: Final = "127.0.0.11"  # the engine's, in each container: what programs ask
_LISTED: Final = (
    "api.listed.example",
    "cdn.listed.example",
    "inward.listed.example",
    "private.listed.example",
)


@attrs.frozen
class Reach:
    """The stage. The world outside must be there: `world.world_outside`."""

    containers: HardenedContainers
    tools: Sequence[Mount]
    settings: Settings

    async def __call__(self, on: AbstractSet[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        """Try `attacks` with the defences `on`; see `cell.Try`."""
        site, pending = self.containers.site, self.containers.pending
        kept = Measure.EGRESS in on
        async with self._network(isolated=Measure.ISOLATION in on, kept=kept) as network:
            policy = attrs.evolve(
                self.containers.policy,
                network=network.name,
                # What the engine's own resolver asks in the container's name.
                resolver=network.gateway if kept else FOREIGN_RESOLVER,
                ports=(DNS_PORT, *self.settings.egress_ports),
            )
            containers = HardenedContainers(site, policy, pending)
            async with _neighbour(containers, self.tools) as neighbour, _host_port() as port:
                values = {
                    "endpoint": ENDPOINT,
                    "unlisted": UNLISTED,
                    "cdn": CDN,
                    "metadata": METADATA,
                    "private": PRIVATE,
                    "resolver": FOREIGN_RESOLVER,
                    "embedded": _EMBEDDED_RESOLVER,
                    "neighbour": f"{neighbour},{_PORT}",
                    "host": f"{network.gateway},{port}",
                }
                # Whoever has been asked for by name may be reached, so all that can be is.
                asked = [f"look-up={_EMBEDDED_RESOLVER},{DNS_PORT},{name}" for name in _LISTED]
                words = [word(each, values) for each in attacks]
                return await tried(containers, on, self.tools, asked, words)

    @asynccontextmanager
    async def _network(self, *, isolated: bool, kept: bool) -> AsyncGenerator[NetworkFacts]:
        docker = self.containers.site.docker
        name = f"ts-attack-{secrets.token_hex(4)}"
        wanted = configuration(name)
        wanted["Options"] |= {BRIDGE_NAME: BRIDGES + name[-8:], ICC: "true" if not isolated else "false"}
        network = await docker.networks.create(wanted)
        try:
            made = facts(name, await network.show())
            if not kept:
                yield made
                return
            plan = egress_plan(self.settings, made, docker.docker_host.removeprefix("unix://"))
            try:
                async with trio.open_nursery() as nursery:
                    await start_watch(plan, nursery)
                    yield made
                    nursery.cancel_scope.cancel()
            finally:
                with trio.move_on_after(10, shield=True):
                    await nftables.remove(plan)
        finally:
            with trio.move_on_after(10, shield=True):
                await network.delete()


@asynccontextmanager
async def _neighbour(containers: HardenedContainers, tools: Sequence[Mount]) -> AsyncGenerator[str]:
    """Another session's container, with a server in it; yields its address."""
    labels = containers.site.identity.labels("attack", LIFETIME)
    entry = [program("attacker"), "--serve", str(_PORT)]
    config = containers.policy.to_create_config(entry, labels=labels, mounts=tools)
    async with made(containers, weakened(config, ())) as container:
        await container.engine.start(timeout=None)
        shown = await container.engine.show(timeout=None)
        yield shown["NetworkSettings"]["Networks"][containers.policy.network]["IPAddress"]


@asynccontextmanager
async def _host_port() -> AsyncGenerator[int]:
    """A port of all of this host's addresses, as the supervisor's own may be."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"the host")

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, answer, 0, host="0.0.0.0")  # noqa: S104 - that is the point
        (listener,) = await nursery.start(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def egress_settings(settings: Settings) -> Settings:
    """Return `settings` for the world outside: its names, its resolver."""
    return attrs.evolve(
        settings,
        egress_domains=("*.listed.example",),
        egress_ports=(443,),
        egress_dns_servers=(HOST_RESOLVER,),
    )
