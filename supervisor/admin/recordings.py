"""`terminal-supervisor recordings` and `play`: what was recorded, for people.

Both read files only and need no supervisor that runs. What is played is rewritten so that nothing in it can
act on the operator's own terminal (`supervisor.admin.safe_output`).
"""

import fcntl
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.admin.safe_output import RESTORE, SafeOutput
from supervisor.admin.top import duration, keys_at_once, show, size
from supervisor.errors import ConfigurationError
from supervisor.protocol.asciicast import (
    MAX_LINE,
    Event,
    FormatError,
    Header,
    parse_event,
    parse_header,
)
from supervisor.reaping.recordings import PART, SUFFIX, last_event
from supervisor.settings import Settings

FINISHED: Final = "finished"
WRITTEN: Final = "being written"
LEFT: Final = "left behind"  # by a supervisor that was killed; the next start finishes it


@attrs.frozen
class Found:
    """A recording in the directory.

    Attributes:
        file: its name.
        title: what it says of its session.
        started: seconds since the epoch.
        seconds: that it is long.
        bytes: of the file.
        state: one of the above.
        ended: label of its last marker: why it ended, once it has.
    """

    file: str
    title: str
    started: int
    seconds: float
    bytes: int
    state: str
    ended: str | None


def find_recordings(directory: Path) -> Iterator[Found]:
    """Return the recordings in `directory`, the oldest first. What is none is left out.

    Raises:
        ConfigurationError: the directory cannot be read.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError as error:
        raise ConfigurationError(f"RECORDING_DIRECTORY={directory}: {error.strerror}") from error
    for path in paths:
        if path.name.endswith((SUFFIX, SUFFIX + PART)):
            try:
                yield _look(path)
            except (FileNotFoundError, FormatError):
                continue  # renamed meanwhile; nothing in it yet


def _look(path: Path) -> Found:
    with path.open("rb") as file:
        descriptor = file.fileno()
        header = parse_header(file.readline(MAX_LINE))
        last, _ = last_event(descriptor)
        state = FINISHED
        if path.name.endswith(PART):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of in a moment
                state = LEFT
            except BlockingIOError:
                state = WRITTEN
        return Found(
            file=path.name,
            title=header.title,
            started=header.timestamp,
            seconds=last.time if last else 0.0,
            bytes=os.fstat(descriptor).st_size,
            state=state,
            ended=last.data if last and last.code == "m" and state == FINISHED else None,
        )


def print_recordings(settings: Settings, *, as_json: bool) -> None:
    """Print all recordings, as a table or as JSON.

    Raises:
        ConfigurationError: there is no directory of recordings, or it cannot be read.
    """
    if settings.recording_directory is None:
        raise ConfigurationError("nothing is recorded here: RECORDING_DIRECTORY is not set")
    found = list(find_recordings(settings.recording_directory))
    if as_json:
        print(json.dumps({"recordings": [attrs.asdict(each) for each in found]}, indent=2))
        return
    print(_row("recording", "who", "length", "size", "state"))
    for each in found:
        print(_row(each.file, each.title, duration(each.seconds), size(each.bytes), each.ended or each.state))


def _row(file: str, who: str, length: str, count: str, state: str) -> str:
    # Names are whole, or they could not be played: a narrow terminal folds the line.
    return f"{_printable(file):45}  {_printable(who):32}  {length:>6}  {count:>6}  {_printable(state)}"


def read_recording(path: Path) -> tuple[Header, Iterator[Event]]:
    """Return what is in an asciicast v2. One that is being written ends at its last whole line.

    Raises:
        ConfigurationError: it is none, at once or when a line is reached that is no event.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    with ExitStack() as stack:
        stack.enter_context(file)
        try:
            header = parse_header(file.readline(MAX_LINE + 1))
        except FormatError as error:
            raise ConfigurationError(f"{path}: {error}") from error
        rest = stack.pop_all()

    def events() -> Iterator[Event]:
        with rest:
            number = 1
            while (line := file.readline(MAX_LINE + 1)).endswith(b"\n") or len(line) > MAX_LINE:
                number += 1
                try:
                    yield parse_event(line)
                except FormatError as error:
                    raise ConfigurationError(f"{path}, line {number}: {error}") from error

    return header, events()


async def play(path: Path, *, speed: float = 1.0, idle_limit: float = math.inf) -> None:
    """Play a recording on standard output, until its end or Ctrl-C.

    Args:
        path: of the recording.
        speed: times as fast as it was.
        idle_limit: seconds, as recorded, that a pause lasts at most.

    Raises:
        ConfigurationError: see `read_recording`.
    """
    header, events = read_recording(path)
    safe, told = SafeOutput(), ""
    with ExitStack() as stack:
        if sys.stdin.isatty() and sys.stdout.isatty():
            stack.enter_context(
                keys_at_once(sys.stdin.fileno())
            )  # what is typed meanwhile is not for the shell
            cols, rows = os.get_terminal_size()
            if cols < header.width or rows < header.height:
                told = f"recorded at {header.width}x{header.height}; this terminal has {cols}x{rows}"
        try:
            await show(_line(told) if told else b"")
            due, before = trio.current_time(), 0.0
            for event in events:
                due += min(max(event.time - before, 0.0), idle_limit) / speed
                before = max(event.time, before)
                await trio.sleep_until(due)
                if event.code == "o":
                    await show(safe.feed(event.data.encode("utf-8", "replace")))
                elif event.code == "m" and event.data:
                    await show(_line(event.data))
        finally:
            with trio.CancelScope(shield=True):
                await show(RESTORE)


def _line(text: str) -> bytes:
    return f"\r\n[{_printable(text)}]\r\n".encode("utf-8", "replace")


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
