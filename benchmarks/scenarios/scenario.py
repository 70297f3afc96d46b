"""What a scenario is."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from benchmarks.measuring import Record
from benchmarks.targets import Running


def _much(default: Any, meaning: str) -> Any:
    return attrs.field(default=default, metadata={"meaning": meaning})


@attrs.frozen
class Size:
    """How much of everything; every run is bounded by it. Each field's meaning is told by `--help`, too."""

    starts: int = _much(20, "sessions that are opened one after another")
    together: int = _much(10, "sessions that come at once")
    keys: int = _much(500, "keystrokes that are measured")
    interval: float = _much(0.01, "seconds between them, on average")
    typing: float = _much(0.12, "seconds between the keys of a person who types, on average")
    sessions: int = _much(50, "sessions that are idle beside, or held in `idle`")
    flooding: int = _much(1, "neighbours that flood")
    megabytes: int = _much(100, "MB of output (10^6 bytes)")
    repeats: int = _much(5, "how often what takes long is repeated")
    seconds: float = _much(5.0, "seconds of what goes on for a time")
    rate: float = _much(2.0, "sessions per second that come, at first")

    @classmethod
    def smoke(cls) -> "Size":
        """Return the least that shows that everything works."""
        return cls(
            starts=2,
            together=2,
            keys=10,
            interval=0.005,
            typing=0.02,
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
        environment: settings of a server of ours that are this scenario's own; only where it is `fresh`.
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
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str])
