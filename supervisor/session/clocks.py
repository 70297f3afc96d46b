"""Timeouts that can be postponed, each with a warning first.

A countdown tells when it next has something to say, and is asked then; it sleeps nowhere. Postponing costs
an assignment and wakes nobody, which is why every keystroke may do it. Times are seconds of any one clock,
given by the caller.
"""

from typing import Literal


class Countdown:
    """Runs out `timeout` seconds after the last restart, and warns `warning` seconds before.

    Attributes:
        deadline: when it runs out.
        warned: whether the warning has been given and holds.
    """

    def __init__(self, timeout: float, warning: float, now: float) -> None:
        self.timeout = timeout
        self.warning = min(warning, timeout / 2)  # a warning at the very start would say nothing
        self.deadline = now + timeout
        self.warned = False

    def __repr__(self) -> str:
        return f"<Countdown of {self.timeout:g} s{', warned' if self.warned else ''}>"

    @property
    def due(self) -> float:
        """When `check` has something to say next, unless there is a restart before; a restart only makes it
        later.
        """
        return self.deadline if self.warned else self.deadline - self.warning

    def restart(self, now: float) -> bool:
        """Begin again with the whole timeout; return whether that takes a warning back."""
        self.deadline = now + self.timeout
        was_warned, self.warned = self.warned, False
        return was_warned

    def check(self, now: float) -> Literal["over", "warn"] | None:
        """Return what is to be told at `now`: each thing once."""
        if now >= self.deadline:
            return "over"
        if not self.warned and now >= self.deadline - self.warning:
            self.warned = True
            return "warn"
        return None
