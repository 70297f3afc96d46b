"""Creating things under cancellation: either the caller gets the new thing, or there is none.

A request that creates something cannot simply be cut when its task is cancelled: the engine may finish it,
and nobody would know the new thing's id. So the request is let finish for a few seconds, and what it made is
removed again.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from supervisor.engine.errors import DockerError

PATIENCE = 5.0
"""Seconds that a cancelled creation may still take, and again as many for its removal. Creating a container
takes 10 to 50 ms.
"""

log = logging.getLogger(__name__)
T = TypeVar("T")


async def all_or_nothing(
    create: Callable[[], Awaitable[T]],
    undo: Callable[[T], Awaitable[object]],
    patience: float | None = None,
) -> T:
    """Return what `create` makes; when cancelled, `undo` it.

    Cancellation waits for up to `patience` seconds (`PATIENCE`) for an answer, and as long for `undo`. If the
    engine does not answer in that time, the thing may exist: choose its name beforehand, and clean up by
    name.
    """
    await trio.lowlevel.checkpoint()
    made: list[T] = []
    failures: list[Exception] = []
    try:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as request:
                nursery.start_soon(_hurry, request, PATIENCE if patience is None else patience)
                try:
                    made.append(await create())
                except Exception as error:  # not inside the nursery, which would wrap it in a group
                    failures.append(error)
            nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        if made:
            await _undo(made[0], undo)
        raise
    if failures:
        raise failures[0]
    return made[0]


async def _hurry(request: trio.CancelScope, patience: float) -> None:
    try:
        await trio.sleep_forever()
    finally:
        request.deadline = min(request.deadline, trio.current_time() + patience)


async def _undo(made: T, undo: Callable[[T], Awaitable[object]]) -> None:
    with trio.move_on_after(PATIENCE, shield=True) as scope:
        try:
            await undo(made)
        except DockerError as error:
            log.warning("a cancelled creation could not be undone: %r: %s", made, error)
    if scope.cancelled_caught:
        log.warning("a cancelled creation could not be undone in time: %r", made)
