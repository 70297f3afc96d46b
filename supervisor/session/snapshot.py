"""A session without its process: the values by which another process goes on with it.

Times are of CLOCK_MONOTONIC, in seconds: all processes of a host share it, while Trio's clock is each one's
own.
"""

import time

import attrs
import trio

from supervisor.session.visitor import Standing


@attrs.frozen
class SessionSnapshot:
    """Everything but the terminal.

    Attributes:
        id, owner: as of `Session`.
        cols, rows: size of the window.
        born, last_key, idle_deadline, duration_deadline: when; see above.
        input: typed, and not yet taken by the command.
        input_bytes: how much the command has taken.
        output_start: absolute offset of the first byte of `output`.
        output: the scrollback.
        standing, address_key, profile: of its visitor (`supervisor.session.visitor`).
        commands: how many its shell has started; None where nobody counts.
        commands_even_at: when what was started too much is made up for; None where there is no limit.
        began: when, by the clock on the wall; None where nobody said.

    Those that came later have a default: what holds for a session of a process that does not know of it.
    """

    id: str
    owner: bytes = attrs.field(repr=False)
    cols: int
    rows: int
    born: float
    last_key: float
    idle_deadline: float
    duration_deadline: float
    input: bytes = attrs.field(repr=False)
    input_bytes: int
    output_start: int
    output: bytes = attrs.field(repr=False)
    standing: Standing = "local"
    address_key: bytes = b""
    profile: str = ""
    commands: int | None = None
    commands_even_at: float | None = None
    began: float | None = None


def to_monotonic(when: float) -> float:
    """Return the time that Trio's clock calls `when` as CLOCK_MONOTONIC has it."""
    return when - trio.current_time() + time.monotonic()


def from_monotonic(when: float) -> float:
    """Return the opposite."""
    return when - time.monotonic() + trio.current_time()
