import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from supervisor.observability import audit as module
from supervisor.observability.audit import (
    BURST,
    MAX_KEYS,
    WINDOW,
    EventLimiter,
    audit,
    audit_limited,
    configure_audit,
    dropped_events,
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    configure_audit("true")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_is_a_line_of_a_file_that_nobody_else_reads(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    configure_audit(str(path))
    with structlog.testing.capture_logs() as logs:
        audit("session started", "info", session="0123456789abcdef", token="planted-secret", text="a\nb")
        audit("token refused", "warning", address="192.0.2.1")
    first, second = lines(path)
    assert first["timestamp"].endswith("Z")
    assert (first["event"], first["severity"], first["session"]) == (
        "session started",
        "info",
        "0123456789abcdef",
    )
    assert first["token"] == "[redacted]"
    assert "\n" not in first["text"]
    assert second["severity"] == "warning"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry["event"] for entry in logs] == ["token refused"]


def test_a_file_that_was_rotated_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    configure_audit(str(path))
    audit("one", "info")
    path.rename(tmp_path / "audit.log.1")
    audit("two", "info")
    assert [each["event"] for each in lines(path)] == ["two"]


def test_into_the_log_and_nowhere() -> None:
    with structlog.testing.capture_logs() as logs:
        audit("one", "critical", a=1)
        configure_audit("false")
        audit("two", "critical")
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["component"], entry["a"]) == (
        "one",
        "critical",
        "audit",
        1,
    )


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    configure_audit(str(tmp_path / "none" / "audit.log"))
    before = dropped_events()
    with structlog.testing.capture_logs() as logs:
        audit("one", "info")
    assert dropped_events() == before + 1
    assert logs[0]["log_level"] == "error"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    configure_audit(str(tmp_path / "audit.log"))
    with structlog.testing.capture_logs():
        audit("one", "info")
    assert not (tmp_path / "elsewhere").exists()


def test_what_strangers_cause_is_told_a_few_times_and_then_counted() -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(BURST + 7):
            audit_limited("refused", "warning", "192.0.2.1", 100.0)
        audit_limited("refused", "warning", "192.0.2.2", 100.0)
        assert len(logs) == BURST + 1
        audit_limited("refused", "warning", "192.0.2.2", 100.0 + WINDOW)
    summary = [entry for entry in logs if entry["event"] == "events suppressed"]
    assert [(entry["of"], entry["key"], entry["count"]) for entry in summary] == [("refused", "192.0.2.1", 7)]


def test_the_limiter_remembers_a_bounded_number_of_keys() -> None:
    limiter = EventLimiter()
    told = 0
    for number in range(10 * MAX_KEYS):
        limiter.admit("event", str(number), 0.0)
        told += len(limiter.settle(0.0))
        assert len(limiter) <= MAX_KEYS + 1
    assert told == 0  # nothing was suppressed


def test_after_a_window_the_same_key_is_told_again() -> None:
    limiter = EventLimiter()
    assert [limiter.admit("event", "key", 0.0) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert limiter.admit("event", "key", WINDOW)
    assert module.WINDOW == WINDOW
