"""Sessions on virtual time: pumps, viewers at different paces, clocks, resume, the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from supervisor.errors import PeerError, SandboxError, SessionRefusedError
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest
from supervisor.session.attachment import (
    LITTLE,
    Answer,
    Attachment,
    Attendance,
    Ended,
    Event,
    Gap,
    Notice,
    Output,
    TimeoutWarning,
    TimeoutWarningCleared,
)
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.session.state import SessionState
from supervisor.settings import Settings
from supervisor.settings.knob import KIB
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

OWNER = b"owner"
WINDOW = 64 * KIB


@attrs.frozen
class Stage:
    registry: SessionRegistry
    provider: MemoryProvider

    async def start(self) -> tuple[Session, MemoryTerminal]:
        session = await self.registry.create(OWNER, LeaseRequest("", cols=100, rows=30))
        return session, self.provider.terminals[-1]


@asynccontextmanager
async def stage(settings: Settings | None = None) -> AsyncIterator[Stage]:
    provider = MemoryProvider()
    async with trio.open_nursery() as nursery:
        yield Stage(SessionRegistry(settings or Settings(), provider, nursery), provider)
        nursery.cancel_scope.cancel()
    assert provider.leased == 0


def watch(session: Session, offset: int = 0, **kwargs: object) -> Attachment:
    arguments = {"window": WINDOW, "role": "writer", "acknowledges": True} | kwargs
    return session.attach(offset=offset, **arguments)  # type: ignore[arg-type]


async def output(attachment: Attachment, size: int) -> bytes:
    """Read `size` bytes of output, acknowledging them."""
    result = b""
    while len(result) < size:
        event = await attachment.next_event(size - len(result))
        if isinstance(event, Output):
            result += event.data
            attachment.acknowledge(event.offset + len(event.data))
    return result


async def until(attachment: Attachment, kind: type[Event]) -> Event:
    while True:
        event = await attachment.next_event(4096)
        if isinstance(event, kind):
            return event
        if isinstance(event, Output):
            attachment.acknowledge(event.offset + len(event.data))


async def listen(viewer: Attachment, told: list[Event | bytes]) -> None:
    """Note what is told, acknowledging nothing."""
    while True:
        told.append(await viewer.next_event(4096))


async def test_bytes_travel_both_ways_and_the_size_is_there_from_the_start(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        viewer = watch(session)
        await terminal.print(b"ably> ")
        assert await output(viewer, 6) == b"ably> "
        await session.type(b"help\r", is_activity=True)
        await trio.testing.wait_all_tasks_blocked()
        assert terminal.typed == b"help\r"
        assert terminal.sizes == [(100, 30)]
        session.resize(132, 50)
        session.resize(90, 20)
        await trio.testing.wait_all_tasks_blocked()
        assert terminal.sizes == [(100, 30), (90, 20)]  # only the newest of several at once


async def test_exit_comes_after_the_last_byte_and_the_sandbox_is_gone_by_then(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        viewer = watch(session)
        await terminal.print(b"bye")
        terminal.exit(3)
        await trio.testing.wait_all_tasks_blocked()
        assert s.provider.leased == 0
        assert len(s.registry) == 0
        assert session.state is SessionState.CLOSED
        assert await output(viewer, 3) == b"bye"
        assert await until(viewer, Ended) == Ended(EndReason.USER_EXIT, ExitStatus(3))


async def test_a_frozen_viewer_stops_the_program_and_is_given_up(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        viewer = watch(session)
        nursery.start_soon(terminal.print, b"x" * 10 * WINDOW)
        await trio.testing.wait_all_tasks_blocked()
        assert session.scrollback.end < WINDOW + 2 * 65536
        started = trio.current_time()
        with pytest.raises(SessionRefusedError) as caught:
            while True:
                await viewer.next_event(4096)  # takes what it may, and never acknowledges
        assert caught.value.reason == EndReason.SLOW_CONSUMER
        assert trio.current_time() - started == pytest.approx(session.settings.stall_timeout)
        session.detach(viewer)
        await trio.testing.wait_all_tasks_blocked()
        assert session.scrollback.end == 10 * WINDOW  # nobody watches: the program runs on


async def test_slow_progress_is_not_a_stall(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        viewer = watch(session)
        nursery.start_soon(terminal.print, b"x" * 4 * WINDOW)
        received = 0
        while received < 4 * WINDOW:
            event = await viewer.next_event(16 * KIB)
            if isinstance(event, Output):
                received += len(event.data)
                await trio.sleep(session.settings.stall_timeout * 0.9)
                viewer.acknowledge(received)


async def test_a_slow_viewer_does_not_hold_up_a_fast_one_and_gets_a_gap() -> None:
    settings = Settings(scrollback=128 * KIB)
    async with stage(settings) as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        fast, slow = watch(session), watch(session, role="viewer")
        data = bytes(range(256)) * 4 * KIB  # 1 MiB
        nursery.start_soon(terminal.print, data)
        assert await output(fast, len(data)) == data
        gap = await until(slow, Gap)
        assert gap == Gap(0, len(data) - 128 * KIB)
        assert await output(slow, 128 * KIB) == data[-128 * KIB :]


async def test_a_client_that_does_not_acknowledge_is_paced_by_its_sends(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        viewer = watch(session, acknowledges=False)
        nursery.start_soon(terminal.print, b"y" * 10 * WINDOW)
        await trio.testing.wait_all_tasks_blocked()
        held = session.scrollback.end
        assert held < WINDOW + 2 * 65536
        received = 0
        while received < 10 * WINDOW:
            event = await viewer.next_event(4096)
            received += len(event.data) if isinstance(event, Output) else 0
        assert received == 10 * WINDOW


@pytest.mark.parametrize("accepts", [True, False])
async def test_a_little_output_is_sent_at_once_while_the_viewer_waits(
    autojump_clock: trio.abc.Clock, accepts: bool
) -> None:
    told: list[Event | bytes] = []  # what was sent at once is bytes

    def send_at_once(data: bytes) -> bool:
        if accepts:
            told.append(data)
        return accepts

    async with stage() as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        viewer = watch(session)
        viewer.send_at_once = send_at_once

        async def print_and_see(data: bytes) -> list[Event | bytes]:
            del told[:]
            await terminal.print(data)
            await trio.testing.wait_all_tasks_blocked()
            viewer.acknowledge(viewer.window.sent)
            return told

        assert await print_and_see(b"before") == [], "nobody waits yet"
        nursery.start_soon(listen, viewer, told)
        await trio.testing.wait_all_tasks_blocked()
        assert told[-1] == Output(0, b"before")
        assert await print_and_see(b"echo") == [b"echo" if accepts else Output(6, b"echo")]
        session.tell_notice("first")
        told_first = await print_and_see(b"second")
        assert told_first[0] == Notice("first")
        assert told_first[1:] in ([b"second"], [Output(10, b"second")])
        assert await print_and_see(b"x" * (LITTLE + 1)) == [Output(16, b"x" * (LITTLE + 1))]
        assert viewer.window.sent == session.scrollback.end
        nursery.cancel_scope.cancel()


async def test_nothing_is_sent_at_once_beyond_the_window(autojump_clock: trio.abc.Clock) -> None:
    at_once: list[bytes] = []

    def send_at_once(data: bytes) -> bool:
        at_once.append(data)
        return True

    async with stage(Settings(stall_timeout=10.0)) as s:
        with pytest.RaisesGroup(pytest.RaisesExc(SessionRefusedError, match="not taken in time")):
            async with trio.open_nursery() as nursery:
                session, terminal = await s.start()
                viewer = watch(session, window=10)
                await viewer.next_event(4096)
                viewer.send_at_once = send_at_once
                nursery.start_soon(listen, viewer, [])
                await trio.testing.wait_all_tasks_blocked()
                began = trio.current_time()
                await terminal.print(b"0123456")
                await trio.testing.wait_all_tasks_blocked()
                await terminal.print(b"789abcdef")
        assert at_once == [b"0123456"]
        assert trio.current_time() == began + 10, "a stall like any other"


async def test_who_is_sent_exactly_a_window_at_once_stalls_as_well(autojump_clock: trio.abc.Clock) -> None:
    async with stage(Settings(stall_timeout=10.0)) as s:
        with pytest.RaisesGroup(pytest.RaisesExc(SessionRefusedError, match="not taken in time")):
            async with trio.open_nursery() as nursery:
                session, terminal = await s.start()
                viewer = watch(session, window=3)
                await viewer.next_event(4096)
                viewer.send_at_once = lambda _: True
                nursery.start_soon(listen, viewer, [])
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked()
                    await terminal.print(b"x")
                await trio.testing.wait_all_tasks_blocked()
                began = trio.current_time()
                await terminal.print(b"never read: the program has to wait")
        assert trio.current_time() == began + 10


async def test_acknowledging_the_unsent_is_a_breach(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, _ = await s.start()
        viewer = watch(session)
        with pytest.raises(PeerError, match="more output than was sent"):
            viewer.acknowledge(1)
        viewer.acknowledge(0)


async def test_answers_are_bounded(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, _ = await s.start()
        viewer = watch(session)
        with pytest.raises(PeerError, match="more answers than it reads"):
            for _ in range(1000):
                viewer.post(Answer("{}"))


async def test_idle_warns_then_ends_and_only_keys_postpone(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        viewer = watch(session)
        begin = trio.current_time()
        await terminal.print(b"output is no activity")
        assert await until(viewer, TimeoutWarning) == TimeoutWarning("idle", 60.0)
        assert trio.current_time() - begin == pytest.approx(540)
        await session.type(b"\x1b[1;1R", is_activity=False)
        await trio.testing.wait_all_tasks_blocked()
        await session.type(b"k", is_activity=True)
        assert await until(viewer, TimeoutWarningCleared) == TimeoutWarningCleared("idle")
        typed = trio.current_time()
        assert await until(viewer, Ended) == Ended(EndReason.IDLE)
        assert trio.current_time() - typed == pytest.approx(600)


async def test_the_maximum_duration_is_never_extended(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, _ = await s.start()
        begin = trio.current_time()
        while session.ended is None:
            viewer = watch(session)  # leaves and comes back, types all the time
            with trio.move_on_after(120):
                await until(viewer, Ended)
            session.detach(viewer)
            await session.type(b"k", is_activity=True)
        assert session.ended == Ended(EndReason.MAX_DURATION)
        assert trio.current_time() - begin == pytest.approx(1800, abs=121)


async def test_nobody_comes_back(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        viewer = watch(session)
        session.detach(viewer)
        await trio.sleep(299)
        await terminal.print(b"still running")
        again = watch(session)
        assert await output(again, 13) == b"still running"
        session.detach(again)
        await trio.sleep(301)
        assert session.ended == Ended(EndReason.ABANDONED)
        assert s.provider.leased == 0


async def test_without_grace_the_session_ends_with_its_viewer(autojump_clock: trio.abc.Clock) -> None:
    async with stage(Settings(resume_grace=0)) as s:
        session, _ = await s.start()
        await trio.sleep(5)
        viewer = watch(session)
        await trio.sleep(1)
        assert session.ended is None
        session.detach(viewer)
        await trio.sleep(0.1)
        assert session.ended is not None


async def test_a_program_that_does_not_read_bounds_the_queue_but_not_the_output(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        viewer = watch(session)
        terminal.set_reading(False)

        async def paste() -> None:
            for _ in range(8):
                await session.type(b"p" * 1024 * KIB, is_activity=True)

        nursery.start_soon(paste)
        await terminal.print(b"echo")
        assert await output(viewer, 4) == b"echo"
        await trio.testing.wait_all_tasks_blocked()
        assert "input" not in repr(session)
        assert session.input_bytes == 0
        terminal.set_reading(True)
        started = trio.current_time()
        while session.input_bytes < 8 * 1024 * KIB:
            await trio.sleep(1)
        # 8 MiB less a burst of 2 MiB at 256 KiB/s
        assert trio.current_time() - started == pytest.approx(24, abs=2)
        assert terminal.typed == b"p" * 8 * 1024 * KIB


async def test_a_lost_sandbox_ends_the_session_and_nothing_else(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        other, _ = await s.start()
        viewer = watch(session)
        terminal.vanish()
        assert await until(viewer, Ended) == Ended(EndReason.ENDED)
        assert other.ended is None


async def test_a_start_that_fails_tells_its_caller_and_leaves_nothing(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        s.provider.failure = SandboxError("no image")
        with pytest.raises(SandboxError, match="no image"):
            await s.start()
        assert len(s.registry) == 0
        s.provider.failure = None
        await s.start()


async def test_a_caller_that_goes_during_the_start_takes_the_session_along(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        s.provider.start_delay = 5
        with trio.move_on_after(1):
            await s.start()
        assert s.provider.leased == 0
        assert len(s.registry) == 0


async def test_ended_while_starting(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        s.provider.start_delay = 5
        async with trio.open_nursery() as nursery:

            async def close_soon() -> None:
                await trio.sleep(1)
                s.registry.close(EndReason.SHUTDOWN)

            nursery.start_soon(close_soon)
            with pytest.raises(SessionRefusedError) as caught:
                await s.start()
            assert caught.value.reason == EndReason.SHUTDOWN
        with pytest.raises(SessionRefusedError) as caught:
            await s.start()
        assert caught.value.reason == EndReason.SHUTDOWN


async def test_capacity(autojump_clock: trio.abc.Clock) -> None:
    async with stage(Settings(max_sessions=2)) as s:
        first, terminal = await s.start()
        await s.start()
        with pytest.raises(SessionRefusedError) as caught:
            await s.start()
        assert caught.value.reason == EndReason.CAPACITY
        terminal.exit()
        await trio.testing.wait_all_tasks_blocked()
        await s.start()
        assert first.ended is not None


async def test_only_the_owner_finds_a_session(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        assert s.registry.find(session.id, OWNER) is session
        assert s.registry.find(".", OWNER) is None
        assert s.registry.find("", OWNER) is None
        with pytest.raises(SessionRefusedError) as caught:
            s.registry.find(session.id, b"other")
        assert caught.value.reason == EndReason.CREDENTIALS
        assert session.id not in str(caught.value)
        terminal.exit()
        await trio.testing.wait_all_tasks_blocked()
        assert s.registry.find(session.id, OWNER) is None


async def test_replaced_viewers_are_told_and_others_stay(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session, _ = await s.start()
        old, shared = watch(session, acknowledges=False), watch(session)
        session.replace(lambda attachment: not attachment.acknowledges)
        assert await until(old, Ended) == Ended(EndReason.REPLACED)
        assert await until(shared, Attendance) == Attendance(writers=1, viewers=0)
        assert session.ended is None


async def test_nothing_secret_shows(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        session = await s.registry.create(
            OWNER, LeaseRequest("", environment={"ABLY_API_KEY": "planted-secret"})
        )
        assert session.id not in repr(session)
        for shown in (repr(session), repr(s.registry), repr(session.statistics()), repr(session.__dict__)):
            assert "planted-secret" not in shown
        session.end(EndReason.LEFT)
        await trio.testing.wait_all_tasks_blocked()
        assert session.state is SessionState.CLOSED


def test_states_only_move_forward() -> None:
    state = SessionState.CREATED.forward(SessionState.STARTING)
    with pytest.raises(RuntimeError, match="cannot go from STARTING to CREATED"):
        state.forward(SessionState.CREATED)


async def test_a_program_is_made_to_draw_again_by_a_change_of_size_that_is_taken_back(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        session, terminal = await s.start()
        session.redraw()
        await trio.sleep(1)
        assert terminal.sizes == [(100, 30), (100, 29), (100, 30)]
