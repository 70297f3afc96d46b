"""Every key of the line editor, and every key that must not do anything."""

from pathlib import Path

import pytest

from .driver import (
    CTRL_C,
    CTRL_D,
    DELETE,
    DOWN,
    END,
    ENTER,
    HOME,
    LEFT,
    PASTE_BEGIN,
    PASTE_END,
    PROMPT,
    RIGHT,
    UP,
    running,
)

# name: (keys, line that is then shown, column of the cursor behind the prompt)
EDITS: dict[str, tuple[bytes, str, int]] = {
    "text": (b"abc", "abc", 3),
    "ctrl-a": (b"abc\x01X", "Xabc", 1),
    "ctrl-b": (b"abc\x02X", "abXc", 3),
    "ctrl-b at the start": (b"\x02\x02abc", "abc", 3),
    "ctrl-d deletes": (b"abc\x01\x04", "bc", 0),
    "ctrl-d at the end": (b"abc\x04", "abc", 3),
    "ctrl-e": (b"abc\x01\x05X", "abcX", 4),
    "ctrl-f": (b"abc\x01\x06X", "aXbc", 2),
    "ctrl-f at the end": (b"abc\x06\x06", "abc", 3),
    "ctrl-h": (b"abc\x08", "ab", 2),
    "ctrl-k": (b"abcdef\x02\x02\x0b", "abcd", 4),
    "ctrl-l": (b"abc\x02\x0c", "abc", 2),
    "ctrl-t in the line": (b"abcd\x02\x14", "abdc", 4),
    "ctrl-t at the end": (b"abcd\x14", "abdc", 4),
    "ctrl-t at the start": (b"ab\x01\x14", "ab", 0),
    "ctrl-t in an empty line": (b"\x14", "", 0),
    "ctrl-u": (b"abcdef\x02\x02\x15", "ef", 0),
    "ctrl-w": (b"one two-three\x17", "one", 4),
    "ctrl-w over blanks": (b"one two   \x17", "one", 4),
    "ctrl-w at the start": (b"\x17ab", "ab", 2),
    "ctrl-y after ctrl-u": (b"abc\x15x\x19\x19", "xabcabc", 7),
    "ctrl-y after ctrl-k": (b"abcd\x01\x06\x0b\x01\x19", "bcda", 3),
    "ctrl-y after ctrl-w": (b"one two\x17\x01\x19", "twoone", 3),
    "ctrl-y without a cut": (b"ab\x19", "ab", 2),
    "backspace": (b"abc\x7f", "ab", 2),
    "backspace at the start": (b"abc\x01\x7f", "abc", 0),
    "left right": (b"abc" + LEFT + LEFT + RIGHT + b"X", "abXc", 3),
    "home end": (b"abc" + HOME + b"X" + END + b"Y", "XabcY", 5),
    "home end of rxvt": (b"abc\x1b[7~X\x1b[8~Y", "XabcY", 5),
    "home end of the console": (b"abc\x1b[1~X\x1b[4~Y", "XabcY", 5),
    "application keys": (b"abc\x1bOD\x1bOD\x1bOCX\x1bOHY\x1bOFZ", "YabXcZ", 6),
    "delete": (b"abc" + HOME + DELETE, "bc", 0),
    "alt-b": (b"one two\x1bbX", "one Xtwo", 5),
    "alt-b twice": (b"one two\x1bb\x1bb", "one two", 0),
    "alt-f": (b"one two\x01\x1bfX", "oneX two", 4),
    "ctrl-left": (b"one two\x1b[1;5DX", "one Xtwo", 5),
    "ctrl-right": (b"one two\x01\x1b[1;5CX", "oneX two", 4),
    "alt-left": (b"one two\x1b[1;3DX", "one Xtwo", 5),
    "alt-right": (b"one two\x01\x1b[1;3CX", "oneX two", 4),
    "alt-d": (b"one two\x01\x1bd", " two", 0),
    "alt-d and ctrl-y": (b"one two\x01\x1bd\x05\x19", " twoone", 7),
    "alt-backspace": (b"one two-three\x1b\x7f", "one two-", 8),
    "alt-ctrl-h": (b"one two\x1b\x08", "one", 4),
    "wide characters": ("日本語".encode() + LEFT + b"X", "日本X語", 5),
    "wide characters erased": ("日本語".encode() + b"\x7f", "日本", 4),
    "accents": ("ñandú".encode() + HOME + RIGHT + b"X", "ñXandú", 2),
    "combining accent moved over": ("ae\u0301".encode() + LEFT + b"X", "aXe\u0301", 2),
    "combining accent erased": ("ae\u0301".encode() + b"\x7f", "a", 1),
    "emoji": ("a😀b".encode() + LEFT + LEFT + DELETE, "ab", 1),
    "tab completes": (b"ab\t", "ably", 5),
    "tab completes after blanks": (b"  ab\t", "  ably", 7),
    "tab completes the shell's own": (b"he\t", "help", 5),
    "tab completes what is common": (b"p\t", "print", 5),
    "tab within a word": (b"prixx" + LEFT + LEFT + b"\t", "prixx", 3),
    "tab before a blank": (b"ab x" + LEFT + LEFT + b"\t", "ably x", 4),
    "tab on arguments": (b"printf /et\t", "printf /et", 10),
    "tab on nothing that is allowed": (b"bas\t", "bas", 3),
    "shift-left": (b"abc\x1b[1;2D", "abc", 3),
}

# Keys and bytes that mean nothing to the shell: the line stays "ab|c", and nothing is inserted.
NOTHING: dict[str, bytes] = {
    "ctrl-@": b"\x00",
    "ctrl-g": b"\x07",
    "ctrl-o": b"\x0f",
    "ctrl-q": b"\x11",
    "ctrl-s": b"\x13",
    "ctrl-v": b"\x16",
    "ctrl-x": b"\x18",
    "ctrl-z": b"\x1a",
    "ctrl-\\": b"\x1c",
    "ctrl-]": b"\x1d",
    "ctrl-^": b"\x1e",
    "ctrl-_": b"\x1f",
    "escape alone": b"\x1b",
    "escape twice": b"\x1b\x1b",
    "insert": b"\x1b[2~",
    "page up, page down": b"\x1b[5~\x1b[6~",
    "function keys": b"\x1bOP\x1bOQ\x1b[15~\x1b[17;5~\x1b[24~",
    "function keys of the console": b"\x1b[[A\x1b[[E",
    "function keys with modifiers": b"\x1b[1;2P\x1bO5Q",
    "keypad": b"\x1bOM\x1bOp",
    "kitty keyboard": b"\x1b[97;5u\x1b[27;2;13~",
    "cursor report": b"\x1b[12;34R",
    "device attributes": b"\x1b[?64;1;2;6;22c\x1b[>0;276;0c",
    "status report": b"\x1b[0n",
    "mode report": b"\x1b[?2004;1$y",
    "window report": b"\x1b[8;24;80t",
    "focus": b"\x1b[I\x1b[O",
    "mouse, sgr": b"\x1b[<0;10;20M\x1b[<0;10;20m",
    "mouse, urxvt": b"\x1b[32;10;20M",
    "mouse, x10": b"\x1b[M !!",
    "mouse, x10 far away": b"\x1b[M \xff\xfe",
    "osc colour report": b"\x1b]11;rgb:0000/0000/0000\x1b\\",
    "osc ended by bel": b"\x1b]11;rgb:0000/0000/0000\x07",
    "osc clipboard, large": b"\x1b]52;c;" + b"QUJD" * 20_000 + b"\x1b\\",
    "dcs report": b"\x1bP1+r544e=787465726d\x1b\\",
    "dcs with utf-8": "\x1bPq日本語\x1b\\".encode(),
    "apc": b"\x1b_Gi=31;OK\x1b\\",
    "pm": b"\x1b^private\x1b\\",
    "sos": b"\x1bXstart of string\x1b\\",
    "title report": b"\x1b]lprintf OWNED\x1b\\",
    "csi with very many parameters": b"\x1b[" + b"1;" * 5000 + b"z",
    "csi with intermediates": b"\x1b[1 q\x1b[!p",
    "alt-.": b"\x1b.",
    "alt-!": b"\x1b!",
    "alt-/": b"\x1b/",
    "alt-<": b"\x1b<\x1b>",
    "alt-letters": b"\x1ba\x1bc\x1bl\x1bu\x1bt\x1by\x1bz",
    "alt-digits": b"\x1b1\x1b9\x1b-",
    "alt-é": "\x1bé".encode(),
    "alt-emoji": "\x1b😀".encode(),
    "escape ctrl-e": b"\x1b\x05",
    "escape ctrl-d": b"\x1b\x04",
    "escape tab": b"\x1b\t",
    "ctrl-x ctrl-v": b"\x18\x16",
    "paste end without begin": PASTE_END,
    "empty paste": PASTE_BEGIN + PASTE_END,
    "nested paste begin": PASTE_BEGIN + PASTE_BEGIN + PASTE_END,
    "invalid utf-8": b"\xff\xfe\xc0\xc1\xf5",
    "stray continuation": b"\x80\xbf",
    "overlong utf-8": b"\xc0\xaf\xe0\x80\xaf\xf0\x80\x80\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond unicode": b"\xf4\x90\x80\x80",
    "cut-off utf-8 and a key": b"\xe6\x97\x00",
    "c1 controls, utf-8": b"\xc2\x80\xc2\x85\xc2\x90\xc2\x9b\xc2\x9d\xc2\x9f",
    "c1 controls, bare": b"\x85\x90\x9b\x9d\x9f",
    "line separator": "\u2028\u2029".encode(),
}


@pytest.mark.parametrize("name", EDITS)
def test_editing_key(shell_binary: Path, name: str) -> None:
    keys, line, cursor = EDITS[name]
    with running(shell_binary, "printf", "printenv", "ably") as shell:
        shell.press(keys)
        shell.wait_for_line(line, cursor)


@pytest.mark.parametrize("name", EDITS)
def test_editing_key_byte_by_byte(shell_binary: Path, name: str) -> None:
    """The same with a pause after each byte: what is drawn in between must not matter."""
    keys, line, cursor = EDITS[name]
    with running(shell_binary, "printf", "printenv", "ably") as shell:
        for byte in keys:
            shell.press(bytes([byte]))
            shell.read(0.003)
        shell.wait_for_line(line, cursor)


@pytest.mark.parametrize("name", NOTHING)
def test_key_without_meaning(shell_binary: Path, name: str) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(b"abc", LEFT, NOTHING[name])
        if NOTHING[name].endswith(b"\x1b"):
            shell.press(b"z")  # Escape takes one more key with it, whenever that comes
        shell.press(b"X")
        shell.wait_for_line("abXc", 3)
        assert not shell.children()
        shell.press(CTRL_C)
        shell.wait_for_prompt()


def test_history(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        for number in range(3):
            assert shell.run(f"printf {number}") == str(number)
        shell.press(b"draft", UP)
        shell.wait_for_line("printf 2", 8)
        shell.press(UP, UP)
        shell.wait_for_line("printf 0", 8)
        shell.press(UP)  # there is nothing older
        shell.wait_for_line("printf 0", 8)
        shell.press(DOWN)
        shell.wait_for_line("printf 1", 8)
        shell.press(b"\x0e")  # Ctrl-N
        shell.wait_for_line("printf 2", 8)
        shell.press(DOWN)
        shell.wait_for_line("draft", 5)
        shell.press(DOWN)
        shell.wait_for_line("draft", 5)
        shell.press(b"\x10\x10")  # Ctrl-P
        shell.wait_for_line("printf 1", 8)
        shell.enter(b"\x7f7")
        assert "\n7\n" in shell.screen.text()


def test_history_is_bounded_and_skips_repetitions(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        for number in [*range(105), 104, 104]:
            shell.press(f"nothing{number}", ENTER)
        shell.press(UP)
        shell.wait_for_line("nothing104")
        shell.press(UP)
        shell.wait_for_line("nothing103")
        shell.press(UP * 200)
        shell.wait_for_line("nothing5")


def test_history_search(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        for word in ("apple", "apricot", "banana"):
            shell.run(f"printf {word}")
        shell.press(b"\x12")  # Ctrl-R
        shell.wait_for_line("", prompt="search '':")
        shell.press(b"ap")
        shell.wait_for_line("printf apricot", 7, prompt="search 'ap': ")
        shell.press(b"\x12")
        shell.wait_for_line("printf apple", 7, prompt="search 'ap': ")
        shell.press(b"\x12")  # nothing older: a bell, and the line stays
        shell.wait_for_line("printf apple", 7, prompt="search 'ap': ")
        shell.press(b"\x7f\x7fban")
        shell.wait_for_line("printf banana", 7, prompt="search 'ban': ")
        shell.press(b"\x07")  # Ctrl-G
        shell.wait_for_line("", 0)
        shell.press(b"draft\x12ric")
        shell.wait_for_line("printf apricot", 9, prompt="search 'ric': ")
        shell.press(END, b"s")
        shell.wait_for_line("printf apricots", 15)
        shell.press(CTRL_C, b"\x12app", CTRL_C)
        shell.wait_for_prompt()
        shell.press(b"\x12app", ENTER)
        shell.wait_for(lambda: shell.screen.lines()[-2:] == ["apple", PROMPT.rstrip()])


def test_completion_lists_what_is_possible(shell_binary: Path) -> None:
    with running(shell_binary, "printf", "printenv") as shell:
        shell.press(b"print\t")
        shell.wait_for_line("print", 5)
        assert shell.screen.lines()[-2] == "printenv  printf"
        shell.press(b"\x15\t")
        shell.wait_for(
            lambda: shell.screen.lines()[-2:] == ["clear  exit  help  printenv  printf", PROMPT.rstrip()]
        )


def test_ctrl_c_discards_the_line(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(b"printf OWNED", LEFT * 3, CTRL_C)
        shell.wait_for(lambda: shell.screen.lines() == [PROMPT + "printf OWNED^C", PROMPT.rstrip()])
        shell.press(ENTER, ENTER)
        shell.wait_for(lambda: len(shell.screen.lines()) == 4)
        shell.press(b"exit", ENTER)
        assert shell.wait_for_exit() == 130


def test_ctrl_d_leaves_with_the_last_status(shell_binary: Path) -> None:
    with running(shell_binary, "false") as shell:
        shell.run("false")
        shell.press(b"x\x7f", CTRL_D)
        assert shell.wait_for_exit() == 1


def test_type_ahead_reaches_the_command(shell_binary: Path) -> None:
    """What is typed behind a line is the command's input, not the shell's."""
    with running(shell_binary, "sh") as shell:
        shell.press(b"sh -c 'read a; read b; echo \"got $a,$b\"'\rone\rtwo\r")
        shell.wait_for_text("got one,two")
        shell.wait_for_prompt()
