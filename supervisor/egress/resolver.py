"""The sessions' resolver: dnsmasq, which answers for listed names only and puts their addresses into the
rules' sets.

dnsmasq cannot tell "all below a name" from "that name too", so it answers for both; the relay is exact. It
caches nothing: it adds addresses when an answer arrives from outside, never when it answers from its cache,
and so each answer that a session gets is in the sets when it gets it, and is forgotten by the session, if it
heeds the time to live, before it leaves the last of them. Everything else does not exist
(NXDOMAIN, so that programs give up at once), and is reported.
"""

import errno
import os
import pwd
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, final

import trio

from supervisor.egress.events import EgressEvent
from supervisor.egress.host import program
from supervisor.egress.names import AllowList
from supervisor.egress.rules import ANSWERED, RESOLVER_PORT, Plan
from supervisor.observability.log import get_logger

_log = get_logger("egress")

LONGEST_TTL: Final = 300
"""Seconds for which programs may remember an answer; never longer than its address is let through."""
START_TIMEOUT: Final = 10.0
QUESTION_TIMEOUT: Final = 2.0
FIRST_BACK_OFF: Final = 0.2
LONGEST_BACK_OFF: Final = 5.0
RESOLV_CONF: Final = Path("/etc/resolv.conf")
_PAUSE = 0.05  # seconds between questions to a dnsmasq that is starting; it takes some twenty milliseconds
_UNLISTED: Final = "resolver-check.invalid"
_NXDOMAIN = 3
_LONGEST_LINE = 4096
# With log-queries=extra: "dnsmasq: SERIAL ADDRESS/PORT config NAME is NXDOMAIN"
_REFUSED: Final = re.compile(rb" (?P<source>[0-9.]+)/\d+ config (?P<name>\S+) is NXDOMAIN")


def host_servers(resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Return the DNS servers of this host; resolv.conf(5)."""
    try:
        lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    except FileNotFoundError:
        lines = []
    return tuple(line[1] for line in lines if len(line) > 1 and line[0] == "nameserver") or ("127.0.0.1",)


def configuration(plan: Plan, servers: Iterable[str], pid_file: Path) -> str:
    """Return dnsmasq's configuration file for `plan`. See dnsmasq(8).

    It gets `servers` for the listed names alone: servers for everything, as in resolv.conf, would count as
    much as the line that says that no other name exists.
    """
    zones = AllowList(plan.domains).zones
    sets = ",".join(f"4#inet#{plan.table}#{name}" for name in ANSWERED)
    lines = [
        f"port={RESOLVER_PORT}",
        f"listen-address={plan.gateway}",
        "bind-dynamic",
        f"user={_user()}",
        f"pid-file={pid_file}",
        "no-hosts",
        "no-resolv",
        "cache-size=0",
        f"max-ttl={min(LONGEST_TTL, int(plan.address_life))}",
        "filter-AAAA",  # IPv6 goes nowhere
        "log-queries=extra",
        "log-facility=-",
        "address=/#/",  # no other name exists
        *(f"server=/{zone}/{server}" for zone in zones for server in servers),
        *(f"nftset=/{zone}/{sets}" for zone in zones),
    ]
    return "\n".join(lines) + "\n"


def _user() -> str:
    try:
        return pwd.getpwnam("dnsmasq").pw_name
    except KeyError:
        return "nobody"


def refused_name(line: bytes) -> EgressEvent | None:
    """Return what a line of dnsmasq's log says about a name that is not listed; None for other lines."""
    match = _REFUSED.search(line)
    if match is None:
        return None
    name = match["name"].decode(errors="replace")
    return EgressEvent(match["source"].decode(), "", "dns", 53, "a name that is not listed", name)


def _files(network: str, directory: Path) -> tuple[Path, Path]:
    """Return where dnsmasq's configuration and its process id are."""
    return directory / f"{network}.dnsmasq.conf", directory / f"{network}.dnsmasq.pid"


def end_left_over(network: str, directory: Path) -> None:
    """Kill the dnsmasq of `network` that a killed keeper left behind, if there is one: it has our port."""
    configuration_file, pid_file = _files(network, directory)
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.fsencode(configuration_file) in command:
            os.kill(pid, signal.SIGKILL)
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return
    except OSError as error:
        if error.errno != errno.ESRCH:  # it ended while we looked
            raise


@final
class Resolver:
    """Keeps one dnsmasq running.

    Args:
        plan: what for.
        directory: of its configuration and process id.
        on_state: called with None when it answers, with a sentence when it does not.
        on_refused: called with each name that was asked for and is not listed.
    """

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        on_state: Callable[[str | None], object],
        on_refused: Callable[[EgressEvent], object],
    ) -> None:
        self._plan = plan
        self._directory = directory
        self._configuration, self._pid_file = _files(plan.network, directory)
        self._on_state = on_state
        self._on_refused = on_refused
        self._last_line = b""
        self._process: trio.Process | None = None
        self._servers: tuple[str, ...] = ()
        self._refused_check = trio.Event()

    async def run(self) -> None:
        """Run dnsmasq, and run it again when it ends, until cancelled; then it is killed.

        Resource handling: one that a killed keeper left behind is ended first: it has our port.
        """
        back_off = FIRST_BACK_OFF
        while True:
            end_left_over(self._plan.network, self._directory)
            self._servers = self._servers_now()
            self._configuration.write_text(configuration(self._plan, self._servers, self._pid_file))
            began = trio.current_time()
            status = await self._run_once()
            last = self._last_line.decode(errors="replace")
            self._on_state(f"the resolver (dnsmasq) ended with status {status}: {last}")
            _log.error(
                "the resolver ended; it is started again",
                status=status,
                last=last,
            )
            back_off = (
                FIRST_BACK_OFF if trio.current_time() - began > 60 else min(2 * back_off, LONGEST_BACK_OFF)
            )
            await trio.sleep(back_off)

    async def check(self) -> None:
        """Ask it for a name that is not listed, and say whether it answered, and of its own knowledge. One
        that runs and does not is ended, and so is one that asks servers that are no longer this host's.
        """
        self._refused_check = trio.Event()
        problem = None
        if not await self._answers():
            problem = f"the resolver (dnsmasq) has not answered within {QUESTION_TIMEOUT:g} s"
        elif not await self._refused():
            problem = "the resolver (dnsmasq) asks others for names that are not listed"
        elif self._servers != self._servers_now():
            problem = "this host has other DNS servers than before"
        self._on_state(problem)
        if problem is not None and self._process is not None:
            self._process.kill()

    async def _refused(self) -> bool:
        with trio.move_on_after(QUESTION_TIMEOUT):
            await self._refused_check.wait()
        return self._refused_check.is_set()

    def _servers_now(self) -> tuple[str, ...]:
        return self._plan.dns_servers or host_servers()

    async def _run_once(self) -> int:
        command = [program("dnsmasq"), "--keep-in-foreground", f"--conf-file={self._configuration}"]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wait_started, process)
                await self._read_log(process)
                nursery.cancel_scope.cancel()
            return await process.wait()
        finally:
            self._process = None
            process.kill()
            with trio.CancelScope(shield=True):  # a killed process ends at once
                await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()

    async def _wait_started(self, process: trio.Process) -> None:
        with trio.move_on_after(START_TIMEOUT):
            while not await self._answers():  # noqa: ASYNC110 - it is another process
                await trio.sleep(_PAUSE)
        self._process = process
        await self.check()

    async def _read_log(self, process: trio.Process) -> None:
        assert process.stderr is not None
        rest = b""
        async for chunk in process.stderr:
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-_LONGEST_LINE:]
            for line in lines:
                if event := refused_name(line):
                    if event.name == _UNLISTED:
                        self._refused_check.set()
                    else:
                        self._on_refused(event)
                elif line:
                    self._last_line = line[-300:]

    async def _answers(self) -> bool:
        """Return whether a question is answered as it must be."""
        identity = secrets.token_bytes(2)
        labels = b"".join(bytes([len(label)]) + label.encode() for label in _UNLISTED.split("."))
        # RFC 1035, 4.1: one question, recursion desired, type A, class IN
        question = identity + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as asking:
            with trio.move_on_after(QUESTION_TIMEOUT):
                try:
                    await asking.connect((self._plan.gateway, RESOLVER_PORT))
                    await asking.send(question)
                    while True:
                        answer = await asking.recv(512)
                        if answer[:2] == identity and len(answer) >= 4:
                            return answer[3] & 15 == _NXDOMAIN
                except OSError:  # nobody listens there yet, or any more
                    return False
        return False
