"""A container that is up, hardened as the policy says, and waiting for its command, or running it.

It is made by `supervisor.sandbox.docker`, which also ends it; here is what can be done with it in between.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from supervisor.engine import DockerContainer
from supervisor.measures import Measure
from supervisor.sandbox.inside import UNSEEN, Judged
from supervisor.sandbox.leaving import Gate, SandboxTerminal, claimed
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.usage import Meter, Usage
from supervisor.sandbox.waiting import Fitness


@attrs.frozen(eq=False)
class Sandbox:
    """A container that is up, compared with the policy, and waiting for its command.

    Attributes:
        name: of the container.
        container: the engine's.
        pid: of its first process, in the engine's process namespace; it may be reused once the container has
            ended.
        meter: reads its use of resources, if this host shows it.
        nano_cpus: its CPU limit when it is not slowed down.
        uid: of its processes on this host; None where this host does not show it.
        addresses: on its networks, and of its devices.
    """

    name: str
    container: DockerContainer
    pid: int
    nano_cpus: int
    _gate: Gate | None
    _occupied: dict[str, "Sandbox"]
    _fitness: Fitness | None
    _judged: Judged = UNSEEN
    meter: Meter | None = None
    addresses: frozenset[str] = frozenset()
    uid: int | None = None

    @asynccontextmanager
    async def claim(self, request: LeaseRequest) -> AsyncGenerator[SandboxTerminal]:
        """Run `request`'s command. Only once. On leaving, it is hung up and given the request's grace to end.

        Raises:
            SandboxError: the gate does not take it, the request is beyond what it can take, or the container
                is not any more what it was when it began to wait.
            HardeningError: the process that is to run it is not any more what it was when it was judged.
        """
        assert self._gate is not None, "claimed in another process"
        assert self._fitness is not None
        self._fitness.require()
        self._judged.confirm()
        async with claimed(self._gate, request) as terminal:
            self._occupied[request.session_id] = self
            request.facts.container = self.name
            try:
                yield terminal
            finally:
                del self._occupied[request.session_id]
                if self.meter and (peak := self.meter.cgroups.peak_memory()):
                    request.facts.peak_memory = peak

    def usage(self) -> Usage | None:
        """Return what it uses now; None where this host does not show it."""
        return self.meter.read() if self.meter else None

    @property
    def verified(self) -> Mapping[Measure, tuple[str, ...]]:
        """By whose word each measure holds in it: `inside`, `host`."""
        return self._judged.verified

    async def wait_lost(self) -> None:
        """Wait until this sandbox cannot be claimed any more: its gate has gone, or somebody has done
        something to its container or its network. Cancel it before a claim."""
        assert self._gate is not None, "claimed in another process"
        assert self._fitness is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fitness.wait_lost, nursery.cancel_scope)
            await self._gate.wait_lost()
            nursery.cancel_scope.cancel()
