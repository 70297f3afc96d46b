"""Lines that wrap, lines that are too long, and windows that change their size."""

from pathlib import Path

import pytest

from .driver import DOWN, END, ENTER, HOME, LEFT, PROMPT, RIGHT, UP, Shell, running
from .screen import Screen, width


def test_the_line_is_bounded(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(b"printf " + b"a" * 4089)
        shell.wait_for(lambda: shell.screen.lines()[-1] == "a" * ((len(PROMPT) + 4096) % 80))
        assert shell.screen.bells == 0
        shell.press(b"bcd")
        shell.wait_for(lambda: shell.screen.bells > 0)
        shell.press(ENTER)
        shell.wait_for_text("the line is too long: nothing was run")
        shell.wait_for_prompt()
        assert not shell.children()
        shell.enter(b"printf " + b"a" * 4089)
        assert shell.output.count(b"a" * 4089) == 1


def test_a_line_that_was_cut_is_not_run_after_an_excursion_into_history(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.run("printf first")
        shell.press(b"printf " + b"a" * 5000, UP, DOWN, ENTER)
        shell.wait_for_text("the line is too long: nothing was run")
        shell.press(b"printf " + b"a" * 5000, UP, ENTER)
        shell.wait_for(lambda: shell.output.count(b"first\x1b") == 2, "the recalled line's output")


@pytest.mark.parametrize("columns", [2, 3, 5, 7, 13, 20, 40, 80, 200])
def test_long_lines_wrap(shell_binary: Path, columns: int) -> None:
    """Typed with pauses, so that it is drawn in every length; the screen always shows it all."""
    text = "abc日本語ñ😀e\u0301 xyz" * 2
    with running(shell_binary, "printf", columns=max(columns, 13), rows=50) as shell:
        shell.resize(columns, 50)
        for character in text:
            shell.press(character)
            shell.read(0.002)
        shell.press(LEFT)
        shell.wait_for(lambda: joined(shell.screen) == PROMPT + text, "the line over several rows")
        shell.press(HOME, b"<", b"\x05>")
        shell.wait_for(lambda: joined(shell.screen) == PROMPT + "<" + text + ">", "the edited line")
        shell.press(b"\x15")
        shell.wait_for(lambda: joined(shell.screen) == PROMPT, "the erased line")


def joined(screen: Screen) -> str:
    """The rows as one line, without the column that is left over before a wide character."""
    result = ""
    for row, line in enumerate(screen.lines()):
        following = screen.cells[row + 1][0] if row + 1 < screen.rows else " "
        used = sum(width(character) for character in line)
        left_over = 1 if width(following[0] if following else " ") == 2 and used < screen.columns else 0
        last = row == len(screen.lines()) - 1
        result += line if last else line + " " * (screen.columns - used - left_over)
    return result if len(result) > len(PROMPT) else result.ljust(len(PROMPT))


def test_a_line_higher_than_the_screen_is_shown_around_the_cursor(shell_binary: Path) -> None:
    text = "".join(f"{number:05}" for number in range(100))
    with running(shell_binary, "printf", columns=20, rows=5) as shell:
        shell.press(text)
        shell.wait_for(lambda: "".join(shell.screen.lines()).endswith("00099"))
        shell.press(HOME)
        shell.wait_for(
            lambda: shell.screen.lines()[0] == PROMPT + text[:14] and shell.screen.cursor() == (0, 6)
        )
        shell.press(RIGHT * 250)
        shell.wait_for(
            lambda: "00049" in "".join(shell.screen.lines()) and shell.screen.cursor()[1] == (250 + 6) % 20
        )
        shell.press(END)
        shell.wait_for(lambda: "".join(shell.screen.lines()).endswith("00099"))
        assert len(shell.screen.lines()) <= 5


@pytest.mark.parametrize(
    ("columns", "rows"), [(40, 24), (120, 24), (20, 10), (80, 2), (7, 24), (1, 1), (1000, 1000)]
)
def test_resize_redraws(shell_binary: Path, columns: int, rows: int) -> None:
    text = "printf " + "0123456789" * 9
    with running(shell_binary, "printf", columns=80, rows=24) as shell:
        shell.press(text, LEFT * 5)
        shell.wait_for(lambda: joined(shell.screen) == PROMPT + text)
        before = len(shell.output)
        shell.resize(columns, rows)
        shell.wait_for(lambda: len(shell.output) > before, "a new drawing")
        if rows > 5:
            shell.wait_for(lambda: joined(shell.screen) == PROMPT + text, "the line in the new size")
        shell.resize(80, 24)
        shell.press(b"X")
        shell.wait_for(lambda: (PROMPT + text[:-5] + "X" + text[-5:])[-70:] in "".join(shell.screen.lines()))
        shell.press(ENTER)
        shell.wait_for_line("")
        assert b"56789X56789"[-6:] in shell.output


def test_resizes_while_a_command_runs(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        shell.press(b"sh -c 'echo ready; read x; stty size'", ENTER)
        shell.wait_for_text("\nready")
        shell.resize(61, 17)
        shell.press(ENTER)
        shell.wait_for_prompt()
        assert "\n17 61" in shell.screen.text()


def test_start_in_the_middle_of_nothing(shell_binary: Path) -> None:
    """A window without a size is taken for 80 by 24."""
    with Shell(shell_binary, ["--allow", "printf"], columns=80, rows=24) as shell:
        shell.wait_for_prompt()
        shell._set_size(0, 0)
        shell.press(b"a" * 100)
        shell.wait_for(lambda: joined(shell.screen) == PROMPT + "a" * 100)
