"""Judges what a container shows of itself against the policy: by its own word, and by the host's.

The engine's word (`policy.compare`) says what it was asked for. This says what came of it, in the very
container that a user gets, before the user's command is executed: the process that will become it reports
what it sees, and the host's /proc is asked about the same process. A gate that lies is caught by the second,
an engine or runtime that lies by both. Where that process is on a kernel of its own, the host is asked about
what that kernel runs on (`sentry`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs

from supervisor.errors import HardeningError
from supervisor.measures import Measure
from supervisor.sandbox import sentry
from supervisor.sandbox.apparmor import GATE_PROFILE
from supervisor.sandbox.apparmor_kernel import confining
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.policy import (
    MASKED_PATHS,
    SHM_SIZE,
    Difference,
    HardeningPolicy,
)
from supervisor.sandbox.runtimes import KINDS
from supervisor.sandbox.seen import (
    Mount,
    Seen,
    glance,
    look,
    own_kernel,
    own_namespaces,
    parse_report,
)
from supervisor.sandbox.sentry import Behind, look_behind
from supervisor.sandbox.users import PASSWD
from supervisor.settings.knob import KIB

# What may be mounted writable besides the policy's tmpfs: the kernel's own, which root's rights guard in a
# container without root, and /dev/null over what is hidden.
_WRITABLE: Final = frozenset(
    {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console", "/sys/fs/cgroup"}  # noqa: S108
)
_NO_ID: Final = -1
# A remapped root may not make device nodes (user_namespaces(7)), so runtimes mount the host's in their place.
_DEVICES: Final = frozenset(f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero"))

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
    _rights: tuple[str, ...] = ()

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
    if process is None:
        return Judged(require(judge(policy, inside, None, None)))
    rights = glance(process)
    if kind.sentry:
        verdict = judge_behind(policy, look_behind(process), judge(policy, inside, None, None))
    else:
        verdict = judge(policy, inside, look(process), own_namespaces())
    return Judged(require(verdict), process, rights)


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


def _apparmor(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    wanted = [GATE_PROFILE, *filter(None, [policy.session_profile])]
    if not confining(seen.label).issuperset(wanted):
        yield Difference("AppArmor label", f"{'//&'.join(wanted)} (enforce)", seen.label)


def _userns(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    if not _remapped(seen):
        yield Difference("uid_map", "other users of the host", seen.uid_map)


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


def _read_only(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    root = seen.mount("/")
    if root is None or "ro" not in root.options:
        yield Difference("mount /", "ro", root and sorted(root.options))
    for mount in seen.mounts:
        if "ro" in mount.options or mount.point in _WRITABLE or mount.point in policy.tmpfs:
            continue
        if mount.point in MASKED_PATHS and mount.root == "/null":
            continue
        if _remapped(seen) and _of_unmapped_users(mount):
            continue
        yield Difference(f"mount {mount.point}", "ro", sorted(mount.options))
    if policy.runtime.kind.own_kernel:
        return  # its /proc shows nothing of this host, and nothing in it sets anything here
    if seen.mount("/proc/sys") is None:  # every kernel has it; its mount, were it writable, is named above
        yield Difference("mount /proc/sys", "ro", None)


def _remapped(seen: Seen) -> bool:
    return seen.uid_map is not None and all(first != outside for first, outside, _ in seen.uid_map)


def _of_unmapped_users(mount: Mount) -> bool:
    """Return whether a writable mount is one that runtimes make for remapped users, who own nothing in it:
    devices, and the hierarchies of cgroup v1.
    """
    if mount.point in _DEVICES:
        return mount.root == mount.point.removeprefix("/dev")
    return mount.kind == "cgroup" and mount.point.startswith("/sys/fs/cgroup/")


def _tmpfs(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    shm = f"noexec,nosuid,nodev,size={SHM_SIZE}"
    for point, text in {**policy.tmpfs, "/dev/shm": shm}.items():  # noqa: S108
        mount = seen.mount(point)
        if mount is None or mount.kind != "tmpfs":
            yield Difference(f"mount {point}", "tmpfs", mount and mount.kind)
            continue
        wanted = {"noexec", "nosuid", "nodev"} - policy.runtime.kind.unshown
        if not wanted <= mount.options:
            yield Difference(f"mount {point}", sorted(wanted), sorted(mount.options))
        size = int(text.partition("size=")[2].partition(",")[0])
        if not {f"size={size // KIB}k", f"size={size}"} & mount.details:
            yield Difference(f"size of {point}", f"size={size // KIB}k", sorted(mount.details))


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
    users = seen.status.get("Uid", "").split(), seen.status.get("Gid", "").split()
    for name, found, inside in zip(("Uid", "Gid"), users, (policy.image.uid, policy.image.gid), strict=True):
        wanted = _outside(inside, seen) if name == "Uid" and seen.landlock is None else inside
        if name == "Gid" and seen.landlock is None and _outside(0, seen) != 0:
            continue  # remapped, by a map of its own
        if set(found) != {str(wanted)}:
            yield Difference(name, wanted, " ".join(found))


# Fallback devices that some kernels put into every new network namespace; they are down and nobody's.
TUNNELS: Final = frozenset(
    {"sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}
)


def _outside(uid: int, seen: Seen) -> int:
    """Return what this host calls a container's user."""
    for first, outside, count in seen.uid_map or ():
        if first <= uid < first + count:
            return outside + uid - first
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
    Measure.READ_ONLY: _read_only,
    Measure.TMPFS: _tmpfs,
    Measure.LIMITS: _limits,
    Measure.NAMESPACES: _namespaces,
}
