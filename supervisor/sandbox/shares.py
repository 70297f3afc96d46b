"""How much one container may take of what the kernel counts per user on the whole host.

Where the engine remaps users, each container has a user namespace of its own, and the kernel charges what its
users take to the namespace's owner as well: the host's root, for all containers (`inc_ucount` in the kernel's
kernel/ucount.c). Without a bound one session could use up root's share of inotify instances and watches. So
each namespace gets limits of its own (namespaces(7), "The /proc/sys/user directory"), written from inside it:
they belong to whoever opens the file. A session cannot raise them, as it has no capability in there.
"""

import subprocess
from typing import Final

import trio

from supervisor.errors import SandboxError

INSTANCES: Final = 32
"""Inotify instances of each user in a container. A program that watches files has one, seldom two."""
WATCHES: Final = 2048
"""Inotify watches, likewise."""
RESERVE: Final = 256
"""Inotify instances of the host's root that sessions leave alone."""
_TIMEOUT: Final = 10.0  # seconds; a few milliseconds are usual

_LIMITS: Final = {"max_inotify_instances": INSTANCES, "max_inotify_watches": WATCHES}
_SCRIPT: Final = " && ".join(f"echo {value} > /proc/sys/user/{name}" for name, value in _LIMITS.items())


async def bound_shares(pid: int) -> None:
    """Set the limits in the user namespace of process `pid`, which must not be this process's own (the kernel
    refuses that one, so that a pid that has become another's does no harm). Takes root.

    Raises:
        SandboxError: they could not be set.
    """
    command = ["nsenter", "--user", "--target", str(pid), "--", "/bin/sh", "-c", _SCRIPT]
    with trio.move_on_after(_TIMEOUT):
        done = await trio.run_process(command, check=False, capture_stdout=True, stderr=subprocess.STDOUT)
        if done.returncode == 0:
            return
        complaint = done.stdout.decode(errors="replace").strip()
        raise SandboxError(f"the shares of a sandbox could not be bounded: {complaint}")
    raise SandboxError(f"the shares of a sandbox could not be bounded within {_TIMEOUT:g} s")
