"""Files of recordings: their names, who holds them, and how one is finished whose writer is dead.

A recording is `TIME-SESSION.cast.part` while it is written, and `TIME-SESSION.cast` once it is finished; the
session is its digest, never its id. Whoever writes holds a lock on the file (flock(2)), which the kernel lets
go of when all its holders are dead. So whoever can lock a part finishes it: cuts off a line that was not
written whole, says in a marker that the supervisor was lost, and renames it. The guard does so (it knows the
sessions' records), and each start, for all parts in `RECORDING_DIRECTORY`: after a restart of the host, too.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.observability.log import get_logger
from supervisor.protocol.asciicast import Event, EventEncoder, FormatError, parse_event, parse_header

log = get_logger(__name__)

SUFFIX: Final = ".cast"
PART: Final = ".part"
FIRST_LOOK: Final = 64 * 1024
"""Bytes at a file's end where its last event is looked for first; it is nearly always there."""
LOST: Final = "supervisor lost: what follows was not recorded"
"""Label of the last marker of a recording whose writer was killed."""


def recording_path(directory: Path, session: str, started: float) -> Path:
    """Return the name that a recording will have once it is finished: names in order are times in order.

    Args:
        directory: see `RECORDING_DIRECTORY`.
        session: digest of its id.
        started: seconds since the epoch.
    """
    return directory / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-{session}{SUFFIX}"


def part_of(path: Path) -> Path:
    """Return the name that the recording `path` has while it is written."""
    return path.with_name(path.name + PART)


def create_part(path: Path) -> int:
    """Make the part of recording `path`, mode 0600, and return the descriptor that writes and holds it.

    Raises:
        OSError: it cannot be made, or is there already.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(part_of(path), flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_there(part_of(path), descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody took it for left over, before it was locked


def is_there(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the name of the open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def finish(descriptor: int, path: Path) -> None:
    """Give a part its final name, once the disk has all of it. The descriptor stays the caller's.

    Raises:
        OSError: that could not be done.
    """
    os.fdatasync(descriptor)
    part_of(path).rename(path)


def hold_dead(path: Path) -> int | None:
    """Return a descriptor that holds the part of recording `path`, in place of its dead writer; None when the
    writer lives, or has finished.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(part_of(path), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_there(part_of(path), descriptor):
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def settle(path: Path) -> bool:
    """Finish the recording `path` in place of its dead writer; return whether there was anything to do: not
    if the writer lives or has done so. A part without a whole header is removed: nothing was recorded.

    Raises:
        OSError: it cannot be read or written.
    """
    descriptor = hold_dead(path)
    if descriptor is None:
        return False
    try:
        last, end = last_event(descriptor)
        reached = last.time if last else 0.0
        end = end or _header_end(descriptor)
        if not end:
            part_of(path).unlink()
            return True
        os.ftruncate(descriptor, end)
        os.write(descriptor, b"".join(EventEncoder().encode(reached, "m", LOST.encode())))
        finish(descriptor, path)
    finally:
        os.close(descriptor)
    return True


def _header_end(descriptor: int) -> int:
    content = os.pread(descriptor, FIRST_LOOK, 0)
    end = content.find(b"\n") + 1
    try:
        parse_header(content[:end])
    except FormatError:
        return 0
    return end


def settle_all(directory: Path) -> list[Path]:
    """Finish all recordings in `directory` whose writers are dead, and return them. What cannot be finished
    is logged, and tried again at the next start."""
    settled: list[Path] = []
    for part in sorted(directory.glob(f"*{SUFFIX}{PART}")):
        path = part.with_suffix("")
        if try_to_settle(path):
            settled.append(path)
    return settled


def try_to_settle(path: Path) -> bool:
    """As `settle`, but what goes wrong is logged."""
    try:
        return settle(path)
    except OSError as error:
        log.warning("a recording could not be finished", recording=str(path), problem=str(error))
        return False


def last_event(descriptor: int) -> tuple[Event | None, int]:
    """Return the last event of an open recording, and the offset of the byte after it. What follows it is no
    whole line, or no event: after a power failure there may be anything. (None, 0) when there is none.

    Raises:
        OSError: it cannot be read.
    """
    size, window = os.fstat(descriptor).st_size, FIRST_LOOK
    while True:
        start = max(0, size - window)
        content = os.pread(descriptor, size - start, start)
        end = content.rfind(b"\n") + 1
        while end:
            before = content.rfind(b"\n", 0, end - 1) + 1
            if start and not before:
                break  # its beginning is not here
            with suppress(FormatError):
                return parse_event(content[before:end]), start + end
            end = before
        if not start:
            return None, 0
        window *= 8
