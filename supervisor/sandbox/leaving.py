"""How a lease takes leave of a command that still runs: politely, and not for long."""

from typing import Final, Protocol

import trio

from supervisor.sandbox.terminal import ExitStatus

LONGEST_GRACE: Final = 10.0
"""Seconds that a hang-up may take at most, whatever the request says: somebody waits for the lease to end."""
_MARGIN = 0.5  # seconds for the gate to act after the grace


class HangUp(Protocol):
    """What is needed of a terminal."""

    async def terminate(self) -> None:
        """Tell the gate to hang up."""
        ...

    async def wait_closed(self) -> ExitStatus:
        """Wait for the end."""
        ...


async def hang_up(terminal: HangUp, grace: float) -> None:
    """Have the command hung up (SIGHUP) and give it `grace` seconds to go, also when the caller is being
    cancelled.

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
