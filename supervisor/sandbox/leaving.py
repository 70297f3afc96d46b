"""Claiming a gate that is ready, and taking leave of its command: politely, and not for long."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from supervisor.errors import SandboxError
from supervisor.sandbox.terminal import LeaseRequest, Terminal

LONGEST_GRACE: Final = 10.0
"""Seconds that a hang-up may take at most, whatever the request says: somebody waits for the lease to end."""
_MARGIN = 0.5  # seconds for the gate to act after the grace


class SandboxTerminal(Terminal, Protocol):
    """A terminal whose gate can be told to hang up."""

    async def terminate(self) -> None:
        """Have the gate hang the session up and, after the request's grace, end the sandbox."""
        ...


class Gate(Protocol):
    """A gate that is ready to be claimed, over whichever transport."""

    async def claim(self, request: LeaseRequest) -> SandboxTerminal:
        """Have it run the request's command."""
        ...

    async def wait_lost(self) -> None:
        """Wait until it cannot be claimed any more. To be cancelled before a claim."""
        ...


@asynccontextmanager
async def claimed(gate: Gate, request: LeaseRequest) -> AsyncGenerator[SandboxTerminal]:
    """Run `request`'s command. On leaving, the command is hung up and given the request's grace to end.

    Raises:
        SandboxError: the gate does not take it, or the request is beyond what it can take.
    """
    try:
        terminal = await gate.claim(request)
    except ValueError as error:
        raise SandboxError(f"this command cannot be run: {error}") from error
    try:
        yield terminal
    finally:
        await hang_up(terminal, request.hangup_grace)


async def hang_up(terminal: SandboxTerminal, grace: float) -> None:
    """Have the command hung up (SIGHUP) and give it `grace` seconds to go, also when being cancelled.

    Returns at once when the command has ended, when the terminal is closed already, or when `grace` is 0.
    """
    if grace <= 0:
        return
    with trio.move_on_after(min(grace, LONGEST_GRACE) + _MARGIN, shield=True):
        try:
            await terminal.terminate()
            await terminal.wait_closed()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # closed by its user, or the sandbox has gone without a word: nothing to hang up
