"""Audit events: what somebody may have to answer for later. One line of JSON each, never anything secret.

`SECURITY_AUDIT_LOG` says where they go: `true`, into the log, by component `audit`; a path, into that file
(and from warnings on into the log, too); `false`, nowhere. The file is opened anew for each event, mode 0600,
so that it can be rotated without telling anybody. Names and values pass through the log's redaction.

What strangers can cause as often as they like is told with `audit_limited`: a few times a minute for each
key, then how many more there were.

Error handling: an event that cannot be written is counted (`dropped_events`) and told in the log; it never
ends anything.
"""

import json
import logging
import os
from collections import OrderedDict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import attrs

from supervisor.observability import metrics
from supervisor.observability.log import clean_event, get_logger

Severity = Literal["info", "warning", "critical"]

log = get_logger("audit")

BURST: Final = 5
"""Events of one name and key that are told within a window."""
WINDOW: Final = 60.0
"""Seconds."""
MAX_KEYS: Final = 1024
"""Keys that are remembered; the oldest is forgotten first, and what it suppressed is told then."""

_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.CRITICAL}


@attrs.define
class _Window:
    began: float
    told: int = 0
    suppressed: int = 0


class EventLimiter:
    """Lets `BURST` events through in each window of `WINDOW` seconds per key; counts the rest."""

    def __init__(self) -> None:
        self._windows: OrderedDict[tuple[str, str], _Window] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def admit(self, event: str, key: str, now: float) -> bool:
        """Return whether this one is to be told."""
        window = self._windows.get((event, key))
        if window is None or now >= window.began + WINDOW:
            window = self._windows[event, key] = _Window(now)
        window.told += 1
        if window.told <= BURST:
            return True
        window.suppressed += 1
        return False

    def settle(self, now: float) -> list[tuple[str, str, int]]:
        """Forget windows that are over, and the oldest where there are too many; return what they suppressed:
        event, key, how many."""
        result: list[tuple[str, str, int]] = []
        while self._windows:
            (event, key), window = next(iter(self._windows.items()))
            if now < window.began + WINDOW and len(self._windows) <= MAX_KEYS:
                break
            self._windows.popitem(last=False)
            if window.suppressed:
                result.append((event, key, window.suppressed))
        return result


class _Audit:
    """Where events go. There is one, as there is one log."""

    enabled = True
    path: Path | None = None
    limiter = EventLimiter()
    dropped = 0


def configure_audit(destination: str) -> None:
    """Send events to `destination`: `true`, `false` or a path, as `SECURITY_AUDIT_LOG` has it."""
    _Audit.enabled = destination != "false"
    _Audit.path = Path(destination) if destination not in {"true", "false"} else None
    _Audit.limiter = EventLimiter()


def dropped_events() -> int:
    """Return how many events could not be written since the start."""
    return _Audit.dropped


def audit(event: str, severity: Severity, **fields: object) -> None:
    """Tell an event.

    Args:
        event: what happened: a few words of ours, always the same ones, for they are API.
        severity: `info`: as it should be. `warning`: somebody should look at it some time. `critical`: now.
        fields: particulars; `session` is a digest (`session_digest`), never an id.
    """
    metrics.audit_events.labels(event, severity).inc()
    _tell(event, severity, fields)


def audit_limited(event: str, severity: Severity, key: str, now: float, **fields: object) -> None:
    """Tell an event that somebody else can cause at will, unless it was told often enough for `key`.

    Args:
        event, severity, fields: see `audit`.
        key: whom it is counted for: an address, a session.
        now: seconds of any one clock.
    """
    metrics.audit_events.labels(event, severity).inc()
    if _Audit.limiter.admit(event, key, now):
        _tell(event, severity, fields)
    for each, of, count in _Audit.limiter.settle(now):
        _tell("events suppressed", "info", {"of": each, "key": of, "count": count})


def _tell(event: str, severity: Severity, fields: dict[str, object]) -> None:
    if not _Audit.enabled:
        return
    if _Audit.path is None or severity != "info":
        log.log(_LEVELS[severity], event, **fields)
    if _Audit.path is not None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        cleaned = clean_event(None, "", {"severity": severity, **fields})
        line = json.dumps({"timestamp": time, "event": event, **cleaned}, separators=(",", ":"))
        _append(_Audit.path, line.encode() + b"\n")


def _append(path: Path, line: bytes) -> None:
    try:
        descriptor = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.write(descriptor, line)  # in one call, so that lines of several processes stay whole
        finally:
            os.close(descriptor)
    except OSError as error:
        _Audit.dropped += 1
        log.error("audit event could not be written", path=str(path), problem=str(error))
