"""Provider `local`: a plain PTY on this host. No isolation: for development, and for load tests of the
supervisor itself.

Where the supervisor is root the session's programs run as another user, without the means to become root
again; they see this host's files, processes and network, and all local sessions share that user. A keeper
process (`local_keeper`) stands in for the gate: it ends with the lifeline, and its session's processes with
it, also those that made process groups and sessions of their own or were orphaned. What can escape: where the
supervisor is not root, a program that kills its keeper (it has the same user); everywhere, whatever it gets
some other service of this host to start (cron, at, systemd --user).
"""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, final

import attrs
import trio

from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import NO_SECURITY, SecurityStatus
from supervisor.reaping.estate import Estate
from supervisor.sandbox.counting import warn_if_uncounted
from supervisor.sandbox.handing import AdoptedSandbox, HandedSandbox
from supervisor.sandbox.image import DEFAULT_PATH
from supervisor.sandbox.leaving import SandboxTerminal, claimed
from supervisor.sandbox.lifeline_terminal import LifelineTerminal, shake_hands
from supervisor.sandbox.policy import OPEN_FILES
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.settings import Settings

KEEPER: Final = Path(__file__).with_name("local_keeper.py")
END_TIMEOUT: Final = 12.0
"""Seconds for a keeper to kill and reap what is left of its session (it gives up after 10), before it is
killed itself.
"""
_SMALLEST_PROCESS_LIMIT = 512


@attrs.frozen
class LocalUser:
    """Who local programs run as. Attributes: `uid`, `gid` None where the supervisor cannot change the user,
    and so does not.
    """

    name: str
    uid: int | None
    gid: int | None
    directory: str


@final
class LocalProvider:
    """Leases plain PTYs. Made by `open_local_provider`."""

    def __init__(self, settings: Settings, estate: Estate) -> None:
        self.estate = estate
        self._keepers: dict[str, int] = {}
        self._user = find_user(settings.local_user)
        self._command = settings.command or _default_command()
        limits = {
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": settings.tmpfs_size,
            "RLIMIT_NOFILE": OPEN_FILES,
            # The kernel counts all processes of the user, whichever session they are of.
            "RLIMIT_NPROC": max(settings.pids_limit * settings.max_sessions, _SMALLEST_PROCESS_LIMIT),
        }
        if self._user.uid is None:
            del limits["RLIMIT_NPROC"]  # it would count the person's own programs
        options = {
            "uid": self._user.uid,
            "gid": self._user.gid,
            "directory": self._user.directory,
            "limits": limits,
        }
        self._keeper = [sys.executable, "-I", "-S", os.fspath(KEEPER), json.dumps(options)]

    @property
    def name(self) -> str:
        """See `SandboxProvider`."""
        return "local"

    @property
    def isolated(self) -> bool:
        """See `SandboxProvider`."""
        return False

    @property
    def unavailable(self) -> str | None:
        """See `SandboxProvider`."""
        return None

    @property
    def security(self) -> SecurityStatus:
        """See `SandboxProvider`."""
        return NO_SECURITY

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncGenerator[SandboxTerminal]:
        """See `SandboxProvider`."""
        request = attrs.evolve(
            request,
            command=request.command or self._command,
            note_commands=None,  # see `counting`
            environment={
                "PATH": DEFAULT_PATH,
                "HOME": self._user.directory,
                "USER": self._user.name,
                "LOGNAME": self._user.name,
                "TERM": "xterm-256color",
                **request.environment,
            },
        )
        ours, theirs = socket.socketpair()  # close-on-exec, both
        try:
            with theirs:
                # Starts by vfork and exec, so it is safe beside threads.
                keeper = subprocess.Popen(  # noqa: ASYNC220, S603 - does not wait; our own script
                    self._keeper, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
                )
        except OSError as error:
            ours.close()
            raise SandboxError("a local session could not be started") from error
        connection = trio.socket.from_stdlib_socket(ours)
        try:
            async with (
                await shake_hands(connection, keeper.pid) as lifeline,
                claimed(lifeline, request) as terminal,
            ):
                self._keepers[request.session_id] = keeper.pid
                yield terminal
        finally:
            self._keepers.pop(request.session_id, None)
            connection.close()
            await _end(os.pidfd_open(keeper.pid))
            keeper.wait()

    # ------------------------------------------------------------------ another process

    def hand(self, session_id: str, terminal: Terminal) -> HandedSandbox | None:
        """See `HandingProvider`."""
        pid = self._keepers.get(session_id)
        if pid is None or not isinstance(terminal, LifelineTerminal):
            return None
        connection, pty = terminal.descriptors
        received, status = terminal.heard
        return HandedSandbox("", pid, connection, pty, os.pidfd_open(pid), received, status)

    def adopting(self, session_id: str, handed: HandedSandbox) -> AdoptedSandbox:
        """See `HandingProvider`."""
        return AdoptedSandbox(self, handed, self._adopted(session_id, handed))

    @asynccontextmanager
    async def _adopted(self, session_id: str, handed: HandedSandbox) -> AsyncGenerator[None]:
        assert handed.process is not None
        self._keepers[session_id] = handed.pid
        try:
            yield
        finally:
            del self._keepers[session_id]
            await _end(handed.process)

    def names(self) -> dict[str, bool]:
        """See `HandingProvider`."""
        return {}

    def inherit(self, names: dict[str, bool]) -> None:
        """See `HandingProvider`."""


async def _end(pidfd: int) -> None:
    """Wait for a keeper whose lifeline was closed, so that its session has ended when we return. Closes
    `pidfd`.
    """
    with trio.CancelScope(shield=True):
        try:
            with trio.move_on_after(END_TIMEOUT):
                await trio.lowlevel.wait_readable(pidfd)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def find_user(name: str) -> LocalUser:
    """Return who programs run as: `name` when this process is root, else whoever it is.

    Raises:
        ConfigurationError: there is no such user, or it is root.
    """
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return LocalUser(entry.pw_name, None, None, entry.pw_dir)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"LOCAL_USER={name}: this host has no such user") from None
    if entry.pw_uid == 0 or entry.pw_gid == 0:
        raise ConfigurationError(f"LOCAL_USER={name}: local sessions never run as root")
    home = entry.pw_dir if Path(entry.pw_dir).is_dir() else "/tmp"  # noqa: S108 - nobody has no home
    return LocalUser(entry.pw_name, entry.pw_uid, entry.pw_gid, home)


def _default_command() -> tuple[str, ...]:
    if shutil.which("bash", path=DEFAULT_PATH):
        return ("bash", "--noprofile", "--norc")
    return ("sh",)


@asynccontextmanager
async def open_local_provider(settings: Settings, estate: Estate) -> AsyncGenerator[LocalProvider]:
    """Open the provider that has no isolation. Whoever can reach the listener can run programs on this host.

    Raises:
        ConfigurationError: other hosts could reach the listener, or the user is not fit.
    """
    if not settings.loopback:
        raise ConfigurationError(
            f"HOST={settings.host}: SANDBOX_PROVIDER=local has no isolation and listens on loopback only"
        )
    warn_if_uncounted(settings, settings.command)
    yield LocalProvider(settings, estate)
