"""What is recorded of a session, what happens when the disk does not keep up, and what the user is told."""

import errno
import gc
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from recordings.cast import files, only, parse
from recordings.stage import stage
from supervisor.errors import ConfigurationError, SandboxError, SessionRefusedError
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.attachment import Ended, Notice, Output
from supervisor.session.cast_file import CastFile
from supervisor.session.recorder import open_recorder
from supervisor.session.recording import FINISH_TIMEOUT, MAX_WAITING, NO_MORE, STALL_TIMEOUT, Recording
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.settings.knob import KIB, MIB
from supervisor.testing.checkpoints import cancel_at_every_checkpoint
from supervisor.testing.memory import MemoryTerminal

Clock = trio.abc.Clock


async def flood(terminal: MemoryTerminal, size: int) -> bytes:
    terminal.capacity = 64 * KIB
    data = b"".join(b"%09d\n" % n for n in range(size // 10))
    await terminal.print(data)
    return data


async def test_a_session_from_start_to_end(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        began = trio.current_time()
        await trio.sleep(1)
        await terminal.print(b"ably> ")
        await trio.sleep(2.5)
        await terminal.print("größer\r\n".encode())
        assert s.recorder.open == 1
        terminal.exit(0)
        await s.over()
        assert s.recorder.open == 0
    cast = s.cast
    assert (cast.header["width"], cast.header["height"]) == (100, 30)
    assert cast.header["timestamp"] == pytest.approx(time.time(), abs=600)
    assert cast.header["title"] == f"session {session.label}, local"
    assert cast.events[0] == (1.0, "o", "ably> ")
    assert cast.events[1] == (3.5, "o", "größer\r\n")
    assert cast.events[2] == (3.5, "m", "session ended: user_exit")
    assert len(cast.events) == 3
    path = only(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.endswith(f"Z-{session.label}.cast")
    assert session.id not in path.name + path.read_text()
    assert began < 1


async def test_what_happened_is_on_disk_within_a_second(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        _, terminal = await s.start()
        assert parse(s.part).events == []
        for number in range(20):
            await terminal.print(b"%d" % number)
            await trio.sleep(0.9)
            assert parse(s.part).text("o") == "".join(map(str, range(number + 1)))


async def test_input_is_recorded_only_where_that_is_wanted(autojump_clock: Clock, tmp_path: Path) -> None:
    for wanted in (False, True):
        directory = tmp_path / str(wanted)
        directory.mkdir()
        async with stage(directory, record_input=wanted) as s:
            session, terminal = await s.start()
            await session.type("pässword\r".encode()[:2], is_activity=True)
            await session.type("pässword\r".encode()[2:], is_activity=True)
            await wait_all_tasks_blocked()
            terminal.exit(0)
            await s.over()
        assert s.cast.text("i") == ("pässword\r" if wanted else "")


async def test_sizes(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        for size in ((100, 30), (132, 50), (132, 50), (90, 20)):
            session.resize(*size)
            await wait_all_tasks_blocked()
        terminal.exit(0)
        await s.over()
    assert s.cast.all("r") == ["132x50", "90x20"]


async def test_code_points_in_pieces(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        _, terminal = await s.start()
        for byte in "ä😀".encode() + b"\xff\xf0\x9f":
            await terminal.print(bytes([byte]))
            await trio.sleep(2)
        terminal.exit(0)
        await s.over()
    assert s.cast.text("o") == "ä😀\ufffd\ufffd"


async def test_a_slow_disk_holds_up_nobody_and_a_marker_tells_what_is_missing(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        s.disk.hang()
        data = await flood(terminal, 5 * MIB)
        await wait_all_tasks_blocked()
        assert session.scrollback.end == len(data), "the program was not held up"
        recording = session.recording
        assert recording
        assert recording.waiting <= MAX_WAITING + 64 * KIB
        missing = recording.omitted
        assert missing > 3 * MIB
        s.disk.go_on()
        await trio.sleep(5)
        assert session.scrollback.end == len(data)
        await terminal.print(b"and more")
        terminal.exit(0)
        await s.over()
        assert recording.problem == f"{missing} bytes were left out"
    cast = s.cast
    assert cast.all("m")[0] == f"{missing} bytes were left out"
    text = cast.text("o")
    assert text == (data[: len(data) - missing] + b"and more").decode()


async def test_where_it_is_required_the_program_waits_for_the_disk(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path, recording_required=True) as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        s.disk.hang()
        written: list[bytes] = []

        async def print_much() -> None:
            written.append(await flood(terminal, 5 * MIB))

        nursery.start_soon(print_much)
        await wait_all_tasks_blocked()
        assert session.scrollback.end <= MAX_WAITING + 64 * KIB
        await trio.sleep(STALL_TIMEOUT * 0.9)
        s.disk.go_on()
        while not written:
            await trio.sleep(0.1)
        await trio.sleep(1)
        terminal.exit(0)
        await s.over()
        assert session.recording
        assert session.recording.problem is None
    assert s.cast.text("o").encode() == written[0]


async def test_where_it_is_required_a_disk_that_hangs_ends_the_session(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path, recording_required=True) as s, trio.open_nursery() as nursery:
        session, terminal = await s.start()
        s.disk.hang()
        nursery.start_soon(flood, terminal, 5 * MIB)
        with trio.fail_after(STALL_TIMEOUT + FINISH_TIMEOUT + 5):
            await s.over()
        assert session.ended == Ended(EndReason.RECORDING)
        nursery.cancel_scope.cancel()
    assert parse(s.part), "the next start finishes it"


class FullDisk:
    """Takes `room` bytes more, then what there is room for, then nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self._room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._write(descriptor, data[: self._room])
        self._room -= count
        return count


async def test_a_full_disk_ends_the_recording_and_not_the_session(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        viewer = session.attach(offset=0, window=MIB, role="writer", acknowledges=False)
        FullDisk(monkeypatch, 1000)
        await terminal.print(b"before")
        await trio.sleep(1)
        data = await flood(terminal, 100 * KIB)
        await trio.sleep(1)
        assert session.ended is None
        assert session.recording
        assert not session.recording.goes_on
        assert "No space left" in (session.recording.problem or "")
        monkeypatch.undo()
        await terminal.print(b"still here")
        await trio.sleep(1)
        told, shown = [], b""
        while not shown.endswith(b"still here"):
            match await viewer.next_event(MIB):
                case Notice(text):
                    told.append(text)
                case Output(_, piece):
                    shown += piece
                case _:
                    pass
        assert told == [NO_MORE]
        assert shown == b"before" + data + b"still here"
        assert s.cast.text("o").startswith("before"), "it was finished when it ended"
        terminal.exit(0)
        await s.over()
    assert "still" not in s.cast.text("o")


async def test_a_full_disk_ends_the_session_where_recordings_are_required(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, recording_required=True) as s:
        session, terminal = await s.start()
        FullDisk(monkeypatch, 0)
        await terminal.print(b"more")
        with trio.fail_after(2):
            await s.over()
        assert session.ended == Ended(EndReason.RECORDING)
    assert s.cast.events == []


async def test_the_longest_recording_ends_with_a_marker(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path, recording_max_size=64 * KIB) as s:
        session, terminal = await s.start()
        data = await flood(terminal, 200 * KIB)
        await trio.sleep(1)
        assert session.ended is None
        cast = s.cast
        terminal.exit(0)
        await s.over()
    assert s.cast == cast
    assert only(tmp_path).stat().st_size <= 64 * KIB
    assert cast.events[-1][1:] == ("m", "recording ended: RECORDING_MAX_SIZE is reached")
    text = cast.text("o").encode()
    assert len(text) > 32 * KIB
    assert data.startswith(text)


@pytest.mark.parametrize("limit", ["recording_min_free", "recording_directory_max_size"])
async def test_the_host_keeps_its_room(autojump_clock: Clock, tmp_path: Path, limit: str) -> None:
    (tmp_path / "old").write_bytes(b"x" * MIB)
    settings: dict[str, Any] = {limit: 1 << 50 if limit == "recording_min_free" else MIB}
    async with stage(tmp_path, **settings) as s:
        session, terminal = await s.start()
        assert session.recording
        assert session.recording.path is None
        assert limit.upper() in (session.recording.problem or "")
        await terminal.print(b"unseen")
        terminal.exit(0)
        await s.over()
        assert s.recorder.unavailable is None
    async with stage(tmp_path, recording_required=True, **settings) as s:
        with pytest.raises(SessionRefusedError) as caught:
            await s.start()
        assert caught.value.reason == EndReason.RECORDING
        assert s.provider.leased == 0
        assert limit.upper() in (s.recorder.unavailable or "")
        await trio.sleep(60)
        assert s.recorder.unavailable is None
    assert [path.name for path in files(tmp_path)] == ["old"]


async def test_a_recording_that_runs_out_of_room_ends(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path, recording_directory_max_size=MIB) as s:
        session, terminal = await s.start()
        await flood(terminal, 3 * MIB)
        await trio.sleep(2)
        assert session.recording
        assert session.recording.problem == "RECORDING_DIRECTORY_MAX_SIZE is reached"
    assert MIB <= sum(path.stat().st_size for path in files(tmp_path)) < 1.5 * MIB
    assert s.cast.events[-1][2] == "recording ended: RECORDING_DIRECTORY_MAX_SIZE is reached"


async def test_a_disk_that_hangs_at_the_start_delays_it_by_a_moment(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path) as s:
        s.disk.hang()
        began = trio.current_time()
        session, terminal = await s.start()
        assert trio.current_time() - began < 3
        assert session.recording
        assert session.recording.path is None
        terminal.exit(0)
        await s.over()
        s.disk.go_on()
    assert files(tmp_path) == []


async def test_a_session_that_never_was_leaves_no_recording(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        s.provider.failure = SandboxError("no")
        with pytest.raises(SandboxError):
            await s.start()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "where", [(Recording, "_make_line", "ZeroDivisionError('a bug')"), (CastFile, "_append", "a bug")]
)
async def test_a_fault_in_the_recorder_ends_a_recording_at_most(
    autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str, str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        await terminal.print(b"a")
        await trio.sleep(1)
        with monkeypatch.context() as patched:
            patched.setattr(*where[:2], fail)
            await terminal.print(b"b")
            await trio.sleep(1)
        assert session.ended is None
        assert session.recording
        assert session.recording.problem == where[2]
        other, terminal = await s.start()
        await terminal.print(b"fine")
        await trio.sleep(1)
        assert other.recording
        assert other.recording.goes_on
    assert len(files(tmp_path, "*.cast")) == 2


@pytest.mark.parametrize("threads", [False, True])
async def test_cancelled_at_any_checkpoint_a_session_leaves_a_finished_file(
    tmp_path: Path, threads: bool
) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    finished = 0

    async def scenario() -> None:
        async with stage(tmp_path, threads=threads) as s:
            session, terminal = await s.start()
            await terminal.print(b"some")
            await session.type(b"x", is_activity=True)
            session.resize(90, 20)
            await trio.testing.wait_all_tasks_blocked()
            terminal.exit(0)
            while len(s.registry):
                await trio.lowlevel.checkpoint()

    async def after_each() -> None:
        nonlocal finished
        with trio.fail_after(60):
            while files(tmp_path, "*.part"):  # a busy disk is not waited for
                assert threads, "not finished"
                await trio.sleep(0.05)
        for path in files(tmp_path):
            cast = parse(path.read_bytes())
            assert cast.events[-1][2].startswith("session ended: ")
            finished += 1
            path.unlink()
        assert descriptors() <= before

    await scenario()
    before = descriptors()
    await after_each()
    checkpoints = await cancel_at_every_checkpoint(scenario, after_each)
    assert checkpoints > 10
    assert finished > checkpoints


async def test_the_directory_is_made_and_must_be_private(tmp_path: Path) -> None:
    directory = tmp_path / "some" / "where"
    async with open_recorder(Settings(recording_directory=directory)):
        assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"RECORDING_DIRECTORY=.*mode 0700"):
        async with open_recorder(Settings(recording_directory=directory)):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="RECORDING_DIRECTORY="):
        async with open_recorder(Settings(recording_directory=tmp_path / "file" / "in")):
            pass


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigurationError, match="RECORDING_REQUIRED=true: needs RECORDING_DIRECTORY"):
        Settings(recording_required=True)
    with pytest.raises(ConfigurationError, match="must be an absolute path"):
        Settings(recording_directory=Path("somewhere"))


async def test_a_recording_goes_on_in_another_process(autojump_clock: Clock, tmp_path: Path) -> None:
    """No byte is missing or double, in the middle of a code point either; only what is settled is handed."""
    text = "before ä after"
    data = text.encode()
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        await terminal.print(data[:8])
        await trio.sleep(3)
        assert await s.registry.freeze() == [session]
        assert session.recording
        handed = session.recording.hand()
        assert handed
        assert handed.tails == (data[7:8], b"")
        assert handed.descriptor is not None
        handed.descriptor = os.dup(handed.descriptor)
        snapshot = session.snapshot()
        session.recording._file._let_go()  # the process that gives ends without a word
        async with stage(tmp_path) as other:
            restored = Session.restore(snapshot, other.registry.settings)
            other.registry.adopt(restored, other.provider, handed)
            await wait_all_tasks_blocked()
            await other.provider.terminals[0].print(data[8:])
            await trio.sleep(1)
            assert parse(other.part).text("o") == text
            other.provider.terminals[0].exit(0)
            await other.over()
        assert handed.take() is None
    cast = s.cast
    assert cast.text("o") == text
    assert [time for time, _, _ in cast.events] == pytest.approx([0, 3, 4], abs=0.2)
    assert cast.events[-1][1:] == ("m", "session ended: user_exit")


async def test_a_hand_over_that_fails_changes_nothing(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        for piece in (b"one ", b"two ", b"three"):
            await terminal.print(piece)
            await s.registry.freeze()
            assert session.recording
            assert session.recording.hand()
            s.registry.thaw()
        await wait_all_tasks_blocked()
        terminal.exit(0)
        await s.over()
    assert s.cast.text("o") == "one two three"


async def test_what_a_hanging_disk_has_not_taken_is_not_handed_over(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path) as s:
        session, terminal = await s.start()
        s.disk.hang()
        await terminal.print(b"one")
        began = trio.current_time()
        assert await s.registry.freeze() == [session]
        assert trio.current_time() - began < 3
        assert session.recording
        assert session.recording.hand() is None
        s.registry.thaw()
        s.disk.go_on()
        await terminal.print(b" two")
        terminal.exit(0)
        await s.over()
    assert s.cast.text("o") == "one two"


async def test_a_session_that_was_not_recorded_is_from_the_hand_over_on(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(tmp_path, recording_directory=None) as s:
        session, terminal = await s.start()
        await terminal.print(b"before")
        await s.registry.freeze()
        assert session.recording is None
        snapshot = session.snapshot()
    async with stage(tmp_path) as s:
        restored = Session.restore(snapshot, s.registry.settings)
        s.registry.adopt(restored, s.provider)
        await wait_all_tasks_blocked()
        await s.provider.terminals[0].print(b"after")
        await trio.sleep(1)
    assert s.cast.text("o") == "after"
    async with stage(tmp_path, recording_required=True, recording_min_free=1 << 50) as s:
        restored = Session.restore(snapshot, s.registry.settings)
        s.registry.adopt(restored, s.provider)
        await wait_all_tasks_blocked()
        assert restored.ended == Ended(EndReason.RECORDING)
        assert s.provider.leased == 0


async def test_no_environment_is_in_a_recording(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        request = LeaseRequest(
            "", command=("planted",), environment={"ABLY_API_KEY": "planted", "TERM": "planted"}
        )
        await s.registry.create(b"planted", request)
        await trio.sleep(1)
        assert b"planted" not in s.part
