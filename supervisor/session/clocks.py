"""Timeouts that can be postponed, each with a warning first.

A clock sleeps until the moment that matters instead of polling: moving its deadline costs an assignment,
which is why every keystroke may do it.
"""

from collections.abc import Callable

import trio


class Countdown:
    """Runs out `timeout` seconds after the last `restart`, and says so `warning` seconds before.

    Attributes:
        deadline: Trio time at which it runs out.
        warned: whether the warning has been given and not yet been taken back.
    """

    def __init__(self, timeout: float, warning: float) -> None:
        self.timeout = timeout
        self.warning = min(warning, timeout / 2)  # a warning at the very start would say nothing
        self.deadline = trio.current_time() + timeout
        self.warned = False
        self._moved = trio.Event()

    def __repr__(self) -> str:
        return f"<Countdown of {self.timeout:g} s, {self.remaining:.1f} s left>"

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - trio.current_time())

    def restart(self) -> None:
        """Begin again with the whole timeout."""
        self.deadline = trio.current_time() + self.timeout
        if self.warned:
            self._moved.set()

    async def run(self, on_warning: Callable[[], None], on_cleared: Callable[[], None]) -> None:
        """Return when the countdown has run out. Calls `on_warning` before, `on_cleared` when a restart came
        in time."""
        while True:
            while (warn_at := self.deadline - self.warning) > trio.current_time():  # noqa: ASYNC110 - see below
                await trio.sleep_until(warn_at)  # a restart may have moved it meanwhile
            if self.warning > 0:
                self.warned = True
                self._moved = trio.Event()
                on_warning()
            with trio.move_on_at(self.deadline):
                await self._moved.wait()
            if self.deadline <= trio.current_time():
                return
            if self.warned:
                self.warned = False
                on_cleared()
