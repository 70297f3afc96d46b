"""The seam between a session and what it runs in: a `Terminal`, leased from a `SandboxProvider`.

A session knows nothing of containers, sockets or engines: it reads, writes, resizes and closes. A provider
knows nothing of viewers. Three terminals exist: one over the lifeline's PTY descriptor, one over the engine's
attach stream, one over a plain PTY on this host.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, cast

import attrs
import trio

from supervisor.errors import SandboxError
from supervisor.measures import SecurityStatus


@attrs.frozen
class ExitStatus:
    """How the session's command ended.

    Attributes:
        code: exit status 0 to 255, or None when a signal ended it.
        signal: number of that signal, or None.
    """

    code: int | None
    signal: int | None = None

    def __str__(self) -> str:
        return f"exit status {self.code}" if self.signal is None else f"signal {self.signal}"


@attrs.define
class SandboxFacts:
    """What a provider tells, while a lease lasts, of the sandbox that it gave.

    Attributes:
        container: its name; empty where there is none.
        peak_memory: most bytes that it used, as far as is known.
        counted: whether its shell says what commands it starts.
    """

    container: str = ""
    peak_memory: int | None = None
    counted: bool = False


@attrs.frozen
class LeaseRequest:
    """What a session wants to run.

    Attributes:
        session_id: public name of the session, for labels and logs.
        command: argument vector; empty means the provider's default command.
        environment: variables of the command, credentials among them: never shown, logged or handed to the
            engine.
        cols, rows: size of the window before the command's first instruction.
        lifetime: seconds after which the sandbox ends itself, whatever has become of the supervisor.
        hangup_grace: seconds between a hang-up and the end of whoever ignores it.
        profile: name of the operator's profile; empty for the ordinary settings.
        note_commands: called, while somebody listens, with how many commands the session's shell has started
            since the last call. By the session's own word: too few, or too many, are possible. None: nobody
            asks.
        facts: filled in by the provider; the asker keeps it.
    """

    session_id: str
    command: tuple[str, ...] = ()
    environment: dict[str, str] = attrs.field(factory=dict, repr=False)
    cols: int = 80
    rows: int = 24
    lifetime: float = 2100.0
    hangup_grace: float = 2.0
    profile: str = ""
    note_commands: Callable[[int], None] | None = attrs.field(default=None, eq=False, repr=False)
    facts: SandboxFacts = attrs.field(factory=SandboxFacts, eq=False, repr=False)


class Terminal(Protocol):
    """Bytes to and from one running command.

    One task may receive while another sends; two tasks in the same method are an error
    (`trio.BusyResourceError`).

    Error handling: after `aclose` every method raises `trio.ClosedResourceError`. When the world breaks the
    terminal, `trio.BrokenResourceError` with the cause attached.
    """

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return 1 to `max_bytes` bytes of output, or `b""` once all output has been returned and the command
        has ended."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Type `data`. Waits while the command does not read; cancelling may leave a prefix delivered."""
        ...

    async def send_some(self, data: bytes) -> int:
        """Type the beginning of `data`, one byte at least, and return how many bytes that was. Waits while
        the command does not read; a cancelled call has typed nothing."""
        ...

    def send_now(self, data: bytes) -> int:
        """Type the beginning of `data`, as much as takes no wait, and return how many bytes that was; 0: only
        `send_some` can tell. Nobody else may be sending."""
        ...

    async def resize(self, cols: int, rows: int) -> None:
        """Set the window size (1 to 1000 each), which signals the foreground process group."""
        ...

    async def listen(self) -> None:
        """Have the request's `note_commands` called, until cancelled, which loses nothing. Where no shell
        says what it starts, nothing happens."""
        ...

    async def wait_closed(self) -> ExitStatus:
        """Wait for the end of the command and return its status; never before its last output can be
        received.

        Raises:
            trio.BrokenResourceError: the sandbox vanished without telling a status.
        """
        ...

    async def aclose(self) -> None:
        """Close the data path at once (forcefully when cancelled). The lease still removes what it holds."""
        ...


class SandboxProvider(Protocol):
    """Where terminals come from."""

    @property
    def name(self) -> str:
        """Name in settings, logs and metrics: `docker` or `local`."""
        ...

    @property
    def isolated(self) -> bool:
        """False when the user's programs run on this host without isolation, which every page then says."""
        ...

    @property
    def security(self) -> SecurityStatus:
        """What hardening its sandboxes have now."""
        ...

    @property
    def unavailable(self) -> str | None:
        """Why no sandbox could be started now, for operators; None when nothing is known to be in the way."""
        ...

    def lease(self, request: LeaseRequest) -> AbstractAsyncContextManager[Terminal]:
        """Start a sandbox, run the command, and take all of it away again on leaving, by any path.

        Resource handling: leaving closes the terminal, ends the sandbox and removes it, shielded and with a
        deadline; what could not be removed in time stays registered for cleanup and is retried.

        Raises:
            SandboxError: it could not be started, or is not as the policy asks (`HardeningError`).
        """
        ...


def is_sandbox_fault(error: Exception) -> bool:
    """Whether `error` says no more than that a sandbox, or its terminal, broke."""
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        return all(is_sandbox_fault(each) for each in group.exceptions)
    return isinstance(error, (SandboxError, trio.BrokenResourceError))
