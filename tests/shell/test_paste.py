"""Pasted text is only ever text."""

import time
from pathlib import Path

from .driver import CTRL_C, ENTER, LEFT, PASTE_BEGIN, PASTE_END, UP, running


def test_paste_waits_for_enter(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(PASTE_BEGIN, b"printf OWNED\r", PASTE_END)
        shell.wait_for_line("printf OWNED", 12)
        shell.press(b"x")
        shell.wait_for_line("printf OWNEDx", 13)
        assert "\nOWNED" not in shell.screen.text()
        shell.press(ENTER)
        shell.wait_for_text("\nOWNEDx")


def test_pasted_lines_are_entered_one_by_one(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(PASTE_BEGIN, b"printf one\rprintf two\r\r  printf three\r", PASTE_END)
        shell.wait_for_line("printf one↵printf two↵↵  printf three", 37)
        shell.press(ENTER)
        shell.wait_for_line("printf two↵↵  printf three", 26)
        assert shell.screen.lines()[-2] == "one"
        shell.press(ENTER)
        shell.wait_for_line("printf three", 12)
        assert shell.screen.lines()[-2] == "two"
        shell.press(CTRL_C)
        shell.wait_for_prompt()
        shell.press(UP)
        shell.wait_for_line("printf two")


def test_pasted_line_breaks_stay_in_quoted_text(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(PASTE_BEGIN, b"printf [%s] '{\r\t\"a\": 1\r}' \\\r  next", PASTE_END, ENTER)
        shell.wait_for_text("next]")
        assert b'[{\r\n\t"a": 1\r\n}][next]' in shell.output


def test_pasted_control_bytes_are_harmless(shell_binary: Path) -> None:
    controls = bytes(byte for byte in range(32) if byte not in b"\t\n\r\x1b") + b"\x7f"
    with running(shell_binary, "printf") as shell:
        shell.press(
            b"abc", LEFT, PASTE_BEGIN, b"<" + controls + b"\x1b[A\x1b[H\x1bb\x1b[3~>", PASTE_END, b"X"
        )
        shell.wait_for_line("ab<>Xc", 5)


def test_a_paste_without_end_does_not_lock_the_user_out(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(PASTE_BEGIN, b"printf OWNED\r", CTRL_C, ENTER)
        shell.wait_for_line("printf OWNED↵↵")
        time.sleep(1.2)  # the shell's own clock: Ctrl-C counts again after a second of silence
        shell.press(CTRL_C)
        shell.wait_for_prompt()
        assert shell.run("printf fine") == "fine"
        assert "\nOWNED" not in shell.screen.text()
