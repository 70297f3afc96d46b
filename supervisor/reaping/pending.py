"""Names of containers that must not be forgotten before the engine has confirmed that they are gone.

A name is registered before the create call is sent, because a call whose answer never came may have been
obeyed. From then on it is in the registry until the engine says that there is no such container: whoever
leases a container tries to remove it on leaving, and what that did not achieve in time is retried here, in
the background, for as long as the supervisor lives.

The registry has no list of the engine's containers: what an earlier supervisor left behind is the
reconciler's business.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import attrs
import trio

from supervisor.engine import DockerError
from supervisor.observability.log import get_logger

_log = get_logger("reaping")

NOT_FOUND = 404
CONFLICT = 409

AUTO_REMOVE_TIME = 3.0
"""Seconds that a container whose first process has ended gets to be removed by the engine itself."""
CALL_TIMEOUT = 5.0
"""Seconds for each kill or delete. An engine under load takes whole seconds, but a stuck call must not hold
up the next one.
"""
ATTEMPT_TIMEOUT = AUTO_REMOVE_TIME + 3 * CALL_TIMEOUT
"""Seconds for one attempt in all, which is how long leaving a lease may take at worst."""
DOUBT_TIME = 60.0
"""Seconds after an unanswered create call during which "no such container" may only mean "not yet"."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
PARALLEL = 4
"""Removals at once; engines do them one after another for the larger part."""


class Container(Protocol):
    """What is used of the engine client's container."""

    async def wait(self, *, timeout: float | None, condition: str) -> Any:
        """Wait until the container is in a state."""
        ...

    async def kill(self, *, timeout: float | None) -> Any:
        """Send SIGKILL to its first process."""
        ...

    async def delete(self, *, force: bool, v: bool, timeout: float | None) -> Any:
        """Remove it and its anonymous volumes."""
        ...


@attrs.frozen
class PendingStatistics:
    """Live numbers.

    Attributes:
        held: names in use.
        due: names to be removed.
        oldest: seconds that the first of these has waited.
        removed, failed_attempts: counts since the start.
    """

    held: int
    due: int
    oldest: float
    removed: int
    failed_attempts: int


@attrs.define(eq=False)
class _Entry:
    name: str
    due_since: float = math.inf
    """When it was given up by its lease; never while it is in use."""
    next_try: float = math.inf
    pause: float = FIRST_PAUSE
    doubt_until: float = -math.inf
    cut_off: bool = False
    started: bool = False
    created: bool = False
    busy: bool = False
    error: str = ""


class PendingRemovals:
    """The registry. `run` must be running in the background for as long as anything may be registered.

    Args:
        container: makes the engine client's object for a name, without asking the engine.
        patience: makes a scope that is cancelled as soon as the engine is known not to answer
            (`EngineHealth.patience`): what is due then waits for `hurry`, and holds nobody up.
    """

    def __init__(
        self,
        container: Callable[[str], Container],
        patience: Callable[[], AbstractContextManager[trio.CancelScope]] = trio.CancelScope,
    ) -> None:
        self._container = container
        self._patience = patience
        self._entries: dict[str, _Entry] = {}
        self._changed = trio.Event()
        self._settled = trio.Event()
        self._removed = 0
        self._failed_attempts = 0

    def __repr__(self) -> str:
        return f"<PendingRemovals {self.statistics()}>"

    def __contains__(self, name: str) -> bool:
        """Whether `name` is registered."""
        return name in self._entries

    def statistics(self) -> PendingStatistics:
        """Return live numbers."""
        now = trio.current_time()
        due = [entry.due_since for entry in self._due()]
        return PendingStatistics(
            held=len(self._entries) - len(due),
            due=len(due),
            oldest=now - min(due, default=now),
            removed=self._removed,
            failed_attempts=self._failed_attempts,
        )

    def names(self) -> list[str]:
        """Return all names that are registered."""
        return list(self._entries)

    def created(self) -> dict[str, bool]:
        """Return all names that are registered, and whether the engine has confirmed the creation of each."""
        return {entry.name: entry.created for entry in self._entries.values()}

    def inherit(self, name: str, *, created: bool) -> None:
        """Register a name that another process of this instance used; have it removed in the background."""
        self.register(name)
        if not created:
            self.mark_doubtful(name)
        entry = self._entries[name]
        entry.due_since = entry.next_try = trio.current_time()
        self._changed.set()

    def register(self, name: str) -> None:
        """Remember `name`, before anything is asked of the engine."""
        if name in self._entries:
            raise ValueError(f"{name} is registered already")
        self._entries[name] = _Entry(name)

    def forget(self, name: str) -> None:
        """Forget `name`, of which the engine has never heard."""
        del self._entries[name]

    def mark_created(self, name: str) -> None:
        """Note that the engine has created the container."""
        self._entries[name].created = True

    def mark_started(self, name: str) -> None:
        """Note that a start of a container with AutoRemove was tried: from now on the engine removes it by
        itself when its first process ends.
        """
        self._entries[name].started = True

    def mark_doubtful(self, name: str, *, cut_off: bool = False) -> None:
        """Note that a create call got no answer: the container may yet appear. `cut_off`: it was the engine
        that ended the connection, which it does when it ends itself."""
        entry = self._entries[name]
        entry.doubt_until, entry.cut_off = trio.current_time() + DOUBT_TIME, cut_off

    def trust_restarted_engine(self) -> None:
        """Note that the engine is another process now: what it does not know of the calls that the old one
        has cut off will not appear any more."""
        for entry in self._entries.values():
            if entry.cut_off:
                entry.doubt_until = -math.inf

    async def remove(self, name: str) -> bool:
        """Make one attempt at removing `name`, which its lease has no use for any more, and return whether it
        is gone for certain.

        Whatever comes of it, an error or a cancellation included, the name stays registered until the engine
        has confirmed that it is gone, and is tried again in the background. Takes `ATTEMPT_TIMEOUT` at most.
        """
        entry = self._entries[name]
        entry.due_since = min(entry.due_since, trio.current_time())
        entry.busy = True
        gone = False
        try:
            with trio.move_on_after(ATTEMPT_TIMEOUT), self._patience():
                gone = await self._attempt(entry)
        finally:
            entry.busy = False
            if gone:
                del self._entries[name]
                self._removed += 1
                self._settled.set()
                self._settled = trio.Event()
            else:
                self._postpone(entry)
        return gone

    async def run(self) -> None:
        """Retry what is due, for ever."""
        limiter = trio.CapacityLimiter(PARALLEL)
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                now = trio.current_time()
                for entry in list(self._entries.values()):
                    if entry.next_try <= now and not entry.busy:
                        entry.busy = True
                        nursery.start_soon(self._retry, entry, limiter)
                wake = min(
                    (entry.next_try for entry in self._entries.values() if not entry.busy), default=math.inf
                )
                with trio.CancelScope(deadline=wake):
                    await self._changed.wait()

    def hurry(self) -> None:
        """Have all that is due tried now: the engine is back."""
        for entry in self._due():
            entry.pause = FIRST_PAUSE
            if not entry.busy:
                entry.next_try = -math.inf
        self._changed.set()

    async def drain(self, timeout: float) -> list[str]:
        """Wait until nothing is due, at most `timeout` seconds, and return the names that are left. Needs
        `run`.
        """
        self.hurry()
        with trio.move_on_after(timeout):
            while self._due():
                await self._settled.wait()
        return [entry.name for entry in self._due()]

    def _due(self) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.due_since < math.inf]

    async def _retry(self, entry: _Entry, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await self.remove(entry.name)

    def _postpone(self, entry: _Entry) -> None:
        self._failed_attempts += 1
        entry.next_try = trio.current_time() + entry.pause
        if entry.pause >= LONGEST_PAUSE:
            _log.warning("container not removed yet", container=entry.name, error=entry.error)
        entry.pause = min(2 * entry.pause, LONGEST_PAUSE)
        self._changed.set()

    async def _attempt(self, entry: _Entry) -> bool:
        container = self._container(entry.name)
        with suppress(DockerError):
            # 404: there is no such container. 409: it does not run.
            await container.kill(timeout=CALL_TIMEOUT)
        if entry.started:
            # The engine removes it by itself now. Asking for that at the same time would only make the two
            # trip over each other.
            entry.started = False
            with suppress(DockerError):
                ended = await container.wait(timeout=AUTO_REMOVE_TIME, condition="removed")
                if not ended.get("Error"):
                    return True
        try:
            await container.delete(force=True, v=True, timeout=CALL_TIMEOUT)
        except DockerError as error:
            entry.error = str(error)
            if error.status == NOT_FOUND:
                return trio.current_time() >= entry.doubt_until
            if error.status == CONFLICT:
                # "Removal is already in progress": the next attempt finds out how it ended.
                with suppress(DockerError):
                    await container.wait(timeout=CALL_TIMEOUT, condition="removed")
            return False
        return True
