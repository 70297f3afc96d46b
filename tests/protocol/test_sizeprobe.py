import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.sizeprobe import DEADLINE, HOLD, REQUEST, SizeProbe

ANSWER = b"\x1b[43;132R"
SIZE = (132, 43)


def test_the_question() -> None:
    assert REQUEST == b"\x1b7\x1b[999;999H\x1b[6n\x1b8"


def test_the_answer_alone() -> None:
    probe = SizeProbe(now=0)
    assert probe.waiting(0.1)
    assert probe.feed(ANSWER, 0.1) == (b"", SIZE)
    assert not probe.waiting(0.1)
    assert probe.held_until is None


def test_exactly_one_answer_is_taken() -> None:
    probe = SizeProbe(now=0)
    assert probe.feed(b"a" + ANSWER + ANSWER + b"b", 0.1) == (b"a" + ANSWER + b"b", SIZE)
    assert probe.feed(ANSWER, 0.2) == (ANSWER, None)


def test_a_late_answer_is_somebody_elses() -> None:
    probe = SizeProbe(now=10)
    assert probe.feed(ANSWER, 10 + DEADLINE) == (ANSWER, None)
    assert not probe.waiting(10 + DEADLINE)


def test_what_is_held_at_the_deadline_is_not_lost() -> None:
    probe = SizeProbe(now=0)
    assert probe.feed(b"x" + ANSWER[:4], DEADLINE - 0.01) == (b"x", None)
    assert probe.feed(ANSWER[4:], DEADLINE + 0.01) == (ANSWER, None)
    assert probe.held_until is None


@pytest.mark.parametrize("answer", [b"\x1b[0;0R", b"\x1b[24;1001R", b"\x1b[99999;80R", b"\x1b[00000;00000R"])
def test_impossible_sizes_are_taken_and_not_used(answer: bytes) -> None:
    probe = SizeProbe(now=0)
    assert probe.feed(b"a" + answer + b"b", 0.1) == (b"ab", None)
    assert not probe.waiting(0.1)


@pytest.mark.parametrize(
    "keys",
    [
        b"",
        b"ls\r",
        b"\x1b[A\x1b[B",
        b"\x1bOP",
        b"\x1b[15~",
        b"\x1b[1;5C",
        b"\x1b\x1b",
        b"\x1b[?1;2c",
        b"\x1b[123456;1R",
        b"\x1b[;R",
        b"\x1b[1R",
        b"\x1b[R",
        b"\x1b[I",
        b"\xc3\xa4",
    ],
)
def test_other_input_passes(keys: bytes) -> None:
    probe = SizeProbe(now=0)
    passed, size = probe.feed(keys + b"x", 0.1)
    assert (passed, size) == (keys + b"x", None)
    assert probe.waiting(0.1)


def test_a_lone_escape_key_is_held_for_a_moment_only() -> None:
    probe = SizeProbe(now=0)
    assert probe.feed(b"\x1b", 1.0) == (b"", None)
    assert probe.held_until == 1.0 + HOLD
    assert repr(probe) == "<SizeProbe answered=False held=1>"
    assert [probe.release(), probe.release()] == [b"\x1b", b""]
    # A second key shows that the first was none of the answer.
    assert probe.feed(b"\x1b", 1.2) == (b"", None)
    assert probe.feed(b":q", 1.21) == (b"\x1b:q", None)
    assert probe.feed(ANSWER, 1.3) == (b"", SIZE)


@pytest.mark.parametrize("cut", range(1, len(ANSWER)))
def test_the_answer_in_two_messages_between_keys(cut: int) -> None:
    probe = SizeProbe(now=0)
    first, none = probe.feed(b"ls" + ANSWER[:cut], 0.1)
    second, size = probe.feed(ANSWER[cut:] + b"\r", 0.11)
    assert (first, none, second, size) == (b"ls", None, b"\r", SIZE)


def test_the_answer_byte_by_byte() -> None:
    probe = SizeProbe(now=0)
    fed = [probe.feed(bytes([byte]), 0.1 + number / 1000) for number, byte in enumerate(ANSWER)]
    assert fed == [(b"", None)] * (len(ANSWER) - 1) + [(b"", SIZE)]


KEYS = st.lists(
    st.sampled_from(
        [b"a", b"\x1b", b"[", b"1", b";", b"R", b"\x1b[A", b"\x1b[1;2R"[:5], b"\r", b"\xe2\x82\xac"]
    ),
    max_size=8,
).map(b"".join)


@given(KEYS, KEYS, st.lists(st.integers(1, 6), max_size=30), st.lists(st.floats(0, 0.2), min_size=31))
def test_nothing_is_lost_and_order_is_kept(
    before: bytes, after: bytes, sizes: list[int], pauses: list[float]
) -> None:
    stream, passed, sizes_seen = before + b"x" + ANSWER + after, b"", []
    probe, now = SizeProbe(now=0), 0.0
    pieces, at = [], 0
    for size in [*sizes, len(stream)]:
        pieces.append(stream[at : at + size])
        at += size
    for piece, pause in itertools.zip_longest(pieces, pauses[: len(pieces)], fillvalue=0.0):
        now += float(pause)
        if probe.held_until is not None and now >= probe.held_until:
            passed += probe.release()
        assert isinstance(piece, bytes)
        rest, seen = probe.feed(piece, now)
        passed += rest
        if seen is not None:
            sizes_seen.append(seen)
    passed += probe.release()
    # Either one answer was taken out, wherever it stood, or none and everything passed.
    if sizes_seen:
        assert len(sizes_seen) == 1
        assert len(stream) - len(passed) in range(6, 15)
    else:
        assert passed == stream or stream.replace(b"\x1b[1;2R", b"", 1) == passed


def test_a_paste_of_a_megabyte_passes_quickly_and_whole() -> None:
    paste = b"\x1b[12;" * 200_000
    probe = SizeProbe(now=0)
    passed, size = probe.feed(paste, 0.1)
    assert size is None
    assert passed + probe.release() == paste
