"""What may be run: the allow list, the shell's own commands, options, prompt."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from .driver import CTRL_D, ENTER, Shell, running


def refusal(binary: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """Start the shell in a way that it must refuse; return what it says."""
    with Shell(binary, arguments, environment=environment, columns=200) as shell:
        assert shell.wait_for_exit() == 2
        while shell.read(0.1):
            if "\n" in shell.output.decode():
                break
        return shell.output.decode().strip()


NAMES = "a name is not 1 to 64 letters, digits, '_', '.', '+' and '-' (the last three not first)"
OPTIONS = "the options are --allow NAME,NAME... and --keep NAME,NAME...; no scripts"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allow", ""], f"--allow: {NAMES}"),
        (["--allow", ","], f"--allow: {NAMES}"),
        (["--allow", "printf,"], f"--allow: {NAMES}"),
        (["--allow", ",printf"], f"--allow: {NAMES}"),
        (["--allow", "printf,,id"], f"--allow: {NAMES}"),
        (["--allow", "printf, id"], f"--allow: {NAMES}"),
        (["--allow", "printf id"], f"--allow: {NAMES}"),
        (["--allow", "printf\nid"], f"--allow: {NAMES}"),
        (["--allow", "/bin/sh"], f"--allow: {NAMES}"),
        (["--allow", "../bin/sh"], f"--allow: {NAMES}"),
        (["--allow", ".."], f"--allow: {NAMES}"),
        (["--allow", "."], f"--allow: {NAMES}"),
        (["--allow", ".hidden"], f"--allow: {NAMES}"),
        (["--allow", "-c"], f"--allow: {NAMES}"),
        (["--allow", "--allow"], f"--allow: {NAMES}"),
        (["--allow", "*"], f"--allow: {NAMES}"),
        (["--allow", "pr?ntf"], f"--allow: {NAMES}"),
        (["--allow", "naïve"], f"--allow: {NAMES}"),
        (["--allow", "\x1b[2J"], f"--allow: {NAMES}"),
        (["--allow", "x" * 65], f"--allow: {NAMES}"),
        (["--allow", ",".join(f"n{number}" for number in range(257))], "--allow: more than 256 names"),
        (["--allow"], "--allow: a list of names is missing"),
        (["--allow", "printf", "--allow", "id"], "--allow: given twice"),
        (["--allow=printf"], f"--allow=printf: {OPTIONS}"),
        (["-c", "id"], f"-c: {OPTIONS}"),
        (["/etc/profile"], f"/etc/profile: {OPTIONS}"),
        (["-i"], f"-i: {OPTIONS}"),
        (["-"], f"-: {OPTIONS}"),
        (["--"], f"--: {OPTIONS}"),
        ([""], f": {OPTIONS}"),
        (["--allow", "printf", "script"], f"script: {OPTIONS}"),
        (["--keep", "A=B"], "--keep: a name is not 1 to 64 letters, digits and '_'"),
        (["--keep", ""], "--keep: a name is not 1 to 64 letters, digits and '_'"),
        (["--keep", "1A"], "--keep: a name is not 1 to 64 letters, digits and '_'"),
        (["--keep", "PATH"], "--keep: PATH, HOME, USER, LOGNAME and SHELL are set by the shell itself"),
        (["--keep", ",".join(["A"] * 65)], "--keep: more than 64 names"),
    ],
)
def test_a_faulty_option_is_refused(shell_binary: Path, arguments: Sequence[str], message: str) -> None:
    assert refusal(shell_binary, *arguments) == f"restricted-shell: {message}"


@pytest.mark.parametrize("argv0", ["-bash", "sh", "", "restricted-shell -c id", "/bin/../x", "--allow"])
def test_its_own_name_does_not_matter(shell_binary: Path, argv0: str) -> None:
    with Shell(shell_binary, ["--allow", "printf"], argv0=argv0) as shell:
        assert "not a command" in shell.run("id")
        assert shell.run("printf fine") == "fine"


def test_the_default_is_ably_alone(shell_binary: Path) -> None:
    with Shell(shell_binary) as shell:
        shown = shell.run("help").splitlines()
        assert [line.split()[0] for line in shown if line.startswith("  ")] == [
            "ably",
            "clear",
            "exit",
            "help",
        ]
        assert shell.run("ably") == "ably: not installed here"


def test_help_lists_what_may_be_run(shell_binary: Path) -> None:
    with running(shell_binary, "zzz", "printf", "printf", "exit", "Aaa", "g++", "python3.11") as shell:
        shown = shell.run("help")
        names = [line.split()[0] for line in shown.splitlines() if line.startswith("  ")]
        assert names == ["Aaa", "clear", "exit", "g++", "help", "printf", "python3.11", "zzz"]


def test_help_says_what_is_not_installed(shell_binary: Path) -> None:
    with running(shell_binary, "ably", "printf") as shell:
        assert [line for line in shell.run("help").splitlines() if line.startswith("  ")] == [
            "  ably (not installed here)",
            "  clear",
            "  exit [STATUS]",
            "  help",
            "  printf",
        ]
        assert shell.run("ably") == "ably: not installed here"


def test_clear(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        shell.run("printf something")
        shell.enter("clear")
        assert shell.screen.text().strip() == "ably>"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("exit", 0),
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("exit 007", 7),
        ("exit '3'", 3),
        ("  exit   4 ", 4),
    ],
)
def test_exit(shell_binary: Path, line: str, status: int) -> None:
    with running(shell_binary, "printf") as shell:
        shell.press(line, ENTER)
        assert shell.wait_for_exit() == status


@pytest.mark.parametrize(
    "argument",
    [
        "256",
        "-1",
        "1 2",
        "x",
        "''",
        "1x",
        "0x1",
        "99999999999999999999999",
        "+1",
        "1.0",
        "$(id)",
        "' 1'",
        "٣",
    ],
)
def test_exit_with_something_else_stays(shell_binary: Path, argument: str) -> None:
    with running(shell_binary, "printf") as shell:
        shell.run(f"exit {argument}")
        assert shell.run("printf still_here") == "still_here"
        assert shell.process.poll() is None


def test_the_status_is_that_of_the_last_command(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        shell.run("sh -c 'exit 42'")
        shell.press(CTRL_D)
        assert shell.wait_for_exit() == 42
    with running(shell_binary, "sh") as shell:
        shell.run("sh -c 'kill -9 $$'")
        shell.press("exit", ENTER)
        assert shell.wait_for_exit() == 128 + 9
    with running(shell_binary, "sh") as shell:
        shell.run("nothing")
        shell.press("exit", ENTER)
        assert shell.wait_for_exit() == 127
    with running(shell_binary, "sh") as shell:
        shell.run("a | b")
        shell.press("exit", ENTER)
        assert shell.wait_for_exit() == 2


@pytest.mark.parametrize("prompt", ["$ ", "> ", "ably:~$ ", "→ ", "x" * 64])
def test_ps1_is_the_prompt(shell_binary: Path, prompt: str) -> None:
    with Shell(shell_binary, environment={"PS1": prompt}) as shell:
        shell.press("abc")
        shell.wait_for_line("abc", prompt=prompt)


@pytest.mark.parametrize(
    "prompt", ["$(id)", "`id`", r"\u@\h:\w$(id)", "${PATH}", "$PATH", "\\$(touch x)", "!", r"\e[31m"]
)
def test_ps1_is_plain_text(shell_binary: Path, prompt: str) -> None:
    with Shell(shell_binary, environment={"PS1": prompt}) as shell:
        shell.wait_for_line("", prompt=prompt)
        assert not shell.children()


@pytest.mark.parametrize(
    "prompt", ["", "\x1b[31m$ ", "a\nb", "a\rb", "\x07", "x" * 65, "\x7f", "\u009b31m", "\u2028"]
)
def test_another_ps1_is_not_used(shell_binary: Path, prompt: str) -> None:
    with Shell(shell_binary, environment={"PS1": prompt}) as shell:
        shell.wait_for_prompt()


def test_ps1_that_is_not_utf8(shell_binary: Path) -> None:
    with Shell(shell_binary, environment={"PS1": os.fsdecode(b"\xff\xfe$ ")}) as shell:
        shell.wait_for_prompt()


def test_it_wants_a_terminal(shell_binary: Path) -> None:
    result = subprocess.run(
        [shell_binary, "--allow", "printf"],
        input=b"printf OWNED\n",
        capture_output=True,
        timeout=10,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr == b"restricted-shell: terminal: standard input and output must be a terminal\n"
    assert result.stdout == b""
