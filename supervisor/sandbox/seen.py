"""What a container shows of itself, in the kernel's own words, taken apart.

The same files are read twice: inside, by the process that will become the session's command (it sends them as
the frame `SEEN`, docs/gate.md), and outside, by us, from the host's /proc of that very process. `inside`
judges both.
"""

import errno
import struct
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

from supervisor.errors import SandboxError
from supervisor.sandbox.usage import find_cgroups

LANDLOCK: Final = "landlock"
NO_NEW_PRIVILEGES: Final = "no-new-privs"
VERSION: Final = "/proc/version"
PTMX: Final = "/dev/pts/ptmx"
MEMFD: Final = "memfd_create"
NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_FILES: Final = ("status", "uid_map", "gid_map", "attr/current", "limits", "net/dev", "mountinfo")
# Limits that the gate asks for, as not every kernel has the file, and what they are called there.
_ASKED: Final = {
    "limit core": "Max core file size",
    "limit fsize": "Max file size",
    "limit nofile": "Max open files",
    "limit sigpending": "Max pending signals",
}
_RIGHTS: Final = ("NSpid", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp")
_CGROUP: Final = Path("/sys/fs/cgroup")
# Of what containers shall not see or set, what no kernel is without.
_EVERYWHERE: Final = frozenset({"/proc/bus", "/proc/fs", "/proc/interrupts", "/proc/sys"})
# Names of limits in cgroup v1 and v2: which file of which controller.
_LIMITS: Final = {
    "memory": ("memory/memory.limit_in_bytes", "memory.max"),
    "swap": ("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
    "pids": ("pids/pids.max", "pids.max"),
    "cpu": ("cpu/cpu.cfs_quota_us", "cpu.max"),
    "cpu period": ("cpu/cpu.cfs_period_us", ""),
}


IdMap = tuple[tuple[int, int, int], ...]


@attrs.frozen
class Mount:
    """A line of mountinfo (proc(5)): `options` are the mount's, `details` those of its file system."""

    point: str
    root: str
    kind: str
    options: frozenset[str]
    details: frozenset[str]


@attrs.frozen
class Seen:
    """One view of a process and its container. A field that could not be read is missing from its mapping.

    Attributes:
        status: `/proc/PID/status`.
        uid_map, gid_map: lines of it, as numbers; None: not read.
        label: of AppArmor; empty where there is none.
        limits: soft and hard, by the names in `/proc/PID/limits`.
        interfaces: names; None: not read.
        mounts: in their order.
        cgroup: limits by the names `memory`, `swap`, `pids`, `cpu`, `cpu period`.
        namespaces: by kind, as `kind:[inode]`.
        landlock: version that confines it, 0 for none; None: cannot be seen from there.
        ptmx: whether another PTY could be opened; None: not tried.
        memfd: errno of memfd_create(2) with flags that there are not; None: not tried.
        no_new_privileges: by the process's own word (prctl(2)); None: not asked.
        kernel: which kernel it is, in that one's words (`/proc/version`).
        there: paths below /proc and /sys that its kernel has, of those that containers shall not see or set.
    """

    status: Mapping[str, str]
    uid_map: IdMap | None
    gid_map: IdMap | None
    label: str
    limits: Mapping[str, tuple[str, str]]
    interfaces: frozenset[str] | None
    mounts: tuple[Mount, ...]
    cgroup: Mapping[str, str]
    namespaces: Mapping[str, str]
    landlock: int | None = None
    ptmx: bool | None = None
    memfd: int | None = None
    no_new_privileges: bool | None = None
    kernel: str = ""
    there: frozenset[str] = _EVERYWHERE

    @property
    def remapped(self) -> bool:
        """Whether the container's users and groups are others on the host."""
        return maps_away(self.uid_map) and maps_away(self.gid_map)

    def mount(self, point: str) -> Mount | None:
        """Return what is mounted at `point`, the last one when several are."""
        return next((mount for mount in reversed(self.mounts) if mount.point == point), None)

    def mount_of(self, path: str) -> Mount | None:
        """Return the mount in which `path` is found: a later one hides what is below its point."""
        points = {path, *map(str, PurePosixPath(path).parents)}
        return next((mount for mount in reversed(self.mounts) if mount.point in points), None)


def maps_away(ids: IdMap | None) -> bool:
    """Return whether a container's users, or groups, are others on the host."""
    return ids is not None and all(first != outside for first, outside, _ in ids)


def parse_report(payload: bytes, unlisted: Set[str] = frozenset()) -> Seen:
    """Return what the payload of `SEEN` says; `unlisted` are entries below `/proc/self` that it may lack.

    Raises:
        SandboxError: it is not what a gate of ours sends.
    """
    try:
        entries = _entries(payload)
        landlock = entries.pop(LANDLOCK)
        if not isinstance(landlock, bytes) or len(landlock) != 4:
            raise SandboxError("the gate's report is malformed")
        ptmx = entries.pop(PTMX)
        memfd = entries.pop(MEMFD, None)
        if isinstance(memfd, bytes):
            raise SandboxError("the gate's report is malformed")
        limits = {name: _asked_limit(entries.pop(key)) for key, name in _ASKED.items() if key in entries}
        no_new_privileges = entries.pop(NO_NEW_PRIVILEGES, None)
        texts = {name: value.decode() for name, value in entries.items() if isinstance(value, bytes)}
        proc = {
            name.removeprefix("/proc/self/"): text
            for name, text in texts.items()
            if name.startswith("/proc/self/")
        }
        cgroup = {
            name.removeprefix(f"{_CGROUP}/"): text
            for name, text in texts.items()
            if name.startswith(f"{_CGROUP}/")
        }
        seen = _seen(proc, cgroup)
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise SandboxError("the gate's report is malformed") from error
    missing = {"status", "uid_map", "gid_map", "limits", "net/dev", "mountinfo"} - proc.keys()
    missing |= {f"ns/{kind}" for kind in NAMESPACES} - proc.keys()
    missing |= {MEMFD} if memfd is None else set()
    if missing := missing - unlisted:
        kernel = texts.get(VERSION, "unknown").strip()
        raise SandboxError(f"the gate's report lacks {', '.join(sorted(missing))} (its kernel: {kernel})")
    return attrs.evolve(
        seen,
        limits=seen.limits or limits,
        landlock=int.from_bytes(landlock, "big"),
        ptmx=ptmx not in {-errno.EACCES, -errno.ENOENT},
        memfd=None if memfd is None else -memfd,
        no_new_privileges=None if no_new_privileges is None else no_new_privileges == b"\0\0\0\1",
        kernel=texts.get(VERSION, "").strip(),
    )


def _asked_limit(value: bytes | int) -> tuple[str, str]:
    """Return a limit as `/proc/self/limits` has it."""
    if isinstance(value, int):
        raise ValueError("a limit could not be asked for")
    soft, hard = struct.unpack(">QQ", value)
    return str(soft), str(hard)


def _entries(payload: bytes) -> dict[str, bytes | int]:
    """Return the entries of a report: contents, or the negative errno that there was instead."""
    entries: dict[str, bytes | int] = {}
    at = 0
    while at < len(payload):
        end = payload.index(b"\0", at)
        name = payload[at:end].decode()
        (result,) = struct.unpack_from(">i", payload, end + 1)
        at = end + 5 + max(0, result)
        if at > len(payload) or name in entries:
            raise ValueError("entries do not add up")
        entries[name] = payload[end + 5 : at] if result >= 0 else result
    return entries


def look(pid: int) -> Seen:
    """Return what this host's /proc says of `pid`. What this process may not read is left out.

    Raises:
        SandboxError: there is no such process any more.
    """
    base = Path(f"/proc/{pid}")
    proc: dict[str, str] = {}
    try:
        for name in _FILES:
            if (text := _read(base / name)) is not None:
                proc[name] = text
        for kind in NAMESPACES:
            try:
                proc[f"ns/{kind}"] = str((base / "ns" / kind).readlink())
            except PermissionError:
                continue
        cgroup = _cgroup_limits((base / "cgroup").read_text())
        return _seen(proc, cgroup)
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxError("the sandbox ended before it was looked at") from None
    except (ValueError, IndexError) as error:
        raise SandboxError(f"the host's /proc/{pid} makes no sense") from error


def glance(pid: int) -> str:
    """Return the rights of a process as the host's /proc shows them: cheap, for a second look that compares.

    Raises:
        SandboxError: there is no such process any more.
    """
    path = Path(f"/proc/{pid}")
    try:
        lines = (path / "status").read_text().splitlines()
        label = _read(path / "attr/current") or ""
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxError("the sandbox ended before it was claimed") from None
    return "\n".join([*(line for line in lines if line.startswith(_RIGHTS)), label])


def statuses_beside(pid: int) -> tuple[Mapping[str, str], ...]:
    """Return `/proc/PID/status` of every process in the control groups of `pid`, itself included; none where
    this host does not show them.
    """
    cgroups = find_cgroups(pid, "")
    found: list[Mapping[str, str]] = []
    for member in (cgroups.pids / "cgroup.procs").read_text().split() if cgroups else ():
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(_status(Path(f"/proc/{member}/status").read_text()))
    return tuple(found)


def kernel_has(paths: Iterable[str]) -> frozenset[str]:
    """Return those of `paths` (below /proc and /sys) that this host's kernel has."""
    return frozenset(path for path in paths if Path(path).exists())


def own_kernel() -> str:
    """Return which kernel this host's is, in its own words."""
    return Path(VERSION).read_text().strip()


def user_of(pid: int) -> int | None:
    """Return the user id of a process on this host; None when there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), None)


def only_child(pid: int) -> int | None:
    """Return the one child that a gate has; None when this host's /proc does not tell."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if len(children) == 1 else None


def own_namespaces() -> dict[str, str]:
    """Return the namespaces of this process."""
    return {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in NAMESPACES}


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except PermissionError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL and path.name == "current":
            return None  # no security module that has labels
        raise


def _cgroup_limits(memberships: str) -> dict[str, str]:
    """Return the limits of the cgroups in `memberships` (`/proc/PID/cgroup`), where this host shows them."""
    found: dict[str, str] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        for old, new in _LIMITS.values():
            controller, _, name = old.partition("/")
            file = _CGROUP / controller / path.lstrip("/") / name
            if not controllers:
                name = new
                file = _CGROUP / path.lstrip("/") / new
            elif controller not in controllers.split(","):
                continue
            if name and file.is_file():
                found[old if controllers else new] = file.read_text()
    return found


def _seen(proc: Mapping[str, str], cgroup: Mapping[str, str]) -> Seen:
    limits = {
        name: cgroup[file].strip() for name, files in _LIMITS.items() for file in files if file in cgroup
    }
    devices = proc.get("net/dev")
    return Seen(
        status=_status(proc.get("status", "")),
        uid_map=_id_map(proc.get("uid_map")),
        gid_map=_id_map(proc.get("gid_map")),
        label=proc.get("attr/current", "").strip("\0\n"),
        limits=dict(_limit(line) for line in proc.get("limits", "").splitlines()[1:]),
        interfaces=None
        if devices is None
        else frozenset(line.partition(":")[0].strip() for line in devices.splitlines()[2:]),
        mounts=tuple(map(_mount, proc.get("mountinfo", "").splitlines())),
        cgroup=limits,
        namespaces={kind: proc[f"ns/{kind}"] for kind in NAMESPACES if f"ns/{kind}" in proc},
    )


def _status(text: str) -> dict[str, str]:
    parted = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in parted}


def _id_map(text: str | None) -> IdMap | None:
    return None if text is None else tuple(map(_numbers, text.splitlines()))


def _numbers(line: str) -> tuple[int, int, int]:
    first, outside, count = map(int, line.split())
    return first, outside, count


def _limit(line: str) -> tuple[str, tuple[str, str]]:
    words = line[26:].split()  # names have blanks in them and are 25 wide
    return line[:26].strip(), (words[0], words[1])


def _mount(line: str) -> Mount:
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    kind, _, details = after.split(" ", 2)
    return Mount(fields[4], fields[3], kind, frozenset(fields[5].split(",")), frozenset(details.split(",")))
