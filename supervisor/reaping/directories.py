"""Directories that belong to one supervisor each and go when it does.

The owner holds a lock on its directory (flock(2)), which the kernel lets go of when the process dies, however
it dies. So whoever can lock somebody else's directory may remove it. Unlike the name of an instance
(`supervisor.reaping.liveness`) the lock is seen from every network namespace that shares the file system.
"""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from supervisor.reaping.records import settle_records

PREFIX: Final = "instance-"
"""Begins the name of such a directory; what else is in its parent is none of this module's business."""
_NOT_TO_BE_HELD: Final = (FileNotFoundError, NotADirectoryError, BlockingIOError)  # gone, or somebody's


@contextmanager
def held_directory(parent: Path, instance: str) -> Generator[Path]:
    """Make the directory of `instance` in `parent`, mode 0700, and hold it.

    Resource handling: leaving removes it with all that is in it. The lock is close-on-exec: no child keeps a
    dead supervisor's directory.

    Raises:
        OSError: it cannot be made, or is there already.
    """
    directory, lock = hold_directory(parent, instance)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def hold_directory(parent: Path, instance: str) -> tuple[Path, int]:
    """Make the directory of `instance` in `parent`, mode 0700; return it and the descriptor that holds it.
    Another process that is given this descriptor holds it as well.

    Raises:
        OSError: it cannot be made, or is there already.
    """
    directory = parent / f"{PREFIX}{instance[:16]}"  # short: a socket's path has room for 107 bytes
    lock = _make_and_lock(directory)
    while lock is None:
        lock = _make_and_lock(directory)
    return directory, lock


def _make_and_lock(directory: Path) -> int | None:
    """Return the descriptor that holds it; None when another supervisor took it for left over meanwhile."""
    directory.mkdir(mode=0o700)
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if directory.stat().st_ino == os.fstat(lock).st_ino:
            return lock
    os.close(lock)
    return None


def dead_directories(parent: Path) -> list[Path]:
    """Return the directories in `parent` that nobody holds any more."""
    return [directory for directory in sorted(parent.glob(f"{PREFIX}*")) if _is_dead(directory)]


def _is_dead(directory: Path) -> bool:
    with suppress(*_NOT_TO_BE_HELD), _held(directory, fcntl.LOCK_SH):
        return True
    return False


@contextmanager
def _held(directory: Path, kind: int) -> Generator[None]:
    """Hold a directory in place of its owner. Raises one of `_NOT_TO_BE_HELD`."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        yield
    finally:
        os.close(lock)


def remove_dead_directories(parent: Path) -> list[Path]:
    """Remove the directories in `parent` that nobody holds any more, and return them."""
    return [directory for directory in parent.glob(f"{PREFIX}*") if remove_dead_directory(directory)]


def remove_dead_directory(directory: Path) -> bool:
    """Tell the ends of the sessions that `directory` has records of, and remove it; return whether that could
    be done: not if somebody holds it, or it is no more."""
    with suppress(*_NOT_TO_BE_HELD), _held(directory, fcntl.LOCK_EX):
        settle_records(directory)
        shutil.rmtree(directory, ignore_errors=True)
        return True
    return False
