"""Judges what a container shows of itself against the policy: by its own word, and by the host's.

The engine's word (`policy.compare`) says what it was asked for. This says what came of it, in the very
container that a user gets, before the user's command is executed: the process that will become it reports
what it sees, and the host's /proc is asked about the same process. A gate that lies is caught by the second,
an engine or runtime that lies by both. Where that process is on a kernel of its own, the host is asked about
what that kernel runs on (`sentry`).
"""

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from supervisor.errors import HardeningError
from supervisor.measures import Measure
from supervisor.sandbox import mounts, sentry
from supervisor.sandbox.apparmor import GATE_PROFILE
from supervisor.sandbox.apparmor_kernel import confining
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.policy import (
    MASKED_PATHS,
    READONLY_PATHS,
    Difference,
    HardeningPolicy,
)
from supervisor.sandbox.runtimes import KINDS
from supervisor.sandbox.seen import (
    MEMFD,
    IdMap,
    Seen,
    glance,
    kernel_has,
    look,
    maps_away,
    own_kernel,
    own_namespaces,
    parse_report,
)
from supervisor.sandbox.sentry import Behind, look_behind
from supervisor.sandbox.users import PASSWD

_NO_ID: Final = -1
Check = Callable[[HardeningPolicy, Seen], Iterator[Difference]]


@attrs.frozen
class Verdict:
    """What was found, from inside and from the host.

    Attributes:
        differences: what is not as the policy asks; the field says which view.
        verified: measures that hold, and by whose word: `inside`, `host`.
        failing: measures that the differences are about.
    """

    differences: tuple[Difference, ...]
    verified: Mapping[Measure, tuple[str, ...]]
    failing: frozenset[Measure] = frozenset()


@attrs.frozen
class Judged:
    """A sandbox that was looked at, and is what the policy asks for.

    Attributes:
        verified: by whose word each measure holds in it.
    """

    verified: Mapping[Measure, tuple[str, ...]] = attrs.field(factory=dict[Measure, tuple[str, ...]])
    _process: int | None = None
    _rights: str = ""

    def confirm(self) -> None:
        """Look again, at what matters most and is cheap: the rights of the process that becomes the command.

        Raises:
            HardeningError: they are not any more what they were.
            SandboxError: there is no such process any more.
        """
        if self._process is not None and glance(self._process) != self._rights:
            raise HardeningError("a sandbox changed while it waited")


UNSEEN: Final = Judged()
"""Of a sandbox that another process has looked at."""


def judged(policy: HardeningPolicy, report: bytes, process: int | None, *, local: bool) -> Judged:
    """Look at a sandbox from both sides.

    Args:
        policy: what was asked for.
        report: of the process that will become the session's command.
        process: that process on this host, or the one that its kernel is; None where this host shows neither.
        local: it is on this host.

    Raises:
        HardeningError: it is not what the policy asks for; all differences are named.
        SandboxError: the report is malformed, or the process has ended.
    """
    kind = policy.runtime.kind
    inside = parse_report(report, kind.unlisted)
    if local:
        _require_kernel(policy, inside)
        inside = _with_paths(inside)
    if process is None:
        return Judged(require(judge(policy, inside, None, None)))
    rights = glance(process)
    if kind.sentry:
        verdict = judge_behind(policy, look_behind(process), judge(policy, inside, None, None))
    else:
        verdict = judge(policy, inside, _with_paths(look(process)), own_namespaces())
    return Judged(require(verdict), process, rights)


def _with_paths(seen: Seen) -> Seen:
    """Return `seen`, of a container on this host, with what this host's kernel has."""
    return attrs.evolve(seen, there=kernel_has((*MASKED_PATHS, *READONLY_PATHS)))


def _require_kernel(policy: HardeningPolicy, inside: Seen) -> None:
    """Raise HardeningError unless the container has a kernel of its own just where its runtime is known to
    give it one: all else depends on that.
    """
    runtime, ours = policy.runtime, own_kernel()
    if (inside.kernel != ours) == runtime.kind.own_kernel:
        return
    if runtime.kind.own_kernel:
        raise HardeningError(
            f"runtime {runtime.name} is said to be {runtime.kind.title}, by its name or its program's, but "
            "its containers run on this host's kernel"
        )
    known = ", ".join(f"{kind.mark} for {kind.title}" for kind in KINDS)
    raise HardeningError(
        f"containers of runtime {runtime.name} have a kernel of their own ({inside.kernel}): register it "
        f"under a name that says which kind it is ({known})"
    )


def judge(
    policy: HardeningPolicy, inside: Seen, host: Seen | None, ours: Mapping[str, str] | None
) -> Verdict:
    """Return what the two views of a container amount to.

    Args:
        policy: what was asked for.
        inside: what its first process reported.
        host: what this host's /proc says of that process; None where containers are not this host's.
        ours: namespaces of this process, likewise.
    """
    views = {"inside": inside} if host is None else {"inside": inside, "host": host}
    differences: list[Difference] = []
    verified: dict[Measure, tuple[str, ...]] = {}
    failing: set[Measure] = set()
    for name, seen in views.items():
        for measure, check in _CHECKS.items():
            if not policy.applies(measure) or not _can_tell(measure, seen):
                continue
            found = [attrs.evolve(each, field=f"{name} {each.field}") for each in check(policy, seen)]
            differences += found
            if found:
                failing.add(measure)
            else:
                verified[measure] = (*verified.get(measure, ()), name)
    if host is not None:
        namespaces = list(_shared(host, ours or {}, policy))
        namespaces += [
            Difference(f"inside namespace {kind}", inode, inside.namespaces.get(kind))
            for kind, inode in host.namespaces.items()
            if inside.namespaces.get(kind) != inode
        ]
        failing |= {
            Measure.USERNS if each.field.endswith(" user") else Measure.NAMESPACES for each in namespaces
        }
        differences += namespaces
    return Verdict(tuple(differences), verified, frozenset(failing))


def judge_behind(policy: HardeningPolicy, behind: Behind, inside: Verdict) -> Verdict:
    """Return what the processes behind a container with a kernel of its own amount to, on top of `inside`."""
    differences = list(inside.differences)
    verified = dict(inside.verified)
    failing = set(inside.failing)
    checks = {measure: check(policy, behind) for measure, check in sentry.CHECKS.items()}
    checks[Measure.LIMITS] = _cgroup_limits(policy, behind.sentry)
    title = policy.runtime.kind.title
    for measure, check in checks.items():
        if measure in policy.without:
            continue
        found = [attrs.evolve(each, field=f"host, {title} for {measure}: {each.field}") for each in check]
        differences += found
        if found:
            failing.add(measure)
        else:
            verified[measure] = (*verified.get(measure, ()), "host")
    return Verdict(tuple(differences), verified, frozenset(failing))


def require(verdict: Verdict) -> Mapping[Measure, tuple[str, ...]]:
    """Return what holds, and by whose word.

    Raises:
        HardeningError: there are differences; it names all of them.
    """
    if verdict.differences:
        raise HardeningError(
            "a sandbox is not what the policy asks for: " + "; ".join(map(str, verdict.differences)),
            verdict.failing,
        )
    return verdict.verified


def _can_tell(measure: Measure, seen: Seen) -> bool:
    """Whether that view shows anything of the measure."""
    if measure is Measure.LANDLOCK:
        return seen.landlock is not None
    if measure is Measure.USERNS:
        return seen.uid_map is not None
    return bool(seen.mounts if measure in {Measure.READ_ONLY, Measure.TMPFS} else seen.status)


def _status(seen: Seen, wanted: Mapping[str, str]) -> Iterator[Difference]:
    for name, value in wanted.items():
        if seen.status.get(name) != value:
            yield Difference(name, value, seen.status.get(name))


def _capabilities(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    # A kernel without an ambient set has none in it.
    lacking = policy.runtime.kind.unlisted - seen.status.keys()
    names = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} - lacking
    yield from _status(seen, dict.fromkeys(sorted(names), "0" * 16))


def _no_new_privileges(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if "NoNewPrivs" in policy.runtime.kind.unlisted - seen.status.keys():
        if not seen.no_new_privileges:
            yield Difference("no-new-privs", True, seen.no_new_privileges)
    else:
        yield from _status(seen, {"NoNewPrivs": "1"})


def _seccomp(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    yield from _status(seen, {"Seccomp": "2"})
    if seen.status.get("Seccomp_filters", "1") == "0":  # Linux 5.9 and later count them
        yield Difference("Seccomp_filters", "1 or more", "0")
    # Which filter it is, the kernel shows nobody. Ours refuses what engines let everybody do.
    if seen.memfd not in {None, errno.EPERM} and not policy.runtime.kind.own_kernel:
        yield Difference(MEMFD, "EPERM", errno.errorcode.get(seen.memfd or 0, seen.memfd))


def _apparmor(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    wanted = [GATE_PROFILE, *filter(None, [policy.session_profile])]
    if not confining(seen.label).issuperset(wanted):
        yield Difference("AppArmor label", f"{'//&'.join(wanted)} (enforce)", seen.label)


def _userns(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if not maps_away(seen.uid_map):
        yield Difference("uid_map", "other users of the host", seen.uid_map)
    if not maps_away(seen.gid_map):
        yield Difference("gid_map", "other groups of the host", seen.gid_map)


def _landlock(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if not seen.landlock:
        yield Difference("Landlock", "confined", "not confined")
    if seen.ptmx:
        yield Difference("/dev/ptmx", "out of reach", "opened")


def _session_uid(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if not policy.user_of_its_own:
        yield Difference("user", "of its own", policy.image.user)
    passwd = seen.mount(PASSWD)
    if seen.mounts and (passwd is None or "ro" not in passwd.options):
        yield Difference(f"mount {PASSWD}", "ro", passwd and sorted(passwd.options))
    yield from _ids(policy, seen)


def _limits(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    names = {
        "core": "Max core file size",
        "fsize": "Max file size",
        "nofile": "Max open files",
        "sigpending": "Max pending signals",
    }
    for name, value in policy.ulimits.items():
        if seen.limits.get(names[name]) != (str(value), str(value)):
            yield Difference(names[name], value, seen.limits.get(names[name]))
    if not policy.runtime.kind.sentry:  # which does not show them inside, see `judge_behind`
        yield from _cgroup_limits(policy, seen)


def _cgroup_limits(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if not seen.cgroup:
        if seen.landlock is not None or policy.runtime.kind.sentry:
            yield Difference("cgroup limits", "visible", "nothing")
        return
    quota, _, period = seen.cgroup.get("cpu", "").partition(" ")
    period = period or seen.cgroup.get("cpu period", "")
    version_2 = "cpu period" not in seen.cgroup
    wanted = {"memory": policy.memory, "swap": 0 if version_2 else policy.memory, "pids": policy.pids}
    for name, value in wanted.items():
        if seen.cgroup.get(name) != str(value):
            yield Difference(f"cgroup limit {name}", value, seen.cgroup.get(name))
    if (
        not (quota.isdecimal() and period.isdecimal())
        or abs(int(quota) - policy.nano_cpus * int(period) / 1_000_000_000) > 1
    ):
        yield Difference("cgroup limit cpu", f"{policy.nano_cpus / 1e9:g} CPU", f"{quota}/{period}")


def _namespaces(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    expected = frozenset({"lo"} if policy.network == NO_NETWORK else {"lo", "eth0"})
    if seen.interfaces is not None and seen.interfaces - TUNNELS != expected:
        yield Difference("network interfaces", sorted(expected), sorted(seen.interfaces))
    if not policy.user_of_its_own:
        yield from _ids(policy, seen)


def _ids(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    image = policy.image
    for name, number, ids in (("Uid", image.uid, seen.uid_map), ("Gid", image.gid, seen.gid_map)):
        wanted = _outside(number, ids) if seen.landlock is None else number
        found = seen.status.get(name, "").split()
        if set(found) != {str(wanted)}:
            yield Difference(name, wanted, " ".join(found))
        # Some engines name the group itself once more (CVE-2022-36109), others name none.
        if name == "Gid" and not set(_groups(policy, seen)) <= {str(wanted)}:
            yield Difference("Groups", f"{wanted} or none", seen.status.get("Groups"))


def _groups(policy: HardeningPolicy, seen: Seen) -> list[str]:
    lacking = "Groups" in policy.runtime.kind.unlisted - seen.status.keys()
    return [] if lacking else seen.status.get("Groups", "unknown").split()


# Fallback devices that some kernels put into every new network namespace; they are down and nobody's.
TUNNELS: Final = frozenset(
    {"sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
)


def _outside(inside: int, ids: IdMap | None) -> int:
    """Return what this host calls a container's user, or group."""
    for first, outside, count in ids or ():
        if first <= inside < first + count:
            return outside + inside - first
    return _NO_ID


def _shared(host: Seen, ours: Mapping[str, str], policy: HardeningPolicy) -> Iterator[Difference]:
    """Namespaces that the container shares with this process."""
    for kind, inode in host.namespaces.items():
        if kind == "user" and not policy.applies(Measure.USERNS):
            continue
        if ours.get(kind) == inode:
            yield Difference(f"host namespace {kind}", "the container's own", "shared with the supervisor")


_CHECKS: Final[Mapping[Measure, Check]] = {
    Measure.SECCOMP: _seccomp,
    Measure.APPARMOR: _apparmor,
    Measure.USERNS: _userns,
    Measure.LANDLOCK: _landlock,
    Measure.SESSION_UID: _session_uid,
    Measure.CAPABILITIES: _capabilities,
    Measure.NO_NEW_PRIVILEGES: _no_new_privileges,
    Measure.READ_ONLY: mounts.read_only,
    Measure.TMPFS: mounts.tmpfs,
    Measure.LIMITS: _limits,
    Measure.NAMESPACES: _namespaces,
}
