"""How a supervisor hears of its network's egress: whether it is kept, and what was denied.

A supervisor is connected to the keeper of its network. The kernel tells it at once when that dies; until
there is one again, no session starts. Where there is none, a supervisor that is root starts one, which
ends with the last supervisor that is connected; for all others `terminal-supervisor network up` does.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, final

import trio

from supervisor.egress.events import EgressEvent
from supervisor.egress.host import PACKAGES, program
from supervisor.egress.keeper import STOP, peer, plan_as_json
from supervisor.egress.keeper_files import log_path, socket_path
from supervisor.egress.rules import Plan
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.observability.log import get_logger

_log = get_logger("egress")

READY_TIMEOUT: Final = 60.0
"""Seconds for a keeper to be ready. It takes less than one, 20 under emulation."""
RETRY: Final = 0.5
"""Seconds between attempts to reach a keeper."""
UNSAFE_NETWORK: Final = "the sessions' network is not safe at the moment"
"""What anybody may be told of a problem."""
NO_KEEPER: Final = "egress is not filtered: nobody keeps the network's rules"
STOP_TIMEOUT: Final = 10.0


@final
class EgressWatch:
    """What is known of one network's egress.

    Args:
        plan: what it must be.
        starts: start a keeper where there is none.

    Attributes:
        plan: what it must be.
        problem: why no session may start now; None when one may.
        keeper: process id of the keeper, 0 without one.
    """

    def __init__(self, plan: Plan, *, starts: bool) -> None:
        self.plan = plan
        self._starts = starts
        self.problem: str | None = NO_KEEPER
        self.keeper = 0
        self._failure: ConfigurationError | None = None
        self._changed = trio.Event()
        self._listeners: set[Callable[[EgressEvent], object]] = set()

    def __repr__(self) -> str:
        return f"<EgressWatch {self.plan.network} keeper {self.keeper}: {self.problem or 'ready'}>"

    def require_ready(self) -> None:
        """Let a session start, or not.

        Raises:
            SandboxError: not; the cause is in the log.
        """
        if self.problem is not None:
            _log.error("no session: egress is not filtered", network=self.plan.network, problem=self.problem)
            raise SandboxError(UNSAFE_NETWORK)

    async def wait_ready(self) -> None:
        """Wait until a session may start.

        Raises:
            ConfigurationError: waiting does not help: what is kept is something else, or cannot be.
        """
        while self.problem is not None:
            if self._failure is not None:
                raise ConfigurationError(str(self._failure)) from self._failure
            await self._changed.wait()

    def listen(self, listener: Callable[[EgressEvent], object]) -> Callable[[], None]:
        """Have `listener` called with every event; the answer ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def run(self) -> None:
        """Stay connected to the keeper, until cancelled. What goes wrong becomes the `problem`, and is tried
        again.
        """
        while True:
            try:
                await self._connected()
            except (ConfigurationError, OSError) as error:  # the latter where no keeper can be started
                self._failure = ConfigurationError(str(error))
                self._set(str(error))
            else:
                self._set(NO_KEEPER)
            self.keeper = 0
            await trio.sleep(RETRY)

    async def _connected(self) -> None:
        """Return when the connection is over, or there is none, but a keeper has been started."""
        try:
            stream = await _connect(self.plan.network)
        except OSError:
            if self._starts:
                await start_keeper(self.plan)
                return
            raise ConfigurationError(
                f"nobody keeps the egress of the network {self.plan.network}; as root: "
                "terminal-supervisor network up"
            ) from None
        async with stream:
            await self._follow(stream)

    async def _follow(self, stream: trio.SocketStream) -> None:
        self.keeper, user, _group = peer(stream)
        if user != 0:
            raise ConfigurationError(f"{socket_path(self.plan.network)} belongs to user {user}, not to root")
        rest = b""
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._heed(json.loads(line))

    def _heed(self, message: dict[str, Any]) -> None:
        if "plan" in message:
            self._compare(message["plan"])
        elif "problem" in message:
            self._set(message["problem"])
        elif "event" in message:
            event = EgressEvent(**message["event"])
            for listener in tuple(self._listeners):
                listener(event)

    def _compare(self, kept: dict[str, Any]) -> None:
        wanted = plan_as_json(self.plan)
        names = sorted(name for name in wanted if kept.get(name) != wanted[name])
        if names:
            differences = "; ".join(f"{key} {kept.get(key)} instead of {wanted[key]}" for key in names)
            raise ConfigurationError(
                f"the egress of the network {self.plan.network} is kept by process {self.keeper}, otherwise "
                f"than the settings say ({differences}). End what uses it, or `terminal-supervisor network "
                "down`; or choose another DOCKER_NETWORK_NAME"
            )

    def _set(self, problem: str | None) -> None:
        if problem is None:
            self._failure = None
        if problem != self.problem:
            self.problem = problem
            self._changed.set()
            self._changed = trio.Event()


async def start_watch(plan: Plan, nursery: trio.Nursery) -> EgressWatch:
    """Watch the egress of `plan` in `nursery`; start a keeper where there is none; wait until all is ready.

    Raises:
        ConfigurationError: it cannot be kept, or not as `plan` says.
    """
    watch = EgressWatch(plan, starts=may_start())
    nursery.start_soon(watch.run)
    await _wait_ready(watch)
    return watch


def may_start() -> bool:
    """Whether this process may be a network's keeper."""
    return os.geteuid() == 0


async def _wait_ready(watch: EgressWatch) -> None:
    with trio.move_on_after(READY_TIMEOUT):
        await watch.wait_ready()
    if watch.problem is not None:
        raise ConfigurationError(
            f"egress of the network {watch.plan.network}: {watch.problem} (after {READY_TIMEOUT:g} s). "
            f"{_last_words(watch.plan)}"
        )


def _last_words(plan: Plan) -> str:
    log = log_path(plan.network)
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return f"Its keeper logs to {log}"
    return f"The last of {log}: {' / '.join(lines[-3:])}"


async def start_keeper(plan: Plan, *, stay: bool = False) -> None:
    """Start a keeper, unless there is one.

    Raises:
        ConfigurationError: this host has not what it takes; the text names what, and the Debian packages.
    """
    for name in PACKAGES:
        program(name)
    options = ["--stay"] if stay else []
    command = [sys.executable, "-m", "supervisor.egress.keeper", *options, json.dumps(plan_as_json(plan))]
    done = await trio.run_process(command, capture_stderr=True, check=False)
    if done.returncode:
        raise ConfigurationError(
            f"egress cannot be filtered: {done.stderr.decode(errors='replace').strip()[-500:]}"
        )


async def stop_keeper(network: str) -> bool:
    """Have the keeper of `network` stop, and wait for it; return whether there was one. Needs root.

    Raises:
        ConfigurationError: it does not stop.
    """
    try:
        stream = await _connect(network)
    except OSError:
        return False
    async with stream:
        with trio.move_on_after(STOP_TIMEOUT), suppress(trio.BrokenResourceError):
            await stream.send_all(STOP + b"\n")
            async for _chunk in stream:
                pass
            return True
    raise ConfigurationError(f"the keeper of the network {network} did not stop within {STOP_TIMEOUT:g} s")


async def _connect(network: str) -> trio.SocketStream:
    """Connect to a keeper; OSError when there is none."""
    return await trio.open_unix_socket(str(socket_path(network)))
