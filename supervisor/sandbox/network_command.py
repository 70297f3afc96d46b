"""What `terminal-supervisor network` does: put the sessions' network and its egress up, take them down, look.

For supervisors that are not root: root puts the network up once, and its keeper stays. For all others it is a
way to look, and to have sessions' connections outlive the supervisor.
"""

from contextlib import suppress
from typing import Final

import attrs
import trio

from supervisor.egress import nftables
from supervisor.egress.rules import Plan
from supervisor.egress.watch import EgressWatch, may_start, start_keeper, stop_keeper
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.sandbox.egress import egress_plan
from supervisor.sandbox.network import NO_NETWORK, NetworkFacts, ensure_network
from supervisor.settings import Settings

_LOOK_TIMEOUT: Final = 3.0  # seconds for a keeper to say how things stand
_READY_TIMEOUT: Final = 20.0
_PAUSE: Final = 0.1


@attrs.frozen
class NetworkStatus:
    """How a network stands.

    Attributes:
        plan: of its egress.
        keeper: process id, 0 without one.
        problem: why no session may start; None when one may.
        denied: packets denied since the rules were put in place; None where they cannot be asked for.
    """

    plan: Plan
    keeper: int
    problem: str | None
    denied: int | None

    def __str__(self) -> str:
        keeper = f"process {self.keeper}" if self.keeper else "nobody"
        return "\n".join(
            [
                f"network  {self.plan.network} (bridge {self.plan.bridge}, {self.plan.gateway})",
                f"egress   {', '.join(self.plan.domains)}; ports {', '.join(map(str, self.plan.ports))}",
                f"kept by  {keeper}",
                f"denied   {'not known' if self.denied is None else self.denied} packets",
                f"state    {self.problem or 'ready'}",
            ]
        )


async def network_up(settings: Settings) -> NetworkStatus:
    """Make the network, have its egress kept by a process that stays, and wait until it is. Again is no harm.

    Raises:
        ConfigurationError: it cannot be had; the text says what is missing.
    """
    plan = await _plan(settings)
    if not may_start():
        raise ConfigurationError("network up sets rules of this host: it needs root")
    await start_keeper(plan, stay=True)
    return await _look(plan, _READY_TIMEOUT)


async def network_down(settings: Settings) -> list[str]:
    """End the keeper, remove the rules and the network; return what was done.

    Raises:
        ConfigurationError: this process may not, or containers still use the network.
    """
    plan = await _plan(settings)
    if not may_start():
        raise ConfigurationError("network down changes rules of this host: it needs root")
    done = ["keeper ended"] if await stop_keeper(plan.network) else []
    try:
        async with Docker(settings.docker_host or None) as docker:
            await (await docker.networks.get(plan.network)).delete()
    except DockerError as error:
        # The rules stay where somebody may still be on the network.
        raise ConfigurationError(f"the network {plan.network} is not removed: {error}") from error
    await nftables.remove(plan)
    return [*done, f"network {plan.network} removed", "rules removed"]


async def network_status(settings: Settings) -> NetworkStatus:
    """Return how the network stands.

    Raises:
        ConfigurationError: there is none to be had, or the engine does not answer.
    """
    return await _look(await _plan(settings), _LOOK_TIMEOUT)


async def _plan(settings: Settings) -> Plan:
    if settings.network == NO_NETWORK:
        raise ConfigurationError("sessions have no network (DOCKER_NETWORK_NAME=none, or no EGRESS_DOMAINS)")
    try:
        async with Docker(settings.docker_host or None) as docker:
            facts: NetworkFacts = await ensure_network(docker, settings)
            return egress_plan(settings, facts, docker.docker_host.removeprefix("unix://"))
    except (DockerError, ValueError, OSError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error


async def _look(plan: Plan, patience: float) -> NetworkStatus:
    watch = EgressWatch(plan, starts=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        with trio.move_on_after(patience):
            while watch.problem is not None:
                with suppress(ConfigurationError):  # which is the `problem`, too; it may pass
                    await watch.wait_ready()
                await trio.sleep(_PAUSE)
        nursery.cancel_scope.cancel()
    denied = await _denied(plan) if may_start() else None
    return NetworkStatus(plan, watch.keeper, watch.problem, denied)


async def _denied(plan: Plan) -> int | None:
    try:
        return await nftables.denied_packets(plan)
    except ConfigurationError:  # there are no rules, which is not what was asked
        return None
