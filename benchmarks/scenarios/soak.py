"""Whether anything stays behind when sessions come and go for long: a verdict, and what it rests on."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import trio

from benchmarks.machine import usage
from benchmarks.measuring import Record
from benchmarks.scenarios.cleanup import containers, engine_of
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.scenarios.start import come_and_go
from benchmarks.targets import Running

SAMPLES = 8  # of memory, after a warm-up
TOLERATED_PER_SESSION = 0.5  # KB that memory may grow by with each session: less cannot be told from chance
TOLERATED_AT_ALL = 3000.0  # KB from the first sample to the last: an allocator's own unrest
TOLERATED_DESCRIPTORS = 2
STEADY = 2.0  # seconds
PATIENCE = 20.0  # seconds in which what is left of the last session may go


class LeakError(Exception):
    """Something grows with the sessions that have come and gone."""


@attrs.frozen
class Trend:
    """A straight line through samples: its slope, and the standard error of that."""

    slope: float
    error: float

    @classmethod
    def of(cls, x: Sequence[float], y: Sequence[float]) -> "Trend":
        """Fit it (least squares) to at least three samples."""
        middle, level = sum(x) / len(x), sum(y) / len(y)
        width = sum((each - middle) ** 2 for each in x)
        slope = sum((a - middle) * (b - level) for a, b in zip(x, y, strict=True)) / width
        rest = sum((b - level - slope * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
        return cls(slope, (rest / (len(x) - 2) / width) ** 0.5)

    def grows(self, span: float) -> bool:
        """Whether it rises by more than is tolerated, by twice the error at least, over `span` sessions."""
        surely = self.slope - 2 * self.error
        return surely > TOLERATED_PER_SESSION and surely * span > TOLERATED_AT_ALL


def descendants(pid: int) -> int:
    """Return how many processes `pid` has below it."""
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # gone meanwhile
            continue
        total += len(children) + sum(descendants(int(child)) for child in children)
    return total


async def _come_down(look: Callable[[], Awaitable[int]], to: int = 0) -> int:
    """Return what `look` finds as soon as that is `to` or less, or when patience is over."""
    end = trio.current_time() + PATIENCE
    while True:
        found = await look()
        if found <= to or trio.current_time() >= end:
            return found
        await trio.sleep(0.1)


async def _steady(look: Callable[[], Awaitable[Sequence[int]]]) -> Sequence[int]:
    """Return what `look` finds once that has not changed for a while: a pool is full again then."""
    found, since = await look(), trio.current_time()
    end = since + PATIENCE
    while True:
        await trio.sleep(0.2)
        again, now = await look(), trio.current_time()
        if again != found:
            found, since = again, now
        elif now >= min(since + STEADY, end):
            return found


async def soak(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`.

    Raises:
        LeakError: it grows.
    """
    assert running.main is not None
    main, times = running.main, record.distribution()
    count = max(2, round(size.seconds * size.rate / SAMPLES))

    async with engine_of(running) as docker:

        async def descriptors() -> int:
            await trio.lowlevel.checkpoint()
            return usage(running.pids()).descriptors - opened

        async def below() -> int:
            await trio.lowlevel.checkpoint()
            return descendants(main) - processes

        async def containers_more() -> int:
            return len(await containers(docker)) - there

        async def counts() -> Sequence[int]:
            return await descriptors(), await below(), await containers_more()

        opened = processes = there = 0
        with record.watching_the_client():
            # What is allocated once is allocated now.
            failed = await come_and_go(running, size, record, 2 * count, times)
            opened, processes, there = await _steady(counts)
            x, y = [0.0], [usage(running.pids()).memory / 1000]
            for number in range(1, SAMPLES + 1):
                failed += await come_and_go(running, size, record, count, times)
                x.append(number * count)
                y.append(usage(running.pids()).memory / 1000)
                record.figure(f"memory.{number * count}", y[-1] / 1000, "MB")
        left = {
            "descriptors": await _come_down(descriptors, TOLERATED_DESCRIPTORS),
            "processes": await _come_down(below),
            "containers": await _come_down(containers_more),
        }
    trend = Trend.of(x, y)
    record.figure("failed", failed, "")
    record.figure("sessions", (SAMPLES + 2) * count, "", "higher")
    record.figure("growth", trend.slope, "KB per session")
    record.figure("growth-error", trend.error, "KB per session")
    for what, more in left.items():
        record.figure(what, more, "")
    judge(trend, x[-1], left)
    record.notes.append(f"no leak found in {x[-1]:.0f} sessions; the more there are, the smaller one shows")


def judge(trend: Trend, span: float, left: dict[str, int]) -> None:
    """Raise LeakError where memory, descriptors, processes or containers grew."""
    found = [
        f"{more} more {what} than before"
        for what, more in left.items()
        if more > (TOLERATED_DESCRIPTORS if what == "descriptors" else 0)
    ]
    if trend.grows(span):
        found.insert(0, f"memory grows by {trend.slope:.2f} ± {trend.error:.2f} KB per session")
    if found:
        raise LeakError(f"after {span:.0f} sessions: {', '.join(found)}")


SCENARIOS = (
    Scenario(
        "soak",
        "Does it leak?",
        "As `churn`, for as many `--seconds` as one likes. After a warm-up memory is looked at eight times; "
        "it leaks where a straight line through these rises by more than 0.5 KB per session, twice its "
        "standard error less, and 3 MB at all, or where descriptors, processes or containers are more than "
        "before. A leak is a failure.",
        soak,
        fresh=True,
        shell=False,
        process=True,
        floor=False,
        deadline=24 * 3600.0,
    ),
)
