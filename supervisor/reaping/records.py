"""Ends of sessions whose supervisor could not tell them any more.

See `supervisor.session.record`: a file in a dead supervisor's directory is a session without an end. Who
clears the directory away tells it first; the directory's lock sees to it that only one does.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Final, cast

from supervisor.observability.audit import audit
from supervisor.reaping.recordings import try_to_settle

RECORDS: Final = "records"
"""Name of the directory of records in a supervisor's own."""
STAMP: Final = "records-stamp"
"""Name of the file beside it that says until when the records, if older, held."""
NOTED: Final = "noted"
"""Field of a record: when it was written. That, and the stamp, by the clock that nobody sets."""
LOST: Final = "supervisor_lost"
"""Reason of an end that nobody was there to see."""


def settle_records(directory: Path) -> int:
    """Tell the end of each session that `directory`, of a dead supervisor, has a record of, and finish its
    recording; remove the records and return how many there were. What was last known of a session is at most
    as old as the interval of the resource monitor.
    """
    count = 0
    held_until, stamped = _read_stamp(directory / STAMP)
    for path in sorted((directory / RECORDS).glob("*")):
        seen = max(path.stat().st_mtime, stamped)
        try:
            record = cast("dict[str, Any]", json.loads(path.read_text()))
            fields: dict[str, Any] = {str(name): value for name, value in record.items()}
        except (ValueError, AttributeError):
            fields = {"session": path.name, "problem": "its record cannot be read"}
        noted = fields.pop(NOTED, math.inf)
        if "seconds" in fields and held_until > noted:
            fields["seconds"] = round(fields["seconds"] + held_until - noted, 3)
        moments = {
            name: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
            for name, when in (("seen", seen), ("ended", time.time()))
        }
        audit("session ended", "warning", **{**fields, **moments, "reason": LOST, "status": None})
        path.unlink()  # at once: whatever goes wrong after this, it is not told again
        count += 1
        if recording := fields.get("recording"):
            try_to_settle(Path(str(recording)))
    return count


def write_stamp(path: Path) -> None:
    """Say at `path` that the records beside it hold now.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, f"{time.monotonic():20.3f}\n".encode(), 0)
    finally:
        os.close(descriptor)


def _read_stamp(path: Path) -> tuple[float, float]:
    """Return what it says, and the wall clock's time of it."""
    try:
        return float(path.read_text()), path.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return -math.inf, -math.inf
