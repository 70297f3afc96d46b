"""Freezing, thawing and restoring a session: nothing is lost, nothing is counted twice, no promise is
stretched."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from supervisor.errors import SandboxError
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.registry import SessionRegistry
from supervisor.session.scrollback import BLOCK, Scrollback
from supervisor.session.session import Session
from supervisor.session.state import SessionState
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

SETTINGS = Settings(max_duration=600.0, idle_timeout=300.0, timeout_warning=30.0, resume_grace=250.0)


@asynccontextmanager
async def registry(settings: Settings = SETTINGS) -> AsyncGenerator[tuple[SessionRegistry, MemoryProvider]]:
    provider = MemoryProvider()
    async with trio.open_nursery() as nursery:
        yield SessionRegistry(settings, provider, nursery), provider
        nursery.cancel_scope.cancel()


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def started(sessions: SessionRegistry, provider: MemoryProvider) -> tuple[Session, MemoryTerminal]:
    session = await sessions.create(b"owner", LeaseRequest("", cols=90, rows=30))
    return session, provider.terminals[-1]


async def test_a_frozen_session_reads_and_types_nothing_and_goes_on_after(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with registry() as (sessions, provider):
        session, terminal = await started(sessions, provider)
        await terminal.print(b"before ")
        await settle()
        assert await sessions.freeze() == [session]
        await terminal.print(b"after")
        await session.type(b"keys", is_activity=True)
        session.resize(100, 40)
        await trio.sleep(100)
        assert session.scrollback.end == len(b"before ")
        assert terminal.typed == b""
        assert session.ended is None
        sessions.thaw()
        await settle()
        assert session.scrollback.read(0, 100) == b"before after"
        assert terminal.typed == b"keys"
        assert terminal.sizes[-1] == (100, 40)


async def test_input_that_the_program_does_not_take_is_in_the_snapshot_once(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with registry() as (sessions, provider):
        session, terminal = await started(sessions, provider)
        await session.type(b"taken", is_activity=True)
        await settle()
        terminal.set_reading(False)
        await session.type(b"waiting", is_activity=True)
        await settle()
        assert await session.freeze()
        snapshot = session.snapshot()
        assert (bytes(terminal.typed), snapshot.input, snapshot.input_bytes) == (b"taken", b"waiting", 5)


async def test_a_session_that_lets_its_viewers_go_takes_what_they_have_typed(
    autojump_clock: trio.abc.Clock,
) -> None:
    settings = attrs.evolve(SETTINGS, input_burst=1024)
    async with registry(settings) as (sessions, provider):
        session, terminal = await started(sessions, provider)
        terminal.set_reading(False)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lambda: session.type(b"x" * 1024, is_activity=True))
            await settle()
            assert len(session._keyboard.waiting) == 1024
            session.part()
            with trio.fail_after(1):
                await session.type(b"y", is_activity=True)
        assert await session.freeze()
        assert sorted(session.snapshot().input) == sorted(b"x" * 3072 + b"y")


@pytest.mark.parametrize("error", [SandboxError("lost"), OSError("no space left")])
async def test_what_goes_wrong_with_an_adopted_session_is_no_other_s_business(
    autojump_clock: trio.abc.Clock, error: Exception
) -> None:
    async with registry() as (sessions, provider):
        session, _ = await started(sessions, provider)
        assert await session.freeze()
        snapshot = session.snapshot()
    async with registry() as (sessions, provider):
        other, terminal = await started(sessions, provider)
        provider.failure = error
        sessions.adopt(Session.restore(snapshot, SETTINGS), provider)
        await settle()
        assert list(sessions) == [other]
        await terminal.print(b"goes on")
        await settle()
        assert other.scrollback.read(0, 100) == b"goes on"


async def test_a_restored_session_is_the_same_one(autojump_clock: trio.abc.Clock) -> None:
    async with registry() as (sessions, provider):
        session, terminal = await started(sessions, provider)
        await terminal.print(b"output")
        terminal.set_reading(False)
        await session.type(b"input", is_activity=True)
        session.resize(120, 50)
        await trio.sleep(200)
        assert await session.freeze()
        snapshot = session.snapshot()
    async with registry() as (sessions, provider):
        restored = Session.restore(snapshot, SETTINGS)
        sessions.adopt(restored, provider)
        await settle()
        assert sessions.find(session.id, b"owner") is restored
        assert restored.began == session.began
        assert restored.scrollback.read(0, 100) == b"output"
        [terminal] = provider.terminals
        assert terminal.typed == b"input"
        assert terminal.sizes[-1] == (120, 50)
        await terminal.print(b" and more")
        await settle()
        assert restored.scrollback.read(4, 100) == b"ut and more"
        terminal.exit(7)
        await settle()
        assert restored.ended
        assert restored.ended.status
        assert restored.ended.status.code == 7
        assert restored.state is SessionState.CLOSED


async def test_no_hand_over_makes_a_session_live_longer() -> None:
    async with registry() as (sessions, provider):
        session, _ = await started(sessions, provider)
        assert await session.freeze()
        snapshot = session.snapshot()
    assert snapshot.duration_deadline == pytest.approx(time.monotonic() + 600, abs=20)
    longer = attrs.evolve(SETTINGS, max_duration=6000.0, idle_timeout=6000.0)
    restored = Session.restore(attrs.evolve(snapshot, duration_deadline=time.monotonic() + 5), longer)
    assert restored.deadlines.duration.deadline == pytest.approx(trio.current_time() + 5, abs=2)
    assert restored.deadlines.idle.deadline == pytest.approx(trio.current_time() + 300, abs=20)


async def test_a_session_that_is_over_is_not_handed_over(autojump_clock: trio.abc.Clock) -> None:
    async with registry() as (sessions, provider):
        session, terminal = await started(sessions, provider)
        terminal.exit(0)
        await settle()
        assert not await session.freeze()
        other, _ = await started(sessions, provider)
        other.end(EndReason.LEFT)
        assert await sessions.freeze() == []


async def test_a_restored_session_that_nobody_comes_back_to_is_ended(autojump_clock: trio.abc.Clock) -> None:
    async with registry() as (sessions, provider):
        session, _ = await started(sessions, provider)
        assert await session.freeze()
        snapshot = session.snapshot()
    async with registry() as (sessions, provider):
        restored = Session.restore(snapshot, SETTINGS)
        sessions.adopt(restored, provider)
        with trio.fail_after(SETTINGS.resume_grace + 5):
            while len(sessions):
                await trio.sleep(1)
        assert restored.ended
        assert restored.ended.reason is EndReason.ABANDONED
        assert provider.leased == 0


@pytest.mark.parametrize("beginning", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 7])
def test_a_scrollback_can_begin_anywhere(beginning: int) -> None:
    data = bytes(range(256)) * 200
    scrollback = Scrollback(20_000, beginning)
    assert scrollback.start == scrollback.end == beginning
    scrollback.append(data[:5000])
    assert scrollback.start == beginning
    assert scrollback.read(beginning + 10, 100) == data[10:110]
    scrollback.append(data[5000:])
    assert scrollback.start == beginning + len(data) - 20_000
    assert scrollback.read(scrollback.start, 20_000) == data[-20_000:]
    with pytest.raises(ValueError):
        scrollback.read(scrollback.start - 1, 1)
