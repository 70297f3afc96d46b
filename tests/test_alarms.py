"""Alarms, on virtual time."""

import gc
import math
import weakref
from collections.abc import Callable

import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from supervisor import alarms as module
from supervisor.alarms import Alarm, Alarms


class Bell:
    """Notes when it rang."""

    def __init__(self) -> None:
        self.rang: list[float] = []

    def ring(self) -> None:
        self.rang.append(trio.current_time())


async def test_it_rings_once_when_it_is_due(autojump_clock: MockClock) -> None:
    bell, began = Bell(), trio.current_time()
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)
        alarm = alarms.new(bell.ring)
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks, "nothing is set"
        alarm.set(began + 5)
        assert len(alarms) == 1
        await trio.sleep(20)
        assert bell.rang == [began + 5]
        assert not nursery.child_tasks, "nothing is set any more"


async def test_the_last_setting_counts(autojump_clock: MockClock) -> None:
    bell, began = Bell(), trio.current_time()
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)
        alarm = alarms.new(bell.ring)
        for due in (50, 10, 30, 20, 40):
            alarm.set(began + due)
        await trio.sleep(100)
        assert bell.rang == [began + 40]
        alarm.set(began + 150)
        alarm.set(began + 120)
        await trio.sleep(100)
        assert bell.rang == [began + 40, began + 120]
        alarm.set(began + 210)
        alarm.set(math.inf)
        await trio.sleep(100)
        assert len(bell.rang) == 2
        assert not nursery.child_tasks


async def test_it_may_set_itself_again(autojump_clock: MockClock) -> None:
    bell, began = Bell(), trio.current_time()
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)

        def ring() -> None:
            bell.ring()
            if len(bell.rang) < 3:
                alarm.set(trio.current_time() + 7)

        alarm = alarms.new(ring)
        alarm.set(began + 7)
        await trio.sleep(50)
        assert bell.rang == [began + 7, began + 14, began + 21]


async def test_it_is_set_again_while_an_old_entry_is_in_the_queue(autojump_clock: MockClock) -> None:
    bell, began = Bell(), trio.current_time()
    async with trio.open_nursery() as nursery:
        alarm = Alarms(nursery).new(bell.ring)
        alarm.set(began + 2)
        await trio.sleep(1)
        alarm.set(math.inf)
        await trio.sleep(1.5)
        alarm.set(began + 3)
        await trio.sleep(1)
        assert bell.rang == [began + 3]


async def test_a_time_that_is_past_is_now(autojump_clock: MockClock) -> None:
    bell = Bell()
    async with trio.open_nursery() as nursery:
        Alarms(nursery).new(bell.ring).set(trio.current_time() - 5)
        assert bell.rang == [], "not within `set`"
        await trio.testing.wait_all_tasks_blocked()
        assert len(bell.rang) == 1


async def test_stopped_it_holds_nothing(autojump_clock: MockClock) -> None:
    bell = Bell()
    seen = weakref.ref(bell)
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)
        alarm = alarms.new(bell.ring)
        alarm.set(trio.current_time() + 1000)
        alarm.stop()
        alarm.set(trio.current_time())
        del bell
        gc.collect()
        assert seen() is None
        assert len(alarms) == 0
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_what_fails_is_logged_and_hurts_nobody(autojump_clock: MockClock) -> None:
    bell = Bell()

    def fail() -> None:
        raise ValueError("planted")

    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)
        with structlog.testing.capture_logs() as logs:
            alarms.new(fail).set(trio.current_time() + 1)
            alarms.new(bell.ring).set(trio.current_time() + 1)
            await trio.sleep(2)
        assert [entry["event"] for entry in logs] == ["an alarm failed"]
        assert len(bell.rang) == 1


async def test_many_at_once_give_others_a_turn(autojump_clock: MockClock) -> None:
    order: list[str] = []
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)

        async def other() -> None:
            await trio.sleep_until(due)
            for _ in range(3):
                order.append("other")
                await trio.lowlevel.checkpoint()

        due = trio.current_time() + 1
        nursery.start_soon(other)
        for _ in range(module.IN_A_ROW * 4):
            alarms.new(lambda: order.append("alarm")).set(due)
    assert len(order) == module.IN_A_ROW * 4 + 3
    assert order[-1] == "alarm", "the other one did not wait for all of them"


async def test_entries_that_count_for_nothing_are_cleared_away(autojump_clock: MockClock) -> None:
    bell, began = Bell(), trio.current_time()
    async with trio.open_nursery() as nursery:
        alarms = Alarms(nursery)
        kept = alarms.new(bell.ring)
        kept.set(began + 500)
        for _ in range(5000):
            alarm = alarms.new(bell.ring)
            alarm.set(began + 1000)
            alarm.stop()
        assert int(repr(alarms).split()[-2]) < 2000
        await trio.sleep(600)
        assert bell.rang == [began + 500]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40) | st.just(math.inf)), max_size=60))
def test_each_rings_at_the_time_that_was_set_last(steps: list[tuple[int, float]]) -> None:
    """Against a model: settings at one second each; every alarm rings when the model says."""
    model: list[tuple[float, int]] = []
    seen: list[tuple[float, int]] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            alarms = Alarms(nursery)

            def bell(number: int) -> Callable[[], None]:
                return lambda: seen.append((round(trio.current_time()), number))

            made: list[Alarm] = [alarms.new(bell(number)) for number in range(4)]
            wanted = [math.inf] * 4
            for now in range(120):
                for number in range(4):
                    if wanted[number] <= now:
                        model.append((now, number))
                        wanted[number] = math.inf
                await trio.sleep_until(now + 0.4)
                if now < len(steps):
                    number, later = steps[now]
                    wanted[number] = now + 1 + later
                    made[number].set(now + 1 + later)
                await trio.sleep_until(now + 1)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert sorted(seen) == sorted(model)
