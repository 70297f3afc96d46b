"""Warm pool: sandboxes that are up, verified and empty-handed, so that a session starts with a frame instead
of a container.

Each waiting sandbox has a keeper, a task that prepared it, watches it, and will remove it; a lease borrows it
and gives it back to its keeper, who takes it away as after a cold start. A sandbox that dies while it waits,
or has waited too long, is replaced without anybody asking for it. The pool is a convenience: whenever it has
nothing to give, the lease is a cold start, never an error.
"""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final, Protocol, final

import attrs
import trio

from supervisor.errors import HardeningError, SandboxError, SupervisorError
from supervisor.measures import SecurityStatus
from supervisor.observability import metrics
from supervisor.observability.audit import audit_limited
from supervisor.observability.log import get_logger
from supervisor.observability.traces import span
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider, Terminal
from supervisor.sandbox.usage import Usage

log = get_logger(__name__)

CLAIM_MARGIN: Final = 60.0
"""Seconds that a gate waits longer than the pool keeps it, so that no claim meets a gate that gives up."""
HEAD_START: Final = 0.1
"""Seconds after a claim before the pool refills: a start takes all that a small host has, and whoever
has just come shall have a prompt first.
"""
FIRST_BACK_OFF: Final = 1.0
LONGEST_BACK_OFF: Final = 60.0
"""Seconds between attempts while sandboxes cannot be prepared, or die as soon as they are."""


class WaitingSandbox(Protocol):
    """What the pool uses of a sandbox that is ready. See `docker.Sandbox`."""

    @property
    def name(self) -> str:
        """For logs."""
        ...

    def claim(self, request: LeaseRequest) -> AbstractAsyncContextManager[Terminal]:
        """Run the request's command; SandboxError when it cannot be had any more."""
        ...

    async def wait_lost(self) -> None:
        """Wait until it cannot be claimed any more."""
        ...

    def usage(self) -> Usage | None:
        """Return what it uses while it waits; None where this host does not show it."""
        ...


class PreparingProvider(SandboxProvider, Protocol):
    """A provider that can start a sandbox without a command. See `docker.DockerProvider`."""

    @property
    def closed(self) -> str | None:
        """Why no session may start now, although sandboxes may wait for some; None when one may."""
        ...

    def require_ready(self) -> None:
        """SandboxError when no session may start now."""
        ...

    def complete(self, request: LeaseRequest) -> LeaseRequest:
        """Return `request` with what it leaves open."""
        ...

    def prepare(
        self, lifetime: float, role: str, *, idle: float
    ) -> AbstractAsyncContextManager[WaitingSandbox]:
        """Start a sandbox that waits for its claim for `idle` seconds."""
        ...


@attrs.define(eq=False)
class _Waiting:
    """A sandbox in its keeper's care.

    `watch`: cancelled by whoever borrows it. `done`: the keeper may remove it. `gone`: it has.
    """

    sandbox: WaitingSandbox
    watch: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    gone: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class PoolStatistics:
    """A snapshot: how many should wait and do, and how many leases were served from the pool and without it.

    `replaced` counts those that nobody claimed: too old, or dead.
    """

    size: int
    waiting: int
    warm: int
    cold: int
    replaced: int


@final
class WarmPool:
    """A `SandboxProvider` that keeps `size` sandboxes of another one ready. `run` does the keeping.

    Args:
        provider: prepares sandboxes.
        size: how many wait.
        max_age: seconds after which a waiting sandbox is replaced.
        lifetime: seconds that a command may run, as in `DockerProvider.prepare`.
    """

    def __init__(self, provider: PreparingProvider, size: int, max_age: float, lifetime: float) -> None:
        self.provider = provider
        self.name = provider.name
        self.isolated = provider.isolated
        self._size = size
        self._max_age = max_age
        self._lifetime = lifetime
        self._waiting: deque[_Waiting] = deque()
        self._changed = trio.Event()
        self._early_ends = 0
        self._warm = 0
        self._cold = 0
        self._replaced = 0

    @property
    def security(self) -> SecurityStatus:
        """See `SandboxProvider`."""
        return self.provider.security

    def __repr__(self) -> str:
        return f"<WarmPool {self.statistics()}>"

    def statistics(self) -> PoolStatistics:
        """Return what it holds and has done."""
        return PoolStatistics(self._size, len(self._waiting), self._warm, self._cold, self._replaced)

    def usages(self) -> list[Usage]:
        """Return what those that wait use now, each within the limits of a session; about 0.1 ms for each."""
        return [usage for waiting in self._waiting if (usage := waiting.sandbox.usage())]

    @property
    def unavailable(self) -> str | None:
        """See `SandboxProvider`: what waits can be had while the engine is away."""
        return self.provider.closed or (None if self._waiting else self.provider.unavailable)

    async def run(self) -> None:
        """Keep the pool full until cancelled, one start at a time: warm starts must not delay cold ones.

        Resource handling: on cancellation all its sandboxes are removed, the lent ones too, so this must
        outlive the leases.

        Error handling: what cannot be prepared is logged and tried again; it never ends the pool.
        """
        failures = 0
        async with trio.open_nursery() as nursery:
            while True:
                if len(self._waiting) >= self._size:
                    self._changed = trio.Event()
                    await self._changed.wait()
                    await trio.sleep(HEAD_START)
                    continue
                await trio.sleep(_back_off(failures + self._early_ends))
                try:
                    await nursery.start(self._keep)
                    failures = 0
                except (SupervisorError, OSError) as error:  # OSError: out of descriptors, for one
                    failures += 1
                    if isinstance(error, HardeningError):
                        audit_limited(
                            "sandbox is not as the policy asks",
                            "critical",
                            "pool",
                            trio.current_time(),
                            problem=str(error),
                        )
                    log.warning("no warm sandbox", problem=str(error), retry_in=_back_off(failures))

    async def _keep(self, *, task_status: trio.TaskStatus[None]) -> None:
        waiting: _Waiting | None = None
        try:
            async with self.provider.prepare(
                self._lifetime, "pool", idle=self._max_age + CLAIM_MARGIN
            ) as sandbox:
                waiting = _Waiting(sandbox)
                self._waiting.append(waiting)
                task_status.started()
                await self._watch(waiting)
                await waiting.done.wait()
        except Exception as error:
            if waiting is None:
                raise
            # It was ready once; that it cannot be put away in order is no reason to end the others.
            log.error("a warm sandbox ended badly", container=waiting.sandbox.name, exc_info=error)
        finally:
            if waiting is not None:
                self._withdraw(waiting)
                waiting.gone.set()

    async def _watch(self, waiting: _Waiting) -> None:
        """Return when the sandbox has been borrowed, or is of no use any more: then it is `done`."""
        born = trio.current_time()
        with waiting.watch, trio.move_on_after(self._max_age):
            await waiting.sandbox.wait_lost()
        if self._withdraw(waiting):
            age = trio.current_time() - born
            self._early_ends = self._early_ends + 1 if age < min(LONGEST_BACK_OFF, self._max_age) else 0
            self._replaced += 1
            waiting.done.set()
            if age < self._max_age:
                log.warning(
                    "a warm sandbox died while it waited", container=waiting.sandbox.name, age=round(age, 1)
                )

    def _withdraw(self, waiting: _Waiting) -> bool:
        """Take it out of those that wait; return whether it was there."""
        if waiting not in self._waiting:
            return False
        self._waiting.remove(waiting)
        self._changed.set()
        return True

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncGenerator[Terminal]:
        """See `SandboxProvider`; from the pool if it can, cold if it must."""
        self.provider.require_ready()
        async with AsyncExitStack() as stack:
            began = trio.current_time()
            # What waits is of the ordinary kind.
            terminal = None if request.profile else await self._claim_warm(stack, request)
            if terminal is None:
                self._cold += 1
                terminal = await stack.enter_async_context(self.provider.lease(request))
            else:
                self._warm += 1
                metrics.session_start_seconds.labels("warm").observe(trio.current_time() - began)
            yield terminal

    async def _claim_warm(self, stack: AsyncExitStack, request: LeaseRequest) -> Terminal | None:
        while self._waiting:
            waiting = self._waiting[0]
            self._withdraw(waiting)
            waiting.watch.cancel()
            stack.push_async_callback(self._give_back, waiting)
            try:
                claim = waiting.sandbox.claim(self.provider.complete(request))
                with span("claim a sandbox that waits", container=waiting.sandbox.name):
                    terminal = await stack.enter_async_context(claim)
            except SandboxError as error:
                waiting.done.set()  # now, not when the lease ends
                log.info("a warm sandbox could not be claimed", problem=str(error))
            else:
                self._early_ends = 0
                return terminal
        return None

    async def _give_back(self, waiting: _Waiting) -> None:
        waiting.done.set()
        with trio.CancelScope(shield=True):  # the keeper's removal has a deadline
            await waiting.gone.wait()


def _back_off(failures: int) -> float:
    """Return the seconds to wait before the next attempt, after so many failures in a row."""
    return min(FIRST_BACK_OFF * 2 ** (min(failures, 16) - 1), LONGEST_BACK_OFF) if failures else 0.0
