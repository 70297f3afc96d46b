"""How soon a user has a prompt."""

import time
from collections.abc import Awaitable, Callable

import trio

from benchmarks.adapters import session
from benchmarks.client import PROMPT, read_until
from benchmarks.measuring import Record, Times, arrivals
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running

SETTLE = 0.5  # seconds before memory is looked at
PAUSE = 1.5
"""Seconds between two starts of containers: what the last one left is gone then, and a pool full again."""
SLOW = 1.0  # seconds; where 1 start in 20 takes longer, the rate is too high
DOUBLINGS, BISECTIONS = 8, 2
BROKEN_AFTER = 3.0  # seconds of each step of the ramp


async def open_and_leave(running: Running, times: Times | None) -> None:
    """Open a session, wait for its prompt, and leave."""
    began = time.perf_counter()
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        if times is not None:
            times.add(time.perf_counter() - began)


async def come_and_go(running: Running, size: Size, record: Record, count: int, times: Times) -> int:
    """Have `count` sessions come at the rate of `size`, each of which leaves when it has its prompt; return
    how many failed, a moment after all have left.
    """
    failed = 0

    async def one() -> None:
        nonlocal failed
        try:
            with trio.fail_after(20):
                await open_and_leave(running, times)
        except Exception:
            failed += 1

    async with trio.open_nursery() as nursery:
        async for _ in arrivals(count, 1 / size.rate, record.lateness):
            nursery.start_soon(one)
    await trio.sleep(SETTLE)
    return failed


async def settled(running: Running) -> None:
    """Return when nothing that came before disturbs the next start."""
    if running.target.column != "no containers":
        await trio.sleep(PAUSE)


async def start(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    await open_and_leave(running, None)  # warm-up
    await settled(running)
    times = record.distribution()
    with record.watching_the_client():
        for _ in range(size.starts):
            await open_and_leave(running, times)
            await settled(running)


async def together(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    await open_and_leave(running, None)
    await settled(running)
    times, began = record.distribution(), time.perf_counter()
    done = trio.Event()
    waiting = size.together

    async def one() -> None:
        nonlocal waiting
        async with session(running.access) as client:
            await read_until(client, PROMPT)
            times.add(time.perf_counter() - began)
            waiting -= 1
            if not waiting:
                done.set()
            await done.wait()  # nobody leaves before all are there: leaving is not what is measured

    with record.watching_the_client():
        async with trio.open_nursery() as nursery:
            for _ in range(size.together):
                nursery.start_soon(one)
    record.figure("all", times.most, "ms")


async def sustained(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    await open_and_leave(running, None)

    async def holds(rate: float) -> bool:
        times, failed = Times(), 0

        async def one() -> None:
            nonlocal failed
            try:
                with trio.fail_after(SLOW * 10):
                    await open_and_leave(running, times)
            except Exception:
                failed += 1

        count = max(1, round(rate * min(BROKEN_AFTER, size.seconds)))
        async with trio.open_nursery() as nursery:
            async for _ in arrivals(count, 1 / rate, record.lateness):
                nursery.start_soon(one)
        record.distribution(f"at {rate:g}/s").merge(times)
        return not failed and times.at(95) <= SLOW * 1000

    with record.watching_the_client():
        held, broke = await search(holds, size.rate)
    record.figure("rate", held, "1/s", "higher")
    if broke is None:
        record.notes.append(f"the highest rate that was tried, {held:g}/s, held: more may be possible")
    else:
        record.notes.append(f"{held:g}/s held, {broke:g}/s did not")


async def search(holds: Callable[[float], Awaitable[bool]], rate: float) -> tuple[float, float | None]:
    """Return the highest rate that held (0: none), and the lowest one that did not (None: all held). Rates
    double from `rate` on; between the last two of these the middle is tried, and once more.
    """
    held, broke = 0.0, None
    for step in range(DOUBLINGS + 1):
        if not await holds(rate * 2**step):
            broke = rate * 2**step
            break
        held = rate * 2**step
    for _ in range(BISECTIONS if broke is not None else 0):
        assert broke is not None
        middle = (held + broke) / 2
        if await holds(middle):
            held = middle
        else:
            broke = middle
    return held, broke


SCENARIOS = (
    Scenario(
        "start",
        "How long from a client's first packet until its prompt is there, when it comes alone?",
        "One session after another. With containers there is a pause between two, in which what the last one "
        "left goes, and a pool fills up.",
        start,
    ),
    Scenario(
        "start-together",
        "How long when many clients come at the same moment?",
        "All connect at once; each one's time to its prompt, from that moment; `all` is the last one's.",
        together,
    ),
    Scenario(
        "start-rate",
        "How many new sessions per second can be sustained?",
        "Sessions come and go open-loop; the rate doubles every few seconds until 1 start in 20 takes longer "
        "than a second, or one fails; then twice the middle of the last two is tried. `rate` is the "
        "highest one that held.",
        sustained,
        fresh=True,
        deadline=240,
    ),
)
