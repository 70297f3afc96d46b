"""Commands per minute, on virtual time: counting, keys that wait, Ctrl-C, and who is told."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from supervisor.observability import metrics
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.attachment import Attachment, Notice
from supervisor.session.keyboard import Keyboard
from supervisor.session.limiter import TokenBucket
from supervisor.session.pace import TELL_AGAIN, CommandPace
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.settings.knob import KIB
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

LIMIT = 60
SETTINGS = Settings(command_rate=LIMIT, idle_timeout=1e5, max_duration=1e5, resume_grace=1e5)


@attrs.frozen
class Stage:
    session: Session
    terminal: MemoryTerminal
    viewer: Attachment
    registry: SessionRegistry

    async def start(self, count: int) -> None:
        """Have the shell start commands."""
        self.terminal.start_commands(count)
        await settle()

    async def type(self, data: bytes) -> None:
        await self.session.type(data, is_activity=True)
        await settle()

    def notices(self) -> list[str]:
        """What the viewer is told from here on, until it would wait."""
        told: list[str] = []
        while event := self.viewer._next_now(4096):
            told += [event.text] if isinstance(event, Notice) else []
        return told


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def stage(settings: Settings = SETTINGS, *, counted: bool = True) -> AsyncGenerator[Stage]:
    provider = MemoryProvider()
    provider.counted = counted
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(settings, provider, nursery)
        session = await registry.create(b"owner", LeaseRequest(""))
        viewer = session.attach(offset=0, window=64 * KIB, role="writer", acknowledges=True)
        yield Stage(session, provider.terminals[-1], viewer, registry)
        nursery.cancel_scope.cancel()


def hits(path: Path) -> list[str]:
    """The sessions of which the audit log says that they were beyond the limit."""
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [each["session"] for each in events if each["event"] == "limit hit: commands"]


async def test_within_the_limit_nothing_happens(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.start(LIMIT)
        await s.type(b"key")
        assert s.terminal.typed == b"key"
        for _ in range(300):
            await trio.sleep(1)
            await s.start(1)
            await s.type(b".")
        assert s.terminal.typed == b"key" + b"." * 300
        assert s.notices() == []
        assert s.session.statistics().commands == LIMIT + 300


async def test_without_a_limit_commands_are_counted_only(autojump_clock: trio.abc.Clock) -> None:
    async with stage(Settings()) as s:
        assert s.session.statistics().commands == 0
        await s.start(1_000_000)
        await s.type(b"key")
        assert s.terminal.typed == b"key"
        assert s.notices() == []
        assert s.session.statistics().commands == 1_000_000


async def test_where_nobody_counts_there_is_no_count(autojump_clock: trio.abc.Clock) -> None:
    async with stage(counted=False) as s:
        await s.start(10 * LIMIT)  # nobody listens
        await s.type(b"key")
        assert s.terminal.typed == b"key"
        assert s.session.statistics().commands is None
        assert await s.session.freeze()
        assert s.session.snapshot().commands is None


async def test_beyond_the_limit_keys_wait_until_the_rate_is_met(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.start(LIMIT + 30)
        begun = trio.current_time()
        await s.type(b"one ")
        await s.type(b"two")
        await trio.sleep(29.9)
        await settle()
        assert s.terminal.typed == b""
        assert s.session.input_bytes == 0
        await trio.sleep_until(begun + 30)
        await settle()
        assert s.terminal.typed == b"one two"
        await s.type(b"!")
        assert s.terminal.typed == b"one two!"
        await s.start(1)  # one more than there may be by now
        await s.type(b"?")
        await trio.sleep(0.9)
        assert s.terminal.typed == b"one two!"
        await trio.sleep(0.2)
        assert s.terminal.typed == b"one two!?"


async def test_what_still_runs_while_keys_wait_counts_too(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.start(LIMIT + 5)
        begun = trio.current_time()
        await s.type(b"key")
        for _ in range(10):
            await trio.sleep(0.1)
            await s.start(2)
        while s.terminal.typed != b"key":
            await trio.sleep(0.5)
        assert trio.current_time() - begun == pytest.approx(25, abs=1)


async def test_output_goes_on_and_so_do_the_window_and_the_end(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.start(100 * LIMIT)
        await s.type(b"key")
        await s.terminal.print(b"output")
        s.session.resize(120, 40)
        await settle()
        assert s.session.scrollback.read(0, 100) == b"output"
        assert s.terminal.sizes[-1] == (120, 40)
        s.terminal.exit(3)
        await settle()
        assert s.session.ended is not None
        assert s.session.ended.status is not None
        assert s.session.ended.status.code == 3


async def test_type_ahead_is_bounded_while_keys_wait(autojump_clock: trio.abc.Clock) -> None:
    async with stage(attrs.evolve(SETTINGS, input_burst=KIB)) as s, trio.open_nursery() as nursery:
        await s.start(2 * LIMIT)

        async def paste() -> None:
            for _ in range(10):
                await s.session.type(b"x" * KIB, is_activity=True)

        nursery.start_soon(paste)
        await settle()
        assert len(s.session._keyboard.waiting) == KIB
        assert s.session.input_is_full
        await trio.sleep(61)
        await settle()
        assert s.terminal.typed == b"x" * 10 * KIB


# --- Ctrl-C


async def test_ctrl_c_is_typed_at_once_and_what_waited_before_it_is_forgotten(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with stage() as s:
        await s.start(LIMIT + 30)
        await s.type(b"ls\rls\rls\r")
        await s.type(b"ls\r\x03")
        assert s.terminal.typed == b"\x03"
        await s.type(b"ls\r\x03ex\x03it\r")
        assert s.terminal.typed == b"\x03\x03"
        await trio.sleep(31)
        await settle()
        assert s.terminal.typed == b"\x03\x03it\r"


async def test_ctrl_c_makes_room(autojump_clock: trio.abc.Clock) -> None:
    async with stage(attrs.evolve(SETTINGS, input_burst=KIB)) as s, trio.open_nursery() as nursery:
        await s.start(2 * LIMIT)
        await s.type(b"x" * (KIB - 1))
        await s.type(b"\x03")
        nursery.start_soon(s.type, b"y" * KIB)
        await settle()
        assert s.session._keyboard.waiting == b"y" * KIB


async def test_ctrl_c_that_the_terminal_does_not_take_yet_is_not_lost(
    autojump_clock: trio.abc.Clock,
) -> None:
    """Nor is what is typed behind it; a pump that is stopped meanwhile makes no difference."""
    async with stage() as s:
        s.terminal.set_reading(False)
        await s.start(LIMIT + 30)
        await s.type(b"ls\r\x03pwd\r")
        assert await s.session.freeze()
        s.session.thaw()
        await settle()
        s.terminal.set_reading(True)
        await settle()
        assert s.terminal.typed == b"\x03"
        await trio.sleep(31)
        await settle()
        assert s.terminal.typed == b"\x03pwd\r"


async def test_keys_of_another_day_are_not_looked_at(autojump_clock: trio.abc.Clock) -> None:
    """Ctrl-C that was typed before keys had to wait makes nothing forgotten later."""
    async with stage() as s:
        await s.type(b"cat\r\x03")
        assert s.terminal.typed == b"cat\r\x03"
        await s.start(LIMIT + 30)
        await s.type(b"ls\r")
        await trio.sleep(31)
        await settle()
        assert s.terminal.typed == b"cat\r\x03ls\r"


@given(st.lists(st.sampled_from([b"a", b"ls\r", b"\x03", b"x\x03y", b"\x03\x03"]), max_size=12))
def test_held_keys_are_what_a_terminal_would_leave(pieces: list[bytes]) -> None:
    """Each Ctrl-C is one, and what is behind the last one is typed in the end."""

    async def main() -> None:
        terminal = MemoryTerminal(LeaseRequest(""))
        keyboard = Keyboard(256 * KIB, 1024 * KIB)
        keyboard.held_until = trio.current_time() + 10
        async with trio.open_nursery() as nursery:
            keyboard.plug(terminal, nursery)
            for piece in pieces:
                keyboard.put(piece)
                await settle()
            everything = b"".join(pieces)
            interrupts = sum(1 for piece in pieces if b"\x03" in piece)
            assert terminal.typed == b"\x03" * interrupts
            await trio.sleep(11)
            await settle()
            assert terminal.typed == b"\x03" * interrupts + everything.rpartition(b"\x03")[2]
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# --- who is told


async def test_everybody_is_told_once(autojump_clock: trio.abc.Clock, audit_log: Path) -> None:
    held = metrics.keys_held._value.get()
    async with stage() as s:
        await s.start(LIMIT + 1)
        (told,) = s.notices()
        assert "may start 60 commands a minute" in told
        for _ in range(50):
            await s.start(1)
            await trio.sleep(1)
        assert s.notices() == []
        await trio.sleep(TELL_AGAIN)
        await s.start(LIMIT + 1)
        assert s.notices() == [told], "another day"
        assert s.session.ended is None
        assert hits(audit_log) == [s.session.label] * 2
        assert metrics.keys_held._value.get() - held == 2


async def test_a_flood_of_reports_costs_little_and_tells_nobody_more(
    autojump_clock: trio.abc.Clock, audit_log: Path
) -> None:
    """Ten minutes of what a gate can relay at the most, 4096 commands ten times a second."""
    async with stage() as s:
        begun = trio.current_time()
        for _ in range(6000):
            s.terminal.start_commands(4096)
            await trio.sleep(0.1)
        await settle()
        assert s.session.statistics().commands == 6000 * 4096
        assert len(s.notices()) == 1, "one that is not read is the same as the next"
        assert len(hits(audit_log)) <= (trio.current_time() - begun) / TELL_AGAIN + 1
        await s.type(b"ls\r\x03")
        assert s.terminal.typed == b"\x03"
        s.terminal.exit(0)
        await settle()
        assert s.session.ended is not None


# --- another process


async def test_count_and_debt_go_over(autojump_clock: trio.abc.Clock) -> None:
    async with stage() as s:
        await s.start(LIMIT + 40)
        await s.type(b"key")
        await trio.sleep(10)
        assert await s.session.freeze()
        snapshot = s.session.snapshot()
    assert snapshot.commands == LIMIT + 40
    provider = MemoryProvider()
    provider.counted = True
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(SETTINGS, provider, nursery)
        restored = Session.restore(snapshot, SETTINGS)
        registry.adopt(restored, provider)
        await settle()
        (terminal,) = provider.terminals
        # Snapshots have the time of the kernel, which goes on a little between the two.
        await trio.sleep(28)
        assert terminal.typed == b""
        await trio.sleep(3)
        await settle()
        assert terminal.typed == b"key"
        terminal.start_commands(5)
        await settle()
        assert restored.statistics().commands == LIMIT + 45
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("before", "after"), [(0, LIMIT), (LIMIT, 0)])
async def test_a_limit_that_only_one_of_both_has(
    autojump_clock: trio.abc.Clock, before: int, after: int
) -> None:
    async with stage(attrs.evolve(SETTINGS, command_rate=before)) as s:
        await s.start(10 * LIMIT)
        await s.type(b"key")
        assert await s.session.freeze()
        snapshot = s.session.snapshot()
    provider = MemoryProvider()
    provider.counted = True
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(SETTINGS, provider, nursery)
        restored = Session.restore(snapshot, attrs.evolve(SETTINGS, command_rate=after))
        registry.adopt(restored, provider)
        await settle()
        (terminal,) = provider.terminals
        await restored.type(b"more", is_activity=True)
        await settle()
        assert bytes(terminal.typed) == (b"more" if before == 0 else b"keymore")
        assert restored.statistics().commands == 10 * LIMIT
        nursery.cancel_scope.cancel()


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 500)), max_size=20), st.floats(0, 100))
def test_a_bucket_s_state_is_one_number(charges: list[tuple[float, int]], pause: float) -> None:
    bucket, other = TokenBucket(2, 50, 0), TokenBucket(2, 50, 1000)
    now = 0.0
    for wait, amount in charges:
        now += wait
        bucket.charge(amount, now)
    now += pause
    other.go_on(bucket.even_at, now)
    assert other.charge(7, now) == pytest.approx(bucket.charge(7, now), abs=1e-6)
    assert other.charge(90, now + 1) == pytest.approx(bucket.charge(90, now + 1), abs=1e-6)


async def test_repr(autojump_clock: trio.abc.Clock) -> None:
    pace = CommandPace(LIMIT, Keyboard(1, 1), lambda: None)
    pace.note(3)
    assert repr(pace) == "<CommandPace 3 started <TokenBucket 57 of 60, 1/s>>"
