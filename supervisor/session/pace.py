"""How many commands a session's shell starts, and what becomes of one that starts too many: its keys wait.

The count is the session's own word (docs/gate.md): whoever gets past the shell can make it what he likes. It
is only ever held against the session that says it, and nothing is refused or ended for it. Beyond the rate
keys wait until it is met again. What the terminal had taken by then still runs, counts, and is waited for.
"""

from collections.abc import Callable
from typing import Final

import trio

from supervisor.session.keyboard import Keyboard
from supervisor.session.limiter import TokenBucket

TELL_AGAIN: Final = 60.0
"""Seconds after which it is news again that keys wait."""


class CommandPace:
    """Counts commands, and holds the keyboard.

    Args:
        per_minute: commands that may be started per minute on average, and at once; 0: as many as may be.
        keyboard: the session's.
        on_excess: called when keys begin to wait, but not every time where that happens again and again.

    Attributes:
        started: commands so far.
    """

    def __init__(self, per_minute: int, keyboard: Keyboard, on_excess: Callable[[], None]) -> None:
        self.started = 0
        now = trio.current_time()
        self._bucket = TokenBucket(per_minute / 60, per_minute, now) if per_minute else None
        self._keyboard = keyboard
        self._on_excess = on_excess
        self._news_at = now

    def __repr__(self) -> str:
        return f"<CommandPace {self.started} started {self._bucket}>"

    def note(self, count: int) -> None:
        """Count that many more."""
        self.started += count
        if self._bucket is None:
            return
        now = trio.current_time()
        if wait := self._bucket.charge(count, now):
            self._keyboard.held_until = now + wait
            if now >= self._news_at:
                self._news_at = now + TELL_AGAIN
                self._on_excess()

    @property
    def even_at(self) -> float | None:
        """When what was started too much is, or was, made up for; None without a limit."""
        return self._bucket.even_at if self._bucket else None

    def go_on(self, started: int, even_at: float | None) -> None:
        """Go on from where another process was. A limit that it did not have begins now."""
        self.started = started
        if self._bucket is not None and even_at is not None:
            self._bucket.go_on(even_at, trio.current_time())
            self._keyboard.held_until = even_at
