"""How far a session has come. States are passed in order and never twice."""

from enum import IntEnum

import attrs


class SessionState(IntEnum):
    """CREATED: registered. STARTING: a sandbox is being leased. READY: the user has a terminal. ENDING: the
    sandbox goes. CLOSED: it is gone."""

    CREATED = 0
    STARTING = 1
    READY = 2
    ENDING = 3
    CLOSED = 4

    def forward(self, new: "SessionState") -> "SessionState":
        """Return `new`.

        Raises:
            RuntimeError: that would be a step back or no step.
        """
        if new <= self:
            raise RuntimeError(f"a session cannot go from {self.name} to {new.name}")
        return new


@attrs.frozen
class SessionStatistics:
    """A snapshot for logs and metrics: ages in seconds, sizes in bytes; None commands where nobody counts."""

    state: SessionState
    age: float
    idle: float
    writers: int
    viewers: int
    output_bytes: int
    input_bytes: int
    commands: int | None
