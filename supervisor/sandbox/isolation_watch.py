"""Whether the sessions' network still isolates, while the supervisor runs.

`isolation` proves it by packets, which takes two containers and two seconds. What the proof rests on can be
looked at for nothing: whether bridged packets meet the firewall at all, and the rules that they meet there.
While these are as they were when it was proved, it is proved; when they have changed, no session starts
until it has been proved anew. Where the rules cannot be seen (no root, an engine elsewhere), it is proved
anew every so often.
"""

import math
import re
import shutil
from pathlib import Path
from typing import Final, final

import attrs
import trio

from supervisor.egress.watch import UNSAFE_NETWORK
from supervisor.engine import DockerError
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.observability.log import get_logger
from supervisor.sandbox.containers import HardenedContainers
from supervisor.sandbox.isolation import prove_isolation

_log = get_logger("sandbox")

LONGEST_PAUSE: Final = 5.0
"""Seconds between two looks, at most."""
_BRIDGED: Final = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_COMMAND_TIMEOUT = 10.0  # seconds, for what takes some ten milliseconds
_INTERFACE = re.compile(r" -[io] (\S+)")
_COUNTERS = re.compile(r" \[\d+:\d+\]$")


@attrs.frozen
class Grounds:
    """What isolation rests on.

    Attributes:
        bridged: `net.bridge.bridge-nf-call-iptables`; empty: there is no br_netfilter.
        rules: of the firewall, as far as they are about the bridge; None: cannot be seen.
    """

    bridged: str
    rules: tuple[str, ...] | None


async def look_at_grounds(bridge: str) -> Grounds:
    """Return what isolation on `bridge`, a device of this host's, rests on at the moment.

    Raises:
        SandboxError: that could not be found out: the host is too busy to tell in time, or to be asked.
    """
    try:
        bridged = _BRIDGED.read_text().strip()
    except OSError:
        bridged = ""
    return Grounds(bridged, await _rules(bridge))


async def _rules(bridge: str) -> tuple[str, ...] | None:
    program = shutil.which("iptables-save", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return None
    with trio.move_on_after(_COMMAND_TIMEOUT):
        try:
            done = await trio.run_process(
                [program, "-t", "filter"], capture_stdout=True, capture_stderr=True, check=False
            )
        except OSError as error:
            raise SandboxError(f"iptables-save could not be started: {error}") from error
        rules = rules_about(bridge, done.stdout.decode(errors="replace"))
        # Without any, they are another network namespace's, or another tool keeps them.
        return rules if any(bridge in rule for rule in rules) else None
    raise SandboxError(f"iptables-save took more than {_COMMAND_TIMEOUT:g} s")


def rules_about(bridge: str, listing: str) -> tuple[str, ...]:
    """Return the rules that a packet on `bridge` can meet, in their order, from the output of iptables-save.

    Those that name other interfaces only come and go with other networks.
    """
    lines = [_COUNTERS.sub("", line) for line in listing.splitlines() if line.startswith((":", "-A"))]
    return tuple(
        line
        for line in lines
        if not (interfaces := _INTERFACE.findall(line)) or bridge in interfaces or "+" in "".join(interfaces)
    )


@final
class IsolationWatch:
    """What is known of the isolation of one network.

    Args:
        containers: on that network, for the proof.
        bridge: its device.
        period: seconds after which it is proved anew where its grounds cannot be seen.

    Attributes:
        problem: why no session may start, in words; None when all is well.
    """

    def __init__(self, containers: HardenedContainers, bridge: str, period: float) -> None:
        self.problem: str | None = None
        self._containers = containers
        self._bridge = bridge
        self._period = period
        self._proved: Grounds | None = None
        self._proved_at = -math.inf

    def require_ready(self) -> None:
        """Let a session start, or not.

        Raises:
            SandboxError: not; the cause is in the log.
        """
        if self.problem is not None:
            _log.error("no session: the network does not isolate", problem=self.problem)
            raise SandboxError(UNSAFE_NETWORK)

    async def prove(self) -> None:
        """Prove it by packets, and note what that rests on.

        Raises:
            ConfigurationError, SandboxError, DockerError: as `prove_isolation`.
        """
        grounds = await look_at_grounds(self._bridge)
        await prove_isolation(self._containers)
        self._proved, self._proved_at = grounds, trio.current_time()

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await trio.sleep(min(LONGEST_PAUSE, self._period))
            await self.look()

    async def look(self) -> None:
        """Look once; prove it anew where that is due."""
        try:
            grounds = await look_at_grounds(self._bridge)
        except SandboxError as error:  # the next look may tell more
            _log.warning("the firewall of the sessions' network could not be looked at", problem=str(error))
            grounds = None
        if self.problem is None and grounds in {self._proved, None}:
            seen = grounds is not None and grounds.rules is not None
            if seen or trio.current_time() < self._proved_at + self._period:
                return
        else:
            self._note(self.problem or "the firewall of the sessions' network has changed")
        try:
            await self.prove()
        except ConfigurationError as error:
            self._note(str(error))
        except (DockerError, SandboxError) as error:
            _log.warning("isolation of the network could not be proved", problem=str(error))
        else:
            self._note(None)

    def _note(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            _log.log(40 if problem else 20, "isolation", bridge=self._bridge, problem=problem)
