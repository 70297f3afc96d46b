"""What this host can carry, against what the settings promise: checked at start, watched while running.

A capacity that the host cannot carry shows at the worst moment, as a session that cannot be started for a
reason that nobody expects. So the arithmetic is done at start, and what does not fit is an error that says
it. What only may run short (memory that the limits add up to, inotify, keys) is a warning.
"""

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.errors import ConfigurationError
from supervisor.observability.log import get_logger
from supervisor.sandbox.budget import Budget, host_budget
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

log = get_logger(__name__)

PROC: Final = Path("/proc")
PTYS: Final = "kernel.pty.max"
INOTIFY: Final = "fs.inotify.max_user_instances"
KEYS: Final = "kernel.keys.maxkeys"
KEY_BYTES: Final = "kernel.keys.maxbytes"
KEY_SIZE: Final = len("_ses.") + 64 + 1
"""Bytes that the kernel charges for the session keyring that runc makes for each container: its name, with
the container's id (keyrings(7)). The host's root may have a million; where the engine remaps users, the root
of all containers is another, and has an ordinary user's share."""
SPARE_KEYS: Final = 20
"""Keyrings besides those of sessions: of containers that are going, and of those that prove the network."""
DEVICES: Final = Path("/sys/class/net")
BRIDGE_PORTS: Final = 1023
"""Interfaces that a Linux bridge takes (BR_MAX_PORTS of the kernel, less the number 0)."""
LEAST_MEMORY: Final = 24 * MIB
"""Bytes that a session takes at the very least: gate, a shell, and the engine's shim beside them."""
LEAST_PROCESSES: Final = 2
"""Of a session: gate and shell."""
OWN_DESCRIPTORS: Final = 200
"""Descriptors of the supervisor itself: listeners, the engine's connections, sandboxes that start."""
PER_SANDBOX: Final = 2
"""Descriptors per sandbox: lifeline and terminal."""
WATCH_INTERVAL: Final = 30.0
"""Seconds between two looks while running."""
ALARM: Final = 0.9
"""Part of a limit in use from which on the operator is warned."""
LAST_INSTANCES: Final = 8
"""Inotify instances that must still be there, likewise: the kernel does not tell how many are in use."""


@attrs.frozen
class Limit:
    """Something of which the host has so much.

    Attributes:
        name: as an operator knows it.
        available: how much there is.
        needed: how much the settings promise.
        arithmetic: how that was reckoned.
        advice: what to do.
        hard: whether too little is an error, and not a warning.
        sysctl: what sysctl(8) calls it, where it is a limit that the kernel can be told to raise.
        ample: what that should be for these settings, with room for others.
    """

    name: str
    available: int
    needed: int
    arithmetic: str
    advice: str
    hard: bool = True
    sysctl: str = ""
    ample: int = 0

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.needed <= self.available

    def __str__(self) -> str:
        return f"{self.name}: {self.arithmetic} = {self.needed} needed, {self.available} there; {self.advice}"


def ample_terminals(sandboxes: int, reserve: int) -> int:
    """Return the `PTYS` that leave others as many terminals as so many sandboxes have, besides `reserve`."""
    return 2 * sandboxes + reserve


def ample_instances(sandboxes: int) -> int:
    """Return the `INOTIFY` that is enough for the shims of so many sandboxes, likewise."""
    return 2 * sandboxes + 128


def ample_keys(sandboxes: int) -> int:
    """Return the `KEYS` that is enough for so many containers with remapped users, likewise."""
    return 2 * sandboxes + 200


def host_limits(settings: Settings, proc: Path = PROC) -> list[Limit]:
    """Return the limits of this host that `settings` have to do with; those that it does not tell are left
    out."""
    docker = settings.provider == "docker"
    pool = settings.warm_pool_size if docker else 0
    sandboxes = settings.max_sessions + pool
    sessions = f"MAX_SESSIONS {settings.max_sessions} + WARM_POOL_SIZE {pool}"
    limits = [
        Limit(
            "descriptors of this process (RLIMIT_NOFILE)",
            _hard_descriptor_limit(),
            settings.max_connections + PER_SANDBOX * sandboxes + OWN_DESCRIPTORS,
            f"MAX_CONNECTIONS {settings.max_connections} + {PER_SANDBOX} x ({sessions}) + {OWN_DESCRIPTORS}",
            "raise it (ulimit -n, LimitNOFILE=)",
        )
    ]
    if (ptys := _number(proc / "sys/kernel/pty/max")) is not None:
        # Containers have terminals of instances of their own, which may not touch the host's reserve.
        reserve = (_number(proc / "sys/kernel/pty/reserve") or 0) if docker else 0
        ample = ample_terminals(sandboxes, reserve)
        limits.append(
            Limit(
                f"terminals ({PTYS}{f' less the reserve of {reserve}' if reserve else ''})",
                ptys - reserve,
                sandboxes,
                sessions,
                f"sysctl {PTYS}={ample}",
                sysctl=PTYS,
                ample=ample,
            )
        )
    if not docker:
        return limits
    if settings.network != "none":
        limits.append(
            Limit("ports of the network's bridge", BRIDGE_PORTS, sandboxes, sessions, "lower MAX_SESSIONS")
        )
    if (memory := _memory(proc, "MemTotal")) is not None:
        limits += [
            Limit(
                "memory (MiB)",
                memory // MIB,
                sandboxes * LEAST_MEMORY // MIB,
                f"({sessions}) x {LEAST_MEMORY // MIB}, which is the least",
                "lower MAX_SESSIONS",
            ),
            Limit(
                "memory if every session takes all that it may (MiB)",
                memory // MIB,
                sandboxes * settings.memory_limit // MIB,
                f"({sessions}) x CONTAINER_MEMORY_LIMIT {settings.memory_limit // MIB}",
                "lower MAX_SESSIONS or CONTAINER_MEMORY_LIMIT, unless sessions are known to take less",
                hard=False,
            ),
        ]
    limits += _budget_limits(settings, host_budget(proc), sandboxes, sessions)
    if (instances := _number(proc / "sys/fs/inotify/max_user_instances")) is not None:
        ample = ample_instances(sandboxes)
        limits.append(
            Limit(
                f"inotify instances ({INOTIFY})",
                instances,
                sandboxes,
                f"one for each container's shim on cgroup version 2: {sessions}",
                f"sysctl {INOTIFY}={ample}",
                hard=False,
                sysctl=INOTIFY,
                ample=ample,
            )
        )
    needed, ample = sandboxes + SPARE_KEYS, ample_keys(sandboxes)
    for name, size in ((KEYS, 1), (KEY_BYTES, KEY_SIZE)):
        if (there := _number(proc / "sys" / name.replace(".", "/"))) is not None:
            limits.append(
                Limit(
                    f"keyrings of containers whose users are remapped ({name})",
                    there,
                    needed * size,
                    f"({sessions} + {SPARE_KEYS}){f' x {size}' if size > 1 else ''}",
                    f"sysctl {name}={ample * size}",
                    hard=False,
                    sysctl=name,
                    ample=ample * size,
                )
            )
    return limits


def _budget_limits(settings: Settings, host: Budget, sandboxes: int, sessions: str) -> list[Limit]:
    """What the settings name for all sessions together: against what the host has, what one session may use,
    and what each needs at the least. What they leave open is a part of what the host has.
    """
    limits: list[Limit] = []
    for what, unit, setting, asked, there, own, single, least in (
        ("memory (MiB)", MIB, "SESSIONS_MEMORY_LIMIT", settings.sessions_memory_limit, host.memory,
         "CONTAINER_MEMORY_LIMIT", settings.memory_limit, LEAST_MEMORY),
        ("CPUs (hundredths)", 0.01, "SESSIONS_CPU_LIMIT", settings.sessions_cpu_limit, host.cpus,
         "CONTAINER_CPU_LIMIT", settings.cpu_limit, 0),
        ("processes", 1, "SESSIONS_PIDS_LIMIT", settings.sessions_pids_limit, host.pids,
         "CONTAINER_PIDS_LIMIT", settings.pids_limit, LEAST_PROCESSES),
    ):  # fmt: skip
        if not asked or not there:
            continue
        name, limit = f"{what} of all sessions together", int(asked / unit)
        limits += [
            Limit(name, int(there / unit), limit, setting, f"lower {setting}"),
            Limit(name, limit, int(single / unit), own, f"raise {setting}, or lower {own}"),
            Limit(
                name,
                limit,
                int(sandboxes * least / unit),
                f"({sessions}) x {least / unit:g}, which is the least",
                f"raise {setting}, or lower MAX_SESSIONS",
            ),
        ]
    return limits


def require_capacity(settings: Settings, proc: Path = PROC) -> None:
    """Raise this process's own soft limits as far as it may, and see that the settings' capacity fits.

    Raises:
        ConfigurationError: it does not; each limit is named, with the arithmetic.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = [limit for limit in host_limits(settings, proc) if not limit.fits]
    if problems := [str(limit) for limit in limits if limit.hard]:
        raise ConfigurationError(
            "this host cannot carry the configured capacity:\n  " + "\n  ".join(problems)
        )
    for limit in limits:
        log.warning("this host may run short", limit=str(limit))


def shortages(proc: Path = PROC, devices: Path = DEVICES) -> list[str]:
    """Return what runs short at this moment, in sentences."""
    found: list[str] = []
    used, limit = _number(proc / "sys/kernel/pty/nr"), _number(proc / "sys/kernel/pty/max")
    if used is not None and limit is not None:
        limit -= _number(proc / "sys/kernel/pty/reserve") or 0
        if used >= ALARM * limit:
            found.append(f"{used} of {limit} terminals are in use (kernel.pty.max)")
    used, limit = len(list((proc / "self/fd").iterdir())), _hard_descriptor_limit()
    if used >= ALARM * limit:
        found.append(f"{used} of {limit} descriptors of the supervisor are in use (RLIMIT_NOFILE)")
    total, available = _memory(proc, "MemTotal"), _memory(proc, "MemAvailable")
    if total is not None and available is not None and available <= (1 - ALARM) * total:
        found.append(f"{available // MIB} of {total // MIB} MiB of memory are available")
    if not _instances_left(LAST_INSTANCES):
        found.append(f"fewer than {LAST_INSTANCES} inotify instances are left ({INOTIFY})")
    found += _keys_in_use(proc)
    found += [
        f"{used} of {BRIDGE_PORTS} ports of the bridge {ports.parent.name} are in use"
        for ports in sorted(devices.glob("*/brif"))  # whoever's they are: several supervisors share a network
        if (used := _entries(ports)) >= ALARM * BRIDGE_PORTS
    ]
    return found


async def watch_host(proc: Path = PROC, devices: Path = DEVICES, interval: float = WATCH_INTERVAL) -> None:
    """Warn when something begins to run short, and say when it is over, for ever."""
    known: list[str] = []
    while True:
        found = shortages(proc, devices)
        if found and not known:
            log.warning("this host runs short", what="; ".join(found))
        elif known and not found:
            log.info("this host has room again")
        known = found
        await trio.sleep(interval)


def _hard_descriptor_limit() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def _instances_left(count: int) -> bool:
    """Whether this process's user, whose the shims are too, gets so many inotify instances more."""
    inotify_init1, taken = ctypes.CDLL(None).inotify_init1, list[int]()
    while len(taken) < count and (instance := inotify_init1(os.O_CLOEXEC)) >= 0:
        taken.append(instance)
    for instance in taken:
        os.close(instance)
    return len(taken) == count


def _keys_in_use(proc: Path) -> list[str]:
    """Whose keys run short: `/proc/key-users` has a line for each user (keyrings(7))."""
    try:
        lines = (proc / "key-users").read_text().splitlines()
    except OSError:
        return []
    found: list[str] = []
    for uid, *_counts, keys, size in (line.split() for line in lines):
        for each, what in ((keys, f"keys ({KEYS})"), (size, f"bytes of keys ({KEY_BYTES})")):
            used, limit = map(int, each.split("/"))
            if used >= ALARM * limit:
                found.append(f"user {uid.rstrip(':')} has {used} of {limit} {what}")
    return found


def _entries(directory: Path) -> int:
    try:
        return len(list(directory.iterdir()))
    except OSError:  # the bridge has gone meanwhile
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except OSError:
        return None


def _memory(proc: Path, key: str) -> int | None:
    """Return bytes that `/proc/meminfo` tells (proc_meminfo(5))."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
