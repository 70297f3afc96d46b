"""Judges what stands behind a gVisor container on this host.

There, a session's programs are no processes of this host. What is: gVisor's kernel (the sentry, the process
that the engine tells of), those in which it has the session's code executed, and the one that opens the
container's files for it (the gofer). All of them are in the container's control groups. Whoever gets the
better of gVisor's kernel has what these have; so what confines them is looked at with each container, and
stands in the place of the measures that gVisor has no use for (`runtimes.GVISOR`).
"""

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from supervisor.measures import Measure
from supervisor.sandbox.policy import Difference, HardeningPolicy
from supervisor.sandbox.seen import Seen, look, only_child, own_namespaces, statuses_beside


@attrs.frozen
class Behind:
    """What this host shows of a gVisor container.

    Attributes:
        sentry: its kernel's process.
        processes: `/proc/PID/status` of all that it consists of.
        ours: namespaces of this process.
    """

    sentry: Seen
    processes: tuple[Mapping[str, str], ...]
    ours: Mapping[str, str]


def process_behind(policy: HardeningPolicy, pid: int) -> int | None:
    """Return the process of this host that will be the session's command, or else the one that is its kernel;
    None where this host shows neither. For transports where nobody vouches for who sent the report.

    Args:
        policy: of the container.
        pid: of its first process, as the engine says.
    """
    kind = policy.runtime.kind
    if kind.own_kernel:
        return pid if kind.sentry else None
    return only_child(pid)  # a gate has one


def look_behind(pid: int) -> Behind:
    """Return what this host shows of the container whose kernel is process `pid`.

    Raises:
        SandboxError: there is no such process any more.
    """
    return Behind(look(pid), statuses_beside(pid), own_namespaces())


def _filtered(_policy: HardeningPolicy, behind: Behind) -> Iterator[Difference]:
    """Each process has a list of system calls, and gains no rights by executing anything."""
    if not behind.processes:
        yield Difference("processes", "those of gVisor", "nothing")
    for name, wanted in (("Seccomp", "2"), ("NoNewPrivs", "1")):
        found = {status.get(name) for status in behind.processes}
        if found - {wanted}:
            yield Difference(name, wanted, sorted(map(str, found)))


def _shut_in(_policy: HardeningPolicy, behind: Behind) -> Iterator[Difference]:
    """The sentry's root is a directory of its own, in memory, which it cannot write to."""
    root = behind.sentry.mount("/")  # None, too, where only root may look
    if root is None or root.kind != "tmpfs" or "ro" not in root.options:
        yield Difference("mount /", "tmpfs, ro", root and [root.kind, *sorted(root.options)])


def _confined(policy: HardeningPolicy, behind: Behind) -> Iterator[Difference]:
    yield from _filtered(policy, behind)
    yield from _shut_in(policy, behind)


def _nobody(_policy: HardeningPolicy, behind: Behind) -> Iterator[Difference]:
    """The sentry is not root here, and its capabilities are worth nothing outside of its user namespace."""
    users = set(behind.sentry.status.get("Uid", "").split())
    if not users or "0" in users:
        yield Difference("Uid", "another than 0", sorted(users))
    yield from _apart("user", behind)


def _namespaces(policy: HardeningPolicy, behind: Behind) -> Iterator[Difference]:
    for kind in behind.ours.keys() - policy.runtime.kind.shared - {"user"}:  # of which `_nobody` speaks
        yield from _apart(kind, behind)


def _apart(kind: str, behind: Behind) -> Iterator[Difference]:
    """The sentry has a namespace of that kind of its own."""
    found = behind.sentry.namespaces.get(kind)
    if found in {None, behind.ours[kind]}:
        why = "shared with the supervisor" if found else "not to be seen by this user, who should be root"
        yield Difference(f"namespace {kind}", "its own", why)


CHECKS: Final = {
    Measure.SECCOMP: _filtered,
    Measure.APPARMOR: _confined,
    Measure.LANDLOCK: _confined,
    Measure.USERNS: _nobody,
    Measure.NAMESPACES: _namespaces,
}
"""What is judged, by the measure that it belongs to, or in whose place it stands."""
