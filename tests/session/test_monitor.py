"""The resource monitor on virtual time: what is told, and what becomes of whoever hits limits often."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import structlog.testing
import trio
import trio.testing

from supervisor.errors import SandboxError
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.budget import Budget
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.usage import Usage
from supervisor.session.attachment import Attachment, Ended, Notice
from supervisor.session.monitor import THROTTLED_TO, ResourceMonitor
from supervisor.session.record import Records
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider

IDLE = Usage(10 << 20, 256 << 20, 20 << 20, 1.0, 3, 0, 0, 100, 200)
SETTINGS = Settings(warn_after=2, throttle_after=3, end_after=5, lift_after=4, monitor_interval=1.0)


class Measured:
    """A `MeasuringProvider` of which the test says what is used."""

    def __init__(self) -> None:
        self.now: Usage | None = IDLE
        self.throttled: list[float] = []
        self.failure: SandboxError | None = None
        self.all: tuple[Usage, Budget] | None = None

    def usage(self, session_id: str) -> Usage | None:
        return self.now

    async def throttle(self, session_id: str, part: float) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure:
            raise self.failure
        self.throttled.append(part)

    def usage_of_all(self) -> tuple[Usage, Budget] | None:
        return self.all

    def hit(self, **numbers: float) -> None:
        assert self.now
        more = {name: getattr(self.now, name) + by for name, by in numbers.items()}
        self.now = attrs.evolve(self.now, **more)


@attrs.frozen
class Stage:
    monitor: ResourceMonitor
    measured: Measured
    session: Session
    viewer: Attachment

    async def look(self) -> list[str]:
        """Return what the user is told."""
        await trio.sleep(1)
        await self.monitor.look(self.session)
        return self.told()

    def told(self) -> list[str]:
        told = [event.text for event in self.viewer._events if isinstance(event, Notice)]
        self.viewer._events.clear()
        return told


@asynccontextmanager
async def stage(settings: Settings = SETTINGS) -> AsyncGenerator[Stage]:
    provider, measured = MemoryProvider(), Measured()
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(settings, provider, nursery)
        monitor = ResourceMonitor(settings, registry, measured, Records())
        session = await registry.create(b"owner", LeaseRequest(""))
        viewer = session.attach(offset=0, window=65536, role="writer", acknowledges=True)
        yield Stage(monitor, measured, session, viewer)
        nursery.cancel_scope.cancel()


async def test_whoever_keeps_within_limits_is_left_alone(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        for _ in range(100):
            assert await s.look() == []
        assert s.session.ended is None
        assert s.session.facts.peak_memory == 20 << 20


async def test_the_user_is_told_of_a_limit(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.look()
        s.measured.hit(oom_kills=1)
        (told,) = await s.look()
        assert "256 MB" in told
        s.measured.hit(pids_denied=30)
        told = (await s.look())[0]
        assert "50 processes" in told
        assert await s.look() == []


async def test_what_happened_before_the_first_look_is_told_then(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        s.measured.hit(oom_kills=1)
        assert len(await s.look()) == 1


async def test_warned_then_slowed_down_then_ended(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        told: list[list[str]] = []
        for _ in range(4):
            s.measured.hit(pids_denied=1)
            told.append(await s.look())
        assert [len(each) for each in told] == [1, 2, 2, 1]
        assert "slowed down and then ended" in told[1][1]
        assert "has been slowed down" in told[2][1]
        assert s.measured.throttled == [THROTTLED_TO]
        assert s.session.ended is None
        s.measured.hit(pids_denied=1)
        await s.look()
        assert s.session.ended == Ended(EndReason.RESOURCES)


async def test_strikes_are_taken_back(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        for _ in range(20):
            s.measured.hit(oom_kills=1)
            await s.look()
            await s.look()
        assert s.session.ended is None
        assert s.measured.throttled == []


@pytest.mark.parametrize("what", ["warn_after", "throttle_after", "end_after"])
async def test_each_step_can_be_left_out(autojump_clock: trio.abc.Clock, what: str) -> None:
    changes: Any = {what: 0}
    async with stage(attrs.evolve(SETTINGS, **changes)) as s:
        told: list[str] = []
        for _ in range(10):
            s.measured.hit(oom_kills=1)
            told += await s.look()
        assert any("and then ended" in each for each in told) == (what != "warn_after")
        assert bool(s.measured.throttled) == (what != "throttle_after")
        assert (s.session.ended is not None) == (what != "end_after")


async def test_an_engine_that_cannot_slow_it_down_is_asked_again(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        s.measured.failure = SandboxError("no")
        for _ in range(3):
            s.measured.hit(oom_kills=1)
            await s.look()
        s.measured.failure = None
        s.measured.hit(oom_kills=1)
        await s.look()
        assert s.measured.throttled == [THROTTLED_TO]


async def test_operators_hear_once_that_a_limit_is_near(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.look()
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                s.measured.now = attrs.evolve(IDLE, memory=250 << 20, pids=49)
                await s.look()
        near = sorted(entry["resource"] for entry in logs if entry["event"] == "near a limit")
        assert near == ["memory", "pids"]


async def test_cpu_is_what_was_used_between_two_looks(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.look()
        s.measured.now = attrs.evolve(IDLE, cpu_seconds=1.5)
        await s.look()
        assert s.monitor.watched[s.session.id].cpu_percent == pytest.approx(50)


async def test_a_round_looks_at_everybody_and_forgets_who_has_gone(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        nursery.start_soon(s.monitor.run)
        await trio.sleep(3)
        assert list(s.monitor.watched) == [s.session.id]
        s.measured.now = None  # the container has gone
        s.session.end(EndReason.LEFT)
        await trio.sleep(3)
        assert s.monitor.watched == {}
        nursery.cancel_scope.cancel()


async def test_whoever_keeps_within_the_limits_again_is_no_longer_slowed_down(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        for _ in range(3):
            s.measured.hit(oom_kills=1)
            await s.look()
        assert s.measured.throttled == [THROTTLED_TO]
        s.measured.hit(oom_kills=1)
        told = [await s.look() for _ in range(10)]
        assert s.measured.throttled == [THROTTLED_TO, 1]
        assert [index for index, each in enumerate(told) if each] == [0, 4]
        assert "no longer slowed down" in told[4][0]
        for _ in range(3):
            s.measured.hit(oom_kills=1)
            await s.look()
        assert s.measured.throttled == [THROTTLED_TO, 1, THROTTLED_TO]


async def test_a_session_can_stay_slowed_down(autojump_clock: trio.abc.Clock) -> None:
    async with stage(attrs.evolve(SETTINGS, lift_after=0)) as s:
        for _ in range(3):
            s.measured.hit(oom_kills=1)
            await s.look()
        for _ in range(50):
            await s.look()
        assert s.measured.throttled == [THROTTLED_TO]


async def test_what_another_process_slowed_down_is_lifted_too(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        s.measured.hit(cpus=0.1)
        for _ in range(5):
            await s.look()
        assert s.measured.throttled == [1]


async def test_operators_hear_once_that_all_together_are_near_a_limit(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        s.measured.all = attrs.evolve(IDLE, memory=95, pids=10), Budget(100, 2.0, 0)
        with structlog.testing.capture_logs() as logs:
            nursery.start_soon(s.monitor.run)
            await trio.sleep(5.5)
        near = [entry for entry in logs if entry["event"] == "all sessions together are near a limit"]
        assert [entry["resource"] for entry in near] == ["memory"]
        nursery.cancel_scope.cancel()


async def test_many_sessions_are_looked_at_once_an_interval_a_few_at_a_time(
    autojump_clock: trio.abc.Clock,
) -> None:
    settings = attrs.evolve(SETTINGS, max_sessions=201)
    looks: list[float] = []
    rounds: list[int] = []

    class Loop(trio.abc.Instrument):
        rounds = 0

        def before_io_wait(self, timeout: float) -> None:
            self.rounds += 1

    class Counting(Measured):
        def usage(self, session_id: str) -> Usage | None:
            looks.append(trio.current_time())
            rounds.append(loop.rounds)
            return super().usage(session_id)

    loop = Loop()
    trio.lowlevel.add_instrument(loop)
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(settings, MemoryProvider(), nursery)
        for _ in range(201):
            await registry.create(b"owner", LeaseRequest(""))
        began = trio.current_time()
        nursery.start_soon(ResourceMonitor(settings, registry, Counting(), Records()).run)
        await trio.sleep(3 * settings.monitor_interval + 0.01)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(loop)
    assert len(looks) == 3 * 201
    assert len(set(rounds)) == len(looks), "the loop turns between two looks: keys come in"
    turns = sorted({round(each - began, 6) for each in looks})
    assert len(turns) == 3 * 10, "one each 100 ms"
    assert turns[-1] == 3.0
