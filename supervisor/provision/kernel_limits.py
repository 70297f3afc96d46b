"""The kernel's limits that a capacity needs more of: raised by set-up where it is root, and for good by a
file of sysctl.d(5), which `python -m supervisor.provision.kernel_limits` prints for the default capacity.

Set-up only ever raises: what else uses the host may need more than the sessions do.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.admission.host_limits import (
    INOTIFY,
    KEY_BYTES,
    KEY_SIZE,
    KEYS,
    PROC,
    PTYS,
    ample_instances,
    ample_keys,
    ample_terminals,
    host_limits,
)
from supervisor.provision.report import Step
from supervisor.sandbox.shares import INSTANCES, RESERVE
from supervisor.settings import Settings

_KERNEL: Final[Mapping[str, int]] = {PTYS: 4096, INOTIFY: 128, KEYS: 200, KEY_BYTES: 20_000}
_PTY_RESERVE: Final = 1024
"""Both: the kernel's own defaults (drivers/tty/pty.c, fs/notify/inotify/inotify_user.c,
security/keys/key.c)."""


def raise_to(name: str, value: int, proc: Path = PROC) -> str:
    """Raise the limit that sysctl(8) calls `name` to `value` at least; return what was done, in words: empty
    when it was that high already, or this kernel has no such limit.
    """
    file = proc / "sys" / name.replace(".", "/")
    try:
        before = int(file.read_text())
        if before >= value:
            return ""
        file.write_text(f"{value}\n")
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{name} NOT RAISED to {value}: {error.strerror}"
    return f"{name} {before} → {value}"


def raise_limits(settings: Settings, step: Step, *, remapped: bool, proc: Path = PROC) -> None:
    """Raise what the capacity of `settings` does not fit into, and say so; or, without root, what to raise.

    Args:
        settings: for the capacity.
        step: whose result tells.
        remapped: the engine maps the containers' users to others of this host.
        proc: what stands for /proc.
    """
    short = [each for each in host_limits(settings, proc) if each.sysctl and not each.fits]
    if os.geteuid() != 0:
        step.result = "; ".join(f"as root: {each.advice}" for each in short) or step.result
        return
    wanted = {each.sysctl: each.ample for each in short}
    if remapped:
        wanted[INOTIFY] = max(wanted.get(INOTIFY, 0), shared_instances(settings))
    told = [raise_to(name, value, proc) for name, value in wanted.items()]
    step.result = "; ".join(filter(None, told)) or step.result


def shared_instances(settings: Settings) -> int:
    """Return the inotify instances that the host's root needs where the engine remaps users, as it is charged
    for what all containers take (`shares`).
    """
    return INSTANCES * (settings.max_sessions + settings.warm_pool_size) + RESERVE


def sysctl_file(settings: Settings) -> str:
    """Return a file of sysctl.d(5) for the capacity of `settings`."""
    sandboxes = settings.max_sessions + settings.warm_pool_size
    terminals = max(_KERNEL[PTYS], ample_terminals(sandboxes, _PTY_RESERVE))
    instances = max(_KERNEL[INOTIFY], ample_instances(sandboxes), shared_instances(settings))
    keys = max(_KERNEL[KEYS], ample_keys(sandboxes))
    capacity = f"MAX_SESSIONS={settings.max_sessions} and WARM_POOL_SIZE={settings.warm_pool_size}"
    return f"""\
# Limits of the kernel for terminal-supervisor: /etc/sysctl.d/60-terminal-supervisor.conf (sysctl.d(5)).
# For {capacity}, the defaults; never below the kernel's own defaults.
# Such a file sets a limit also where it was higher: take out what this host has more of (`sysctl NAME`).

# Terminals: one for each session, twice over, and kernel.pty.reserve, not for those in containers.
{PTYS} = {terminals}

# Inotify instances of root: {INSTANCES} for each container whose users are remapped, {RESERVE} for the host.
{INOTIFY} = {instances}

# Session keyrings: runc makes one for each container, of {KEY_SIZE} bytes. Those of containers whose users
# are remapped have one owner, an ordinary user.
{KEYS} = {keys}
{KEY_BYTES} = {max(_KERNEL[KEY_BYTES], keys * KEY_SIZE)}
"""


if __name__ == "__main__":
    sys.stdout.write(sysctl_file(Settings()))
