"""The lines of a recording: exactly asciicast v2, whatever a program writes and however it comes."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recordings.cast import parse
from supervisor.protocol.asciicast import (
    MAX_LINE,
    PIECE,
    Event,
    EventEncoder,
    FormatError,
    Header,
    header_line,
    parse_event,
    parse_header,
)

HEADER = header_line(Header(80, 24, 1504467315, "a title"))


def encoded(*events: tuple[float, str, bytes]) -> bytes:
    encoder = EventEncoder()
    lines = [line for event in events for line in encoder.encode(*event)]  # type: ignore[arg-type]
    return HEADER + b"".join([*lines, *encoder.flush()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def test_the_first_line() -> None:
    assert json.loads(HEADER) == {
        "version": 2,
        "width": 80,
        "height": 24,
        "timestamp": 1504467315,
        "title": "a title",
    }
    assert parse_header(HEADER) == Header(80, 24, 1504467315, "a title")


def test_the_events_of_a_session() -> None:
    cast = parse(
        encoded(
            (0.25, "o", b"\x1b[1;31mHello \x1b[32mWorld!\x1b[0m\r\n"),
            (1.0, "i", b"\x03"),
            (1.5, "m", b""),
            (4.05, "r", b"132x50"),
            (4.05, "o", b'"\\\x00\x7f/' + "é\u2028😀".encode()),
        )
    )
    assert cast.events == [
        (0.25, "o", "\x1b[1;31mHello \x1b[32mWorld!\x1b[0m\r\n"),
        (1.0, "i", "\x03"),
        (1.5, "m", ""),
        (4.05, "r", "132x50"),
        (4.05, "o", '"\\\x00\x7f/é\u2028😀'),
    ]


@given(st.text(), st.lists(st.integers(0, 10_000)))
def test_output_is_exact_however_it_is_cut(text: str, places: list[int]) -> None:
    data = text.encode("utf-8", "replace")
    cast = parse(encoded(*((float(n), "o", piece) for n, piece in enumerate(cut(data, places)))))
    assert cast.text("o").encode() == data


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_what_is_not_utf8_is_replaced_the_same_however_it_is_cut(data: bytes, places: list[int]) -> None:
    cast = parse(encoded(*((0.0, "o", piece) for piece in cut(data, places))))
    assert cast.text("o") == data.decode("utf-8", "replace")


@given(st.text(min_size=1), st.text(min_size=1), st.integers(0, 10_000))
def test_another_encoder_goes_on_in_the_middle_of_a_code_point(one: str, two: str, place: int) -> None:
    first, second = one.encode("utf-8", "replace"), two.encode("utf-8", "replace")
    place %= len(first) + 1
    before = EventEncoder()
    lines = [*before.encode(1.0, "o", first[:place]), *before.encode(2.0, "i", second[:1])]
    after = EventEncoder(before.tails, before.time)
    lines += [*after.encode(1.5, "o", first[place:]), *after.encode(3.0, "i", second[1:]), *after.flush()]
    cast = parse(HEADER + b"".join(lines))
    assert (cast.text("o").encode(), cast.text("i").encode()) == (first, second)


def test_much_at_once_is_several_events_of_bounded_size() -> None:
    worst = b"\x01" * (3 * PIECE + 1)  # six bytes of JSON each
    content = encoded((1.0, "o", worst))
    assert max(map(len, content.split(b"\n"))) < MAX_LINE / 16
    cast = parse(content)
    assert cast.text("o").encode() == worst
    assert {time for time, _, _ in cast.events} == {1.0}


def test_time_never_goes_back() -> None:
    cast = parse(encoded((2.0, "o", b"a"), (1.0, "o", b"b"), (3.0, "o", b"c")))
    assert [time for time, _, _ in cast.events] == [2.0, 2.0, 3.0]


@given(st.floats(0, 1e9), st.sampled_from("oim"), st.text())
def test_what_is_written_can_be_read(time: float, code: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    lines = list(EventEncoder().encode(time, code, data))  # type: ignore[arg-type]
    event = Event(pytest.approx(time, abs=1e-6), code, data.decode())  # type: ignore[arg-type]
    assert [parse_event(line) for line in lines] == ([event] if data or code == "m" else [])


@pytest.mark.parametrize(
    "line",
    [
        b'[1.0, "o", "no end"]',
        b"\n",
        b"\0\0\0\0\n",
        b'{"version": 2}\n',
        b'[1.0, "o"]\n',
        b'[1.0, "o", "a", "b"]\n',
        b'["1.0", "o", "a"]\n',
        b'[-1.0, "o", "a"]\n',
        b'[NaN, "o", "a"]\n',
        b'[Infinity, "o", "a"]\n',
        b"[1" + b"0" * 400 + b', "o", "a"]\n',
        b'[1.0, "o", 7]\n',
        b'[1.0, "o", "\xff"]\n',
        b"[" * 100_000 + b"\n",
        b'[1.0, "o", "' + b"a" * MAX_LINE + b'"]\n',
    ],
)
def test_what_is_no_event(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_event(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"version": 1, "width": 80, "height": 24}\n',
        b'{"version": 2, "width": "80", "height": 24}\n',
        b'{"version": 2, "width": 80}\n',
        b'{"version": 2, "width": NaN, "height": 24}\n',
        b"[]\n",
        b"PK\x03\x04\n",
    ],
)
def test_what_is_no_header(line: bytes) -> None:
    with pytest.raises(FormatError):
        parse_header(line)


def test_asciinema_shows_the_same(tmp_path: Path) -> None:
    """The format's own program reads what we write."""
    data = "ls \x1b[1mä\x1b[0m\r\n".encode() + os.urandom(1000)
    pieces = cut(data, [3, 9, 10, 500])
    path = tmp_path / "one.cast"
    path.write_bytes(
        encoded((0.5, "r", b"90x30"), *((1.0, "o", each) for each in pieces), (2.0, "m", b"end"))
    )
    command = [sys.executable, "-m", "asciinema", "cat", str(path)]
    shown = subprocess.run(
        command, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, timeout=60, check=True
    )
    assert shown.stdout.decode().replace("\r\n", "\n") == data.decode("utf-8", "replace").replace(
        "\r\n", "\n"
    )
