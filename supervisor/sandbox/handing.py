"""Handing a sandbox that is in use over to another process: what is said of it, and who can do that.

The process that gives goes on owning its descriptors, and the one that takes owns copies: the sandbox ends
when both have closed theirs. Only terminals on a lifeline can be handed over; what runs through the engine's
attach stream is a conversation that nobody else can go on with.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, final

import attrs

from supervisor.measures import SecurityStatus
from supervisor.reaping.estate import Estate
from supervisor.sandbox.leaving import hang_up
from supervisor.sandbox.lifeline_terminal import LifelineTerminal
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, SandboxProvider, Terminal
from supervisor.sandbox.usage import Meter


@attrs.frozen
class HandedSandbox:
    """A sandbox whose command runs.

    Attributes:
        name: of its container; empty for provider `local`.
        pid: of its first process.
        connection, pty: descriptors of the lifeline and of the terminal.
        process: pidfd of the first process where somebody must wait for it (provider `local`), else None.
        received: what there is of a frame that the gate has begun.
        status: how it ended, if that is known.
        addresses: on its networks, and of its devices there.
    """

    name: str
    pid: int
    connection: int
    pty: int
    process: int | None = None
    received: bytes = b""
    status: ExitStatus | None = None
    addresses: frozenset[str] = frozenset()


@final
class AdoptedSandbox:
    """A `SandboxProvider` whose one lease is a sandbox that another process had.

    Args:
        provider: whose sandbox it is now.
        handed: the sandbox; its descriptors are owned from now on.
        held: entered for as long as the sandbox is leased, yields what it is measured by; leaving it removes
            what is left of it.

    Resource handling: a lease ends as any other. Without a lease, `close` closes this process's copies.

    Raises:
        SandboxError: a descriptor is not what it should be; all are closed.
    """

    def __init__(
        self,
        provider: SandboxProvider,
        handed: HandedSandbox,
        held: AbstractAsyncContextManager[Meter | None],
    ) -> None:
        self.name = provider.name
        self.isolated = provider.isolated
        self._provider = provider
        self._handed = handed
        self._held = held
        try:
            self.terminal = LifelineTerminal.resume(
                handed.connection, handed.pty, handed.received, handed.status
            )
        except BaseException:
            self._close_process()
            raise

    @property
    def security(self) -> SecurityStatus:
        """See `SandboxProvider`."""
        return self._provider.security

    @property
    def unavailable(self) -> str | None:
        """See `SandboxProvider`: there is no second sandbox here, and this one is there."""
        return None

    def close(self) -> None:
        """Close the copies; the process that has the others goes on with the sandbox."""
        self.terminal.close()
        self._close_process()

    def _close_process(self) -> None:
        if self._handed.process is not None:
            os.close(self._handed.process)

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncGenerator[Terminal]:
        """See `SandboxProvider`. The command runs already; of the request only the grace counts, and who
        hears of commands. A gate that was never asked to tell of them does not."""
        request.facts.container = self._handed.name
        self.terminal.note_commands = request.note_commands
        async with self._held as meter:
            try:
                yield self.terminal
            finally:
                if meter and (peak := meter.cgroups.peak_memory()):
                    request.facts.peak_memory = peak
                await hang_up(self.terminal, request.hangup_grace)
                self.terminal.close()


class HandingProvider(SandboxProvider, Protocol):
    """A provider whose sandboxes can go from process to process."""

    @property
    def estate(self) -> Estate:
        """What the process that goes on needs besides."""
        ...

    def hand(self, session_id: str, terminal: Terminal) -> HandedSandbox | None:
        """Return what another process needs to go on with a session's sandbox; None where that cannot be."""
        ...

    def adopting(self, session_id: str, handed: HandedSandbox) -> AdoptedSandbox:
        """Return a provider whose one lease is that session's sandbox."""
        ...

    def names(self) -> dict[str, bool]:
        """Return the names of all containers that exist or may exist, and whether each was created for
        certain."""
        ...

    def inherit(self, names: dict[str, bool]) -> None:
        """Remove containers of these names in the background: nobody uses them any more."""
        ...
