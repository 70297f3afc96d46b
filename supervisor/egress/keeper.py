"""The keeper: a process that puts the rules of one network in place, runs its resolver and its relay, looks
at all of them every few seconds, and says so to whoever is connected to its socket.

    python -m supervisor.egress.keeper [--stay] [--foreground] PLAN

It needs root, so that the supervisor need not have it. It lives as long as somebody is connected, or with
`--stay` until it is told to stop; one at a time for each network, by a lock that dies with it. When it ends
the rules remain, and without resolver and relay nothing gets out: it fails closed.

To whoever connects it sends lines of JSON: `{"plan": …}` first, then `{"problem": …}` now and whenever it
changes (null: all is well), and `{"event": …}` for what was denied and let through. The line `stop`, from
root, ends it. The socket is root's and open to the group of those who may use the engine.
"""

import itertools
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

import attrs
import trio

from supervisor.egress import nftables
from supervisor.egress.denials import DeniedPackets
from supervisor.egress.events import EgressEvent, Throttle
from supervisor.egress.keeper_files import DIRECTORY, give_up, log_path, socket_path, take
from supervisor.egress.relay import Relay
from supervisor.egress.resolver import Resolver
from supervisor.egress.rules import ANSWERED, Plan, ruleset
from supervisor.errors import ConfigurationError
from supervisor.observability.log import configure_logging, get_logger

_log = get_logger("egress")

FIRST_CLIENT_WITHIN: Final = 30.0
"""Seconds after which a keeper that is not to stay, and that nobody has connected to, ends."""
STOP: Final = b"stop"
_QUEUE = 512  # lines that wait for a client; what exceeds them is lost
_SEND_TIMEOUT = 10.0  # seconds after which a client that does not read is dropped
_LONGEST_REQUEST = 64


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return `plan` as JSON has it."""
    shown: dict[str, Any] = json.loads(json.dumps(attrs.asdict(plan)))
    return shown


@final
class Keeper:
    """Keeps the egress of one network, until cancelled or told to stop.

    Args:
        plan: of the network.
        stay: do not end with the last client.
    """

    def __init__(self, plan: Plan, *, stay: bool = False) -> None:
        self.plan = plan
        self._stay = stay
        self._problems: dict[str, str] = {
            "rules": "the rules are not in place yet",
            "resolver": "it is starting",
        }
        self._clients: set[trio.MemorySendChannel[dict[str, Any]]] = set()
        self._throttle = Throttle()
        self._over = trio.Event()
        self._had_client = trio.Event()
        self._baseline: str | None = None
        self._told: str | None = self.problem

    @property
    def problem(self) -> str | None:
        """Why sessions must not be started, in words; None when all is well."""
        return "; ".join(self._problems.values()) or None

    async def run(self) -> None:
        """Do all of it.

        Raises:
            ConfigurationError: this host lacks something (within an exception group).
        """
        relay = Relay(self.plan, self._tell_event)
        resolver = Resolver(
            self.plan, DIRECTORY, lambda problem: self._note("resolver", problem), self._tell_event
        )
        async with DeniedPackets(self.plan.bridge) as packets, trio.open_nursery() as nursery:
            await nursery.start(self._listen)
            await nftables.remove_stale()
            await self._put_rules(packets.group)
            self._note("rules", None)
            await nursery.start(relay.run)
            nursery.start_soon(resolver.run)
            nursery.start_soon(self._look, packets.group, resolver)
            nursery.start_soon(self._forget_addresses)
            nursery.start_soon(self._report, packets)
            if not self._stay:
                nursery.start_soon(self._give_up)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    async def _put_rules(self, group: int) -> None:
        await nftables.apply(ruleset(self.plan, group))
        self._baseline = await nftables.listing(self.plan)

    async def _look(self, group: int, resolver: Resolver) -> None:
        """Look at everything every so often."""
        while True:
            await trio.sleep(self.plan.check_interval)
            await self._look_at_rules(group)
            await resolver.check()

    async def _look_at_rules(self, group: int) -> None:
        """Put the rules back when they are not as they were; not ready until they have stood for a while.

        What sessions connected to in between is cut off: only redirected connections go on.
        """
        if await nftables.listing(self.plan) == self._baseline:
            self._note("rules", None)
            return
        _log.error("egress rules were flushed or changed; they are put back", table=self.plan.table)
        problem = "the rules were flushed or changed by somebody"
        try:
            await self._put_rules(group)
            self._note("rules", f"{problem}; they are back, and watched for {self.plan.check_interval:g} s")
        except ConfigurationError as error:
            self._note("rules", f"{problem}, and cannot be put back: {error}")

    async def _forget_addresses(self) -> None:
        """Empty the resolver's sets in turn; see `rules`."""
        for name in itertools.cycle(ANSWERED):
            await trio.sleep(self.plan.address_life)
            while not await self._emptied(name):  # noqa: ASYNC110 - nobody tells when nft can again
                await trio.sleep(self.plan.check_interval)

    async def _emptied(self, name: str) -> bool:
        try:
            await nftables.empty(self.plan, name)
        except ConfigurationError as error:
            self._note("addresses", f"what was answered long ago is still let through: {error}")
            return False
        self._note("addresses", None)
        return True

    async def _report(self, packets: DeniedPackets) -> None:
        async for event in packets.events():
            self._tell_event(event)

    def _note(self, part: str, problem: str | None) -> None:
        if problem is None:
            self._problems.pop(part, None)
        else:
            self._problems[part] = problem
        if self.problem != self._told:
            self._told = self.problem
            _log.log(40 if self.problem else 20, "egress", network=self.plan.network, problem=self.problem)
            self._tell({"problem": self.problem})

    def _tell_event(self, event: EgressEvent) -> None:
        if passed := self._throttle.passed(event):
            self._tell({"event": attrs.asdict(passed)})

    def _tell(self, message: dict[str, Any]) -> None:
        for client in self._clients:
            # Who does not keep up loses events, and with its connection, soon, nothing else.
            with suppress(trio.WouldBlock):
                client.send_nowait(message)

    async def _give_up(self) -> None:
        with trio.move_on_after(FIRST_CLIENT_WITHIN):
            await self._had_client.wait()
        if not self._had_client.is_set():
            self._over.set()

    async def _listen(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        path = socket_path(self.plan.network)
        made = path.with_name(f"{self.plan.network}.new")
        made.unlink(missing_ok=True)  # the lock is ours, so whoever made it is dead
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        with listener:
            await listener.bind(str(made))
            os.chown(made, 0, self.plan.group)
            made.chmod(0o660)
            listener.listen(64)
            # Only now by its name: who finds a socket that refuses takes its keeper for dead.
            made.rename(path)
            try:
                await trio.serve_listeners(
                    self._serve, [trio.SocketListener(listener)], task_status=task_status
                )
            finally:
                path.unlink(missing_ok=True)

    async def _serve(self, stream: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[dict[str, Any]](_QUEUE)
        send.send_nowait({"plan": plan_as_json(self.plan)})
        send.send_nowait({"problem": self.problem})
        self._clients.add(send)
        self._had_client.set()
        try:
            async with stream, trio.open_nursery() as nursery:
                nursery.start_soon(_send_all, stream, receive, nursery.cancel_scope)
                await self._heed(stream)
                nursery.cancel_scope.cancel()
        finally:
            self._clients.discard(send)
            if not self._clients and not self._stay:
                self._over.set()

    async def _heed(self, stream: trio.SocketStream) -> None:
        """Return when the client is gone."""
        _pid, user, _group = peer(stream)
        received = b""
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                received = (received + chunk)[-_LONGEST_REQUEST:]
                if user == 0 and STOP in received.split(b"\n"):
                    self._over.set()


async def _send_all(
    stream: trio.SocketStream, messages: trio.MemoryReceiveChannel[dict[str, Any]], scope: trio.CancelScope
) -> None:
    try:
        async for message in messages:
            with trio.fail_after(_SEND_TIMEOUT):
                await stream.send_all(json.dumps(message).encode() + b"\n")
    except (trio.BrokenResourceError, trio.TooSlowError):
        scope.cancel()


def peer(stream: trio.SocketStream) -> tuple[int, int, int]:
    """Return process, user and group id of the other end of a unix socket (unix(7), SO_PEERCRED)."""
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, user, group = (int.from_bytes(credentials[start : start + 4], sys.byteorder) for start in (0, 4, 8))
    return pid, user, group


def _detach(log: Path) -> None:
    """Go on as a process of nobody's, with a file for standard error; the caller's child ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    for source, target in ((null, 0), (null, 1), (written, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(written)


async def _until_signal(keeper: Keeper) -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

            async def heed() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            await keeper.run()
            nursery.cancel_scope.cancel()


def main(arguments: Sequence[str]) -> int:
    """Run a keeper, detached unless told otherwise; return 0, also when there is one already, or 1."""
    options, plan = set(arguments[:-1]), Plan(**json.loads(arguments[-1]))
    if os.geteuid() != 0:
        sys.stderr.write("the keeper of a network's egress needs root\n")
        return 1
    lock = take(plan.network)
    if lock is None:
        return 0
    if "--foreground" not in options:
        _detach(log_path(plan.network))
    configure_logging("console", "info")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the relay holds two sockets a connection
    status = 0
    try:
        trio.run(_until_signal, Keeper(plan, stay="--stay" in options))
    except* ConfigurationError as group:
        status = 1
        for error in group.exceptions:
            _log.error("egress cannot be kept", network=plan.network, problem=str(error))
    else:
        give_up(plan.network, lock)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
