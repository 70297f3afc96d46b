"""People: they type, read, look at long output, and leave, each at a pace of their own."""

import random
import time

import trio

from benchmarks.adapters import session
from benchmarks.client import PROMPT, Client, read_through, read_until
from benchmarks.measuring import Record
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running

TYPING = 0.12  # seconds between two keys, on average: a good typist
COMMAND = b"echo hello"
LONG_OUTPUT = b"seq 1 20000\r"
# What a user does next, and how often: type a command, read, look at long output, leave and come anew.
HABITS = (("type", 0.6), ("read", 0.25), ("flood", 0.1), ("leave", 0.05))
READING = (0.2, 1.0)  # seconds


async def _type(client: Client, record: Record, chance: random.Random) -> None:
    for key in COMMAND:
        began = time.perf_counter()
        await client.type(bytes([key]))
        await client.read()
        record.distribution("echo").add(time.perf_counter() - began)
        await trio.sleep(chance.expovariate(1 / TYPING))
    await client.type(b"\r")
    await read_until(client, PROMPT)


async def _visit(running: Running, record: Record, chance: random.Random) -> None:
    """Be there until it is time to leave."""
    names, weights = [name for name, _ in HABITS], [weight for _, weight in HABITS]
    began = time.perf_counter()
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        record.distribution("start").add(time.perf_counter() - began)
        while True:
            match chance.choices(names, weights)[0]:
                case "type":
                    await _type(client, record, chance)
                case "read":
                    await trio.sleep(chance.uniform(*READING))
                case "flood":
                    began = time.perf_counter()
                    await client.type(LONG_OUTPUT)
                    _, rest = await read_through(client, b"\n20000\r\n")
                    await read_through(client, PROMPT, rest)
                    record.distribution("long-output").add(time.perf_counter() - began)
                case _:
                    return


async def users(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""

    async def user(number: int) -> None:
        chance = random.Random(number)  # the same people for every target
        while True:
            await _visit(running, record, chance)

    with record.watching_the_client(), trio.move_on_after(size.seconds * 4):
        async with trio.open_nursery() as nursery:
            for number in range(size.together):
                nursery.start_soon(user, number)
    record.figure("visits", len(record.distribution("start")), "", "higher")


SCENARIOS = (
    Scenario(
        "users",
        "A mixture of people: how does it feel to them?",
        "Each types commands, reads, prints 20,000 lines, or leaves and comes anew, by a fixed distribution "
        "with a fixed seed, so that all targets meet the same people.",
        users,
    ),
)
