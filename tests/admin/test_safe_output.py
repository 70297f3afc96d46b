"""What a session wrote does nothing to an operator's terminal, in whatever pieces it comes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admin.safe_output import DRAWING_MODES, RESTORE, SafeOutput
from supervisor.protocol.replay import sanitize_replay

HOSTILE = [
    b"\x1b]52;c;ZXZpbA==\x07",
    b"\x1b]52;c;ZXZpbA==\x1b\\",
    b"\x9d52;c;ZXZpbA==\x9c",
    "\x9d52;c;ZXZpbA==\x9c".encode(),
    b"\x1b[c",
    b"\x1b[6n",
    b"\x1b[>q",
    b"\x1b[21t",
    b"\x1b[5i",
    b"\x1bP+q544e\x1b\\",
    b"\x1bP$qm\x1b\\",
    b"\x1b]10;?\x07",
    b"\x05",
    b"\x07",
    b"\x1bZ",
    b"\x1b[?1000h",
    b"\x1b[?1003;1006h",
    b"\x1b[?1;2004;9001h",
    b"\x1b[>1u",
    b"\x1b[>4;2m",
    b"\x1b=",
]
HARMLESS = [b"text", "größer".encode(), b"\x1b[31m", b"\x1b[2J\x1b[H", b"\x1b[?25l", b"\x1b[?1049h", b"\r\n"]


def shown(*pieces: bytes) -> bytes:
    safe = SafeOutput()
    return b"".join(map(safe.feed, pieces))


def test_in_pieces() -> None:
    output = shown(b"a\x1b]52;c;", b"eA==\x07b\x1b[", b"6nc\xc3", b"\xa4\x1b[31md")
    assert b"52;" not in output
    assert b"6n" not in output
    assert re.sub(rb"\x1b\[[0-9;]*m", b"", output) == "abcäd".encode()


@pytest.mark.parametrize("sequence", HOSTILE)
def test_alone(sequence: bytes) -> None:
    assert b"\x1b" not in shown(b"<" + sequence + b">")


@pytest.mark.parametrize("sequence", HARMLESS)
def test_what_draws_stays(sequence: bytes) -> None:
    assert shown(sequence) == sequence


def test_modes_of_a_list_are_told_apart() -> None:
    assert shown(b"\x1b[?1000;25;2004;7h") == b"\x1b[?25;7h"


@given(
    st.lists(st.one_of(st.sampled_from(HOSTILE + HARMLESS), st.binary(max_size=9))),
    st.lists(st.integers(1, 40)),
)
def test_nothing_that_acts_comes_through_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    data, pieces = b"".join(parts), []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    output = shown(*pieces, data)
    again = sanitize_replay(output, trimmed=False)
    assert output.startswith(again.data), "it has nothing that is to be taken out of history"
    assert {
        int(mode) for each in re.findall(rb"\x1b\[\?([0-9;]+)[hl]", output) for mode in each.split(b";")
    } <= (DRAWING_MODES)
    assert not re.search(rb"\x1b\[[<>=]|\x1b[=>]|\x1b\]52", output)


def test_everything_is_restored() -> None:
    assert sanitize_replay(RESTORE, trimmed=False).data == RESTORE.removeprefix(b"\x1b\\")
    undone = {
        int(mode) for each in re.findall(rb"\x1b\[\?([0-9;]+)[hl]", RESTORE) for mode in each.split(b";")
    }
    assert undone == DRAWING_MODES - {47, 1047, 1048}, "1049 is these three"
