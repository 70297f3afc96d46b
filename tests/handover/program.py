"""The command `terminal-supervisor`, with a fault at a step of the hand-over: run as a program by the tests.

FAULT_AT is `giver:STEP` or `taker:STEP`, FAULT the name of the signal that the process sends itself there.
STANDSTILL shortens how long a giver waits, VERSION_OF_HANDOVER changes what a taker says of itself.
"""

import os
import signal
from typing import Any

from supervisor.cli import main
from supervisor.handover import giving, taking


def _arrange(role: str, step: str, fault: signal.Signals) -> None:
    party: Any = {"giver": giving.Giver, "taker": taking.Successor}[role]
    note = party._note

    def note_and_fail(self: Any, now: str) -> None:
        note(self, now)
        if now == step:
            os.kill(os.getpid(), fault)

    party._note = note_and_fail


if __name__ == "__main__":
    if where := os.environ.get("FAULT_AT"):
        role, step = where.split(":")
        _arrange(role, step, signal.Signals[os.environ.get("FAULT", "SIGKILL")])
    if version := os.environ.get("VERSION_OF_HANDOVER"):
        taking.__dict__["VERSION"] = int(version)
    giving.STANDSTILL = float(os.environ.get("STANDSTILL", "20"))  # type: ignore[misc]
    raise SystemExit(main())
