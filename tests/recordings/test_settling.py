"""Recordings whose writers are dead are finished by whoever comes first, and nobody else's are touched."""

import fcntl
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings.cast import parse, read
from supervisor.protocol.asciicast import Event, EventEncoder, Header, header_line
from supervisor.reaping.recordings import (
    FIRST_LOOK,
    LOST,
    create_part,
    finish,
    hold_dead,
    last_event,
    part_of,
    recording_path,
    settle,
    settle_all,
)
from supervisor.reaping.records import settle_records

HEADER = header_line(Header(80, 24, 1504467315, "a title"))


def written(count: int = 5) -> bytes:
    encoder = EventEncoder()
    lines = [line for n in range(count) for line in encoder.encode(n / 2, "o", f"line {n} ä\r\n".encode())]
    return HEADER + b"".join(lines)


def left(directory: Path, content: bytes, name: str = "20260101T000000Z-0123456789abcdef.cast") -> Path:
    path = directory / name
    part_of(path).write_bytes(content)
    return path


def test_names_in_order_are_times_in_order(tmp_path: Path) -> None:
    path = recording_path(tmp_path, "0123456789abcdef", 1504467315.7)
    assert path == tmp_path / "20170903T193515Z-0123456789abcdef.cast"
    assert part_of(path).name == "20170903T193515Z-0123456789abcdef.cast.part"


def test_a_line_that_was_not_written_whole_is_cut_off_wherever_it_ends(tmp_path: Path) -> None:
    content = written()
    whole = parse(content).events
    for length in range(len(HEADER), len(content) + 1):
        path = left(tmp_path, content[:length])
        assert settle(path)
        events = whole[: content[len(HEADER) : length].count(b"\n")]
        assert list(tmp_path.iterdir()) == [path]
        assert read(path).events == [*events, (events[-1][0] if events else 0.0, "m", LOST)]
        path.unlink()


@given(st.binary(max_size=300))
def test_after_a_power_failure_there_may_be_anything_at_the_end(
    tmp_path_factory: object, rubbish: bytes
) -> None:
    directory = tmp_path_factory.mktemp("cast")  # type: ignore[attr-defined]
    path = left(directory, written(3) + rubbish)
    assert settle(path)
    assert parse(path.read_bytes()).events[:3] == parse(written(3)).events


@pytest.mark.parametrize("rubbish", [b"\0" * 4096, b"\0\n" * 5000, b'[1, "o"\n' * 20000, b"\n\n\n"])
def test_much_of_it(tmp_path: Path, rubbish: bytes) -> None:
    path = left(tmp_path, written(3) + rubbish)
    assert settle(path)
    assert len(read(path).events) == 4


def test_what_is_empty_is_removed(tmp_path: Path) -> None:
    for content in (b"", HEADER[:10], HEADER[:-1], b"\0" * 100):
        assert settle(left(tmp_path, content))
        assert list(tmp_path.iterdir()) == []


def test_there_is_nothing_to_do_for_a_recording_that_lives_or_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "20260101T000000Z-0123456789abcdef.cast"
    assert not settle(path)
    descriptor = create_part(path)
    os.write(descriptor, written())
    assert not settle(path)
    assert hold_dead(path) is None
    copy = os.dup(descriptor)  # as a process has that it is handed over to
    os.close(descriptor)
    assert not settle(path)
    finish(copy, path)
    assert not settle(path)
    os.close(copy)
    assert not settle(path)
    assert path.read_bytes() == written()
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_is_late_leaves_a_finished_recording_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened the part, and got the lock when its writer had finished."""
    path = tmp_path / "20260101T000000Z-0123456789abcdef.cast"
    descriptor = create_part(path)
    os.write(descriptor, written())

    def finish_first(held: int, operation: int) -> None:
        finish(descriptor, path)
        os.close(descriptor)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    assert not settle(path)
    assert path.read_bytes() == written()


def test_a_part_that_is_taken_for_left_over_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "20260101T000000Z-0123456789abcdef.cast"
    lock, taken = fcntl.flock, list[bool]()

    def take_first(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(True)
            assert settle(path), "there is nothing in it"
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", take_first)
    descriptor = create_part(path)
    assert part_of(path).exists()
    assert not settle(path)
    os.close(descriptor)


def test_no_file_is_taken_for_another(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(written() + b"rest")
    directory = tmp_path / "recordings"
    directory.mkdir()
    path = directory / "20260101T000000Z-0123456789abcdef.cast"
    part_of(path).symlink_to(victim)
    assert settle_all(directory) == []
    with pytest.raises(OSError):
        settle(path)
    with pytest.raises(FileExistsError):
        create_part(path)
    assert victim.read_bytes() == written() + b"rest"


def test_all_that_dead_writers_left(tmp_path: Path) -> None:
    dead = [left(tmp_path, written(n), f"2026010{n}T000000Z-0123456789abcdef.cast") for n in (1, 2, 3)]
    alive = tmp_path / "20260104T000000Z-0123456789abcdef.cast"
    descriptor = create_part(alive)
    (tmp_path / "something.else").write_text("")
    part_of(dead[1]).chmod(0o600)
    assert settle_all(tmp_path) == dead
    assert settle_all(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(path.name for path in dead), part_of(alive).name, "something.else"]
    )
    os.close(descriptor)


def test_who_tells_the_end_of_a_session_finishes_its_recording(tmp_path: Path) -> None:
    path = left(tmp_path, written())
    (tmp_path / "records").mkdir()
    for name, recording in (("a", str(path)), ("b", None), ("c", str(tmp_path / "none" / "x.cast"))):
        (tmp_path / "records" / name).write_text(json.dumps({"session": name, "recording": recording}))
    assert settle_records(tmp_path) == 3
    assert read(path).events[-1][2] == LOST
    assert list((tmp_path / "records").iterdir()) == []


def test_the_last_event_is_found_however_long_its_line_is(tmp_path: Path) -> None:
    encoder = EventEncoder()
    first = b"".join(encoder.encode(1.0, "o", b"first"))
    long = json.dumps([2.0, "o", "x" * 10 * FIRST_LOOK]).encode() + b"\n"
    for content, event, end in (
        (HEADER + first + long, Event(2.0, "o", "x" * 10 * FIRST_LOOK), len(HEADER + first + long)),
        (HEADER + first + long[:-1], Event(1.0, "o", "first"), len(HEADER + first)),
        (HEADER + first, Event(1.0, "o", "first"), len(HEADER + first)),
    ):
        path = tmp_path / "file"
        path.write_bytes(content)
        with path.open("rb") as file:
            assert last_event(file.fileno()) == (event, end)
