"""What all sessions may use together, so that a full house starves neither the supervisor nor the host.

All containers of an instance, those that wait included, are in one control group with limits of its own. The
supervisor makes that group where it may: as root on this host, by hand next to an engine with cgroup driver
`cgroupfs`, by systemd next to one with driver `systemd`. Anybody else can have it made: `SESSIONS_CGROUP`
names a group that exists.

Whether it holds is read from the kernel: each container's own group must be in it, and before the first
session its limits must be those that were asked for.

Sources: the kernel's Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst, Documentation/scheduler/
sched-bwc.rst; systemd.resource-control(5); `CgroupParent` of the Docker Engine API 1.40 and later.
"""

import os
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.errors import ConfigurationError, HardeningError
from supervisor.observability.log import get_logger
from supervisor.reaping.cgroups import SLICE, bus_call, group_name, hierarchies, remove_group
from supervisor.sandbox.identity import Identity
from supervisor.sandbox.usage import Cgroups, Usage
from supervisor.settings import Settings

_log = get_logger("sandbox")

SHARE: Final = 0.9
"""Part of the host that sessions may use together where the settings do not say."""
PERIOD: Final = 10_000
"""Microseconds in which the CPU time of all is counted. Whoever is held back because all together have used
it up waits for the next period: so short that nobody sees it."""
UNLIMITED: Final = 1 << 62
"""Bytes from which on the kernel means no limit."""
_ROUNDING: Final = 1.01  # limits are rounded to pages and microseconds
_BUS_TIMEOUT: Final = 10.0


@attrs.frozen
class Budget:
    """What all sessions may use together; 0 of anything is no limit of it.

    Attributes:
        memory: bytes, swap included.
        cpus: number of CPUs.
        pids: processes and threads.
    """

    memory: int
    cpus: float
    pids: int

    def __bool__(self) -> bool:
        return bool(self.memory or self.cpus or self.pids)

    def exceeded_by(self, other: "Budget") -> list[str]:
        """Return in what `other` allows more than this."""
        pairs = zip(attrs.asdict(self).items(), attrs.astuple(other), strict=True)
        return [
            f"{name}: {theirs:.6g} instead of {mine:.6g}"
            for (name, mine), theirs in pairs
            if mine and not 0 < theirs <= mine * _ROUNDING
        ]


NOTHING: Final = Budget(0, 0, 0)
ANY: Final = Budget(UNLIMITED, UNLIMITED, UNLIMITED)


def host_budget(proc: Path = Path("/proc")) -> Budget:
    """Return what this host has, as far as it tells."""
    memory = next(
        (int(line.split()[1]) * 1024 for line in _lines(proc / "meminfo") if line.startswith("MemTotal:")), 0
    )
    limits = [int(text) for name in ("pid_max", "threads-max") for text in _lines(proc / "sys/kernel" / name)]
    return Budget(memory, float(os.cpu_count() or 1), min(limits, default=0))


def budget_of(settings: Settings, host: Budget) -> Budget:
    """Return the budget that `settings` ask for on a host: what they leave open is a share of what it has,
    and never less than what a single session may use.
    """

    def share(asked: float | None, there: float, single: float) -> float:
        if asked is not None:
            return asked
        return min(there, max(there * SHARE, single))

    return Budget(
        int(share(settings.sessions_memory_limit, host.memory, settings.memory_limit)),
        share(settings.sessions_cpu_limit, host.cpus, settings.cpu_limit),
        int(share(settings.sessions_pids_limit, host.pids, settings.pids_limit)),
    )


@attrs.define
class SessionsGroup:
    """The group that containers are put into.

    Attributes:
        parent: as the engine's create call takes it (`CgroupParent`).
        budget: the limits that it must have.
    """

    parent: str
    budget: Budget
    _seen: Cgroups | None = attrs.field(default=None, init=False)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.parent.rpartition("/")[2]

    def require_member(self, cgroups: Cgroups | None) -> None:
        """See that a container is in it.

        Raises:
            HardeningError: it is not, or cannot be seen to be.
        """
        if cgroups is None or {path.parent.name for path in cgroups.directories} != {self.name}:
            where = cgroups.memory if cgroups else "nowhere to be seen from here"
            raise HardeningError(
                f"the container is not in the control group of all sessions ({self.name}) but {where}"
            )
        self._seen = cgroups.parent

    def require_limits(self) -> None:
        """See that it has its limits. After the first `require_member`.

        Raises:
            HardeningError: not all of them.
        """
        assert self._seen is not None
        usage = self._seen.read()
        limits = Budget(usage.memory_limit, usage.cpus, self._seen.pids_limit()) if usage else NOTHING
        if problems := self.budget.exceeded_by(limits):
            raise HardeningError(
                f"the control group of all sessions ({self.name}) allows more than it should: "
                + "; ".join(problems)
            )

    def usage(self) -> Usage | None:
        """Return what is used of it; None where that cannot be told (yet)."""
        return self._seen.read() if self._seen else None


@asynccontextmanager
async def sessions_group(
    settings: Settings, driver: str, identity: Identity, shared: Callable[[], bool]
) -> AsyncGenerator[SessionsGroup | None]:
    """Yield the group for the containers of an instance; None where there is to be none, or there can be
    none and nobody has asked for one by name or number, which is logged.

    Args:
        settings: say which budget, or which group.
        driver: cgroup driver of the engine: `cgroupfs` or `systemd`; empty where its containers are not this
            host's, or not this user's.
        identity: of the instance.
        shared: tells whether another process, too, has the instance and may go on with the group.

    Resource handling: leaving removes the group that was made here, when the containers are gone.

    Raises:
        ConfigurationError: what was asked for cannot be had.
    """
    budget = budget_of(settings, host_budget())
    if settings.sessions_cgroup:
        # Of what the settings leave open, any limit will do that is one.
        yield SessionsGroup(settings.sessions_cgroup, budget_of(settings, ANY))
        return
    if not budget:
        yield None
        return
    name = group_name(identity) + (SLICE if driver == "systemd" else "")
    asked = {settings.sessions_memory_limit, settings.sessions_cpu_limit, settings.sessions_pids_limit}
    if not driver:
        problem = "the engine is not on this host, or is another user's"
    elif os.geteuid() != 0:
        problem = "only root can make the control group; it can be made once and named (SESSIONS_CGROUP)"
    else:
        problem = await trio.to_thread.run_sync(_make, name, budget)
    if problem:
        message = f"sessions have no limits together: {problem}"
        if asked - {None, 0}:
            raise ConfigurationError(message)
        _log.warning(message)
        yield None
        return
    try:
        yield SessionsGroup(name if name.endswith(SLICE) else f"/{name}", budget)
    finally:
        if not shared():
            # Within a few seconds, see there. `trio.to_thread` is not cancelled without its consent.
            with trio.CancelScope(shield=True):
                if not await trio.to_thread.run_sync(remove_group, name):
                    _log.warning("the control group of all sessions could not be removed", group=name)


def _make(name: str, budget: Budget) -> str:
    """Make a group, or give the one that is there these limits; return what went wrong, if anything did."""
    try:
        if name.endswith(SLICE):
            return _make_by_systemd(name, budget)
        roots = hierarchies()
        if "memory" in roots:
            _make_v1(name, budget, roots)
        else:
            _make_v2(name, budget, roots[""])
    except (OSError, KeyError, subprocess.SubprocessError) as error:
        return str(error)
    return ""


def _make_v1(name: str, budget: Budget, roots: dict[str, Path]) -> None:
    groups = {controller: roots[controller] / name for controller in ("memory", "cpu", "pids")}
    for group in groups.values():
        group.mkdir(exist_ok=True)
    nested = groups["memory"] / "memory.use_hierarchy"
    if nested.read_text().strip() == "0":  # always 1 since Linux 5.11
        nested.write_text("1")
    if budget.memory:
        limit, with_swap = (groups["memory"] / f"memory.{kind}limit_in_bytes" for kind in ("", "memsw."))
        files = [limit, *([with_swap] if with_swap.exists() else [])]
        if int(limit.read_text()) < budget.memory:
            files.reverse()  # at no moment may the limit be above that with swap
        for file in files:
            file.write_text(str(budget.memory))
    if budget.cpus:
        (groups["cpu"] / "cpu.cfs_period_us").write_text(str(PERIOD))
        (groups["cpu"] / "cpu.cfs_quota_us").write_text(str(int(budget.cpus * PERIOD)))
    if budget.pids:
        (groups["pids"] / "pids.max").write_text(str(budget.pids))


def _make_v2(name: str, budget: Budget, root: Path) -> None:
    (root / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    group = root / name
    group.mkdir(exist_ok=True)
    if budget.memory:
        (group / "memory.max").write_text(str(budget.memory))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
    if budget.cpus:
        (group / "cpu.max").write_text(f"{int(budget.cpus * PERIOD)} {PERIOD}")
    if budget.pids:
        (group / "pids.max").write_text(str(budget.pids))


def _make_by_systemd(name: str, budget: Budget) -> str:
    properties = [
        "MemoryAccounting",
        "b",
        "true",
        "CPUAccounting",
        "b",
        "true",
        "TasksAccounting",
        "b",
        "true",
    ]
    if budget.memory:
        properties += ["MemoryMax", "t", str(budget.memory), "MemorySwapMax", "t", "0"]
    if budget.cpus:
        properties += ["CPUQuotaPeriodUSec", "t", str(PERIOD)]
        properties += ["CPUQuotaPerSecUSec", "t", str(int(budget.cpus * 1_000_000))]
    if budget.pids:
        properties += ["TasksMax", "t", str(budget.pids)]
    count = str(len(properties) // 3)
    if any((root / name).exists() for root in hierarchies().values()):
        call = bus_call("SetUnitProperties", "sba(sv)", name, "true", count, *properties)
    else:
        call = bus_call("StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", count, *properties, "0")
    done = subprocess.run(call, capture_output=True, timeout=_BUS_TIMEOUT, check=False)  # noqa: S603
    return done.stderr.decode(errors="replace").strip() if done.returncode else ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
