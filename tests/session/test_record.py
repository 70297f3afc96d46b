"""Each session has a start and an end in the audit log, whoever is there to tell the end."""

import json
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from supervisor.errors import SandboxError
from supervisor.observability.redaction import session_digest
from supervisor.reaping.directories import hold_directory, remove_dead_directories
from supervisor.reaping.records import STAMP, settle_records
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.record import SIZE, Records
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider


def events(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def house(records: Records) -> AsyncGenerator[tuple[SessionRegistry, MemoryProvider]]:
    provider = MemoryProvider()
    async with trio.open_nursery() as nursery:
        registry = SessionRegistry(Settings(), provider, nursery)
        registry.watchers.append(records)
        yield registry, provider
        nursery.cancel_scope.cancel()


async def kept(records: Records) -> Session:
    """A session that was noted down, as if its supervisor had been killed then."""
    async with house(records) as (registry, provider):
        session = await registry.create(b"owner", LeaseRequest(""))
        session.facts.container, session.facts.peak_memory = "ts-session-x", 4096
        await provider.terminals[0].print(b"x" * 34)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(12)
        records.note(session)
        registry.watchers.remove(records)
    return session


async def test_a_session_from_start_to_end(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path, facts={"provider": "memory"})
    async with house(records) as (registry, provider):
        provider.counted = True
        session = await registry.create(b"owner", LeaseRequest(""))
        (started,) = events(audit_log)
        assert (started["event"], started["provider"]) == ("session started", "memory")
        assert started["session"] == session_digest(session.id)
        assert session.id not in str(started)
        session.facts.container, session.facts.peak_memory = "ts-session-x", 1 << 20
        await provider.terminals[0].print(b"x" * 100)
        await session.type(b"abc", is_activity=True)
        provider.terminals[0].start_commands(2)
        await trio.sleep(5)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() - 7200)  # somebody sets the clock
        records.note(session)
        assert (tmp_path / "records" / session.label).stat().st_size == SIZE
        provider.terminals[0].exit(3)
        while len(registry):
            await trio.sleep(1)
    _, ended = events(audit_log)
    assert not (tmp_path / "records" / session.label).exists()
    shown = {name: ended[name] for name in ("event", "reason", "status", "output_bytes", "input_bytes")}
    assert shown == {
        "event": "session ended",
        "reason": "user_exit",
        "status": "exit status 3",
        "output_bytes": 100,
        "input_bytes": 3,
    }
    assert (ended["container"], ended["peak_memory"], ended["seconds"]) == ("ts-session-x", 1 << 20, 5)
    assert ended["commands"] == 2
    assert ended["started"] == started["started"]
    assert ended["ended"] < ended["started"], "it says what the clock says"


async def test_a_session_that_never_was_has_no_record(audit_log: Path, tmp_path: Path) -> None:
    async with house(Records(tmp_path)) as (registry, provider):
        provider.failure = SandboxError("no")
        with pytest.raises(SandboxError):
            await registry.create(b"owner", LeaseRequest(""))
    assert events(audit_log) == []


async def test_who_reaps_tells_the_end(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path
) -> None:
    session = await kept(Records(tmp_path, facts={"provider": "docker"}))
    (tmp_path / "records" / "broken").write_bytes(b"\x00" * SIZE)
    assert settle_records(tmp_path) == 2
    assert settle_records(tmp_path) == 0
    ends = {each["session"]: each for each in events(audit_log)[1:]}
    end = ends[session.label]
    assert (end["event"], end["severity"], end["reason"]) == ("session ended", "warning", "supervisor_lost")
    assert (end["output_bytes"], end["peak_memory"], end["seconds"]) == (34, 4096, 12)
    assert (end["container"], end["provider"]) == ("ts-session-x", "docker")
    assert ends["broken"]["problem"]


async def test_the_next_start_tells_the_end_once(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path
) -> None:
    directory, lock = hold_directory(tmp_path, "0123456789abcdef")
    session = await kept(Records(directory))
    assert remove_dead_directories(tmp_path) == []  # its owner lives
    assert len(events(audit_log)) == 1
    os.close(lock)
    assert remove_dead_directories(tmp_path) == [directory]
    assert remove_dead_directories(tmp_path) == []
    assert [each["session"] for each in events(audit_log)] == [session.label] * 2


async def test_a_record_is_written_when_it_changes(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path
) -> None:
    records = Records(tmp_path)
    async with house(records) as (registry, provider):
        session = await registry.create(b"owner", LeaseRequest(""))
        file = tmp_path / "records" / session.label
        records.note(session)
        text = file.read_text()
        await trio.sleep(5)
        records.note(session)
        assert file.read_text() == text
        await provider.terminals[0].print(b"x")
        await trio.testing.wait_all_tasks_blocked()
        records.note(session)
        assert json.loads(file.read_text())["output_bytes"] == 1
        session.facts.container = "ts-session-x"
        file.unlink()
        file.mkdir()
        records.note(session)  # which cannot be written
        file.rmdir()
        records.note(session)
        assert json.loads(file.read_text())["container"] == "ts-session-x"
        registry.watchers.remove(records)


async def test_the_stamp_says_until_when_records_held(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path
) -> None:
    records = Records(tmp_path)
    session = await kept(records)
    records.stamp()
    assert (tmp_path / STAMP).stat().st_mode & 0o777 == 0o600
    file = tmp_path / "records" / session.label
    noted = json.loads(file.read_text())["noted"]
    assert noted <= float((tmp_path / STAMP).read_text()) + 0.001
    (tmp_path / STAMP).write_text(str(noted + 30))
    for path, moved in ((file, -3600), (tmp_path / STAMP, 3600)):  # somebody sets the clock
        os.utime(path, (path.stat().st_mtime + moved,) * 2)
    settle_records(tmp_path)
    assert events(audit_log)[-1]["seconds"] == 42
    assert "noted" not in events(audit_log)[-1]


async def test_a_stamp_that_cannot_be_written_ends_nothing(audit_log: Path, tmp_path: Path) -> None:
    records = Records(tmp_path / "missing")
    records.stamp()
    assert not (tmp_path / "missing").exists()


async def test_who_hands_over_tells_no_end(
    autojump_clock: trio.abc.Clock, audit_log: Path, tmp_path: Path
) -> None:
    async with house(Records(tmp_path, lambda: True)) as (registry, _):
        session = await registry.create(b"owner", LeaseRequest(""))
    assert [each["event"] for each in events(audit_log)] == ["session started"]
    assert (tmp_path / "records" / session.label).exists()


def test_nothing_to_settle(tmp_path: Path) -> None:
    assert settle_records(tmp_path) == 0


async def test_a_record_that_cannot_be_written_ends_nothing(audit_log: Path, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("in the way")
    async with house(Records(tmp_path)) as (registry, _):
        await registry.create(b"owner", LeaseRequest(""))
    assert [each["event"] for each in events(audit_log)] == ["session started", "session ended"]
