"""People who type, on virtual time: the gaps between their keys, and what a server that stalls is charged."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random
from statistics import fmean

import attrs
import pytest
import trio

from benchmarks.adapters import ADAPTERS, Adapter
from benchmarks.client import Access, Client
from benchmarks.measuring import Record, Times, scheduled, typing
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.scenario import Size
from benchmarks.targets import Running, given


def test_a_person_types_in_bursts() -> None:
    gaps = list(typing(10_000, 0.12, Random(1)))
    assert fmean(gaps) == pytest.approx(0.12, rel=0.03)
    assert sum(gap < 0.1 for gap in gaps) > 7000
    assert max(gaps) > 0.4


async def test_a_schedule_tells_when_it_was_due(autojump_clock: trio.testing.MockClock) -> None:
    late, dues = Times(), list[float]()
    began = trio.current_time()
    async for due in scheduled([1.0, 1.0, 1.0], late):
        dues.append(due - began)
        await trio.sleep(2.5)
    assert dues == pytest.approx([1, 2, 3])


@attrs.define
class Shell:
    """A client whose server echoes at once, until it hangs for ever, or for some seconds."""

    hangs_after: float
    hangs_for: float
    ticket: str = ""
    close_code: int = 0
    output: list[bytes] = attrs.field(factory=lambda: [b"$ "])
    typed: trio.Event = attrs.field(factory=trio.Event)

    async def type(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if data == b"\r":
            self.output.append(b"\r\nhello\r\n$ ")
        elif data.startswith(b"seq"):
            self.output.append(b"1\r\n20000\r\n$ ")
        else:
            self.output.append(data)
        self.typed.set()

    async def read(self) -> bytes:
        while not self.output:
            self.typed = trio.Event()
            await self.typed.wait()
        if self.hangs_after <= trio.current_time() < self.hangs_after + self.hangs_for:
            await trio.sleep_until(self.hangs_after + self.hangs_for)
        data = b"".join(self.output)
        self.output.clear()
        return data

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()


async def visited(monkeypatch: pytest.MonkeyPatch, hangs_after: float, hangs_for: float) -> Record:
    """Let people use such a server for 20 seconds."""
    begun = trio.current_time()

    @asynccontextmanager
    async def shell(access: Access, ticket: str) -> AsyncGenerator[Client]:
        await trio.lowlevel.checkpoint()
        yield Shell(begun + hangs_after, hangs_for)

    monkeypatch.setattr("benchmarks.measuring.BUSY", float("inf"))  # on virtual time nothing ever waits
    monkeypatch.setitem(ADAPTERS, "shell", Adapter("a shell of the test's", shell))
    access = Access("shell", "test:")
    running = Running(given(access, "none", "no containers"), access, "", "")
    record = Record()
    await SCENARIOS["users"].run(running, Size(together=4, seconds=5), record)
    return record


async def test_who_answers_owes_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await visited(monkeypatch, 0, 0)
    assert record.figures["unanswered"].value == 0
    assert record.distribution("echo").most < 1
    assert record.notes == []


async def test_a_server_that_stalls_for_ever_is_charged_for_it(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await visited(monkeypatch, 10, float("inf"))
    assert record.figures["unanswered"].value >= 4  # at least one of each person
    assert max(times.most for times in record.times.values()) > 10_000
    assert any("had not come by the end" in note for note in record.notes)


async def test_a_stall_is_charged_to_all_keys_that_were_due(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = await visited(monkeypatch, 10, 3)
    assert record.figures["unanswered"].value == 0
    late = [at for at in range(100) if record.distribution("echo").at(at) > 1000]
    assert late, "only the first key of each person waited, if any"
    assert record.distribution("echo").most < 3001
