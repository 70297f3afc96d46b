"""Cancels a scenario at every checkpoint that it has, one after the other, to prove that it cleans up after
itself.

A cancellation can arrive in two ways, and code tends to be right about one of them only:

- *while a task is suspended*: what it waits for never happens, `Cancelled` is raised there; - *when what it
waited for has just happened*: the call returns (a connection was accepted, a descriptor received, a container
created), and `Cancelled` is raised at the next checkpoint, which is where a result that nobody owns yet
leaks.

`cancel_at_every_checkpoint` tries both, for each suspension of each task in the scenario.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import trio

_When = Literal["while suspended", "on resumption"]


class _Canceller(trio.abc.Instrument):
    """Counts the suspensions of a task and its descendants, and cancels `scope` at the `at`-th."""

    def __init__(self, root: trio.lowlevel.Task, scope: trio.CancelScope, at: int, when: _When) -> None:
        self._tasks = {root}
        self._scope = scope
        self._at = at
        self._when = when
        self._count = 0

    @property
    def fired(self) -> bool:
        return self._count >= self._at

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.parent_nursery is not None and task.parent_nursery.parent_task in self._tasks:
            self._tasks.add(task)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self._tasks.discard(task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._when == "on resumption":
            self._step(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._when == "while suspended":
            self._step(task)

    def _step(self, task: trio.lowlevel.Task) -> None:
        if task in self._tasks:
            self._count += 1
            if self._count == self._at:
                self._scope.cancel()


async def cancel_at_every_checkpoint(
    scenario: Callable[[], Awaitable[None]],
    after_each: Callable[[], Awaitable[None]],
    *,
    resumptions: bool = True,
    limit: int = 10_000,
) -> int:
    """Run `scenario` again and again, cancelled at its first checkpoint, its second, and so on, until it gets
    through.

    Args:
        scenario: what is to be tried, from nothing to nothing: it makes what it needs and, cancelled or not,
            takes all of it away. Tasks in nurseries that it opens are part of it, however deep; tasks that it
            starts in a nursery from outside are not.
        after_each: looks for what was left behind, after each run; not cancelled itself. It should raise when
            it finds something.
        resumptions: also try each cancellation at the moment when the suspended task is about to go on.
            Doubles the runs.
        limit: checkpoints after which a scenario is taken for an endless one.

    Returns:
        The number of suspensions in the run that got through: a lower bound of what was tried. Where the
        scenario's order of events varies from run to run, so does this number, and a single pass need not hit
        every interleaving.

    Raises:
        AssertionError: more than `limit` checkpoints.

    Error handling: what `scenario` or `after_each` raises comes out as it is, with a note that says at which
    checkpoint the scenario had been cancelled. `Cancelled` never comes out, except the caller's own.
    """
    count = await _cancel_at_each(scenario, after_each, "while suspended", limit)
    if resumptions:
        await _cancel_at_each(scenario, after_each, "on resumption", limit)
    return count


async def _cancel_at_each(
    scenario: Callable[[], Awaitable[None]],
    after_each: Callable[[], Awaitable[None]],
    when: _When,
    limit: int,
) -> int:
    for at in range(1, limit + 2):
        try:
            fired = await _run(scenario, at, when)
            await after_each()
        except Exception as error:
            error.add_note(f"the scenario was cancelled at checkpoint {at} ({when})")
            raise
        if not fired:
            return at - 1
    raise AssertionError(f"the scenario did not end within {limit} checkpoints")


async def _run(scenario: Callable[[], Awaitable[None]], at: int, when: _When) -> bool:
    """Run `scenario` cancelled at checkpoint `at`; return whether it got that far."""
    fired = False
    failure: Exception | None = None

    async def child() -> None:
        # A task of its own, so that exactly the scenario's steps are counted, and none of the nursery around
        # it.
        nonlocal fired, failure
        canceller = _Canceller(trio.lowlevel.current_task(), nursery.cancel_scope, at, when)
        trio.lowlevel.add_instrument(canceller)
        try:
            await scenario()
        except Exception as error:
            # Kept out of the nursery, which would wrap it.
            failure = error
        finally:
            trio.lowlevel.remove_instrument(canceller)
            fired = canceller.fired

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
    if failure is not None:
        raise failure
    return fired
