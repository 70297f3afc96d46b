"""What a scenario is."""

from collections.abc import Awaitable, Callable

import attrs

from benchmarks.measuring import Record
from benchmarks.targets import Running


@attrs.frozen
class Size:
    """How much of everything; every run is bounded by it.

    Attributes:
        starts: sessions that are opened one after another.
        together: sessions that come at once.
        keys: keystrokes that are measured.
        interval: seconds between them, on average.
        sessions: that are idle beside, or held in `idle`.
        flooding: neighbours that flood.
        megabytes: of output (10^6 bytes).
        repeats: of what takes long.
        seconds: of what goes on for a time.
        rate: sessions per second that `start-rate` begins with.
    """

    starts: int = 20
    together: int = 10
    keys: int = 500
    interval: float = 0.01
    sessions: int = 50
    flooding: int = 1
    megabytes: int = 100
    repeats: int = 5
    seconds: float = 5.0
    rate: float = 2.0

    @classmethod
    def smoke(cls) -> "Size":
        """Return the least that shows that everything works."""
        return cls(
            starts=2,
            together=2,
            keys=10,
            interval=0.005,
            sessions=2,
            megabytes=2,
            repeats=1,
            seconds=0.3,
            rate=2.0,
        )


Run = Callable[[Running, Size, Record], Awaitable[None]]


@attrs.frozen
class Scenario:
    """A question to a server.

    Attributes:
        question: what its figures answer.
        method: how they are taken, in a sentence or two.
        fresh: whether it needs a server of its own, because it ends it or looks at its memory.
        shell: whether it types commands: not for the stand-in, which has nothing to type them to.
        resumes: whether the protocol must be able to come back to a session.
        process: whether it needs the server's process to look at, or to end.
        floor: whether it makes sense for what is no server.
        page: whether it needs the server's own page.
        deadline: seconds for one run.
    """

    name: str
    question: str
    method: str
    run: Run = attrs.field(repr=False)
    fresh: bool = False
    shell: bool = True
    resumes: bool = False
    process: bool = False
    floor: bool = True
    page: bool = False
    deadline: float = 300.0
