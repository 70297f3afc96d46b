"""A session's recording: an asciicast v2 file that is complete up to the last second, whatever dies.

It stands between a session and its terminal and notes what passes, with the time, in a bounded queue; it
never waits. Twice a second the process's `Recorder` has lines made of what was noted, a little at a time, and
writes them in a thread. When that is slower than the program, what does not fit into the queue is left out,
and a marker says how many bytes that was. Where recordings are required (`RECORDING_REQUIRED`) the program
waits instead, and the session ends when the disk takes nothing for too long, or nothing any more.

In another process that goes on with the session (`supervisor.handover`) the recording goes on in the same
file: what was noted is written before the session is handed over.
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, final

import attrs
import trio

from supervisor.errors import SessionRefusedError
from supervisor.observability import metrics
from supervisor.observability.log import get_logger
from supervisor.protocol.asciicast import Code, EventEncoder, Header, header_line
from supervisor.protocol.closing import CLOSINGS, EndReason
from supervisor.sandbox.terminal import ExitStatus, Terminal
from supervisor.session.cast_file import CastFile, Cut, Problem
from supervisor.session.snapshot import from_monotonic, to_monotonic

if TYPE_CHECKING:
    from supervisor.session.recorder import Recorder
    from supervisor.session.session import Session

log = get_logger(__name__)

MUCH: Final = 64 * 1024
"""Bytes that are written at once, without waiting for more."""
TURN: Final = 256 * 1024
"""Bytes of one recording that are written before another's turn comes."""
ALL: Final = 1 << 62
"""A number of bytes that there never are."""
LAST_WORDS: Final = 512
"""Bytes of the maximum size that are left for the last marker."""
MAX_WAITING: Final = 1024 * 1024
"""Bytes that may wait to be written, per recording."""
OPEN_TIMEOUT: Final = 2.0
"""Seconds for a disk to take the first line. The user waits for a prompt meanwhile."""
FLUSH_TIMEOUT: Final = 2.0
"""Seconds for it to take what waits, when a session is handed over."""
FINISH_TIMEOUT: Final = 5.0
"""Seconds for it to have all of it for good, when a session has ended."""
STALL_TIMEOUT: Final = 10.0
"""Seconds that a program waits for it, where recordings are required."""
RECORDED: Final = "This session is recorded."
NO_MORE: Final = "This session is not recorded any more."


@attrs.define(eq=False)
class HandedRecording:
    """A recording whose session goes on in another process.

    Attributes:
        path: of the finished file.
        descriptor: of the part; holds it. None once it was taken.
        size: bytes in it.
        started: when, by CLOCK_MONOTONIC.
        time: seconds since then that it has reached.
        tails: see `EventEncoder`.
        omitted: bytes that were left out.
    """

    path: str
    descriptor: int | None
    size: int
    started: float
    time: float
    tails: tuple[bytes, bytes] = attrs.field(repr=False)
    omitted: int

    def take(self) -> int | None:
        """Return the descriptor; the caller's from now on."""
        descriptor, self.descriptor = self.descriptor, None
        return descriptor

    def close(self) -> None:
        """Close the descriptor, unless it was taken."""
        if (descriptor := self.take()) is not None:
            os.close(descriptor)


class Item(NamedTuple):
    """Something that happened, `time` seconds after the start of the recording."""

    time: float
    code: Code
    data: bytes

    @property
    def cost(self) -> int:
        """Bytes of memory, roughly."""
        return len(self.data) + 256


@final
class Recording:
    """One session's. Made by `Recorder.record`.

    Args:
        recorder, session, file: see there.
        handed: what another process has recorded; its descriptor is the file's.

    Attributes:
        omitted: bytes of output and input that were left out.
    """

    def __init__(
        self, recorder: "Recorder", session: "Session", file: CastFile, handed: HandedRecording | None
    ) -> None:
        self.omitted = handed.omitted if handed else 0
        self._recorder = recorder
        self._session = session
        self._file = file
        self._begun = handed is not None
        self._started = from_monotonic(handed.started) if handed else trio.current_time()
        self._encoder = EventEncoder(handed.tails, handed.time) if handed else EventEncoder()
        self._size = handed.size if handed else 0  # of all lines made
        self._required = session.settings.recording_required
        self._window = session.size
        # What was noted, what is being made into lines, and lines.
        self._items: deque[Item] = deque()
        self._making: Iterator[bytes] | None = None
        self._lines: deque[bytes] = deque()
        self._last = b""  # once there is nothing to come after it
        self._put = self._taken = 0  # costs of items
        self._made = 0  # bytes of lines
        self._leaving_out = 0
        self._problem: Problem | None = None
        self._settled = self._over = False
        self._written = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Recording {self._file.path.name} {self._file.size} bytes, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """Bytes of memory that are not written yet, roughly."""
        return self._put - self._taken + self._made - self._file.taken

    @property
    def path(self) -> Path | None:
        """Of the file, once it is finished; None where there is none."""
        return self._file.path if self._begun else None

    @property
    def problem(self) -> str | None:
        """Why it is not complete; None while it is, as far as is known."""
        if self._problem:
            return self._problem.text
        return f"{self.omitted} bytes were left out" if self.omitted else None

    @property
    def goes_on(self) -> bool:
        """Whether what happens is recorded."""
        return self._begun and self._problem is None

    # ------------------------------------------------------------------ the session's side

    async def begin(self, terminal: Terminal) -> Terminal:
        """Make the file, unless there is one, and return a terminal that does as `terminal` does and is
        recorded; `terminal` itself, where that cannot be.

        Raises:
            SessionRefusedError: it cannot, and is required.
        """
        if not self._begun:
            await self._open()
        return TappedTerminal(terminal, self) if self._begun else terminal

    async def _open(self) -> None:
        title = f"session {self._session.label}, {self._session.visitor.standing}"
        if self._session.visitor.profile:
            title += f", profile {self._session.visitor.profile}"
        header = header_line(Header(*self._window, int(time.time()), title))
        opened = await self._recorder.run_beside(OPEN_TIMEOUT, partial(self._file.open, header))
        problem = self._file.problem
        if not opened:
            problem = Problem(Cut.STALLED, f"the disk did not make a file within {OPEN_TIMEOUT:g} s")
        if problem is None:
            self._begun, self._size = True, len(header)
            return
        self._note_problem(problem, "a session is not recorded")
        self._recorder.refused(problem)
        if self._required:
            raise SessionRefusedError(EndReason.RECORDING.value, CLOSINGS[EndReason.RECORDING].message)

    def _note_problem(self, problem: Problem, event: str) -> None:
        self._problem = problem
        metrics.recording_failures.labels(problem.cut.value).inc()
        log.warning(event, session=self._session.label, problem=problem.text)

    def output(self, data: bytes) -> None:
        """Note output."""
        self._note("o", data)

    def input(self, data: bytes) -> None:
        """Note what was typed, where that is wanted."""
        if self._session.settings.record_input:
            self._note("i", data)

    def resized(self, cols: int, rows: int) -> None:
        """Note a size."""
        if self._window != (cols, rows):
            self._window = cols, rows
            self._note("r", f"{cols}x{rows}".encode())

    @property
    def has_no_room(self) -> bool:
        """Whether too much is not written yet: where recordings are required, and nowhere else."""
        return self._required and self.waiting >= MAX_WAITING and self.goes_on

    async def wait_room(self) -> None:
        """Wait while it has no room."""
        if not self.has_no_room:
            return
        with trio.move_on_after(STALL_TIMEOUT) as patience:
            while self.waiting >= MAX_WAITING // 2 and self.goes_on:
                await self._written.park()
        if patience.cancelled_caught:
            self.lose(Problem(Cut.STALLED, f"the disk did not keep up for {STALL_TIMEOUT:g} s"))

    def _note(self, code: Code, data: bytes) -> None:
        if not self.goes_on or not data:
            return
        most = MAX_WAITING // 2 if self._leaving_out else MAX_WAITING
        if self.waiting >= most and not self._required:  # or it has been waited for
            self._leaving_out += len(data)
            self.omitted += len(data)
            metrics.recording_omitted_bytes.inc(len(data))
            return
        self._tell_omission()
        self._queue(code, data)
        self._recorder.wake(self, self.waiting >= MUCH)

    def _tell_omission(self) -> None:
        if self._leaving_out:
            if self._leaving_out == self.omitted:  # the first time
                log.warning("a recording has gaps: the disk is slow", session=self._session.label)
            self._queue("m", f"{self._leaving_out} bytes were left out".encode())
            self._leaving_out = 0

    def _queue(self, code: Code, data: bytes) -> None:
        self._settled = False
        item = Item(trio.current_time() - self._started, code, data)
        self._items.append(item)
        self._put += item.cost

    # ------------------------------------------------------------------ the recorder's side

    async def make_lines(self, limit: int) -> None:
        """Make lines of what was noted: of all, or of so much that it cost `limit`."""
        until = self._taken + limit
        while self.goes_on and self._taken < until and self._make_line():
            await self._recorder.breathe()

    def _make_line(self) -> bool:
        while self._making is None or (line := next(self._making, None)) is None:
            self._making = None
            if not self._items:
                return False
            item = self._items.popleft()
            self._taken += item.cost
            self._making = self._encoder.encode(*item)
        if self._size + len(line) > self._session.settings.recording_max_size - LAST_WORDS:
            self.lose(Problem(Cut.SIZE, "RECORDING_MAX_SIZE is reached"))
            return False
        self._size += len(line)
        self._made += len(line)
        self._lines.append(line)
        return True

    def write(self) -> None:
        """Write the lines that are made. Called in a thread."""
        if self._last:
            self._file.close(self._lines, self._last)
        else:
            self._file.write(self._lines)

    def look(self) -> None:
        """See what has become of what was written."""
        if self._over:
            return
        if self._file.problem and self.goes_on:
            self.lose(self._file.problem)
        if self._items or self._making:
            self._recorder.wake(self, at_once=True)
        self._written.unpark_all()

    def lose(self, problem: Problem) -> None:
        """Record no further, and do what follows from that."""
        self._note_problem(problem, "a recording ended before its session")
        self._end(self._encoder.time, f"recording ended: {problem.text}")
        self._recorder.wake(self, at_once=True)
        self._written.unpark_all()
        if self._required:
            self._session.end(EndReason.RECORDING)
        else:
            self._session.tell_notice(NO_MORE)

    def _end(self, when: float, label: str) -> None:
        self._items.clear()
        self._taken, self._making = self._put, None
        self._last = b"".join(self._encoder.encode(when, "m", label.encode()))

    async def finish(self, label: str) -> None:
        """Write all, and finish the file; where nothing was recorded, remove it. Waits for a moment at most,
        and is to be shielded."""
        self._over = True
        done = self._file.remove
        if self._begun and self._session.was_ready:
            self._tell_omission()
            await self.make_lines(ALL)
            if self.goes_on:
                self._end(trio.current_time() - self._started, label)
            done = self.write
        if not await self._recorder.run_beside(FINISH_TIMEOUT, done):
            log.warning("a recording is not finished yet: the disk hangs", session=self._session.label)
        elif self._file.problem and self._problem is None:
            self._note_problem(self._file.problem, "a recording is not complete")

    # ------------------------------------------------------------------ another process

    async def settle(self) -> None:
        """Have all written that was noted; not for longer than a moment."""
        self._tell_omission()
        await self.make_lines(ALL)
        self._settled = await self._recorder.run_beside(FLUSH_TIMEOUT, self.write)
        self.look()

    def hand(self) -> HandedRecording | None:
        """Return what another process needs to go on with it. None when it has ended, or is not settled: then
        the other one begins a new recording.
        """
        descriptor = self._file.descriptor
        if descriptor is None or not self.goes_on or not self._settled:
            return None
        return HandedRecording(
            path=str(self._file.path),
            descriptor=descriptor,
            size=self._size,
            started=to_monotonic(self._started),
            time=self._encoder.time,
            tails=self._encoder.tails,
            omitted=self.omitted,
        )


@final
class TappedTerminal:
    """A `Terminal` whose traffic is recorded."""

    def __init__(self, terminal: Terminal, recording: Recording) -> None:
        self._terminal = terminal
        self._recording = recording

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """See `Terminal`."""
        await self._recording.wait_room()
        data = await self._terminal.receive_some(max_bytes)
        self._recording.output(data)
        return data

    async def send_all(self, data: bytes) -> None:
        """See `Terminal`."""
        while data:
            data = data[await self.send_some(data) :]

    async def send_some(self, data: bytes) -> int:
        """See `Terminal`."""
        await self._recording.wait_room()
        count = await self._terminal.send_some(data)
        self._recording.input(data[:count])
        return count

    def send_now(self, data: bytes) -> int:
        """See `Terminal`. Nothing, while the recording has to be waited for."""
        if self._recording.has_no_room:
            return 0
        count = self._terminal.send_now(data)
        self._recording.input(data[:count])
        return count

    async def resize(self, cols: int, rows: int) -> None:
        """See `Terminal`."""
        await self._recording.wait_room()
        await self._terminal.resize(cols, rows)
        self._recording.resized(cols, rows)

    async def listen(self) -> None:
        """See `Terminal`."""
        await self._terminal.listen()

    async def wait_closed(self) -> ExitStatus:
        """See `Terminal`."""
        return await self._terminal.wait_closed()

    async def aclose(self) -> None:
        """See `Terminal`."""
        await self._terminal.aclose()
