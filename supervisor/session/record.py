"""What a session was: one audit event at its start and one at its end, whoever is there to write the latter.

While a session lives, a small file in its supervisor's own directory says what is known of it so far; it is
written when that changes, and one stamp for all of them says until when nothing else had. Who ends a session
in order tells its end and removes the file. When the supervisor is killed, whoever clears its directory away
(guard, reconciler, the next start) tells the end of every session whose file is still there
(`supervisor.reaping.records`).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from supervisor.observability import metrics
from supervisor.observability.audit import audit
from supervisor.observability.log import get_logger
from supervisor.reaping.records import NOTED, RECORDS, STAMP, write_stamp
from supervisor.session.session import Session

log = get_logger(__name__)

SIZE: Final = 4096
"""Bytes of a record's file, padded, a page: it is overwritten in place by one call, so a killed process
leaves either the old text or the new one."""
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: it is used every few seconds


@final
class Records:
    """The records of one supervisor's sessions: a `SessionWatcher`.

    Args:
        directory: of this supervisor alone; None keeps no files, so that the sessions of a killed supervisor
            have no end.
        shared: whether another process, which goes on with the sessions, has the directory, too.
        facts: the same for all its sessions, `provider` for instance.
    """

    def __init__(
        self,
        directory: Path | None = None,
        shared: Callable[[], bool] = lambda: False,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        self._directory = directory / RECORDS if directory else None
        self._stamp = directory / STAMP if directory else None
        self._noted: dict[Session, tuple[object, ...]] = {}
        self._shared = shared
        self._facts = dict(facts or {})

    def session_added(self, session: Session) -> None:
        """See `SessionWatcher`."""

    def session_started(self, session: Session) -> None:
        """Tell that a session has a terminal now."""
        metrics.sessions_started.inc()
        record = self._record(session)
        shown = {name: record[name] for name in ("session", "started", "kind", "container")}
        audit("session started", "info", **shown, **self._facts)
        self._write(session, record)

    def session_removed(self, session: Session) -> None:
        """Tell how a session ended, unless another process goes on with it."""
        self._noted.pop(session, None)
        if not session.was_ready or self._shared():
            return
        record = self._record(session)
        reason = session.ended.reason.value if session.ended else ""
        status = str(session.ended.status) if session.ended and session.ended.status else None
        metrics.sessions_ended.labels(reason).inc()
        metrics.session_seconds.observe(record["seconds"])
        audit("session ended", "info", **record, ended=_moment(time.time()), reason=reason, status=status)
        if self._directory is not None:
            with suppress(OSError):  # gone, or it never was
                (self._directory / session.label).unlink()

    def note(self, session: Session) -> None:
        """Write down how a session stands, should nobody be left to tell its end. Costs next to nothing where
        that has not changed: most of thousands do nothing.
        """
        if self._directory is None or not session.was_ready or self._shared():
            return
        standing = session.standing
        if self._noted.get(session) != standing and self._write(session, self._record(session)):
            self._noted[session] = standing

    def stamp(self) -> None:
        """Write down that what was noted of all sessions still holds."""
        if self._stamp is None or self._shared():
            return
        try:
            write_stamp(self._stamp)
        except OSError as error:
            log.warning("the records could not be stamped", problem=str(error))

    def _record(self, session: Session) -> dict[str, Any]:
        numbers = session.statistics()
        return {
            "session": session.label,
            "started": _moment(session.began),
            **self._facts,
            "kind": session.visitor.standing,
            "container": session.facts.container or None,
            "seconds": round(numbers.age, 3),
            "output_bytes": numbers.output_bytes,
            "input_bytes": numbers.input_bytes,
            "commands": numbers.commands,
            "peak_memory": session.facts.peak_memory,
            **recording_facts(session),
        }

    def _write(self, session: Session, record: dict[str, Any]) -> bool:
        if self._directory is None:
            return False
        text = _encode({**record, NOTED: time.monotonic()}).encode().ljust(SIZE)
        try:
            descriptor = self._open(f"{self._directory}/{session.label}")
            try:
                os.pwrite(descriptor, text, 0)
            finally:
                os.close(descriptor)
        except OSError as error:  # the session is worth more than its record
            log.warning("a session's record could not be written", session=session.label, problem=str(error))
            return False
        return True

    def _open(self, path: str) -> int:
        try:
            return os.open(path, _WRITE, 0o600)
        except FileNotFoundError:  # the first of all
            assert self._directory is not None
            self._directory.mkdir(mode=0o700, exist_ok=True)
            return os.open(path, _WRITE, 0o600)


def recording_facts(session: Session) -> dict[str, str | None]:
    """Return where a session's recording is, once it is finished, and what is wrong with it; nothing of one
    that is not recorded.
    """
    if session.recording is None:
        return {}
    path = session.recording.path
    return {"recording": str(path) if path else None, "recording_problem": session.recording.problem}


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"
