"""Proof that containers on the sessions' network cannot reach each other: by packets that do not arrive.

An option of a network is a promise. On a host without br_netfilter, or whose firewall rules somebody has
flushed, "no inter-container communication" does nothing at all, and nobody says so. So two containers, made
like those of sessions, try it at start.

What would make a check succeed for the wrong reason is checked at the same time: each listener must answer
through its own address, and each container must find the other one on the link (ARP), so that what is missing
in between is only the packets. Where containers have kernels of their own that do not tell whom they have
found, a third one, of an ordinary runtime, takes part, and must find both.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

import trio

from supervisor.engine import DockerError
from supervisor.errors import ConfigurationError
from supervisor.sandbox.containers import HardenedContainer, HardenedContainers, program
from supervisor.sandbox.policy import HardeningPolicy

PORT: Final = 7007
_PATIENCE = 1000  # milliseconds in which an answer would have come; one on a bridge takes less than one
_TCP, _UDP, _NEIGHBOUR = 1, 2, 4
_REACHED = {_TCP: "TCP", _UDP: "UDP"}


async def prove_isolation(containers: HardenedContainers) -> None:
    """Start two containers on the policy's network and have them try to reach each other. Takes two seconds.

    Raises:
        ConfigurationError: they can, or nothing was proved; the text says what to look at.
        SandboxError: a container is not as the policy asks, or ended.
        DockerError: the engine refuses.
    """
    policies = [containers.policy, containers.policy, *filter(None, [containers.witness])]
    network = containers.policy.network
    limit = containers.site.proof_time
    listening = math.ceil(2 * limit)  # seconds after which a prober ends by itself
    async with AsyncExitStack() as stack:
        probers = [
            await stack.enter_async_context(
                containers.create(
                    [program("netprobe"), "listen", str(PORT), str(listening)],
                    role="probe",
                    lifetime=listening,
                    mounts=containers.site.program_mounts("netprobe"),
                    policy=policy,
                )
            )
            for policy in policies
        ]
        found: dict[tuple[int, int], int] = {}
        failures: list[DockerError] = []

        async def contact(source: int, target: int) -> None:
            address = probers[target].address
            try:
                found[source, target] = await _contact(probers[source], address)
            except DockerError as error:  # kept out of the nursery, which would wrap it
                failures.append(error)

        with trio.move_on_after(limit) as scope:
            for container in probers:
                await container.start()
            async with trio.open_nursery() as nursery:
                for source in range(len(probers)):
                    for target in range(len(probers)):
                        nursery.start_soon(contact, source, target)
        if scope.cancelled_caught:
            raise ConfigurationError(
                f"isolation of the network {network}: the check did not end within {limit:g} s"
            )
        if failures:
            raise failures[0]
    _judge(network, policies, found)


def _judge(network: str, policies: Sequence[HardeningPolicy], found: Mapping[tuple[int, int], int]) -> None:
    """Raise ConfigurationError unless `found`, by source and target, proves it."""
    for (source, target), status in found.items():
        if source == target:
            if status & (_TCP | _UDP) != _TCP | _UDP:
                raise ConfigurationError(
                    f"isolation of the network {network}: nothing proved, a prober does not reach itself "
                    f"(status {status})"
                )
            continue
        if reached := [name for bit, name in _REACHED.items() if status & bit]:
            raise ConfigurationError(
                f"isolation of the network {network}: containers reach each other ({' and '.join(reached)}), "
                "although it is set not to let them: load the kernel module br_netfilter, set "
                "net.bridge.bridge-nf-call-iptables=1, and see whether the engine manages the firewall "
                "(iptables not switched off, its rules not flushed)"
            )
        if status != _NEIGHBOUR and not (status == 0 and policies[source].runtime.kind.sentry):
            raise ConfigurationError(
                f"isolation of the network {network}: nothing proved, the containers do not find each other "
                f"on the link (status {status})"
            )


async def _contact(container: HardenedContainer, address: str) -> int:
    """Have `container` try to reach a listener, and return the prober's exit status."""
    command = [program("netprobe"), "contact", address, str(PORT), str(_PATIENCE)]
    execution = await container.engine.exec(command)
    async with execution.start() as stream:
        while await stream.receive_some():
            pass
    # The stream can end a moment before the engine knows the status.
    while (code := (await execution.inspect())["ExitCode"]) is None:  # noqa: ASYNC110 - nothing else tells
        await trio.sleep(0.02)
    return code
