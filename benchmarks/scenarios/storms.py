"""Everybody at once: all come back after a network failure, or strangers knock without end."""

import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import attrs
import trio

from benchmarks.adapters import ADAPTERS, connect
from benchmarks.background import background
from benchmarks.client import PROMPT, SessionEndedError, read_until
from benchmarks.measuring import Record
from benchmarks.scenarios.echo import echo_session
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running

KNOCKING = 8  # connections at a time
STRANGER = "127.0.0.2"
"""Their address: the benchmark's own, 127.0.0.1, is without limits."""


async def resume(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    assert ADAPTERS[running.access.adapter].resumes
    tickets: list[str] = []

    async def first_time(stack: AsyncExitStack) -> None:
        client = await stack.enter_async_context(connect(running.access))
        await read_until(client, PROMPT)
        tickets.append(client.ticket)

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        for _ in range(size.together):
            nursery.start_soon(first_time, stack)
    # All are cut off now.
    times, began = record.distribution(), time.perf_counter()

    async def again(ticket: str) -> None:
        async with connect(running.access, ticket) as client:
            with trio.fail_after(30):
                await client.type(b"\r")
                await read_until(client, PROMPT)
                times.add(time.perf_counter() - began)
            session_id = client.ticket.partition("@")[0]
            if session_id != ticket.partition("@")[0]:
                raise SessionEndedError("a client came back to another session than its own")
            await client.leave()

    with record.watching_the_client():
        async with trio.open_nursery() as nursery:
            for ticket in tickets:
                nursery.start_soon(again, ticket)


async def refuse(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    ours = running.target.role == "ours"
    extra = running.access.extra | ({"source": STRANGER} if ours else {})
    stranger = attrs.evolve(running.access, token="not-the-right-one", secret="", extra=extra)
    began = time.perf_counter()
    async with background(stranger, "refused", KNOCKING, record) as totals:
        await echo_session(running, size, record, "user")
    tell_refusals(record, totals, time.perf_counter() - began)


def tell_refusals(record: Record, totals: dict[str, Any], seconds: float) -> None:
    """Note how strangers fared: a refusal is one only where it was answered.

    Raises:
        RuntimeError: one was let in, or none was refused.
    """
    refused, failed = Counter[str](totals["refused"]), Counter[str](totals["failed"])
    record.figure("refused", refused.total() / seconds, "1/s", "higher")
    record.figure("errors", failed.total() / seconds, "1/s")
    for outcomes in (refused, failed):
        record.notes += [f"{count} strangers: {outcome}" for outcome, count in outcomes.most_common()]
    if failed["let in"]:
        raise RuntimeError("strangers with wrong credentials were let in")
    if not refused:
        raise RuntimeError("no stranger was refused with an answer")


SCENARIOS = (
    Scenario(
        "resume",
        "All clients lose their connection and return at once: how long until each is back where it was?",
        "Sessions are open; all connections are cut; all reconnect with their tickets at the same moment. A "
        "client that gets another session than its own is a failure.",
        resume,
        resumes=True,
        floor=False,
    ),
    Scenario(
        "refuse",
        "Strangers with wrong credentials knock without end: does a user notice?",
        "8 connections at a time from another process; meanwhile the echo of a user. Refused is who got an "
        "HTTP status or a close code; other ends are errors. Of ours the strangers have an address of "
        "their own, to which its limits apply.",
        refuse,
        fresh=True,
        resumes=True,
        environment={"RATE_LIMIT_EXEMPT_NETWORKS": "127.0.0.1/32"},
        floor=False,
    ),
)
