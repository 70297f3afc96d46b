"""Landlock: what a session's process tree gives up for itself, for ever, before its command is executed.

The kernel enforces it without privileges, whatever the engine does or does not (landlock(7)). The gate gets
the rules as arguments, so `inspect` shows them and the comparison with the policy covers them. Versions of
the interface: 1 files, 2 links across directories, 3 truncation, 4 TCP ports, 5 ioctls of devices, 6 signals
and abstract sockets.
"""

import ctypes
import os
import sys
from collections.abc import Iterable
from typing import Final

_CREATE_RULESET = 444  # landlock_create_ruleset(2), the same number on x86-64 and arm64
_VERSION_FLAG = 1

RUN: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
"""Where programs and what they load are, in every image."""
FILES: Final = ("/etc", "/home", "/var", "/srv")
"""Where programs find what they only read, likewise."""
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")


def kernel_version() -> int:
    """Return the version of Landlock's interface that this kernel has; 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)))


def program_directories(path: str, programs: Iterable[str]) -> tuple[str, ...]:
    """Return the directories that may be executed from: the usual, those of `path` (a `PATH`), `programs`."""
    return tuple(dict.fromkeys([*RUN, *filter(os.path.isabs, path.split(":")), *programs]))


def gate_arguments(
    *, path: str, home: str, programs: Iterable[str], writable: Iterable[str], ports: Iterable[int] | None
) -> list[str]:
    """Return the gate's arguments: everything that they do not name is given up.

    `/dev/ptmx` is not among them, nor is `/dev/shm`, nor listening on a TCP port. The session's own terminal
    is: the gate adds it.

    Args:
        path: `PATH` of the image; its directories may be executed from.
        home: may be read.
        programs: further directories whose files may be read and executed.
        writable: may be written to, and never executed from.
        ports: that TCP may connect to; None: any.
    """
    rules = [("l", "/"), *(("x", each) for each in program_directories(path, programs))]
    rules += [("r", each) for each in dict.fromkeys([*FILES, "/proc", "/sys", home])]
    rules += [("w", each) for each in writable]
    rules += [("d", each) for each in _DEVICES]
    arguments: list[str] = []
    for kind, where in rules:
        arguments += ["--allow", sys.intern(f"{kind}:{where}")]  # the same ones for each session
    for port in ports or ():
        arguments += ["--connect", str(port)]
    return arguments
