"""Taking times honestly: HdrHistograms, arrivals that wait for no answer, and a check of the client itself.

Arrivals are open-loop: each is due at its time, however late the answers are, so that a server that stalls
is measured by all who would have come meanwhile (no coordinated omission). How late the client itself was is
recorded beside it. A result whose client was the bottleneck says so.
"""

import itertools
import random
import time
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import attrs
import trio
from hdrh import histogram as hdrh  # type: ignore[import-untyped]

_HDR: Any = hdrh  # the library has no types

LOWEST, HIGHEST, DIGITS = 1, 120_000_000, 3  # microseconds; three significant digits
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LATE = 0.005  # seconds; a client whose 99th percentile of lateness is above this did not keep its schedule
BUSY = 0.9  # of a core; above, the client may be what is slow

Better = Literal["lower", "higher"]


class Times:
    """A distribution of durations, 1 µs to 120 s."""

    def __init__(self, encoded: str | None = None) -> None:
        self._histogram: Any = (
            _HDR.HdrHistogram.decode(encoded) if encoded else _HDR.HdrHistogram(LOWEST, HIGHEST, DIGITS)
        )

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def add(self, seconds: float) -> None:
        """Record a duration."""
        self._histogram.record_value(min(HIGHEST, max(LOWEST, round(seconds * 1e6))))

    def merge(self, other: "Times") -> None:
        """Take over what another one has recorded."""
        self._histogram.add(other._histogram)  # noqa: SLF001 - its own kind

    def at(self, percentile: float) -> float:
        """Return the duration in milliseconds that so many percent did not exceed."""
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000

    @property
    def most(self) -> float:
        """The longest, in milliseconds."""
        return float(self._histogram.get_max_value()) / 1000

    def curve(self) -> list[tuple[float, float]]:
        """Return (percentile, milliseconds) for a plot, as far as there are samples."""
        points = (0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.9, 99.99)
        farthest = 100 * (1 - 1 / max(1, len(self)))
        return [(point, self.at(point)) for point in points if point <= farthest or not point]

    def encode(self) -> str:
        """Return it as text (HdrHistogram V2, compressed, base64)."""
        return str(self._histogram.encode().decode())


@attrs.frozen
class Figure:
    """A number that a scenario found; `better` says which way is better."""

    value: float
    unit: str
    better: Better = "lower"


@attrs.define
class Record:
    """What one run of one scenario on one target found.

    Attributes:
        times: distributions by name; the main one has the name "".
        figures: numbers by name.
        notes: sentences that a reader of the figures must know.
        lateness: of the client's own schedule.
    """

    times: dict[str, Times] = attrs.field(factory=dict[str, Times])
    figures: dict[str, Figure] = attrs.field(factory=dict[str, Figure])
    notes: list[str] = attrs.field(factory=list[str])
    lateness: Times = attrs.field(factory=Times)
    other_cpu: float = 0.0

    def distribution(self, name: str = "") -> Times:
        """Return the distribution of that name, made on first use."""
        return self.times.setdefault(name, Times())

    def figure(self, name: str, value: float, unit: str, better: Better = "lower") -> None:
        """Note a number."""
        self.figures[name] = Figure(round(value, 6), unit, better)

    def values(self) -> Iterator[tuple[str, Figure]]:
        """Yield everything as named numbers: `p50`, `p99`, `neighbour.p99`, `rate`."""
        for name, times in self.times.items():
            if len(times):
                prefix = f"{name}." if name else ""
                for percentile in PERCENTILES:
                    yield f"{prefix}p{percentile:g}", Figure(times.at(percentile), "ms")
                yield f"{prefix}max", Figure(times.most, "ms")
        yield from self.figures.items()

    @contextmanager
    def watching_the_client(self) -> Generator[None]:
        """Note what this process itself used meanwhile, and say so where it was too much."""
        began, used = time.perf_counter(), time.process_time()
        yield
        seconds = max(1e-9, time.perf_counter() - began)
        share = (time.process_time() - used) / seconds
        self.figure("client.cpu", share, "cores")
        if self.other_cpu:
            self.figure("load.cpu", self.other_cpu / seconds, "cores")
        if share > BUSY:
            self.notes.append(f"the client was the bottleneck: it used {share:.0%} of a core")
        if len(self.lateness):
            late = self.lateness.at(99)
            self.figure("client.lateness", late, "ms")
            if late > LATE * 1000:
                self.notes.append(f"the client did not keep its schedule: 1 in 100 was {late:.1f} ms late")


def spread(count: int, mean: float, *, seed: int = 0) -> Iterator[float]:
    """Yield gaps of 0.5 to 1.5 times `mean` seconds, so that nothing falls into step."""
    chance = random.Random(seed)
    for _ in range(count):
        yield mean * chance.uniform(0.5, 1.5)


def typing(count: int, mean: float, chance: random.Random) -> Iterator[float]:
    """Yield the gaps of a person who types: bursts of some keys, half of `mean` apart, and pauses of three
    times as long as it, so that on average it is `mean` seconds.
    """
    for _ in range(count):
        pause = chance.random() < 0.2
        yield mean * (chance.uniform(2.0, 4.0) if pause else chance.uniform(0.25, 0.75))


async def scheduled(gaps: Iterable[float], late: Times) -> AsyncIterator[float]:
    """Yield after each gap, by a schedule that waits for nobody: the time (`trio.current_time`) that was due,
    which is in the past for whoever is slow.
    """
    due = trio.current_time()
    for gap in gaps:
        due += gap
        await trio.sleep_until(due)
        late.add(max(0.0, trio.current_time() - due))
        yield due


async def arrivals(count: int, interval: float, late: Times) -> AsyncIterator[int]:
    """Yield 0 to `count` - 1, `interval` seconds apart on average, as `spread` and `scheduled` say."""
    number = 0
    async for _ in scheduled(spread(count, interval), late):
        yield number
        number += 1


class Unanswered:
    """What is due or sent, and not answered yet. An answer is counted in the distribution of its name; what
    never came counts as late as it was by the end, so that a server that stalls for ever is charged for it.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._since: dict[int, tuple[str, float]] = {}
        self._numbers = itertools.count()

    def begin(self, name: str, since: float | None = None) -> int:
        """Something is under way, since now or since then (`trio.current_time`); return its number."""
        number = next(self._numbers)
        self._since[number] = name, trio.current_time() if since is None else since
        return number

    def answered(self, number: int) -> None:
        """The answer is here."""
        name, since = self._since.pop(number)
        self._record.distribution(name).add(trio.current_time() - since)

    def end(self) -> None:
        """Count what is left."""
        left = len(self._since)
        for number in [*self._since]:
            self.answered(number)
        self._record.figure("unanswered", left, "")
        if left:
            self._record.notes.append(
                f"{left} answers had not come by the end: they count as late as they were by then, at least"
            )
