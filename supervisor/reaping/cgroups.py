"""The control group that holds all containers of an instance (`supervisor.sandbox.budget` makes it): its
name, where it is, and its end.

It has the limits of all sessions together, so an instance that lives must keep its group even while no
container is in it. One of a dead instance goes: by the instance's guard, or by whoever reconciles next in the
same network namespace, from which alone it can be told that an instance is dead.

Sources: cgroups(7), org.freedesktop.systemd1(5).
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.reaping.liveness import is_alive

if TYPE_CHECKING:
    from supervisor.sandbox.identity import Identity

PREFIX: Final = "terminal_supervisor"
SLICE: Final = ".slice"
"""Ends the name of a group that systemd makes. A hyphen in such a name would mean a group within another."""
MANAGER: Final = (
    "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
)  # fmt: skip
REMOVAL_TIME: Final = 2.0
"""Seconds for the last containers' groups to be empty: the kernel ends processes in its own time."""
_RETRY_PAUSE: Final = 0.05
_LOOK_PAUSE: Final = 0.01
_MOST_WEIGHT: Final = {"cpu.shares": "262144", "cpu.weight": "10000"}
"""The file of a group's weight in cgroup v1 and v2, and the most that it takes."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_BUS_TIMEOUT: Final = 10.0


@cache
def hierarchies() -> dict[str, Path]:
    """Return where each controller's hierarchy is mounted; the unified one by the name ``."""
    roots: dict[str, Path] = {}
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split(" ")[4])
        if kind == "cgroup2":
            roots[""] = place
        elif kind == "cgroup":
            roots |= dict.fromkeys(options.split(","), place)
    return roots


def group_name(identity: "Identity") -> str:
    """Return the name of an instance's group, without systemd's ending."""
    return f"{PREFIX}.{_namespace(identity)}.{identity.instance}"


def bus_call(method: str, *arguments: str) -> list[str]:
    """Return the command that calls a method of systemd's manager."""
    return ["busctl", "--quiet", "call", *MANAGER, method, *arguments]


def remove_group(name: str, patience: float = REMOVAL_TIME) -> bool:
    """Remove a group wherever it is, and what empty groups are in it; blocks for `patience` seconds at most.

    Returns:
        Whether it is gone. A group in which something runs is not.
    """
    if name.endswith(SLICE):
        with suppress(OSError, subprocess.TimeoutExpired):
            stop = bus_call("StopUnit", "ss", name, "replace")
            subprocess.run(stop, capture_output=True, timeout=_BUS_TIMEOUT, check=False)  # noqa: S603
    deadline = time.monotonic() + patience
    while not all(_remove_tree(root / name) for root in set(hierarchies().values())):
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_PAUSE)
    return True


def dead_groups(identity: "Identity", alive: Callable[[str], bool] = is_alive) -> list[str]:
    """Return the groups of instances that lived in this network namespace and are dead."""
    prefix = f"{PREFIX}.{_namespace(identity)}."
    found = {path.name for root in hierarchies().values() for path in root.glob(f"{prefix}*")}
    return sorted(name for name in found if not alive(name.removeprefix(prefix).removesuffix(SLICE)))


def remove_groups_of(instance: str) -> None:
    """Remove the group of one instance, whose containers are gone."""
    for name in {path.name for path in _groups_of(instance)}:
        remove_group(name)


def end_all(instance: str, patience: float) -> None:
    """Kill what runs in the group of an instance, wherever it is by now; blocks until nothing does, for
    `patience` seconds at most.

    The engine is not needed for that, so it may be away, and what its containers do may be what keeps it
    busy. What is dying gets the CPU before anybody else: a full house has the weight of a single process
    otherwise, next to all those by which the engine clears away who is dead already.
    """
    groups = _groups_of(instance)
    deadline = time.monotonic() + patience
    left = _kill(groups)  # before anything else: who is not told to die should not get the CPU
    with _first_in_line(groups):
        while left and time.monotonic() < deadline:
            time.sleep(_LOOK_PAUSE)
            left = _kill(groups)


@contextmanager
def _first_in_line(groups: set[Path]) -> Generator[None]:
    before: dict[Path, str] = {}
    for file in (group / name for group in groups for name in _MOST_WEIGHT):
        with suppress(OSError):  # in another hierarchy, or not ours to change
            before[file] = file.read_text()
            file.write_text(_MOST_WEIGHT[file.name])
    try:
        yield
    finally:
        for file, weight in before.items():
            with suppress(OSError):
                file.write_text(weight)


def _kill(groups: set[Path]) -> bool:
    """Send SIGKILL to all in these groups, those included that are in groups within them; return whether
    there was anybody, the dead that nobody has asked after included.
    """
    found = [_kill_group(group) for group in groups]
    return any(found)


def _kill_group(group: Path) -> bool:
    try:
        if int((group / "pids.current").read_text()) == 0:
            return False
        if (at_once := group / "cgroup.kill").exists():  # cgroup v2, since Linux 5.14
            at_once.write_text("1")
            return True
    except OSError:  # another controller's hierarchy: it has the same processes
        return False
    for directory, _, _ in os.walk(group):  # passes over what is removed meanwhile
        with suppress(OSError):
            _kill_listed(Path(directory, "cgroup.procs"))
    return True


def _kill_listed(file: Path) -> None:
    """Kill the processes in this list. One that has ended meanwhile may have left its number to somebody
    else: so who is listed still, once he is held, is meant.
    """
    held: dict[str, int] = {}
    try:
        for pid in file.read_text().split():
            with suppress(OSError):  # it has ended, or another round has room for it
                held[pid] = os.pidfd_open(int(pid))
        for pid in held.keys() & file.read_text().split():
            with suppress(OSError):
                signal.pidfd_send_signal(held[pid], signal.SIGKILL)
    finally:
        for descriptor in held.values():
            os.close(descriptor)


def _groups_of(instance: str) -> set[Path]:
    roots = set(hierarchies().values())
    return {
        path for root in roots for end in ("", SLICE) for path in root.glob(f"{PREFIX}.*.{instance}{end}")
    }


def _remove_tree(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):  # busy, or somebody else was faster
            Path(directory).rmdir()
    return not group.exists()


def _namespace(identity: "Identity") -> str:
    return identity.namespace.replace(":", "_")
