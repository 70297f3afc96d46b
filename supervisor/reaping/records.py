"""Ends of sessions whose supervisor could not tell them any more.

See `supervisor.session.record`: a file in a dead supervisor's directory is a session without an end. Who
clears the directory away tells it first; the directory's lock sees to it that only one does.
"""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from supervisor.observability.audit import audit
from supervisor.reaping.recordings import try_to_settle

RECORDS: Final = "records"
"""Name of the directory of records in a supervisor's own."""
STAMP: Final = "records-stamp"
"""Name of the file beside it whose time says until when the records, if older, held."""
LOST: Final = "supervisor_lost"
"""Reason of an end that nobody was there to see."""


def settle_records(directory: Path) -> int:
    """Tell the end of each session that `directory`, of a dead supervisor, has a record of, and finish its
    recording; remove the records and return how many there were. What was last known of a session is at most
    as old as the interval of the resource monitor.
    """
    count = 0
    held_until = 0.0
    with suppress(FileNotFoundError):
        held_until = (directory / STAMP).stat().st_mtime
    for path in sorted((directory / RECORDS).glob("*")):
        written = path.stat().st_mtime
        seen = max(written, held_until)
        try:
            record = cast("dict[str, Any]", json.loads(path.read_text()))
            fields: dict[str, Any] = {str(name): value for name, value in record.items()}
        except (ValueError, AttributeError):
            fields = {"session": path.name, "problem": "its record cannot be read"}
        if isinstance(seconds := fields.get("seconds"), int | float):
            fields["seconds"] = round(seconds + seen - written, 3)
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
