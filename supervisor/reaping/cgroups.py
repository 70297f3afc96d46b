"""The control group that holds all containers of an instance (`supervisor.sandbox.budget` makes it): its
name, where it is, and its end.

It has the limits of all sessions together, so an instance that lives must keep its group even while no
container is in it. One of a dead instance goes: by the instance's guard, or by whoever reconciles next in the
same network namespace, from which alone it can be told that an instance is dead.

Sources: cgroups(7), org.freedesktop.systemd1(5).
"""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from supervisor.reaping.liveness import is_alive
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
_MOUNTS: Final = Path("/proc/self/mountinfo")
_BUS_TIMEOUT: Final = 10.0


@cache
def hierarchies() -> dict[str, Path]:
    """Return where each controller's hierarchy is mounted; the unified one by the name ``."""
    roots: dict[str, Path] = {}
    for line in _MOUNTS.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = Path(before.split(" ")[4])
        if kind == "cgroup2":
            roots[""] = place
        elif kind == "cgroup":
            roots |= dict.fromkeys(options.split(","), place)
    return roots


def group_name(identity: Identity) -> str:
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


def dead_groups(identity: Identity, alive: Callable[[str], bool] = is_alive) -> list[str]:
    """Return the groups of instances that lived in this network namespace and are dead."""
    prefix = f"{PREFIX}.{_namespace(identity)}."
    found = {path.name for root in hierarchies().values() for path in root.glob(f"{prefix}*")}
    return sorted(name for name in found if not alive(name.removeprefix(prefix).removesuffix(SLICE)))


def remove_groups_of(instance: str) -> None:
    """Remove the group of one instance, whose containers are gone."""
    paths = (root.glob(f"{PREFIX}.*.{instance}*") for root in hierarchies().values())
    for name in {path.name for found in paths for path in found}:
        remove_group(name)


def _remove_tree(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):  # busy, or somebody else was faster
            Path(directory).rmdir()
    return not group.exists()


def _namespace(identity: Identity) -> str:
    return identity.namespace.replace(":", "_")
