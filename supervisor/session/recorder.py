"""Writes the recordings of all sessions of one process, in one thread, and finishes those of dead ones.

A recording belongs to its session, which it is `record`ed with; what it has noted is written here: soon, or
at once when it is much.
"""

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

import trio

from supervisor.errors import ConfigurationError
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.reaping.places import require_private
from supervisor.reaping.recordings import recording_path, settle_all
from supervisor.session.cast_file import CastFile, Cut, Problem, Room
from supervisor.session.recording import TURN, HandedRecording, Recording
from supervisor.settings import Settings

if TYPE_CHECKING:
    from supervisor.session.session import Session

log = get_logger(__name__)

INTERVAL: Final = 0.5
"""Seconds that something waits at most before it is written."""
SLICE: Final = 0.0005
"""Seconds of making lines after which everybody else in the event loop has a turn."""
FORGET_AFTER: Final = 30.0
"""Seconds for which a recording that could not be begun says that none can be."""


InThread: TypeAlias = Callable[[Callable[[], None], trio.CapacityLimiter], Awaitable[None]]
"""Runs in a thread what may wait for a disk; cancelled, it leaves it to itself."""


async def _in_thread(function: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
    await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


@final
class Recorder:
    """Records the sessions of one process. Made by `open_recorder`, or without a task for those who record
    nothing.

    Args:
        settings: where to, and how much.
        in_thread: see there.
    """

    def __init__(self, settings: Settings, in_thread: InThread = _in_thread) -> None:
        self._settings = settings
        self._in_thread = in_thread
        self._slice_ends = 0.0
        self._writing = trio.CapacityLimiter(1)
        self._beside = trio.CapacityLimiter(8)
        self._rooms: dict[Path, Room] = {}
        self._recordings: set[Recording] = set()
        self._due: dict[Recording, None] = {}
        self._something = trio.Event()
        self._much = trio.Event()
        self._refused: tuple[float, str] | None = None

    def __repr__(self) -> str:
        return f"<Recorder {self.open} recordings>"

    @property
    def open(self) -> int:
        """How many sessions are being recorded."""
        return sum(each.goes_on for each in self._recordings)

    @property
    def unavailable(self) -> str | None:
        """Why no session can be started, for operators: it could not be recorded, and must be. None when
        nothing is known to be in the way."""
        if self._refused is None or not self._settings.recording_required:
            return None
        when, why = self._refused
        return f"recording: {why}" if trio.current_time() < when + FORGET_AFTER else None

    @asynccontextmanager
    async def record(
        self, session: "Session", handed: HandedRecording | None = None
    ) -> AsyncGenerator[Recording | None]:
        """Keep the recording of `session` while the block runs, which begins it; None where none is wanted.

        Args:
            session: see there.
            handed: its recording so far, from another process; taken.

        Resource handling: leaving finishes the file, by any path, within `FINISH_TIMEOUT`. What a hanging
            disk does not take by then is written when it comes back, or finished by the next start.
        """
        recording = self._recording_of(session, handed)
        if recording is None:
            yield None
            return
        self._recordings.add(recording)
        try:
            yield recording
        finally:
            self._recordings.discard(recording)
            self._due.pop(recording, None)
            reason = session.ended.reason if session.ended else EndReason.ENDED
            with trio.CancelScope(shield=True):  # it has a deadline
                await recording.finish(f"session ended: {reason.value}")

    def _recording_of(self, session: "Session", handed: HandedRecording | None) -> Recording | None:
        if handed is not None:
            path = Path(handed.path)
            file = CastFile(path, self._room(path.parent), handed.take(), handed.size)
        elif directory := session.settings.recording_directory:
            path = recording_path(directory, session.label, time.time())
            file = CastFile(path, self._room(directory))
        else:
            return None
        return Recording(self, session, file, handed)

    def _room(self, directory: Path) -> Room:
        return self._rooms.setdefault(directory, Room(directory, self._settings))

    # ------------------------------------------------------------------ for recordings

    def wake(self, recording: Recording, at_once: bool) -> None:
        """Write what waits of `recording`, soon or at once."""
        self._due[recording] = None
        self._something.set()
        if at_once:
            self._much.set()

    def refused(self, problem: Problem) -> None:
        """Remember that a recording could not be begun."""
        self._refused = trio.current_time(), problem.text

    async def run_beside(self, timeout: float, function: Callable[[], None]) -> bool:
        """Run `function` in a thread of its own; return whether it was done within `timeout` seconds. If not,
        it is done some time, or never."""
        with trio.move_on_after(timeout) as patience:
            await self._in_thread(function, self._beside)
        return not patience.cancelled_caught

    async def breathe(self) -> None:
        """Let all others have their turn, if recording has had its own for long enough."""
        if time.perf_counter() > self._slice_ends:
            await trio.lowlevel.checkpoint()
            self._slice_ends = time.perf_counter() + SLICE

    async def run(self) -> None:
        """Write, for ever."""
        while True:
            await self._something.wait()
            with trio.move_on_after(INTERVAL):
                await self._much.wait()
            self._something, self._much = trio.Event(), trio.Event()
            due, self._due = list(self._due), {}
            for recording in due:
                try:
                    await recording.make_lines(TURN)
                except Exception as error:  # a fault of ours is to end a recording at most
                    log.error("the recorder failed", exc_info=error)
                    recording.lose(Problem(Cut.ERROR, repr(error)))
            await self._in_thread(partial(_write_all, due), self._writing)
            for recording in due:
                recording.look()


def _write_all(recordings: Iterable[Recording]) -> None:
    for recording in recordings:
        recording.write()


@asynccontextmanager
async def open_recorder(settings: Settings) -> AsyncGenerator[Recorder]:
    """Record sessions while the block runs. Recordings whose writers were killed are finished first.

    Raises:
        ConfigurationError: `RECORDING_DIRECTORY` is not as it must be.
    """
    if directory := settings.recording_directory:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            require_private(directory)
            problem = Room(directory, settings).problem()
        except (OSError, ConfigurationError) as error:
            raise ConfigurationError(f"RECORDING_DIRECTORY={directory}: {error}") from error
        if not os.access(directory, os.W_OK):
            raise ConfigurationError(f"RECORDING_DIRECTORY={directory}: nothing can be written there")
        if problem:
            log.warning("nothing can be recorded now", problem=problem.text)
        for path in await trio.to_thread.run_sync(settle_all, directory):
            log.info("a recording was finished whose supervisor was killed", recording=str(path))
    recorder = Recorder(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        yield recorder
        nursery.cancel_scope.cancel()
