import contextlib
import json
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.output import BREAK, BROKEN_MARKER, MARKER, OutputEncoder

# What is made of these pieces hits the rules more often than random bytes do.
PIECES = st.sampled_from(
    [
        *(MARKER[:cut].encode() for cut in range(1, len(MARKER) + 1)),
        *(MARKER[cut:].encode() for cut in range(1, len(MARKER))),
        b"\x00",
        b"\x00\x00" + MARKER.encode(),
        b'{"type":"hello"}',
        "€".encode(),
        "€".encode()[:2],
        "😀".encode(),
        "😀".encode()[:3],
        b"\x80",
        b"\xff",
        b"\xed\xa0\x80",
        b" ",
        b"\r\n",
        b"\x1b[m",
        b"x",
    ]
)
STREAMS = st.lists(PIECES | st.binary(max_size=4), max_size=12).map(b"".join)


def reference(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\x00", "").replace(MARKER, BROKEN_MARKER)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(STREAMS, st.lists(st.integers(0, 6), max_size=20))
def test_frames_joined_are_the_same_however_output_is_cut(data: bytes, sizes: list[int]) -> None:
    encoder = OutputEncoder()
    frames = [encoder.encode(piece) for piece in cut(data, sizes)]
    assert encoder.pending <= 3
    frames.append(encoder.flush())
    assert encoder.pending == 0
    assert "".join(frames) == reference(data)
    assert MARKER not in "".join(frames)
    for frame in frames:
        assert "\x00" not in frame
        frame.encode()


@given(STREAMS, st.sets(st.integers(0, 40)))
def test_nothing_is_forged_across_flushes(data: bytes, flushes: set[int]) -> None:
    encoder = OutputEncoder()
    shown = ""
    for number, byte in enumerate(data):
        shown += encoder.encode(bytes([byte]))
        if number in flushes:
            shown += encoder.flush()
    shown += encoder.flush()
    assert MARKER not in shown
    assert "\x00" not in shown


@given(STREAMS, st.lists(st.integers(0, 6), max_size=20))
def test_only_the_marker_and_nul_are_touched(data: bytes, sizes: list[int]) -> None:
    encoder = OutputEncoder()
    shown = "".join(encoder.encode(piece) for piece in cut(data, sizes)) + encoder.flush()
    assert shown.replace(BREAK, "") == data.decode("utf-8", "replace").replace("\x00", "").replace(BREAK, "")


@pytest.mark.parametrize("size", range(1, 14))
def test_a_marker_is_broken_at_every_size_of_piece(size: int) -> None:
    data = b"x\x00\x00ABLY_CTRL:{}ABLY_CTABLY_CTRL:ABLY_CTRL\x00:y"
    encoder = OutputEncoder()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    shown = "".join(encoder.encode(piece) for piece in pieces)
    assert shown == "xABLY_CTRL\x16:{}ABLY_CTABLY_CTRL\x16:ABLY_CTRL\x16:y"


def test_code_points_arrive_whole() -> None:
    encoder = OutputEncoder()
    frames = [encoder.encode(bytes([byte])) for byte in "a€😀b".encode()]
    assert [frame for frame in frames if frame] == ["a", "€", "😀", "b"]
    assert encoder.encode("€".encode()[:2]) == ""
    assert encoder.pending == 2
    assert repr(encoder) == "<OutputEncoder pending=2>"
    assert encoder.flush() == "\ufffd"
    assert encoder.encode("€".encode()) == "€"


def test_text_without_oddities_is_left_alone() -> None:
    encoder = OutputEncoder()
    text = "\x1b[1mżółć\x1b[m\r\nABLY_CTRL without a colon, {json}\x07\x7f"
    assert encoder.encode(text.encode()) == text
    assert encoder.encode(b"\x00\x00") == ""
    assert encoder.flush() == ""


@given(STREAMS, st.lists(st.integers(0, 20), max_size=8))
def test_plain_control_messages_cannot_be_forged(data: bytes, sizes: list[int]) -> None:
    encoder = OutputEncoder(plain=True)
    for piece in cut(data, sizes):
        frame = encoder.encode(piece)
        with contextlib.suppress(ValueError):
            assert not isinstance(json.loads(frame), dict)


def test_plain_frames_that_look_like_objects_are_marked() -> None:
    encoder = OutputEncoder(plain=True)
    assert encoder.encode(b' \r\n{"type":"hello"}') == '\x16 \r\n{"type":"hello"}'
    assert encoder.encode(b"x{}") == "x{}"


@pytest.mark.parametrize(
    "piece", [b"A", b"ABLY_CTRL", b"ABLY_CTRL:", b"\x00", b"\xff", b"\xf0\x9f\x98", b"ABLY_\x00CTRL:", b" "]
)
@pytest.mark.parametrize("plain", [False, True])
def test_time_is_linear(piece: bytes, plain: bool) -> None:
    def spent(size: int) -> float:
        data = piece * (size // len(piece))
        best = float("inf")
        for _ in range(3):
            encoder = OutputEncoder(plain=plain)
            start = time.process_time()
            encoder.encode(data)
            encoder.encode(data)
            best = min(best, time.process_time() - start)
        return best

    assert spent(1 << 20) < 16 * max(
        spent(1 << 18), 0.002
    )  # four times the size; quadratic would be 16 times


def test_one_byte_pieces_cost_no_more_at_the_end_of_a_long_stream() -> None:
    encoder = OutputEncoder()
    first, last = 0.0, 0.0
    for number in range(40_000):
        start = time.perf_counter()
        encoder.encode(b"ABLY_CTRL:"[number % 10 : number % 10 + 1])
        if number < 10_000:
            first += time.perf_counter() - start
        elif number >= 30_000:
            last += time.perf_counter() - start
    assert last < 5 * first
