"""The create call of a session's container, without some of what protects it.

The policy cannot say this, and no setting can: it is undone here, in the very JSON that would go to the
engine, for containers that run nothing but attacks that are bounded themselves. A second line of bounds is in
`_LIMITS`.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from supervisor.attacks.attack import Defence, Habit
from supervisor.measures import Measure

JSON = dict[str, Any]

_LOOSE: Final = "rw,exec,suid,dev,size=128m,mode=1777"
_MIB: Final = 1 << 20
# What attacks have a use for. Not ALL: engines that lack one themselves refuse that.
_CAPABILITIES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "KILL",
    "MKNOD",
    "NET_ADMIN",
    "NET_RAW",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_CHROOT",
    "SYS_NICE",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_TIME",
)
_LIMITS: Final[JSON] = {
    "Memory": 768 * _MIB,
    "MemorySwap": 768 * _MIB,
    "PidsLimit": 1000,
    "NanoCpus": 0,
    "Ulimits": [{"Name": "nofile", "Soft": 4096, "Hard": 4096}],
}


def weakened(config: Mapping[str, Any], on: Collection[Defence]) -> JSON:
    """Return the body of a create call with the protection of `on` alone.

    Seccomp and Landlock come with "no new privileges", which stops none of what they stop: without it
    runtimes install a filter before they have become the user, which takes calls that the filter refuses.

    Args:
        config: what `HardeningPolicy.to_create_config` returned, with all of it.
        on: what to leave. Landlock, a session's AppArmor profile, the user's own id, egress and isolation are
            not in this JSON alone: see `cell`.
    """
    changed: JSON = copy.deepcopy(dict(config))
    host: JSON = changed["HostConfig"]
    kept = {*on, Measure.NO_NEW_PRIVILEGES} if {Measure.SECCOMP, Measure.LANDLOCK} & set(on) else set(on)
    for defence, undo in _UNDO.items():
        if defence not in kept:
            undo(host)
    if not {Habit.USER, Measure.SESSION_UID} & set(on):
        changed["User"] = "0:0"
    return changed


def _without_option(prefix: str, instead: str = "") -> Callable[[JSON], None]:
    def undo(host: JSON) -> None:
        options = [each for each in host["SecurityOpt"] if not each.startswith(prefix)]
        host["SecurityOpt"] = [*options, instead] if instead else options

    return undo


def _writable(host: JSON) -> None:
    host.update(ReadonlyRootfs=False, MaskedPaths=[], ReadonlyPaths=[])


def _loose(host: JSON) -> None:
    host["Tmpfs"] = dict.fromkeys(host["Tmpfs"], _LOOSE)
    host["ShmSize"] = 64 * _MIB


_UNDO: Final[Mapping[Defence, Callable[[JSON], None]]] = {
    Measure.SECCOMP: _without_option("seccomp=", "seccomp=unconfined"),
    Measure.APPARMOR: _without_option("apparmor=", "apparmor=unconfined"),
    Measure.NO_NEW_PRIVILEGES: _without_option("no-new-privileges"),
    Measure.USERNS: lambda host: host.update(UsernsMode="host"),
    Measure.CAPABILITIES: lambda host: host.update(CapDrop=[], CapAdd=list(_CAPABILITIES)),
    Measure.READ_ONLY: _writable,
    Measure.TMPFS: _loose,
    Measure.NAMESPACES: lambda host: host.update(CgroupnsMode="host"),
    Measure.LIMITS: lambda host: host.update(_LIMITS),
    Habit.DEVICES: lambda host: host.update(DeviceCgroupRules=["a *:* rwm"]),
}
