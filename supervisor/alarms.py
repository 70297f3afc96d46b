"""Things to do at a time: one task for thousands of deadlines, each of which would otherwise be a task that
sleeps.

Postponing an alarm costs an assignment and wakes nobody, which is why every keystroke may do it. The task is
there only while an alarm is set.
"""

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, final

import trio

from supervisor.observability.log import get_logger

log = get_logger(__name__)

IN_A_ROW: Final = 32
"""Alarms that ring before everybody else has had a turn."""
_FEW: Final = 1024  # entries that count for nothing and are not worth clearing away


@final
class Alarm:
    """Calls a function when it is due. Made by `Alarms.new`; its attributes are for `Alarms`.

    Attributes:
        ring: the function; None once it was stopped.
        due: when (`trio.current_time`); infinite while it is not set.
        entry: for when it is entered in the queue; infinite when it is not. Never later than `due`.
    """

    __slots__ = ("_alarms", "due", "entry", "ring")

    def __init__(self, alarms: "Alarms", ring: Callable[[], None]) -> None:
        self._alarms = alarms
        self.ring: Callable[[], None] | None = ring
        self.due = self.entry = math.inf

    def __repr__(self) -> str:
        return f"<Alarm due at {self.due:g}>"

    def set(self, due: float) -> None:
        """Ring at `due` in place of what was set before; infinite: not at all. No effect once stopped."""
        if self.ring is not None:
            self._alarms.reset(self, due)

    def stop(self) -> None:
        """Never ring again, and let go of the function and of all that it holds."""
        self.set(math.inf)
        self.ring = None


@final
class Alarms:
    """The alarms of one owner; they ring in a task of `nursery`.

    Error handling: what a function raises is logged, and is no other alarm's business.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._queue: list[tuple[float, int, Alarm]] = []
        self._number = itertools.count()  # keeps what is due at the same time in order
        self._set = 0
        self._running = False
        self._sooner = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Alarms {self._set} set, {len(self._queue)} entries>"

    def __len__(self) -> int:
        return self._set

    def new(self, ring: Callable[[], None]) -> Alarm:
        """Return an alarm that will call `ring`, which may set it again. It is not set yet."""
        return Alarm(self, ring)

    def reset(self, alarm: Alarm, due: float) -> None:
        """See `Alarm.set`."""
        self._set += (due < math.inf) - (alarm.due < math.inf)
        alarm.due = due
        if due < alarm.entry:
            self._enter(alarm)
            if self._queue[0][2] is alarm:
                self._sooner.unpark_all()
        if not self._set:
            self._sooner.unpark_all()  # the task can go
        elif not self._running:
            self._running = True
            self._nursery.start_soon(self._run)
        if len(self._queue) > 2 * self._set + _FEW:
            self._clear_away()

    def _enter(self, alarm: Alarm) -> None:
        alarm.entry = alarm.due
        heapq.heappush(self._queue, (alarm.due, next(self._number), alarm))

    def _clear_away(self) -> None:
        alarms = {alarm for _, _, alarm in self._queue}
        self._queue.clear()
        for alarm in alarms:
            alarm.entry = math.inf
            if alarm.due < math.inf:
                self._enter(alarm)

    async def _run(self) -> None:
        try:
            while self._set:
                now = trio.current_time()
                for _ in range(IN_A_ROW):
                    if not self._queue or self._queue[0][0] > now:
                        break
                    self._ring_next(now)
                if not self._queue or self._queue[0][0] <= now:
                    await trio.lowlevel.checkpoint()
                    continue
                with trio.move_on_at(self._queue[0][0]):
                    await self._sooner.park()
        finally:
            self._running = False

    def _ring_next(self, now: float) -> None:
        time, _, alarm = heapq.heappop(self._queue)
        if time != alarm.entry:
            return  # it was set to be sooner, and entered once more
        alarm.entry = math.inf
        if alarm.due > now:
            if alarm.due < math.inf:
                self._enter(alarm)
            return
        ring, alarm.due = alarm.ring, math.inf
        self._set -= 1
        try:
            if ring is not None:
                ring()
        except Exception as error:
            log.error("an alarm failed", exc_info=error)
