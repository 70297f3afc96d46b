"""Names that must not be forgotten: the registry, on virtual time, against an engine that misbehaves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.engine import (
    Docker,
    DockerConnectionError,
    DockerError,
    DockerTimeoutError,
    DockerUnreachableError,
)
from supervisor.reaping import pending
from supervisor.reaping.pending import PendingRemovals


@attrs.define
class Engine:
    """Answers of an engine: what exists, and what it does when asked to remove it."""

    existing: set[str] = attrs.field(factory=set[str])
    calls: list[tuple[float, str, str]] = attrs.field(factory=list[tuple[float, str, str]])
    auto_removes: bool = False
    down: bool = False
    hangs: set[str] = attrs.field(factory=set[str])
    busy: int = 0

    def container(self, name: str) -> "Fake":
        return Fake(self, name)

    async def asked(self, what: str, name: str, timeout: float | None) -> None:
        self.calls.append((trio.current_time(), what, name))
        await trio.lowlevel.checkpoint()
        if self.down:
            raise DockerConnectionError("nobody there")
        if what in self.hangs:
            assert timeout is not None
            await trio.sleep(timeout)
            raise DockerTimeoutError(f"{what}: no answer")


@attrs.define
class Fake:
    engine: Engine
    name: str

    async def wait(self, *, timeout: float | None, condition: str) -> dict[str, Any]:
        assert condition == "removed"
        await self.engine.asked("wait", self.name, timeout)
        if self.name not in self.engine.existing:
            raise DockerError(404, "No such container")
        if not self.engine.auto_removes:
            assert timeout is not None
            await trio.sleep(timeout)
            raise DockerTimeoutError("wait: no answer")
        await trio.sleep(0.2)
        self.engine.existing.discard(self.name)
        return {"StatusCode": 0, "Error": None}

    async def kill(self, *, timeout: float | None) -> None:
        await self.engine.asked("kill", self.name, timeout)
        if self.name not in self.engine.existing:
            raise DockerError(404, "No such container")

    async def delete(self, *, force: bool, v: bool, timeout: float | None) -> None:
        assert force
        assert v
        await self.engine.asked("delete", self.name, timeout)
        if self.name not in self.engine.existing:
            raise DockerError(404, "No such container")
        if self.engine.busy:
            self.engine.busy -= 1
            raise DockerError(409, "removal is already in progress")
        self.engine.existing.discard(self.name)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[PendingRemovals]:
    pending_removals = PendingRemovals(engine.container)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pending_removals.run)
        yield pending_removals
        nursery.cancel_scope.cancel()


async def test_the_engine_removes_what_has_ended_by_itself(autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, auto_removes=True)
    async with running(engine) as registry:
        registry.register("a")
        registry.mark_started("a")
        assert await registry.remove("a")
        assert [call[1] for call in engine.calls] == ["kill", "wait"]
        assert registry.names() == []


async def test_what_the_engine_does_not_remove_is_deleted(autojump_clock: MockClock) -> None:
    engine = Engine({"a"})
    async with running(engine) as registry:
        registry.register("a")
        registry.mark_started("a")
        assert await registry.remove("a")
        assert [call[1] for call in engine.calls] == ["kill", "wait", "delete"]


async def test_what_never_started_is_not_waited_for(autojump_clock: MockClock) -> None:
    engine = Engine({"a"})
    async with running(engine) as registry:
        registry.register("a")
        assert await registry.remove("a")
        assert [call[1] for call in engine.calls] == ["kill", "delete"]


@pytest.mark.parametrize("call", ["kill", "wait", "delete"])
async def test_each_call_has_its_own_deadline(call: str, autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, hangs={call})
    async with running(engine) as registry:
        registry.register("a")
        registry.mark_started("a")
        begin = trio.current_time()
        gone = await registry.remove("a")
        assert trio.current_time() - begin <= pending.ATTEMPT_TIMEOUT
        assert gone == (call != "delete")
        assert [each[1] for each in engine.calls][:3] == ["kill", "wait", "delete"]
        engine.hangs.clear()
        assert await registry.drain(5) == []
        assert not engine.existing


async def test_an_engine_that_is_away_is_asked_again_with_growing_pauses(autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, down=True)
    async with running(engine) as registry:
        registry.register("a")
        assert not await registry.remove("a")
        await trio.sleep(300)
        deletes = [at for at, what, _ in engine.calls if what == "delete"]
        pauses = [round(b - a, 1) for a, b in pairwise(deletes)]
        assert pauses[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
        assert set(pauses[7:]) == {30.0}
        assert registry.statistics().due == 1
        assert registry.statistics().oldest >= 300
        engine.down = False
        await trio.sleep(31)
        assert registry.names() == []
        assert registry.statistics().removed == 1
        assert registry.statistics().failed_attempts == len(deletes)


async def test_a_container_may_appear_after_an_unanswered_create(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with running(engine) as registry:
        registry.register("late")
        registry.mark_doubtful("late")
        assert not await registry.remove("late"), "no such container may only mean: not yet"
        await trio.sleep(20)
        engine.existing.add("late")
        await trio.sleep(30)
        assert not engine.existing
        assert registry.names() == []


@pytest.mark.parametrize("cut_off", [True, False])
async def test_what_a_dead_engine_has_cut_off_does_not_appear_later(
    autojump_clock: MockClock, cut_off: bool
) -> None:
    """The next engine's word is believed at once; not about a call that merely got no answer in time."""
    async with running(Engine()) as registry:
        registry.register("never")
        registry.mark_doubtful("never", cut_off=cut_off)
        assert not await registry.remove("never")
        registry.trust_restarted_engine()
        assert await registry.drain(5) == ([] if cut_off else ["never"])


async def test_doubt_ends(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with running(engine) as registry:
        registry.register("never")
        registry.mark_doubtful("never")
        assert not await registry.remove("never")
        await trio.sleep(pending.DOUBT_TIME + pending.LONGEST_PAUSE)
        assert registry.names() == []


async def test_removal_in_progress_elsewhere_is_confirmed(autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, busy=1, auto_removes=True)
    async with running(engine) as registry:
        registry.register("a")
        assert not await registry.remove("a")
        assert await registry.drain(5) == []
        assert registry.names() == []


async def test_a_cancelled_removal_stays_registered(autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, hangs={"kill"})
    async with running(engine) as registry:
        registry.register("a")
        with trio.move_on_after(1) as scope:
            await registry.remove("a")
        assert scope.cancelled_caught
        assert registry.names() == ["a"]
        engine.hangs.clear()
        assert await registry.drain(5) == []


async def test_names_in_use_are_left_alone(autojump_clock: MockClock) -> None:
    engine = Engine({"a", "b"})
    async with running(engine) as registry:
        registry.register("a")
        registry.register("b")
        await trio.sleep(1000)
        assert engine.calls == []
        assert registry.statistics().held == 2
        assert await registry.remove("b")
        assert registry.names() == ["a"]
        registry.forget("a")
        with pytest.raises(KeyError):
            await registry.remove("a")


async def test_many_at_once(autojump_clock: MockClock) -> None:
    names = [f"n{number}" for number in range(50)]
    engine = Engine(set(names), down=True)
    async with running(engine) as registry:
        async with trio.open_nursery() as nursery:
            for name in names:
                registry.register(name)
                nursery.start_soon(registry.remove, name)
        assert registry.statistics().due == 50
        engine.down = False
        assert await registry.drain(10) == []
        assert not engine.existing


async def test_drain_gives_up_in_time(autojump_clock: MockClock) -> None:
    engine = Engine({"a"}, down=True)
    async with running(engine) as registry:
        registry.register("a")
        await registry.remove("a")
        begin = trio.current_time()
        assert await registry.drain(3) == ["a"]
        assert trio.current_time() - begin == 3


async def test_a_name_is_registered_once() -> None:
    registry = PendingRemovals(Engine().container)
    registry.register("a")
    with pytest.raises(ValueError, match="registered already"):
        registry.register("a")


async def test_an_engine_that_cannot_be_reached_has_heard_nothing(tmp_path: Path) -> None:
    async with Docker(f"unix://{tmp_path}/nobody.sock") as docker:
        with pytest.raises(DockerUnreachableError):
            await docker.containers.create({"Image": "x"}, name="a", timeout=5)
