import time

import pytest

from supervisor.protocol.answers import is_automatic

ANSWERS = {
    "cursor position": b"\x1b[24;80R",
    "extended cursor position": b"\x1b[?24;80;1R",
    "status": b"\x1b[0n",
    "printer": b"\x1b[?13n",
    "colour scheme": b"\x1b[?997;1n",
    "DA1": b"\x1b[?1;2c",
    "DA1 of a modern terminal": b"\x1b[?62;1;2;6;7;8;9;15;18;21;44;45;46c",
    "DA2": b"\x1b[>0;276;0c",
    "DA3": b"\x1bP!|00000000\x1b\\",
    "VT52": b"\x1b/Z",
    "DECRPM": b"\x1b[?2026;2$y",
    "DECRPM ANSI": b"\x1b[4;2$y",
    "DECREPTPARM": b"\x1b[2;1;1;128;128;1;0x",
    "XTVERSION": b"\x1bP>|xterm.js(5.5.0)\x1b\\",
    "DECRQSS": b"\x1bP1$r0m\x1b\\",
    "XTGETTCAP": b"\x1bP1+r544e=787465726d\x1b\\",
    "DECRQCRA": b"\x1bP1!~FFFF\x1b\\",
    "colour": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
    "palette": b"\x1b]4;1;rgb:cd/00/00\x07",
    "clipboard": b"\x1b]52;c;aGVsbG8=\x07",
    "title": b"\x1b]lany text\x1b\\",
    "window": b"\x1b[8;24;80t",
    "resized": b"\x1b[48;24;80;480;800t",
    "focus in": b"\x1b[I",
    "focus out": b"\x1b[O",
    "kitty keyboard": b"\x1b[?5u",
    "kitty graphics": b"\x1b_Gi=1;OK\x1b\\",
    "modifyOtherKeys": b"\x1b[>4;2m",
}
TYPED = {
    "a letter": b"a",
    "Enter": b"\r",
    "Escape": b"\x1b",
    "Escape twice": b"\x1b\x1b",
    "Up": b"\x1b[A",
    "Up, application": b"\x1bOA",
    "Alt-O": b"\x1bO",
    "Alt-[": b"\x1b[",
    "F5": b"\x1b[15~",
    "F3": b"\x1bOR",
    "Ctrl-Right": b"\x1b[1;5C",
    "kitty key": b"\x1b[97;5u",
    "modifyOtherKeys key": b"\x1b[27;5;9~",
    "paste": b"\x1b[200~text\x1b[201~",
    "mouse, SGR": b"\x1b[<0;10;20M",
    "mouse released": b"\x1b[<0;10;20m",
    "mouse, X10": b"\x1b[M !!",
    "Unicode": "ä".encode(),
    "NUL": b"\x00",
    "an answer without its end": b"\x1b[24;80",
    "an open string": b"\x1bP>|xterm",
    "Alt-]": b"\x1b]",
}


@pytest.mark.parametrize("data", ANSWERS.values(), ids=ANSWERS)
def test_answers(data: bytes) -> None:
    assert is_automatic(data)


@pytest.mark.parametrize("data", TYPED.values(), ids=TYPED)
def test_typed(data: bytes) -> None:
    assert not is_automatic(data)
    for answer in ANSWERS.values():
        assert not is_automatic(answer + data)
        assert not is_automatic(data + answer) or data == b"\x1bP>|xterm"


def test_several_answers_and_none() -> None:
    assert is_automatic(b"".join(ANSWERS.values()))
    assert is_automatic(b"")


@pytest.mark.parametrize(
    "piece", [b"\x1b[24;80R", b"\x1bP", b"\x1b]", b"\x1bPx", b"\x1b[1;", b"\x1b[1", b"a"]
)
def test_time_is_linear(piece: bytes) -> None:
    def spent(size: int) -> float:
        data = piece * (size // len(piece))
        times = []
        for _ in range(3):
            start = time.process_time()
            is_automatic(data)
            times.append(time.process_time() - start)
        return min(times)

    assert spent(1 << 20) < 24 * max(spent(1 << 17), 0.001)
