"""What sessions cost that do nothing, and whether anything stays behind when they go."""

import time
from contextlib import AsyncExitStack

import trio

from benchmarks.background import background
from benchmarks.floors import engine_processes
from benchmarks.machine import available, proportional, usage
from benchmarks.measuring import Record
from benchmarks.scenarios.echo import echo_session
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.scenarios.start import SETTLE, come_and_go, open_and_leave
from benchmarks.targets import Running, docker_host

STEPS = 4  # at which memory is looked at on the way


async def idle(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    engine = engine_processes(docker_host()) if running.target.column != "no containers" else None
    await open_and_leave(running, None)
    await trio.sleep(SETTLE)
    before, free = usage(running.pids()), available()
    engine_before = proportional(engine) if engine else 0
    record.figure("memory.0", before.memory / 1e6, "MB")
    began, opened, during = time.perf_counter(), 0, before
    async with AsyncExitStack() as stack:
        for step in range(1, STEPS + 1):
            more = size.sessions * step // STEPS - opened
            await stack.enter_async_context(background(running.access, "idle", more, record))
            opened += more
            record.figure("all-started", time.perf_counter() - began, "s")
            await trio.sleep(SETTLE)
            during = usage(running.pids())
            record.figure(f"memory.{opened}", during.memory / 1e6, "MB")
        began = time.perf_counter()
        await trio.sleep(size.seconds)
        after = usage(running.pids())
        seconds = time.perf_counter() - began
        record.figure("sessions", opened, "", "higher")
        record.figure("memory", after.memory / 1e6, "MB")
        record.figure("memory-per-session", (during.memory - before.memory) / 1000 / opened, "KB")
        record.figure("cpu", (after.cpu - during.cpu) / seconds * 100, "% of a core")
        record.figure("cpu-per-start", (during.cpu - before.cpu) / opened * 1000, "ms")
        if engine:
            grown = proportional(engine_processes(docker_host())) - engine_before
            record.figure("engine-memory-per-session", grown / 1000 / opened, "KB")
            record.figure("all-memory-per-session", (free - available()) / 1000 / opened, "KB")
            await echo_session(running, size, record, "echo")


async def churn(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    await open_and_leave(running, None)
    count = max(2, round(size.seconds * size.rate))
    times = record.distribution()
    with record.watching_the_client():
        failed = await come_and_go(running, size, record, count, times)  # what is allocated once is now
        first = usage(running.pids())
        failed += await come_and_go(running, size, record, count, times)
        last = usage(running.pids())
    record.figure("failed", failed, "")
    record.figure("sessions", 2 * count, "", "higher")
    if running.pids():
        record.figure("growth", (last.memory - first.memory) / 1000 / count, "KB per session")
        record.figure("descriptors", last.descriptors - first.descriptors, "")


SCENARIOS = (
    Scenario(
        "idle",
        "What does an idle session cost the server: memory, CPU?",
        "Sessions are opened by another process and left alone; the server's resident memory before and "
        "after, its CPU meanwhile. Programs of the sessions do not count. With containers also what engine "
        "and shims (proportional share), and the whole machine (programs, kernel, the clients here) take, "
        "and the echo of one more session.",
        idle,
        fresh=True,
        shell=False,
        process=True,
        floor=False,
    ),
    Scenario(
        "churn",
        "How do starts fare while sessions come and go, and does anything stay behind (memory, descriptors)?",
        "Sessions arrive open-loop at `rate`, each leaves at its prompt. Growth is that of the second half.",
        churn,
        fresh=True,
        shell=False,
    ),
)
