"""Output without end: how fast, how soon Ctrl-C stops it, what slow readers cost; and a paste."""

import hashlib
import random
import time

import attrs
import trio

from benchmarks.adapters import session
from benchmarks.background import background
from benchmarks.client import PROMPT, Client, SessionEndedError, read_through, read_until, run_raw
from benchmarks.machine import usage
from benchmarks.measuring import Record
from benchmarks.recording import RECORDING
from benchmarks.scenarios.echo import echo_session
from benchmarks.scenarios.scenario import Run, Scenario, Size
from benchmarks.targets import Running

FILE = "/tmp/bench.$$"
SOURCE = "/tmp/bench.$$.source"
FILE_SIZE = 4_000_000
SCREENS = RECORDING.read_bytes()
DONE = b"<done>"
PASTE = 1_000_000  # bytes
PASTE_PIECE = 32 * 1024  # bytes per message
MARKED_PROMPT = b"<prompt>$ "


@attrs.frozen
class Workload:
    """A file that is printed again and again: the shell commands that make it, and how it is printed.
    `content` is what they find in `SOURCE`.
    """

    make: str
    mode: str = "raw -echo"
    content: bytes = b""


def _lines(line: str) -> str:
    return f"yes '{line}' | head -n {FILE_SIZE // 70} >{FILE}"


WORKLOADS = {
    "raw": Workload(f"head -c {FILE_SIZE} /dev/zero | tr '\\0' x >{FILE}"),
    "lines": Workload(_lines("The quick brown fox jumps over the lazy dog, and over and over it.")),
    "yes": Workload(f"yes | head -c {FILE_SIZE // 4} >{FILE}", mode="-echo"),
    "utf8": Workload(_lines("Zwölf Boxkämpfer jagen Viktor → 日本語のテキスト ★ 🙂 über den Deich")),
    "ansi": Workload(
        f"for i in $(seq {FILE_SIZE // len(SCREENS)}); do cat {SOURCE}; done >{FILE}", content=SCREENS
    ),
}


async def _bring(client: Client, content: bytes) -> None:
    """Have `content` in the session's file `SOURCE`, by typing it: all that a session surely has is a shell.

    Raises:
        SessionEndedError: it did not arrive as it was sent.
    """
    await run_raw(client, f"head -c {len(content)} >{SOURCE}; stty sane; sha256sum {SOURCE}")
    for position in range(0, len(content), PASTE_PIECE):
        await client.type(content[position : position + PASTE_PIECE])
    answer, rest = await read_through(client, b"/tmp/")
    if hashlib.sha256(content).hexdigest().encode() not in answer:
        raise SessionEndedError("what shall be printed did not arrive as it was sent")
    await read_through(client, PROMPT, rest)


def output(name: str) -> Run:
    """Return the scenario for a workload."""
    workload = WORKLOADS[name]

    async def run(running: Running, size: Size, record: Record) -> None:
        repeats = max(1, size.megabytes * 1_000_000 // FILE_SIZE)
        async with session(running.access) as client:
            await read_until(client, PROMPT)
            if workload.content:
                await _bring(client, workload.content)
            await client.type(f"{workload.make}; printf '%s' '<made''>'\r".encode())
            await read_until(client, b"<made>")
            program = f"for i in $(seq {repeats}); do cat {FILE}; done; printf '%s' '<done''>'; sleep 1"
            before = usage(running.pids())
            with record.watching_the_client():
                got = len(await run_raw(client, program, mode=workload.mode))
                began, tail = time.perf_counter(), b""
                while DONE not in tail:
                    piece = await client.read()
                    if not piece:
                        raise SessionEndedError("the session ended within its output")
                    got += len(piece)
                    tail = tail[-len(DONE) :] + piece[-len(DONE) :]
                seconds = time.perf_counter() - began
            record.figure("rate", got / seconds / 1e6, "MB/s", "higher")
            record.figure("bytes", got, "B", "higher")
            if running.pids():
                cpu = usage(running.pids()).cpu - before.cpu
                record.figure("cpu", cpu / seconds, "cores")
                record.figure("cpu-per-mb", cpu / (got / 1e6) * 1000, "ms/MB")

    return run


async def interrupt(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    times = record.distribution()
    async with session(running.access) as client:
        await read_until(client, PROMPT)
        await client.type(b"PS1='<prompt''>$ '\r")
        await read_until(client, MARKED_PROMPT)
        with record.watching_the_client():
            for _ in range(size.repeats):
                await client.type(b"yes\r")
                with trio.move_on_after(size.seconds / 5):
                    while await client.read():
                        pass
                began = time.perf_counter()
                await client.type(b"\x03")
                await read_until(client, MARKED_PROMPT)
                times.add(time.perf_counter() - began)


async def paste(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    text = bytes(random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz \n", k=PASTE))
    digest = hashlib.sha256(text).hexdigest().encode()
    times = record.distribution()
    for _ in range(size.repeats):
        async with session(running.access) as client:
            await read_until(client, PROMPT)
            await run_raw(client, f"head -c {PASTE} | sha256sum; stty sane")
            began = time.perf_counter()

            async def typist() -> None:
                for position in range(0, len(text), PASTE_PIECE):
                    await client.type(text[position : position + PASTE_PIECE])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(typist)
                answer, _ = await read_through(client, b"-")
            times.add(time.perf_counter() - began)
            if digest not in answer:
                raise SessionEndedError("the paste did not arrive as it was sent")


async def readers(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    for mode in ("slow", "frozen"):
        before = usage(running.pids())
        async with background(running.access, mode, size.flooding, record):
            await echo_session(running, size, record, f"neighbour of {mode}")
            grown = usage(running.pids()).memory - before.memory
        record.figure(f"memory.{mode}", grown / 1e6 / size.flooding, "MB per reader")


SCENARIOS = (
    *(
        Scenario(
            f"output-{name}",
            f"How fast does output reach a client that keeps up: {what}?",
            "A file of some MB is printed again and again with `cat`; the client acknowledges as early as it "
            "may and shows nothing. `cpu` is the server's.",
            output(name),
        )
        for name, what in {
            "raw": "one endless line, terminal raw",
            "lines": "lines of 70 characters, terminal raw",
            "yes": "`y` and newline, terminal cooked",
            "utf8": "text of which half is not ASCII",
            "ansi": "what htop, top and vim printed when they were recorded (`benchmarks/recording.py`)",
        }.items()
    ),
    Scenario(
        "interrupt",
        "How long after Ctrl-C is the prompt back, when `yes` floods the terminal?",
        "The client reads the flood for a while, then sends Ctrl-C, and goes on reading until the prompt.",
        interrupt,
    ),
    Scenario(
        "paste",
        "How long does a paste of 1 MB take until the program has all of it, intact?",
        "`sha256sum` reads it in raw mode; a digest that differs is a failure.",
        paste,
    ),
    Scenario(
        "readers",
        "What does a reader cost that does not keep up: memory of the server, echo of a neighbour?",
        "Flooding sessions that are read at 64 KB/s, then such that are not read at all.",
        readers,
        fresh=True,
        process=True,
        floor=False,
    ),
)
