"""Processes that set-up did not start itself, or no longer holds: found by pid, identified by their command
line.

A pid in a file may belong to somebody else by now, so a process is only ever ended after its command line has
been seen to name what it must name, through a pidfd that was opened before looking (Linux 5.3,
pidfd_open(2)).
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import attrs
import trio

_PROC = Path("/proc")


@attrs.frozen
class ProcessInfo:
    """A process as /proc shows it.

    Attributes:
        pid: its number.
        name: the kernel's short name (15 bytes at most).
        arguments: its command line.
        network_namespace: inode number that tells namespaces apart; 0 where it may not be seen.
    """

    pid: int
    name: str
    arguments: tuple[str, ...]
    network_namespace: int


def look_at(pid: int) -> ProcessInfo | None:
    """Return what /proc says of `pid`; None when there is no such process, or only its zombie."""
    directory = _PROC / str(pid)
    try:
        name = (directory / "comm").read_text().rstrip("\n")
        arguments = (directory / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
        state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        namespace = (directory / "ns/net").stat().st_ino
    except (PermissionError, FileNotFoundError, ProcessLookupError):
        namespace = 0
    return None if state in "ZX" else ProcessInfo(pid, name, tuple(arguments), namespace)


def all_processes() -> Iterator[ProcessInfo]:
    """Yield all processes that can be seen."""
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (info := look_at(int(entry.name))):
            yield info


def read_pid(path: Path) -> int | None:
    """Return the number in the pid file `path`, None when there is none."""
    try:
        return int(path.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None


async def end_process(pid: int, marked_by: str, grace: float) -> bool:
    """Ask process `pid` to end (TERM), wait for it, and return whether it is gone.

    Args:
        pid: which.
        marked_by: an argument that its command line must have; without it the process is somebody else's, and
            counts as gone.
        grace: seconds to wait.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        info = look_at(pid)
        if info is None or not any(marked_by in argument for argument in info.arguments):
            return True
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        with trio.move_on_after(grace):
            await trio.lowlevel.wait_readable(handle)  # a pidfd is readable once its process has ended
            return True
        return False
    finally:
        os.close(handle)
