"""Asks the existing client for its window size, which it never sends by itself, by way of a cursor position
report.

`REQUEST` sends the cursor to the far corner (a terminal stops it at its edge), asks where it is, and puts it
back. The answer comes as if it had been typed: `ESC [ rows ; cols R`. The probe takes exactly one such answer
out of the input, if it comes before the deadline, wherever it stands: alone, between typed keys, or split
over messages. Everything else passes, in order.

Splitting means that input which could be the beginning of the answer has to wait for its rest. A lone ESC is
such a beginning, and also a key that people press. So input is held for `HOLD` seconds at most, and only
while the answer is awaited: whoever feeds the probe waits for the next message no longer than until
`held_until`, and then passes on what `release` returns.
"""

import re
from typing import Final

from supervisor.protocol.messages import size_or_none

REQUEST: Final = b"\x1b7\x1b[999;999H\x1b[6n\x1b8"
"""Save the cursor, go to the corner, report the position (DSR 6), restore the cursor."""

DEADLINE: Final = 3.0
"""Seconds in which the answer is expected; later ones are the business of whoever else asked."""

HOLD: Final = 0.05
"""Seconds that the beginning of an answer waits for its rest: too short to be felt in a key."""

_ANSWER: Final = re.compile(rb"\x1b\[(\d{1,5});(\d{1,5})R")
_BEGINNING: Final = re.compile(rb"\x1b(?:\[(?:\d{1,5}(?:;\d{0,5})?)?)?\Z")
_LONGEST_BEGINNING: Final = 13  # ESC [ 5 digits ; 5 digits


class SizeProbe:
    """One question, asked at `now`, and the search for its answer in the input that follows. Times are
    seconds of any one clock.
    """

    def __init__(self, now: float, deadline: float = DEADLINE) -> None:
        self._ends = now + deadline
        self._held = b""
        self._answered = False
        self.held_until: float | None = None

    def __repr__(self) -> str:
        return f"<SizeProbe answered={self._answered} held={len(self._held)}>"

    def waiting(self, now: float) -> bool:
        """Whether the answer is still expected. Once it is not, and nothing is held, input need not be fed
        any more.
        """
        return not self._answered and now < self._ends

    def feed(self, data: bytes, now: float) -> tuple[bytes, tuple[int, int] | None]:
        """Return the input that is to be passed on, and (columns, rows) if the answer was in it and is a
        possible size.
        """
        data = self.release() + data
        if not self.waiting(now):
            return data, None
        answer = _ANSWER.search(data)
        if answer is not None:
            self._answered = True
            size = size_or_none(int(answer[2]), int(answer[1]))
            return data[: answer.start()] + data[answer.end() :], (size.cols, size.rows) if size else None
        beginning = _BEGINNING.search(data, max(0, len(data) - _LONGEST_BEGINNING))
        if beginning is not None:
            self._held = beginning[0]
            self.held_until = now + HOLD
            data = data[: beginning.start()]
        return data, None

    def release(self) -> bytes:
        """Return what is held, which is held no longer."""
        held, self._held, self.held_until = self._held, b"", None
        return held
