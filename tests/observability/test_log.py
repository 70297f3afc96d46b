import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog

from supervisor.observability.log import configure_logging, dropped_lines, get_logger

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1g"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    before = structlog.get_config()
    yield
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def started(log_format: Literal["console", "json"], level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(log_format, level, stream)
    return stream


def lines(stream: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines() -> None:
    stream = started("json")
    get_logger("gateway").info("client came", address="127.0.0.1", port=8080, token="x")
    (event,) = lines(stream)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "level": "info",
        "event": "client came",
        "component": "gateway",
        "address": "127.0.0.1",
        "port": 8080,
        "token": "[redacted]",
    }


def test_console_lines() -> None:
    stream = started("console")
    get_logger("gateway").warning(
        "client came", address="127.0.0.1", words="two words", table={"a": 1}, nothing=""
    )
    time, _, rest = stream.getvalue().partition(" ")
    assert time.startswith("20")
    assert (
        rest
        == 'WARNING gateway: client came  address=127.0.0.1  words="two words"  table={"a": 1}  nothing=""\n'
    )


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_nobody_can_forge_a_line(log_format: Literal["console", "json"]) -> None:
    stream = started(log_format)
    forged = "\n2026-01-01T00:00:00Z ERROR gateway: forged\r\x1b[2J\u2028\x85"
    get_logger("x").info(
        "a" + forged, **{"b" + forged: "c" + forged, "list": [forged], "error": ValueError(forged)}
    )
    assert stream.getvalue().count("\n") == 1
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_tracebacks(log_format: Literal["console", "json"]) -> None:
    stream = started(log_format)
    try:
        raise ValueError(f"bad {JWT}\nforged\x1b[2J")
    except ValueError:
        get_logger("x").exception("it failed", session="q3Zk0fT1mYVnB2cD8eW5xw")
    text = stream.getvalue()
    assert "ValueError: bad [redacted]" in text
    assert "\x1b" not in text
    assert "q3Zk0fT1…" in text or "q3Zk0fT1\\u2026" in text
    if log_format == "console":
        first, *others = text.splitlines()
        assert "it failed" in first
        assert others
        assert all(line.startswith("    | ") for line in others)
    else:
        assert "\nValueError" in lines(stream)[0]["exception"]


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_levels(level: str, heard: int) -> None:
    stream = started("json", level)
    logger = get_logger("x")
    logger.debug("1")
    logger.info("2")
    logger.warning("3")
    logger.error("4")
    assert len(lines(stream)) == heard


def test_libraries_are_heard_through_the_same_sieve() -> None:
    stream = started("json")
    library = logging.getLogger("some.library")
    library.info("not heard")
    library.warning("token %s\n", JWT)
    try:
        raise OSError("broken")
    except OSError:
        library.exception("failed")
    first, second = lines(stream)
    assert (first["event"], first["level"], first["component"]) == (
        "token [redacted]\\x0a",
        "warning",
        "some.library",
    )
    assert "OSError: broken" in second["exception"]


def test_configuring_again_replaces() -> None:
    first = started("json")
    second = started("json", "error")
    logging.getLogger("some.library").error("once")
    get_logger("x").warning("not heard")
    assert first.getvalue() == ""
    assert len(lines(second)) == 1


def test_a_logger_made_before_is_configured_too() -> None:
    logger = get_logger("early")
    stream = started("json")
    logger.info("late")
    assert len(lines(stream)) == 1


def test_context_is_part_of_every_event() -> None:
    stream = started("json")
    with structlog.contextvars.bound_contextvars(connection=7):
        get_logger("x").info("inside")
    get_logger("x").info("outside")
    inside, outside = lines(stream)
    assert inside["connection"] == 7
    assert "connection" not in outside


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_cannot_be_written_ends_nothing() -> None:
    before = dropped_lines()
    configure_logging("json", "info", Broken())
    get_logger("x").info("lost")
    closed = io.StringIO()
    closed.close()
    configure_logging("json", "info", closed)
    get_logger("x").info("lost")
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    configure_logging("console", "info", ascii_only)
    get_logger("x").info("żółć")
    assert dropped_lines() == before + 3
