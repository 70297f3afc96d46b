"""Replays, held against a terminal's parser written apart from the module under test: one character at a
time, 8-bit controls included, as the VT500 state diagram and xterm.js have it."""

import random
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.protocol.replay import LINE_SEARCH, MAX_STRING, MAX_TAIL, sanitize_replay


@attrs.define
class Parser:
    """What a terminal understands: `did` is a list of (what, details…), `text` what it printed."""

    did: list[tuple[str, ...]] = attrs.field(factory=list)
    text: str = ""
    state: str = "ground"
    collected: str = ""
    kind: str = ""

    def feed(self, data: str) -> "Parser":
        for character in data:
            self._step(character)
        return self

    def _step(self, c: str) -> None:
        code = ord(c)
        if c == "\x1b":
            if self.state in ("osc", "string"):
                self._end_string()
            self.state, self.collected = "escape", ""
        elif c in "\x18\x1a":
            self.state = "ground"
        elif 0x80 <= code < 0xA0:
            if self.state in ("osc", "string") and code == 0x9C:
                self._end_string()
            self.state, self.collected = "escape", ""
            self._escape(chr(code - 0x40))
        elif self.state == "osc":
            if c == "\x07":
                self._end_string()
                self.state = "ground"
            elif code >= 0x20:
                self.collected += c
        elif self.state == "string":
            self.collected += c
        elif code < 0x20 or code == 0x7F:
            self.did.append(("control", c))
        elif self.state == "ground":
            self.text += c
        elif code >= 0xA0:
            self.state = "ground"
            self.text += c
        elif self.state == "escape":
            self._escape(c)
        elif code >= 0x40:
            self.did.append(("csi", self.collected, c))
            self.state = "ground"
        else:
            self.collected += c

    def _escape(self, c: str) -> None:
        if not self.collected and c in "[]PX^_":
            self.state = {"[": "csi", "]": "osc"}.get(c, "string")
            self.kind = c
        elif ord(c) < 0x30:
            self.collected += c
        else:
            self.did.append(("escape", self.collected, c))
            self.state = "ground"

    def _end_string(self) -> None:
        self.did.append(("osc" if self.state == "osc" else "string", self.kind, self.collected))


def harm(did: tuple[str, ...]) -> str | None:
    """Say what is wrong with replaying this; None when it only draws."""
    match did:
        case ("control", c):
            return None if c in "\b\t\n\v\f\r\x0e\x0f" else "control"
        case ("escape", intermediates, final):
            if final == "Z" or intermediates[:1] in ("%", " "):
                return "escape"
        case ("string", _, _):
            return "string"
        case ("osc", _, body):
            number = body.split(";")[0]
            if not number.isdigit() or int(number) not in {
                0,
                1,
                2,
                4,
                5,
                8,
                *range(10, 20),
                104,
                105,
                *range(110, 120),
            }:
                return "command"
            if int(number) not in {0, 1, 2, 8} and "?" in body:
                return "colour query"
        case ("csi", body, final):
            if final in "ciy" or (final == "x" and not body.endswith(("$", "*"))):
                return "query"
            if final == "n" and not body.startswith(">"):
                return "query"
            if final in "qtpw|" and not body.endswith((" ", '"', "$", "#", "!")):
                return "query or window"
            if body.endswith("$") and final in "puwyW|":
                return "query"
            if body.startswith("?") and final in "unmsr":
                return "query"
            if body.endswith(("*", "#")) and final in "y|":
                return "query"
            if final in "hl":
                marker = "?" if body.startswith("?") else ""
                modes = {int(mode) for mode in body.lstrip("?").split(";") if mode.isdigit()}
                if modes & {"": {2}, "?": {2, 3, 1004, 2031, 2048}}[marker]:
                    return "mode"
    return None


def parse(data: bytes) -> Parser:
    return Parser().feed(data.decode("utf-8", "replace"))


def assert_harmless(data: bytes) -> None:
    for did in parse(data).did:
        assert harm(did) is None, did


LEFT_OUT = {
    "DA1": "\x1b[c",
    "DA1 with 0": "\x1b[0c",
    "DA2": "\x1b[>c",
    "DA3": "\x1b[=c",
    "DECID": "\x1bZ",
    "DSR status": "\x1b[5n",
    "DSR cursor": "\x1b[6n",
    "DECXCPR": "\x1b[?6n",
    "DSR printer": "\x1b[?15n",
    "DSR colour scheme": "\x1b[?996n",
    "DECRQM ANSI": "\x1b[4$p",
    "DECRQM private": "\x1b[?2026$p",
    "DECREQTPARM": "\x1b[x",
    "DECRQTSR": "\x1b[1$u",
    "DECRQPSR": "\x1b[1$w",
    "DECRQCRA": "\x1b[1;1;1;1;10;10*y",
    "DECTST": "\x1b[4;1y",
    "XTVERSION": "\x1b[>q",
    "XTQMODKEYS": "\x1b[?4m",
    "XTREPORTSGR": "\x1b[1;1;5;5#|",
    "XTSMGRAPHICS": "\x1b[?1;1;0S",
    "kitty keyboard query": "\x1b[?u",
    "report of the window": "\x1b[18t",
    "report of the title": "\x1b[21t",
    "resize": "\x1b[8;50;100t",
    "iconify": "\x1b[2t",
    "DECSLPP": "\x1b[36t",
    "DECSCPP": "\x1b[132$|",
    "DECSNLS": "\x1b[50*|",
    "DECCOLM": "\x1b[?3h",
    "DECANM": "\x1b[?2l",
    "keyboard lock": "\x1b[2h",
    "focus reports": "\x1b[?1004h",
    "highlight tracking": "\x1b[?1001h",
    "highlight range": "\x1b[1;1;1;1;1T",
    "colour scheme reports": "\x1b[?2031h",
    "size reports": "\x1b[?2048h",
    "only modes that are left out": "\x1b[?1004;2048;02h",
    "print": "\x1b[i",
    "auto print": "\x1b[?5i",
    "DECLL": "\x1b[2q",
    "DECELR": "\x1b[1;1'z",
    "DECRQLP": "\x1b['|",
    "DECSCL": '\x1b[61;1"p',
    "S8C1T": "\x1b G",
    "out of UTF-8": "\x1b%@",
    "ENQ": "\x05",
    "BEL": "\x07",
    "NUL": "\x00",
    "DEL": "\x7f",
    "DECRQSS": "\x1bP$qm\x1b\\",
    "XTGETTCAP": "\x1bP+q544e\x1b\\",
    "DECUDK": "\x1bP0;1|17/6c73\x1b\\",
    "tmux passthrough": "\x1bPtmux;\x1b\x1b[c\x1b\\",
    "sixel": "\x1bPq#0;2;0;0;0~\x1b\\",
    "APC": "\x1b_Ga=q,i=1;AAAA\x1b\\",
    "PM": "\x1b^private\x1b\\",
    "SOS": "\x1bXstring\x1b\\",
    "OSC 52 set": "\x1b]52;c;aGVsbG8=\x07",
    "OSC 52 get": "\x1b]52;c;?\x1b\\",
    "OSC 4 query": "\x1b]4;1;?\x07",
    "OSC 4 query among settings": "\x1b]4;1;rgb:0/0/0;2;?\x07",
    "OSC 10 query": "\x1b]10;?\x07",
    "OSC 11 query": "\x1b]11;?\x1b\\",
    "OSC 12 query": "\x1b]12;?\x9c",
    "OSC 7": "\x1b]7;file:///x\x07",
    "OSC 9": "\x1b]9;ding\x07",
    "OSC 50": "\x1b]50;?\x07",
    "OSC 99": "\x1b]99;;ding\x1b\\",
    "OSC 777": "\x1b]777;notify;a;b\x07",
    "OSC 1337": "\x1b]1337;File=:AAAA\x07",
    "OSC 633": "\x1b]633;A\x07",
    "OSC without number": "\x1b]hello\x07",
    "OSC l": "\x1b]l;x\x07",
    "OSC with a long number": "\x1b]00000000000052;c;x\x07",
    "a cancelled title": "\x1b]0;title\x18",
    "a long title": f"\x1b]0;{'x' * MAX_STRING}\x07",
    "8-bit DA": "\x9bc",
    "8-bit DECID": "\x9a",
    "8-bit DCS": "\x90$qm\x9c",
    "8-bit OSC": "\x9d52;c;?\x9c",
    "8-bit APC": "\x9fx\x9c",
    "ST": "\x1b\\",
    "8-bit ST": "\x9c",
    "a control inside": "\x1b[\x006\x7fn",
    "a control before the bracket": "\x1b\x05[c",
    "ESC twice": "\x1b\x1b[c",
    "cut by ESC": "\x1b[1;\x1b[c",
    "cancelled": "\x1b[6\x18",
    "substituted": "\x1b[6\x1a",
    "parameters in no order": "\x1b[1?25h",
    "unknown": "\x1b[1{",
    "unknown marker": "\x1b[<1m",
    "many parameters": "\x1b[" + "1;" * 300 + "m",
}

# Sequences that are kept, and in which form when it is another one.
KEPT = {
    "SGR": "\x1b[1;38;5;120m",
    "SGR with colons": "\x1b[4:3m",
    "SGR reset": "\x1b[m",
    "cursor": "\x1b[12;40H\x1b[A\x1b[2B\x1b[3C\x1b[4D\x1b[G\x1b[5d\x1b[6`\x1b[a\x1b[e",
    "erase": "\x1b[J\x1b[2J\x1b[3J\x1b[K\x1b[1K\x1b[X\x1b[?J\x1b[?K",
    "insert and delete": "\x1b[@\x1b[P\x1b[L\x1b[M\x1b[b",
    "scroll": "\x1b[S\x1b[T\x1b[2T\x1b[1;20r\x1bM\x1bD\x1bE",
    "tabs": "\x1bH\x1b[g\x1b[3g\x1b[I\x1b[Z\x1b[?5W",
    "save and restore": "\x1b7\x1b8\x1b[s\x1b[u",
    "keypad": "\x1b=\x1b>",
    "reset": "\x1bc\x1b[!p",
    "cursor shape": "\x1b[4 q",
    "protected": '\x1b[1"q',
    "rectangles": "\x1b[1;1;5;5$z\x1b[65;1;1;5;5$x\x1b[2*x",
    "columns": "\x1b[2'}\x1b[2'~",
    "modes": "\x1b[?25l\x1b[?25h\x1b[?1049h\x1b[?1l\x1b[?2004h\x1b[?1000;1006h\x1b[4h\x1b[20l\x1b[?69h",
    "keyboard": "\x1b[>1u\x1b[<u\x1b[=1;2u\x1b[>4;2m",
    "character sets": "\x1b(B\x1b)0\x1b(>\x0e\x0f\x1bn",
    "line size": "\x1b#6\x1b#8",
    "moves": "a\b\t\v\f\r\n",
    "Unicode": "żółć 漢字 😀 \u00a0",
}
REWRITTEN = {
    "title by BEL": ("\x1b]0;title?\x07", "\x1b]0;title?\x1b\\"),
    "title by ST": ("\x1b]2;ö\x1b\\", "\x1b]2;ö\x1b\\"),
    "title by 8-bit ST": ("\x1b]2;t\x9c", "\x1b]2;t\x1b\\"),
    "title with controls": ("\x1b]2;a\x05\nb\x7f\x07", "\x1b]2;ab\x1b\\"),
    "link": ("\x1b]8;id=1;http://x/?a=b\x07x\x1b]8;;\x07", "\x1b]8;id=1;http://x/?a=b\x1b\\x\x1b]8;;\x1b\\"),
    "colours": (
        "\x1b]4;1;#fff\x07\x1b]11;#000\x07\x1b]104\x07",
        "\x1b]4;1;#fff\x1b\\\x1b]11;#000\x1b\\\x1b]104\x1b\\",
    ),
    "some modes": ("\x1b[?1004;25;3h", "\x1b[?25h"),
    "8-bit CSI": ("\x9b1m", "\x1b[1m"),
    "8-bit NEL, IND, RI, HTS": ("\x85\x84\x8d\x88", "\x1bE\x1bD\x1bM\x1bH"),
    "8-bit OSC": ("\x9d0;t\x9c", "\x1b]0;t\x1b\\"),
    "a new line inside": ("\x1b[3\n1m", "\n\x1b[31m"),
    "a return before the bracket": ("\x1b\r[1m", "\r\x1b[1m"),
    "a tab inside an escape": ("\x1b(\tB", "\t\x1b(B"),
    "a new line in what is left out": ("\x1b[6\nn", "\n"),
    "cut by a letter that is none": ("\x1b[1ö", "ö"),
}


@pytest.mark.parametrize("sequence", LEFT_OUT.values(), ids=LEFT_OUT)
def test_left_out(sequence: str) -> None:
    assert sanitize_replay(f"before{sequence}after".encode(), trimmed=False).data == b"beforeafter"


@pytest.mark.parametrize("sequence", KEPT.values(), ids=KEPT)
def test_kept(sequence: str) -> None:
    data = f"before{sequence}after".encode()
    assert sanitize_replay(data, trimmed=False) == (data, len(data))


@pytest.mark.parametrize(("sequence", "form"), REWRITTEN.values(), ids=REWRITTEN)
def test_rewritten(sequence: str, form: str) -> None:
    assert (
        sanitize_replay(f"before{sequence}after".encode(), trimmed=False).data
        == f"before{form}after".encode()
    )


EVERYTHING = "".join(
    f"<{sequence}>"
    for sequence in [*LEFT_OUT.values(), *KEPT.values(), *(pair[0] for pair in REWRITTEN.values())]
).encode()


def test_history_cut_anywhere_goes_on_seamlessly() -> None:
    whole = parse(EVERYTHING).text
    # The two long entries are looked at in steps; all others at each byte.
    cuts = [
        cut
        for cut in range(len(EVERYTHING) + 1)
        if EVERYTHING[cut - 2 : cut + 2] not in (b"xxxx", b"1;1;", b";1;1")
    ]
    assert len(cuts) > 1200
    for cut in cuts:
        replay = sanitize_replay(EVERYTHING[:cut], trimmed=False)
        assert_harmless(replay.data)
        assert cut - MAX_TAIL - 3 <= replay.live_offset <= cut
        seen = parse(replay.data + EVERYTHING[replay.live_offset :]).text
        # A cut in a sequence with controls inside shows the rest of it, at most.
        assert seen == whole or any(
            control in EVERYTHING[cut - 6 : cut] for control in b"\x00\x05\x7f\r\n\t\x18\x1a"
        ), cut


PIECES = st.sampled_from(
    [
        *LEFT_OUT.values(),
        *KEPT.values(),
        *(pair[0] for pair in REWRITTEN.values()),
        *"\x1b[]P_^X\\?>=<!$ '\"*#;:0129cnqtuhlmpxyzZ%\x00\x05\x07\n\x18\x7f\x80\x90\x9b\x9c\x9d\xa0€",
    ]
).map(str.encode)
HISTORIES = st.lists(
    PIECES | st.binary(max_size=3) | st.sampled_from([b"\xc2", b"\x9b", b"\xe2\x82"]), max_size=14
)


@given(HISTORIES.map(b"".join), st.booleans())
def test_a_replay_never_acts(history: bytes, trimmed: bool) -> None:
    replay = sanitize_replay(history, trimmed=trimmed)
    assert_harmless(replay.data)
    assert 0 <= replay.live_offset <= len(history)
    replay.data.decode()


@given(HISTORIES.map(b"".join))
def test_a_replay_shows_the_same_text(history: bytes) -> None:
    replay = sanitize_replay(history, trimmed=False)
    live = history[replay.live_offset :]
    # Bytes that are not UTF-8 show as U+FFFD either way, but how many of them depends on where the decoder
    # starts.
    assert parse(replay.data + live).text.replace("\ufffd", "") == parse(history).text.replace("\ufffd", "")


@given(HISTORIES.map(b"".join))
def test_a_replay_of_a_replay_is_the_same(history: bytes) -> None:
    once = sanitize_replay(history, trimmed=False).data
    again = sanitize_replay(once, trimmed=False)
    if again.live_offset == len(once):
        assert again.data == once


@given(HISTORIES.map(b"".join), HISTORIES.map(b"".join))
def test_what_is_left_out_joins_nothing(first: bytes, second: bytes) -> None:
    """A finished history's replay does not depend on what follows."""
    ended = first + b"\x18"
    alone = sanitize_replay(ended, trimmed=False)
    assert alone.live_offset == len(ended)
    together = sanitize_replay(ended + second, trimmed=False)
    assert together.data == alone.data + sanitize_replay(second, trimmed=False).data


@pytest.mark.parametrize(
    ("history", "shown", "live"),
    [
        (b"ab\x1b", b"ab", 2),
        (b"ab\x1b[", b"ab", 2),
        (b"ab\x1b[38;5", b"ab", 2),
        (b"ab\x1b(", b"ab", 2),
        (b"ab\x1b]0;title", b"ab", 2),
        (b"ab\x1b]0;title\x1b", b"ab", 2),
        (b"ab\x1bP$q", b"ab", 2),
        (b"ab\xc2\x9b1", b"ab", 2),
        (b"ab\xe2\x82", b"ab", 2),
        (b"ab\x1b]0;\xe2\x82", b"ab", 2),
        (b"ab\x1b[1m\xf0\x9f\x98", b"ab\x1b[1m", 6),
        (b"ab\xc2", b"ab", 2),
    ],
)
def test_unfinished_sequences_are_left_to_live_output(history: bytes, shown: bytes, live: int) -> None:
    assert sanitize_replay(history, trimmed=False) == (shown, live)


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        (b"ab\x1b]1337;File=:" + b"A" * MAX_TAIL, b"ab\x1b]999;"),
        (b"ab\x1bPq" + b"~" * MAX_TAIL, b"ab\x1bX"),
        (b"ab\x1b_Ga=T;" + b"A" * MAX_TAIL, b"ab\x1bX"),
        (b"ab\x1b]0;with\x05control", b"ab\x1b]999;"),
        (b"ab\x1bPwith\x05control", b"ab\x1bX"),
        (b"ab\x1b[3\x051", b"ab"),
    ],
)
def test_unfinished_history_that_is_unsafe_is_not_shown_again(history: bytes, shown: bytes) -> None:
    assert sanitize_replay(history, trimmed=False) == (shown, len(history))


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        (b"8;5;1mtail of a line\nnext\n", b"next\n"),
        (b"\x82\xacrest\nnext", b"next"),
        (b";40H\x1b[2Jno new line", b"\x1b[2Jno new line"),
        (b"\x82\xacno place at all", b"no place at all"),
        (b"\x82\x82\x82\x82", b"\xef\xbf\xbd"),
        (b"", b""),
        (b"\n", b""),
        (b"x" * LINE_SEARCH + b"\x1b[mfull screen\nnext", b"\x1b[mfull screen\nnext"),
    ],
)
def test_a_trimmed_history_starts_where_the_parser_knows_its_state(history: bytes, shown: bytes) -> None:
    assert sanitize_replay(history, trimmed=True) == (shown, len(history))


def test_offsets_count_from_the_untrimmed_start() -> None:
    history = b"cut\nshown\x1b[3"
    assert sanitize_replay(history, trimmed=True) == (b"shown", 9)


TYPICAL: dict[str, bytes] = {
    "text": b"hello world 12345\r\n",
    "UTF-8": "żółć 漢字 ok\r\n".encode(),
    "ls": b"\x1b[0m\x1b[01;34mdir\x1b[0m  \x1b[01;32mscript.sh\x1b[0m\r\n",
    "full screen": b"\x1b[12;5H\x1b[38;5;120m\x1b[48;2;1;2;3mCPU\x1b[39;49m\x1b(B\x1b[m abc",
}
HOSTILE: dict[str, Callable[[int], bytes]] = {
    "queries": lambda n: b"\x1b[c" * (n // 3),
    "modes": lambda n: b"\x1b[?2l" * (n // 5),
    "ESC": lambda n: b"\x1b" * n,
    "ESC [": lambda n: b"\x1b[" * (n // 2),
    "8-bit CSI": lambda n: b"\xc2\x9b" * (n // 2),
    "titles": lambda n: b"\x1b]0;t\x07" * (n // 6),
    "open command": lambda n: b"\x1b]52;c;" + b"A" * n,
    "open commands": lambda n: b"\x1b]" * (n // 2),
    "open string": lambda n: b"\x1bP" + b"A" * n,
    "one sequence": lambda n: b"\x1b[" + b"1;" * (n // 2),
    "long sequences": lambda n: (b"\x1b[" + b"1" * 48 + b"\x01") * (n // 51),
    "controls in a sequence": lambda n: b"\x1b[" + b"\x05" * n,
    "ENQ": lambda n: b"a\x05" * (n // 2),
    "intermediates": lambda n: b"\x1b" + b"(" * n,
    "not UTF-8": lambda n: b"\xff" * n,
    "new lines in sequences": lambda n: b"\x1b[\n" * (n // 3),
    "random": lambda n: random.Random(1).randbytes(n),
}


def spent(history: bytes) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        sanitize_replay(history, trimmed=False)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("piece", TYPICAL.values(), ids=TYPICAL)
def test_a_typical_megabyte_is_quick(piece: bytes) -> None:
    assert spent(piece * ((1 << 20) // len(piece))) < 0.2  # measured: 10 to 21 ms


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_history_takes_linear_time(make: Callable[[int], bytes]) -> None:
    # Eight times the size; quadratic time would be 64 times.
    assert spent(make(1 << 18)) < 24 * max(spent(make(1 << 15)), 0.001)
    assert_harmless(sanitize_replay(make(1 << 12), trimmed=False).data)


def test_the_parser_of_these_tests_sees_harm() -> None:
    """Every entry that is left out is either harm in the eyes of the reference, or means nothing to it."""
    harmless: list[Any] = [
        name for name, sequence in LEFT_OUT.items() if not any(map(harm, parse(sequence.encode()).did))
    ]
    assert len(harmless) < 18, harmless
