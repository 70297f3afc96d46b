"""The file of one recording, as the thread sees it that writes.

Everything here may wait for a disk, so nothing of it runs in the event loop. Calls may come from several
threads, since one that a hanging disk holds up is not waited for: each waits for the one before, and what
comes after the end has no effect. So a file is finished, if late, when its disk comes back.
"""

import os
import threading
import time
from collections import deque
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, final

from supervisor.observability import metrics
from supervisor.reaping.recordings import create_part, finish, part_of
from supervisor.settings import Settings

BLOCK: Final = 64 * 1024
"""Bytes written at once."""
RESCAN: Final = 60.0
"""Seconds until a directory's size is looked up again; what this process writes is counted meanwhile."""


class Cut(StrEnum):
    """Why a recording ends before its session does. The values are metric labels."""

    SIZE = "size"
    DIRECTORY = "directory"
    FREE_SPACE = "free_space"
    ERROR = "error"
    STALLED = "stalled"


class Problem(NamedTuple):
    """What came between a session and its recording; `text` is for operators."""

    cut: Cut
    text: str


@final
class Room:
    """How much may be written into a directory.

    Args:
        directory: the recordings'.
        settings: its limits.
    """

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._maximum = settings.recording_directory_max_size
        self._min_free = settings.recording_min_free
        self._lock = threading.Lock()
        self._total = 0
        self._scanned_at: float | None = None

    def problem(self) -> Problem | None:
        """Return why nothing may be written now; None when something may.

        Raises:
            OSError: the directory cannot be looked at.
        """
        space = os.statvfs(self._directory)
        if space.f_bavail * space.f_frsize < self._min_free:
            return Problem(Cut.FREE_SPACE, "RECORDING_MIN_FREE: the file system has no more than that left")
        if self._maximum and self._size() >= self._maximum:
            return Problem(Cut.DIRECTORY, "RECORDING_DIRECTORY_MAX_SIZE is reached")
        return None

    def take(self, count: int) -> None:
        """Note bytes that were written."""
        with self._lock:
            self._total += count

    def _size(self) -> int:
        with self._lock:
            if self._scanned_at is None or time.monotonic() > self._scanned_at + RESCAN:
                self._total = 0
                with os.scandir(self._directory) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):  # it has been finished, which renames it
                            self._total += entry.stat(follow_symlinks=False).st_size
                self._scanned_at = time.monotonic()
            return self._total


@final
class CastFile:
    """See above.

    Args:
        path: of the finished recording.
        room: that it takes.
        descriptor: of the part, held, where another process has begun it; owned from now on.
        size: bytes in it.

    Attributes:
        problem: why nothing more is written, once that is so.
        size: bytes in the file, which are whole lines.
        taken: bytes that came off the queue of lines.
    """

    def __init__(self, path: Path, room: Room, descriptor: int | None = None, size: int = 0) -> None:
        self.path = path
        self.problem: Problem | None = None
        self.size = size
        self.taken = 0
        self._room = room
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._over = False

    @property
    def descriptor(self) -> int | None:
        """Of the part, while it is written; it stays the file's."""
        return self._descriptor

    def open(self, header: bytes) -> None:
        """Make the file and write its first line. Failing is no error: see `problem`."""
        with self._lock:
            if self._over:
                return
            try:
                self.problem = self._room.problem()
                if self.problem is None:
                    self._descriptor = create_part(self.path)
                    self._append(header)
            except OSError as error:
                self.problem = Problem(Cut.ERROR, str(error))
            if self.problem:
                self._remove()

    def write(self, lines: deque[bytes]) -> None:
        """Take all `lines` off their queue and write them. Failing is no error: see `problem`."""
        with self._lock:
            try:
                if lines and self._descriptor is not None:
                    self.problem = self.problem or self._room.problem()
                self._write(lines)
            except Exception as error:  # a fault of ours, too, is to end a recording at most
                self._fail(error)

    def close(self, lines: deque[bytes], last: bytes) -> None:
        """Write `lines`, unless some before are missing, and the `last` ones, and finish the file."""
        with self._lock:
            self._over = True
            if self._descriptor is None:
                lines.clear()
                return
            try:
                try:
                    self._write(lines)
                    self._append(last)
                finally:
                    finish(self._descriptor, self.path)
            except Exception as error:  # where it is still a part, the next start finishes it
                self._fail(error)
            finally:
                self._let_go()

    def remove(self) -> None:
        """Have no file: nothing was recorded."""
        with self._lock:
            self._over = True
            self._remove()

    # What follows is called with the lock.

    def _write(self, lines: deque[bytes]) -> None:
        while lines:
            block: list[bytes] = []
            size = 0
            while lines and size < BLOCK:
                block.append(lines.popleft())
                size += len(block[-1])
            self.taken += size
            if self.problem is None and self._descriptor is not None:
                self._append(b"".join(block))

    def _append(self, data: bytes) -> None:
        """Write all of it, or nothing."""
        assert self._descriptor is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)
        self._room.take(len(data))
        metrics.recording_bytes.inc(len(data))

    def _fail(self, error: Exception) -> None:
        self.problem = self.problem or Problem(Cut.ERROR, str(error) or repr(error))

    def _remove(self) -> None:
        if self._descriptor is not None:
            part_of(self.path).unlink(missing_ok=True)
            self._let_go()

    def _let_go(self) -> None:
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
