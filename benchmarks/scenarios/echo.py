"""How soon a typed key is back."""

import random
import time
from collections import deque
from collections.abc import Sequence

import trio

from benchmarks.adapters import session
from benchmarks.background import Mode, background
from benchmarks.client import PROMPT, Client, SessionEndedError, read_until, run_raw
from benchmarks.measuring import Record, Times, scheduled, spread, typing
from benchmarks.scenarios.scenario import Run, Scenario, Size
from benchmarks.targets import Running

KEYBOARD = 1  # seed: the same person types for all targets
WARM_UP = 20  # keys that are not measured
SETTLE = 4.0
"""Seconds at most from the prompt to the first key. A server that keeps containers ready starts the next one
meanwhile, and a shell has just started: what that costs a neighbour is for `churn` and `users` to show."""


async def type_and_measure(client: Client, gaps: Sequence[float], times: Times, late: Times) -> None:
    """Type a key after each gap into a program that sends each back, and time each echo from the moment in
    which it was sent. Keys are sent whether or not earlier ones are back.
    """
    under_way: deque[float] = deque()

    async def typist() -> None:
        async for _ in scheduled(gaps, late):
            under_way.append(time.perf_counter())
            await client.type(b"k")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(typist)
        left = len(gaps)
        while left:
            piece = await client.read()
            now = time.perf_counter()
            if not piece:
                raise SessionEndedError("the session ended while keys were under way")
            left -= len(piece)
            for _ in piece:
                times.add(now - under_way.popleft())


async def echo_session(
    running: Running, size: Size, record: Record, name: str = "", gaps: Sequence[float] = ()
) -> None:
    """Open a session whose program echoes, and measure `size.keys` keystrokes, or those after `gaps`."""
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        await run_raw(client, "exec cat")
        await trio.sleep(min(SETTLE, size.keys * size.interval))
        warm_up = list(spread(min(WARM_UP, size.keys), size.interval))
        await type_and_measure(client, warm_up, Times(), Times())
        gaps = gaps or list(spread(size.keys, size.interval))
        with record.watching_the_client():
            await type_and_measure(client, gaps, record.distribution(name), record.lateness)


async def person(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    await echo_session(
        running, size, record, gaps=list(typing(size.keys, size.typing, random.Random(KEYBOARD)))
    )


def beside(mode: Mode, count: str | None) -> Run:
    """Return a scenario that measures echo beside `count` (a field of `Size`) sessions of that mode."""

    async def run(running: Running, size: Size, record: Record) -> None:
        async with background(running.access, mode, getattr(size, count) if count else 0, record):
            await echo_session(running, size, record)

    return run


SCENARIOS = (
    Scenario(
        "echo",
        "How long until a typed key is back on the client's side, on an idle server?",
        "Terminal raw, `cat` reads; keys are due every 5 to 15 ms, whether or not earlier ones are back, and "
        "begin 4 s after the session's start.",
        beside("idle", None),
    ),
    Scenario(
        "echo-typing",
        "The same at the rate of a person who types: is a key late after a pause, when all sleeps?",
        "As `echo`; keys are due 0.12 s after each other on average, in bursts with pauses between them "
        "(`--typing`).",
        person,
    ),
    Scenario(
        "echo-idle",
        "Does it depend on how many other sessions are open and idle?",
        "As `echo`, with idle sessions held open by another process.",
        beside("idle", "sessions"),
    ),
    Scenario(
        "echo-flood",
        "Does a neighbour whose program prints without end slow down a typist?",
        "As `echo`, with flooding sessions read by another process as fast as it can.",
        beside("flood", "flooding"),
    ),
    Scenario(
        "echo-slow",
        "Does a neighbour who takes its output slowly (64 KB/s) slow down a typist?",
        "As `echo`, with flooding sessions of which another process reads slowly.",
        beside("slow", "flooding"),
    ),
)
