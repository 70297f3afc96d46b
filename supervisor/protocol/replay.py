r"""History made safe to show again: a replay draws, and makes the terminal do nothing else.

Old output sent to a terminal once more is a program run once more. It would ask for the cursor's position,
and the terminal's answer would be typed into the shell; it would set the clipboard, ring, print, resize the
window. So `sanitize_replay` parses the history as a terminal does (the states of a VT500 parser: text,
escape, control sequence, operating system command, other strings) and prints again what it understood, from
lists of what is kept: text, cursor movement, erasing, colours, modes, titles, hyperlinks. Everything that is
not listed is left out, known or not.

Parsing and printing, rather than cutting pieces out, has two effects. What is left out can never join its
neighbours to something new. And since the result is in one canonical form (UTF-8, 7-bit introducers, no
control characters inside sequences, strings ended by ST), all terminals understand it alike, whatever they
would have made of an odd original.

**The end.** History may stop inside a sequence whose rest is live output yet to come. The caller then starts
the live part at that sequence: `Replay.live_offset`. Where going back would mean to show unchecked history (a
long string, or one with control characters in it), an unfinished string is replaced by the opening of one
that no terminal acts on, and its rest is swallowed by that. So nothing may come between a replay and its live
output.

**The start.** A history that has lost its beginning may start inside of anything. Then it is shown from the
first new line, or where there are none (full-screen programs) from the first ESC, which ends whatever came
before it.

**8-bit controls.** In UTF-8 the controls U+0080 to U+009F may stand for ESC and a letter (ECMA-48, 5.3). They
are read as that. A lone byte 0x80 to 0x9F is no UTF-8 and no control.

**Time.** One pass of one regular expression. No alternative fails after a repetition that could have matched
differently, and every match consumes what it looked at, so the time is linear. Text and the common sequences
never reach Python code; a hostile megabyte of nothing else takes some tenths of a second.
"""

import codecs
import functools
import re
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_TAIL: Final = 4096
"""Characters of an unfinished sequence that live output may start with; titles and hyperlinks are shorter."""

MAX_STRING: Final = 4096
"""Characters of a title or hyperlink that is kept."""

LINE_SEARCH: Final = 64 * 1024
"""Bytes of a trimmed history that are given up at most to begin at a new line."""

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Replay(NamedTuple):
    """History to show, and where live output continues it.

    Attributes:
        data: canonical UTF-8.
        live_offset: offset in the history of the first byte that is to be sent as live output.
    """

    data: bytes
    live_offset: int


# Control characters that terminals execute, or ignore, in the middle of a sequence: all but CAN, SUB and ESC,
# which end it.
_INSIDE: Final = r"\x00-\x17\x19\x1c-\x1f\x7f"

# Those that move the cursor or shift character sets: BS, HT, LF, VT, FF, CR, SO, SI. The others ring (BEL),
# answer (ENQ) or mean nothing.
_EXECUTED: Final = frozenset("\b\t\n\v\f\r\x0e\x0f")

# Whatever needs a look. Sequences that are common and kept do not: colours, cursor, erasing, some modes,
# character sets. The first character class lets the search run through text at full speed. The name of the
# last group that matched tells what was found.
_TOKEN: Final = re.compile(
    rf"""
    [\x00-\x07\x10-\x1f\x7f]
    (?: (?<!\x1b) [\x00-\x07\x10-\x1a\x1c-\x1f\x7f]*
      | (?<=\x1b)
        (?! \[ (?: [0-9;:]{{0,48}} [@A-MPSXZ`abdefgmr] | \?(?:1|7|12|25|100[0236]|1049|2004|2026) [hl] )
          | [()][0AB] | [78=>M] )
        (?: \x1b* (?=\x1b)
          | (?P<controls> [{_INSIDE}]* )
            (?: \[   (?P<parameters> [{_INSIDE}\x20-\x3f]* ) (?P<final> [\x40-\x7e] )?
              | \]   (?P<command> [^\x07\x18\x1a\x1b]* )     (?P<command_end> \x07 | \x1b\\ )?
              | [PX^_] (?P<string> [^\x18\x1a\x1b]* )        (?P<string_end> \x1b\\ )?
              | (?P<intermediates> (?: [\x20-\x2f] [{_INSIDE}\x20-\x2f]* )? ) (?P<escape_final> [\x30-\x7e] )?
            )
        )
    )
    """,
    re.VERBOSE,
)

_PARAMETERS: Final = re.compile(r"([<=>?]?)([0-9;:]{0,256})([\x20-\x2f]{0,2})")
_COMMAND: Final = re.compile(r"([0-9]{1,3})(?:;(.*))?", re.DOTALL)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]+")
_C1: Final = re.compile(r"[\x80-\x9f]")
_SAFE_TAIL: Final = re.compile(r"\x1b[^\x00-\x1f\x7f-\x9f\ufffd]*\x1b?")

# Final bytes of the control sequences that are kept, by (private marker, intermediates). Sources: ECMA-48;
# xterm's ctlseqs; the kitty keyboard protocol for `u`. Not kept, among others: c n x y and `$p` `$w` `$u`
# `*y` `>q` `?u` `?m` `#|` (they are answered), i (printing), q (keyboard lights), t (window), `"p`
# (conformance level), `'z` and `?s` `?r` (locator; saved modes).
_KEPT_SEQUENCES: Final = {
    ("", ""): "@ABCDEFGHIJKLMPSTXZ`abdefghlmrsu",
    ("?", ""): "JKWhl",
    (">", ""): "mnu",
    ("<", ""): "u",
    ("=", ""): "u",
    ("", " "): "@Aq",
    ("", "!"): "p",
    ("", '"'): "q",
    ("", "#"): "pq{}",
    ("", "$"): "rtvxz{",
    ("", "'"): "}~",
    ("", "*"): "x",
}

# Modes that are not kept, since setting them does something at once or takes the keyboard away. ANSI: 2 locks
# the keyboard. Private: 2 leaves ANSI for VT52, 3 resizes the window, 1001 waits for the program's answer,
# 1004 reports the focus (xterm.js does so as soon as it is set), 2031 and 2048 report colours and size.
_LEFT_OUT_MODES: Final = {"": frozenset({2}), "?": frozenset({2, 3, 40, 1001, 1004, 2031, 2048})}

# Final bytes of the escape sequences that are kept, by intermediates: cursor, tabs, keypad, character sets,
# line sizes, reset. Not kept: Z (answered), `%` (leaves UTF-8), SP (8-bit answers).
_KEPT_ESCAPES: Final = {"": "6789=>DEHMNOcno|}~", "#": "34568"}
_CHARACTER_SETS: Final = "()*+-./"

# Operating system commands that are kept: titles, hyperlinks, and colours unless they ask for one.
_TITLES_AND_LINKS: Final = frozenset({0, 1, 2, 8})
_COLOURS: Final = frozenset({4, 5, *range(10, 20), 104, 105, *range(110, 120)})

# Openings that no terminal acts on: a command of a number that nobody uses; SOS.
_INERT_COMMAND: Final = "\x1b]999;"
_INERT_STRING: Final = "\x1bX"


def sanitize_replay(data: bytes, *, trimmed: bool) -> Replay:
    """Return what of the history `data` can be shown again, and where live output goes on.

    Args:
        data: output of a terminal, as it came.
        trimmed: whether output before `data` is lost, so that it may start anywhere.
    """
    start = _first_boundary(data) if trimmed else 0
    decoder = _utf8_decoder("replace")
    text = decoder.decode(data[start:])
    unfinished_bytes = len(decoder.getstate()[0])
    if _C1.search(text):
        for code in range(0x80, 0xA0):
            text = text.replace(chr(code), "\x1b" + chr(code - 0x40))
    unfinished: re.Match[str] | None = None
    nearly_all = len(text) - 1

    def rewrite(token: re.Match[str]) -> str:
        nonlocal unfinished
        if token.end() >= nearly_all and unfinished is None and _is_unfinished(token):
            unfinished = token
            return ""
        return _rewrite(token)

    shown = _TOKEN.sub(rewrite, text)
    live = len(data) - unfinished_bytes
    if unfinished is not None:
        tail = text[unfinished.start() :]
        if len(tail) <= MAX_TAIL and _SAFE_TAIL.fullmatch(tail):
            # An 8-bit control has two bytes of UTF-8, as many as what it was read as.
            live -= len(tail.encode())
        elif unfinished["command"] is not None:
            shown += _INERT_COMMAND
        elif unfinished["string"] is not None:
            shown += _INERT_STRING
    return Replay(shown.encode(), live)


def _first_boundary(data: bytes) -> int:
    """Return the offset of the first place in a trimmed history where a terminal's parser is in a known
    state.
    """
    newline = data.find(b"\n", 0, LINE_SEARCH)
    if newline >= 0:
        return newline + 1
    escape = data.find(b"\x1b")
    if escape >= 0:
        return escape
    # No place at all: leave out the rest of a code point.
    return next(
        (index for index in range(min(3, len(data))) if data[index] & 0xC0 != 0x80), min(3, len(data))
    )


def _is_unfinished(token: re.Match[str]) -> bool:
    """Whether `token` needs more than there is. An ESC that comes last may be the first half of a string's
    end.
    """
    if token.lastgroup in ("command", "string"):
        return token.end() == len(token.string) or token.string.endswith("\x1b")
    return token.lastgroup in ("parameters", "intermediates") and token.end() == len(token.string)


def _rewrite(token: re.Match[str]) -> str:
    """Return the canonical form of a token that is kept, else nothing."""
    kept: Callable[[str, str], str]
    match token.lastgroup:
        case "final":
            controls, inside, kept = token["controls"], token["parameters"], _sequence
            final = token["final"]
        case "escape_final":
            controls, inside, kept = token["controls"], token["intermediates"], _escape
            final = token["escape_final"]
        case "command_end":
            return _executed(token["controls"]) + _command(_CONTROLS.sub("", token["command"]))
        case None:
            return ""
        case _:  # ended by something else than its own end: only the control characters had an effect
            inside = token.group("controls", "parameters", "intermediates")
            return _executed("".join(part for part in inside if part))
    if inside.isprintable() and not controls:
        return kept(inside, final)
    return _executed(controls + inside) + kept(_CONTROLS.sub("", inside), final)


def _executed(text: str) -> str:
    return "".join(character for character in text if character in _EXECUTED) if text else ""


@functools.lru_cache(maxsize=1024)
def _sequence(body: str, final: str) -> str:
    parsed = _PARAMETERS.fullmatch(body)
    if parsed is None:
        return ""
    marker, parameters, intermediates = parsed.groups()
    if final not in _KEPT_SEQUENCES.get((marker, intermediates), ""):
        return ""
    if final in "hl":
        left_out = _LEFT_OUT_MODES[marker]
        modes = [mode for mode in parameters.split(";") if mode.isdigit() and int(mode) not in left_out]
        return f"\x1b[{marker}{';'.join(modes)}{final}" if modes else ""
    if final == "T" and ";" in parameters:  # xterm: highlights the mouse's track and waits for the program
        return ""
    return f"\x1b[{marker}{parameters}{intermediates}{final}"


def _command(body: str) -> str:
    parsed = _COMMAND.fullmatch(body)
    if parsed is None or len(body) > MAX_STRING:
        return ""
    number = int(parsed[1])
    if number in _TITLES_AND_LINKS or (number in _COLOURS and "?" not in body):
        return f"\x1b]{body}\x1b\\"
    return ""


def _escape(intermediates: str, final: str) -> str:
    if final in _KEPT_ESCAPES.get(intermediates, "") or intermediates[:1] in tuple(_CHARACTER_SETS):
        return f"\x1b{intermediates}{final}"
    return ""
