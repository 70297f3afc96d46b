"""The files of networks' keepers: who is the keeper of a network, where it is reached, what it logs; and the
end of those that a dead keeper left.

A keeper holds a lock on a file of its network's name (flock(2)), which dies with it. One that ends in order
takes its files along; one that failed leaves its log to whoever waits for it to be ready, and one that was
killed leaves all of them: they go when the next keeper starts, or when somebody reconciles.
"""

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from supervisor.egress.resolver import end_left_over

DIRECTORY: Final = Path("/run/terminal-supervisor/egress")
LEFT_OVER_AFTER: Final = 120.0
"""Seconds for which nothing was written, after which the files of a dead keeper are of use to nobody: who
waits for a keeper that fails reads its last words within half of that."""
_SUFFIXES: Final = (".lock", ".log", ".sock", ".new", ".dnsmasq.conf", ".dnsmasq.pid")
"""Of a keeper's files, after the network's name."""


def socket_path(network: str) -> Path:
    """Where the keeper of `network` is to be reached."""
    return DIRECTORY / f"{network}.sock"


def log_path(network: str) -> Path:
    """Where the keeper of `network` logs, unless it runs in the foreground."""
    return DIRECTORY / f"{network}.log"


def take(network: str) -> int | None:
    """Return the descriptor that makes this the only keeper of `network`, and remove what dead keepers of
    others left; None when there is one already.
    """
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with _turn():
        lock = _lock(network)
        if lock is not None:
            for other in _networks() - {network}:
                _remove_if_dead(other)
        return lock


def give_up(network: str, lock: int) -> None:
    """Be the keeper of `network` no more, in order: its files go, and `lock` is closed."""
    with _turn():
        _remove(network)
        os.close(lock)


def dead_keepers() -> list[str]:
    """Return the networks whose keepers are dead, and have been for a while, with files of theirs left. Only
    root can tell, and gets anything but an empty list.
    """
    return sorted(network for network in _networks() if os.geteuid() == 0 and _is_dead(network))


def remove_dead_keeper(network: str) -> bool:
    """Remove the files of a keeper that is dead, and end the dnsmasq that it may have left behind; return
    whether that could be done: not if there is a keeper.
    """
    with _turn():
        return _remove_if_dead(network)


@contextmanager
def _turn() -> Generator[None]:
    """One at a time, so that nobody locks a file that is being removed."""
    turn = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


def _networks() -> set[str]:
    files = [(path.name, suffix) for suffix in _SUFFIXES for path in DIRECTORY.glob(f"*{suffix}")]
    return {name.removesuffix(suffix) for name, suffix in files}


def _is_dead(network: str) -> bool:
    latest = 0.0
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            latest = max(latest, (DIRECTORY / (network + suffix)).stat().st_mtime)
    if latest > time.time() - LEFT_OVER_AFTER:
        return False
    try:
        lock = os.open(DIRECTORY / f"{network}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _lock(network: str) -> int | None:
    lock = os.open(
        DIRECTORY / f"{network}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _remove_if_dead(network: str) -> bool:
    if (lock := _lock(network)) is None:
        return False
    try:
        end_left_over(network, DIRECTORY)
        _remove(network)
    finally:
        os.close(lock)
    return True


def _remove(network: str) -> None:
    for suffix in _SUFFIXES:
        (DIRECTORY / (network + suffix)).unlink(missing_ok=True)
