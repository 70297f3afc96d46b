"""How soon a user has a prompt."""

import time

import trio

from benchmarks.adapters import session
from benchmarks.client import PROMPT, read_until
from benchmarks.measuring import Record, Times, arrivals
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running

PAUSE = 1.5
"""Seconds between two starts of containers: what the last one left is gone then, and a pool full again."""
SLOW = 1.0  # seconds; where 1 start in 20 takes longer, the rate is too high
BROKEN_AFTER = 3.0  # seconds of each step of the ramp


async def open_and_leave(running: Running, times: Times | None) -> None:
    """Open a session, wait for its prompt, and leave."""
    began = time.perf_counter()
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        if times is not None:
            times.add(time.perf_counter() - began)


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
    rate, held = size.rate, 0.0
    with record.watching_the_client():
        while rate <= size.rate * 256:
            seconds = min(BROKEN_AFTER, size.seconds)
            times, failed = Times(), 0

            async def one(times: Times = times) -> None:
                nonlocal failed
                try:
                    with trio.fail_after(SLOW * 10):
                        await open_and_leave(running, times)
                except Exception:
                    failed += 1

            count = max(1, round(rate * seconds))
            async with trio.open_nursery() as nursery:
                async for _ in arrivals(count, 1 / rate, record.lateness):
                    nursery.start_soon(one)
            record.distribution(f"at {rate:g}/s").merge(times)
            if failed or times.at(95) > SLOW * 1000:
                break
            held, rate = rate, rate * 2
    record.figure("rate", held, "1/s", "higher")


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
        "than a second, or one fails. `rate` is the last one that held.",
        sustained,
        fresh=True,
        deadline=240,
    ),
)
