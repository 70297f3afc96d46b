"""What a container uses, read from the kernel's own files: cgroup v1 or v2, and its network's counters.

Asking the engine for the same takes it a second per container and a connection each; these files take
microseconds. They count where hundreds of containers are looked at every few seconds, so the files are read
without Python's layers of them. Sources: cgroups(7), and the kernel's
Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.

Error handling: a container that has gone, or of which this host shows nothing (a remote engine), has no
usage: None. A single file that this kernel lacks counts as 0.
"""

import os
from pathlib import Path
from typing import Final

import attrs

from supervisor.reaping.cgroups import hierarchies

_WORKING_SET_FROM: Final = 0.5  # part of the limit from which cached files are looked at and left out

_PIECE: Final = 16384
_ONE_READ: Final = 2048
"""Bytes up to which one read(2) of such a file returns all of it: less than a page, in which the kernel makes
it (seq_file)."""


@attrs.frozen
class Usage:
    """A reading. Sizes in bytes; what counts up does so from the container's start.

    Attributes:
        memory: in use, without cached files that the kernel would drop first.
        memory_limit: 0 where there is none. This and `cpus` may be those of an earlier reading.
        peak_memory: most that was ever in use, cached files included; 0 where the kernel does not tell.
        cpu_seconds: of CPU time.
        pids: processes and threads.
        oom_kills: how often the kernel has ended a process for memory.
        pids_denied: how often a process could not be started for the limit of processes.
        received, sent: bytes on the container's network.
        cpus: that it may use now; 0 where there is no limit.
    """

    memory: int
    memory_limit: int
    peak_memory: int
    cpu_seconds: float
    pids: int
    oom_kills: int
    pids_denied: int
    received: int
    sent: int
    cpus: float = 0.0


@attrs.frozen
class Cgroups:
    """Where a container's files are.

    Attributes:
        memory, cpu, pids: directories of its cgroups, one and the same with cgroup v2.
        unified: whether that is v2.
        network: its network namespace's counters.
        quota: with v1, directory of its cgroup in the hierarchy of CPU limits.
    """

    memory: Path
    cpu: Path
    pids: Path
    unified: bool
    network: Path
    quota: Path = Path()

    @property
    def directories(self) -> tuple[Path, ...]:
        """Of its limits."""
        return (self.memory, self.pids) if self.unified else (self.memory, self.pids, self.quota)

    @property
    def parent(self) -> "Cgroups":
        """The group that it is in, which has no network of its own."""
        return Cgroups(
            self.memory.parent,
            self.cpu.parent,
            self.pids.parent,
            self.unified,
            Path(),
            self.quota.parent,
        )

    def read(self, earlier: Usage | None = None) -> Usage | None:
        """Return what is used now. None when the container has gone.

        Args:
            earlier: reading to take the limits from, which hardly ever change; else they are read as well.
        """
        try:
            if self.unified:
                return self._read_v2(earlier)
            return self._read_v1(earlier)
        except OSError:
            return None

    def peak_memory(self) -> int:
        """Return the most memory that was ever in use; 0 when it cannot be told any more."""
        return _number(f"{self.memory}/{'memory.peak' if self.unified else 'memory.max_usage_in_bytes'}")

    def _read_v1(self, earlier: Usage | None) -> Usage:
        memory = int(_read(f"{self.memory}/memory.usage_in_bytes"))
        limit = earlier.memory_limit if earlier else _number(f"{self.memory}/memory.limit_in_bytes")
        received, sent = _traffic(f"{self.network}")
        return Usage(
            memory=self._working_set(memory, limit, b"total_inactive_file"),
            memory_limit=limit if limit < 1 << 62 else 0,
            peak_memory=self.peak_memory(),
            cpu_seconds=_number(f"{self.cpu}/cpuacct.usage") / 1e9,
            pids=_number(f"{self.pids}/pids.current"),
            oom_kills=_entry(f"{self.memory}/memory.oom_control", b"oom_kill"),
            pids_denied=_entry(f"{self.pids}/pids.events", b"max"),
            received=received,
            sent=sent,
            cpus=earlier.cpus if earlier else self.cpus(),
        )

    def _read_v2(self, earlier: Usage | None) -> Usage:
        memory = int(_read(f"{self.memory}/memory.current"))
        limit = earlier.memory_limit if earlier else _number(f"{self.memory}/memory.max")
        received, sent = _traffic(f"{self.network}")
        return Usage(
            memory=self._working_set(memory, limit, b"inactive_file"),
            memory_limit=limit,
            peak_memory=self.peak_memory(),
            cpu_seconds=_entry(f"{self.cpu}/cpu.stat", b"usage_usec") / 1e6,
            pids=_number(f"{self.pids}/pids.current"),
            oom_kills=_entry(f"{self.memory}/memory.events", b"oom_kill"),
            pids_denied=_entry(f"{self.pids}/pids.events", b"max"),
            received=received,
            sent=sent,
            cpus=earlier.cpus if earlier else self.cpus(),
        )

    def cpus(self) -> float:
        """Return how many CPUs it may use; 0 where there is no limit."""
        if self.unified:
            quota, _, period = _line(f"{self.cpu}/cpu.max").partition(b" ")
        else:
            quota = _line(f"{self.quota}/cpu.cfs_quota_us")
            period = _line(f"{self.quota}/cpu.cfs_period_us")
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() else 0.0

    def pids_limit(self) -> int:
        """Return how many processes it may have; 0 where there is no limit."""
        return _number(f"{self.pids}/pids.max")

    def _working_set(self, memory: int, limit: int, cached: bytes) -> int:
        if not limit or memory < _WORKING_SET_FROM * limit:
            return memory  # near enough, and the file with the details is the longest of them
        return max(0, memory - _entry(f"{self.memory}/memory.stat", cached))


@attrs.define(eq=False)
class Meter:
    """Reads one container again and again: its limits the first time only, which halves the cost."""

    cgroups: Cgroups
    _last: Usage | None = attrs.field(default=None, init=False)

    def read(self) -> Usage | None:
        """See `Cgroups.read`."""
        usage = self.cgroups.read(self._last)
        self._last = usage or self._last
        return usage


def find_cgroups(pid: int, container: str, proc: Path = Path("/proc")) -> Cgroups | None:
    """Return the cgroups of process `pid`; None unless they are those of the container with that id, by their
    name: a process id is worth nothing on another host, or when it has been reused.
    """
    try:
        memberships = (proc / str(pid) / "cgroup").read_text()
    except OSError:
        return None
    roots = hierarchies()
    found: dict[str, Path] = {}
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if container in path:
            for name in controllers.split(","):
                if name in roots:
                    found[name] = roots[name] / path.lstrip("/")
    network = proc / str(pid) / "net/dev"
    if found.keys() >= {"memory", "cpuacct", "cpu", "pids"}:
        return Cgroups(found["memory"], found["cpuacct"], found["pids"], False, network, found["cpu"])
    if "" in found and (found[""] / "memory.current").exists():
        return Cgroups(found[""], found[""], found[""], True, network)
    return None


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, _PIECE)
        if len(content) > _ONE_READ:  # else the kernel has given all of it
            while more := os.read(descriptor, _PIECE):
                content += more
        return content
    finally:
        os.close(descriptor)


def _line(path: str) -> bytes:
    try:
        return _read(path).strip()
    except OSError:
        return b""


def _number(path: str) -> int:
    text = _line(path)
    return int(text) if text.isdigit() else 0  # "max": no limit


def _entry(path: str, name: bytes) -> int:
    """Return the number after `name` in a file of names and numbers, 0 where there is none."""
    try:
        words = _read(path).split()
        return int(words[words.index(name) + 1])
    except (OSError, ValueError, IndexError):
        return 0


def _traffic(path: str) -> tuple[int, int]:
    """Return the bytes received and sent on all interfaces but loopback (proc(5), `/proc/net/dev`)."""
    received = sent = 0
    try:
        lines = _read(path).splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, numbers = line.partition(b":")
        fields = numbers.split()
        if name.strip() != b"lo" and len(fields) >= 9:
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent
