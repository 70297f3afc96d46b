"""Whether a container that waits is still what it was when it began to: its network, its freezer, its limits.

Two looks make up for each other. While it waits, the engine's events cause a comparison with the policy, as
after the start. At the very moment of the claim the kernel's own files are read, and the engine is not asked:
that would take milliseconds, or a deadline when it is in trouble, and a waiting container still serves a
session while the engine is away. The second look takes about a tenth of a millisecond.
"""

from pathlib import Path
from typing import Final, final

import trio

from supervisor.engine import DockerError
from supervisor.errors import SandboxError
from supervisor.observability.log import get_logger
from supervisor.reaping.pending import NOT_FOUND
from supervisor.sandbox.containers import HardenedContainer
from supervisor.sandbox.inside import TUNNELS
from supervisor.sandbox.network import NO_NETWORK

_log = get_logger("sandbox")

PROC: Final = Path("/proc")
CGROUPS: Final = Path("/sys/fs/cgroup")


@final
class Fitness:
    """Of one container, from when it is ready until it is claimed.

    Args:
        made: the container.
        pid: of its first process, in the engine's process namespace.
    """

    def __init__(self, made: HardenedContainer, pid: int) -> None:
        self._made = made
        self._pid = pid
        self._seen = made.site.notices.changes

    def require(self) -> None:
        """Take the look at the claim, where the kernel's files are within sight.

        Raises:
            SandboxError: it cannot serve a session.
        """
        if not self._made.site.local:
            return
        if why := unfit(self._pid, networked=self._made.policy.network != NO_NETWORK):
            raise SandboxError(f"this sandbox cannot be used any more: {why}")

    async def wait_lost(self, lost: trio.CancelScope) -> None:
        """Look again whenever somebody may have done something to it, and cancel `lost` when it is not what
        the policy asks for any more. An engine that does not answer proves nothing."""
        while True:
            self._seen = await self._made.site.notices.wait_changed(self._seen)
            try:
                await self._made.verify_again()
            except SandboxError as error:
                _log.warning("a waiting sandbox is of no use", container=self._made.name, why=str(error))
                lost.cancel()
            except DockerError as error:
                if error.status == NOT_FOUND:
                    lost.cancel()


def unfit(pid: int, *, networked: bool, proc: Path = PROC, cgroups: Path = CGROUPS) -> str | None:
    """Return why the container of process `pid` cannot serve a session, None when nothing speaks against it.

    Args:
        pid: of its first process, in this process's namespace, and known to live.
        networked: whether it must have the one network interface besides loopback, rather than none.
        proc, cgroups: for tests.

    A host that does not show a container's cgroup here leaves the freezer to the engine's events.
    """
    try:
        lines = (proc / str(pid) / "net" / "dev").read_text().splitlines()[2:]
        interfaces = {line.split(":")[0].strip() for line in lines} - TUNNELS
        own = {"lo", "eth0"} if networked else {"lo"}
        if own - interfaces:
            return "it has lost its network"
        if more := interfaces - own:
            return f"it is in a network that is not its own ({', '.join(sorted(more))})"
        if _is_frozen((proc / str(pid) / "cgroup").read_text(), cgroups):
            return "it is frozen"
    except (FileNotFoundError, ProcessLookupError):
        return "it has ended"
    return None


def _is_frozen(membership: str, cgroups: Path) -> bool:
    """Return what the freezer says (cgroups(7): `freezer.state` of version 1, `cgroup.events` of version
    2)."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "freezer":
            state = cgroups / "freezer" / path.lstrip("/") / "freezer.state"
            if state.exists():
                return state.read_text().strip() != "THAWED"
        elif not controllers:
            events = cgroups / path.lstrip("/") / "cgroup.events"
            if events.exists() and "frozen 1" in events.read_text():
                return True
    return False
