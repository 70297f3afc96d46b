"""People: they type, read, look at long output, and leave, each at a pace of their own."""

from collections import deque
from random import Random

import trio

from benchmarks.adapters import session
from benchmarks.client import PROMPT, Client, SessionEndedError, read_through, read_until
from benchmarks.measuring import Record, Unanswered, scheduled, typing
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running

PATIENCE = 5.0  # seconds after the end for which answers are waited for; who has none by then is charged
COMMAND = b"echo hello"
LONG_OUTPUT = b"seq 1 20000\r"
# What a user does next, and how often: type a command, read, look at long output, leave and come anew.
HABITS = (("type", 0.6), ("read", 0.25), ("flood", 0.1), ("leave", 0.05))
READING = (0.2, 1.0)  # seconds


async def _type(client: Client, size: Size, record: Record, waiting: Unanswered, chance: Random) -> None:
    """Type a command, each key at its time, whether or not the ones before it are there, and wait for the
    prompt.
    """
    under_way: deque[int] = deque()

    async def typist() -> None:
        keys = iter(COMMAND)
        async for due in scheduled(typing(len(COMMAND), size.typing, chance), record.lateness):
            under_way.append(waiting.begin("echo", due))
            await client.type(bytes([next(keys)]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(typist)
        wanted = deque(COMMAND)
        while wanted:
            piece = await client.read()
            if not piece:
                raise SessionEndedError("the session ended while keys were under way")
            for byte in piece:
                if under_way and byte == wanted[0]:
                    wanted.popleft()
                    waiting.answered(under_way.popleft())
    command = waiting.begin("command")
    await client.type(b"\r")
    await read_until(client, PROMPT)
    waiting.answered(command)


async def _visit(
    running: Running, size: Size, record: Record, waiting: Unanswered, chance: Random, end: float
) -> None:
    """Be there until it is time to leave, or the end."""
    names, weights = [name for name, _ in HABITS], [weight for _, weight in HABITS]
    start = waiting.begin("start")
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        waiting.answered(start)
        while trio.current_time() < end:
            match chance.choices(names, weights)[0]:
                case "type":
                    await _type(client, size, record, waiting, chance)
                case "read":
                    await trio.sleep(chance.uniform(*READING))
                case "flood":
                    long_output = waiting.begin("long-output")
                    await client.type(LONG_OUTPUT)
                    _, rest = await read_through(client, b"\n20000\r\n")
                    await read_through(client, PROMPT, rest)
                    waiting.answered(long_output)
                case _:
                    return


async def users(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    end = trio.current_time() + size.seconds * 4
    waiting = Unanswered(record)

    async def user(number: int) -> None:
        chance = Random(number)  # the same people for every target
        while trio.current_time() < end:
            await _visit(running, size, record, waiting, chance, end)

    with record.watching_the_client(), trio.move_on_at(end + PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(size.together):
                nursery.start_soon(user, number)
    waiting.end()
    record.figure("visits", len(record.distribution("start")), "", "higher")


SCENARIOS = (
    Scenario(
        "users",
        "A mixture of people: how does it feel to them?",
        "Each types commands, reads, prints 20,000 lines, or leaves and comes anew, by a fixed distribution "
        "with a fixed seed, so that all targets meet the same people. Keys are due at their times, and their "
        "echoes are counted from then; what has no answer by the end counts as late as it is by then.",
        users,
    ),
)
