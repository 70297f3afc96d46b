"""Unix sockets by name at which nobody listens any more: a process that is killed leaves the name behind."""

import errno
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

STALE_AFTER: Final = 10.0
"""Seconds between the making of a socket and the first look whether anybody listens: its maker may be about
to."""


def dead_sockets(directory: Path) -> list[Path]:
    """Return the sockets in `directory` at which nobody listens, and nobody is about to."""
    return sorted(path for path in directory.glob("*") if _dead(path) is not None)


def remove_dead_socket(path: Path) -> bool:
    """Remove the socket unless somebody listens at it; return whether that could be done."""
    inode = _dead(path)
    with suppress(FileNotFoundError):
        if inode is not None and path.lstat().st_ino == inode:  # else a successor's has taken its place
            path.unlink()
            return True
    return False


def remove_dead_sockets(directory: Path) -> None:
    """Remove all of them that are in `directory`."""
    for path in dead_sockets(directory):
        remove_dead_socket(path)


def _dead(path: Path) -> int | None:
    """Return the inode of a dead socket, None for anything else."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as visitor:
        found = path.lstat()
        if stat.S_ISSOCK(found.st_mode) and found.st_mtime <= time.time() - STALE_AFTER:
            visitor.setblocking(False)
            if visitor.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                return found.st_ino
    return None
