"""Warm pool: sandboxes that are up, verified and empty-handed, so that a session starts with a frame instead
of a container.

Each waiting sandbox has a keeper, a task that prepared it and will remove it; a lease borrows it and gives it
back to its keeper, who takes it away as after a cold start. The pool is a convenience: whenever it has
nothing to give (used up, too old, died while waiting), the lease is a cold start, never an error.
"""

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, final

import attrs
import trio

from supervisor.errors import SandboxError
from supervisor.observability.log import get_logger
from supervisor.sandbox.docker import DockerProvider, Sandbox
from supervisor.sandbox.terminal import LeaseRequest, Terminal

log = get_logger(__name__)

CLAIM_MARGIN: Final = 60.0
"""Seconds that a gate waits longer than the pool keeps it, so that no claim meets a gate that gives up."""
FIRST_BACK_OFF: Final = 1.0
LONGEST_BACK_OFF: Final = 60.0
"""Seconds between attempts while sandboxes cannot be prepared."""


@attrs.define(eq=False)
class _Waiting:
    """A sandbox in its keeper's care. `done`: the keeper may remove it. `gone`: it has."""

    sandbox: Sandbox
    since: float
    done: trio.Event = attrs.field(factory=trio.Event)
    gone: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class PoolStatistics:
    """A snapshot: how many should wait and do, and how leases have been served so far."""

    size: int
    waiting: int
    warm: int
    cold: int


@final
class WarmPool:
    """A `SandboxProvider` that keeps `size` sandboxes of another one ready. `run` does the keeping.

    Args:
        provider: prepares sandboxes.
        size: how many wait.
        max_age: seconds after which a waiting sandbox is replaced.
        lifetime: seconds that a command may run, as in `DockerProvider.prepare`.
    """

    def __init__(self, provider: DockerProvider, size: int, max_age: float, lifetime: float) -> None:
        self.provider = provider
        self.name = provider.name
        self.isolated = provider.isolated
        self._size = size
        self._max_age = max_age
        self._lifetime = lifetime
        self._waiting: deque[_Waiting] = deque()
        self._changed = trio.Event()
        self._warm = 0
        self._cold = 0

    def __repr__(self) -> str:
        return f"<WarmPool {self.statistics()}>"

    def statistics(self) -> PoolStatistics:
        """Return what it holds and has done."""
        return PoolStatistics(self._size, len(self._waiting), self._warm, self._cold)

    async def run(self) -> None:
        """Keep the pool full until cancelled, one start at a time: warm starts must not delay cold ones.

        Resource handling: on cancellation all its sandboxes are removed, the lent ones too, so this must
        outlive the leases.
        """
        back_off = FIRST_BACK_OFF
        async with trio.open_nursery() as nursery:
            while True:
                if len(self._waiting) >= self._size:
                    await self._wait_for_change()
                    continue
                try:
                    await nursery.start(self._keep)
                    back_off = FIRST_BACK_OFF
                except SandboxError as error:
                    log.warning("no warm sandbox", problem=str(error), retry_in=back_off)
                    await trio.sleep(back_off)
                    back_off = min(2 * back_off, LONGEST_BACK_OFF)

    async def _wait_for_change(self) -> None:
        self._changed = trio.Event()
        with trio.move_on_at(self._waiting[0].since + self._max_age if self._waiting else math.inf):
            await self._changed.wait()
        self._retire_old()

    async def _keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self._prepared() as sandbox:
            waiting = _Waiting(sandbox, trio.current_time())
            self._waiting.append(waiting)
            task_status.started()
            await waiting.done.wait()
        waiting.gone.set()

    def _prepared(self) -> AbstractAsyncContextManager[Sandbox]:
        return self.provider.prepare(self._lifetime, "pool", idle=self._max_age + CLAIM_MARGIN)

    def _retire_old(self) -> None:
        while self._waiting and self._waiting[0].since + self._max_age <= trio.current_time():
            self._waiting.popleft().done.set()

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncIterator[Terminal]:
        """See `SandboxProvider`; from the pool if it can, cold if it must."""
        async with AsyncExitStack() as stack:
            terminal = await self._claim_warm(stack, request)
            if terminal is None:
                self._cold += 1
                terminal = await stack.enter_async_context(self.provider.lease(request))
            else:
                self._warm += 1
            yield terminal

    async def _claim_warm(self, stack: AsyncExitStack, request: LeaseRequest) -> Terminal | None:
        self._retire_old()
        while self._waiting:
            waiting = self._waiting.popleft()
            self._changed.set()
            stack.push_async_callback(self._give_back, waiting)
            try:
                claim = waiting.sandbox.claim(self.provider.complete(request))
                return await stack.enter_async_context(claim)
            except SandboxError as error:
                log.info("a waiting sandbox was of no use", problem=str(error))
        return None

    async def _give_back(self, waiting: _Waiting) -> None:
        waiting.done.set()
        with trio.CancelScope(shield=True):  # the keeper's removal has a deadline
            await waiting.gone.wait()
