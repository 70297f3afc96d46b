"""What is known of an engine in trouble: on virtual time, with an engine that answers as the test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.engine import Docker, DockerTimeoutError, DockerUnreachableError
from supervisor.reaping.engine_health import (
    FRESH,
    INTERVAL,
    INTERVAL_WATCHED,
    NEED_TIMEOUT,
    PROBE_TIMEOUT,
    EngineHealth,
)


@attrs.define
class Engine:
    hangs: bool = False
    away: bool = False
    asked: int = 0
    docker_host: str = "unix:///here"

    @property
    def system(self) -> "Engine":
        return self

    async def ping(self, *, timeout: float, connect: bool) -> None:
        self.asked += 1
        await trio.sleep(timeout if self.hangs else 0.001)
        if self.hangs:
            raise DockerTimeoutError("no answer")
        if self.away:
            raise DockerUnreachableError("nobody there")


@asynccontextmanager
async def watched(engine: Engine) -> AsyncIterator[EngineHealth]:
    health = EngineHealth(cast("Docker", engine))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(health.run)
        await trio.sleep(0.01)
        yield health
        nursery.cancel_scope.cancel()


async def test_a_hung_engine_costs_the_first_one_seconds_and_the_next_ones_nothing(
    autojump_clock: MockClock,
) -> None:
    engine = Engine()
    async with watched(engine) as health:
        assert await health.confirm() is None
        engine.hangs = True
        await trio.sleep(FRESH + 0.1)
        began = trio.current_time()
        assert await health.confirm() == "the engine does not answer in time"
        assert trio.current_time() - began <= PROBE_TIMEOUT + 0.1
        began = trio.current_time()
        assert await health.confirm()
        assert trio.current_time() == began


async def test_whoever_waits_is_let_go_and_what_was_put_off_is_done_when_it_is_back(
    autojump_clock: MockClock,
) -> None:
    engine = Engine()
    returns: list[float] = []
    async with watched(engine) as health:
        health.on_return.append(lambda: returns.append(trio.current_time()))
        engine.hangs = True
        began = trio.current_time()
        with health.patience(shield=True) as patience:
            await trio.sleep(100)
        assert patience.cancelled_caught
        assert trio.current_time() - began <= INTERVAL_WATCHED + PROBE_TIMEOUT + 0.1
        with health.patience() as patience:
            await trio.sleep(100)
        assert patience.cancelled_caught, "it is known already"
        engine.hangs = False
        await trio.sleep(PROBE_TIMEOUT + 1)
        assert health.problem is None
        assert len(returns) == 1
        with trio.move_on_after(1), health.patience() as patience:
            await trio.sleep(100)
        assert not patience.cancelled_caught


async def test_an_engine_that_is_away_is_noticed_by_itself_and_so_is_its_return(
    autojump_clock: MockClock,
) -> None:
    engine = Engine(away=True)
    async with watched(engine) as health:
        assert health.away
        assert "nobody there" in health.away
        engine.away = False
        await trio.sleep(1)
        assert health.away is None


@pytest.mark.parametrize("ended", [True, False])
async def test_an_engine_that_took_no_connections_was_started_again(
    autojump_clock: MockClock, ended: bool
) -> None:
    engine = Engine()
    calls: list[str] = []
    async with watched(engine) as health:
        health.on_restart.append(lambda: calls.append("restart"))
        health.on_return.append(lambda: calls.append("return"))
        for _ in range(2):
            engine.away, engine.hangs = ended, not ended
            await trio.sleep(INTERVAL + PROBE_TIMEOUT + 1)
            engine.away = engine.hangs = False
            await trio.sleep(PROBE_TIMEOUT + 1)
        assert calls == (["restart", "return"] if ended else ["return"]) * 2


async def test_what_sessions_need_counts_as_well(autojump_clock: MockClock) -> None:
    engine = Engine()
    problem: str | None = "the image is gone"

    async def need() -> str | None:
        return problem

    async with watched(engine) as health:
        health.needs.append(need)
        health.ask()
        await trio.sleep(0.1)
        assert health.problem == problem
        assert health.away is None, "it can still be told to remove"
        problem = None
        await trio.sleep(INTERVAL + 0.1)
        assert health.problem is None


async def test_an_engine_that_begins_to_hang_while_a_need_is_looked_at(autojump_clock: MockClock) -> None:
    """The sign of life tells, not the need's own, longer limit."""
    engine = Engine()

    async def need() -> str | None:
        engine.hangs = True
        await trio.sleep(NEED_TIMEOUT)
        raise DockerTimeoutError("no answer")

    async with watched(engine) as health:
        health.needs.append(need)
        await trio.sleep(FRESH + 0.1)
        began = trio.current_time()
        assert await health.confirm() == "the engine does not answer in time"
        assert trio.current_time() - began <= INTERVAL_WATCHED + PROBE_TIMEOUT + 0.1


async def test_questions_are_few_however_many_ask(autojump_clock: MockClock) -> None:
    engine = Engine()
    async with watched(engine) as health:
        await trio.sleep(FRESH + 0.1)
        before = engine.asked
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(health.confirm)
        assert engine.asked <= before + 2
