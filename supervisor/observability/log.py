"""Structured log: one event a line on standard error, as text for people or as JSON for machines.

`configure_logging` is called once, at start. `get_logger` may be called at import time; what it returns looks
up the configuration with each event. Every event, and what libraries say through Python's `logging`, passes
through `supervisor.observability.redaction`.

Error handling: a log that cannot be written (a closed pipe, a full disk) never ends a session. Lines are
dropped and counted: `dropped_lines`.
"""

import json
import logging
import sys
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from supervisor.observability.redaction import safe_lines, safe_text, safe_value

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(
    log_format: Literal["console", "json"], level: str, stream: TextIO | None = None
) -> None:
    """Send events of at least `level` (debug, info, warning or error) to `stream`, by default standard error.

    Libraries that use Python's `logging` are heard from warnings on: some log addresses and headers below
    that.
    """
    least = _LEVELS[level]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            clean_event,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _render_json if log_format == "json" else _render_console,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=_LineLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())
    root.setLevel(max(least, logging.WARNING))


def get_logger(component: str) -> FilteringBoundLogger:
    """Return a logger whose events carry `component`: the room of the house that speaks, say `gateway`."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def dropped_lines() -> int:
    """Return how many lines could not be written since the start."""
    return _LineLogger.dropped


def clean_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every name and value of an event safe to be written (a structlog processor)."""
    exception = event.pop("exception", None)
    cleaned: EventDict = {safe_text(name, 64): safe_value(name, value) for name, value in event.items()}
    if exception is not None:
        cleaned["exception"] = safe_lines(str(exception))
    return cleaned


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return json.dumps({**first, **event}, separators=(",", ":"))


def _render_console(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Return `time LEVEL component: event  name=value …`, and a traceback on lines of its own, each marked as
    part of it.
    """
    time, level, text = event.pop("timestamp"), event.pop("level"), event.pop("event")
    component = event.pop("component", "-")
    exception = event.pop("exception", None)
    pairs = "".join(f"  {name}={_shown(value)}" for name, value in event.items())
    line = f"{time} {level.upper():<7} {component}: {text}{pairs}"
    if exception is not None:
        line += "".join(f"\n    | {part}" for part in exception.split("\n"))
    return line


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not any(character in ' "=' for character in value):
        return value
    return json.dumps(value, ensure_ascii=False)


class _LineLogger:
    """Writes rendered events; structlog calls the method named after the level."""

    dropped = 0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed, or cannot encode the line
            _LineLogger.dropped += 1

    debug = info = warning = error = critical = exception = log = msg


class _LineLoggerFactory:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *_args: object) -> _LineLogger:
        return _LineLogger(self._stream)


class _Forward(logging.Handler):
    """Hands records of Python's `logging` to the same pipeline."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        get_logger(record.name).log(level, record.getMessage(), exc_info=record.exc_info)
