"""What the shell says to the gate: a byte for each command that it starts, and nothing to anybody else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.provision.shell import INSTALLED_AT
from supervisor.sandbox.counting import SHELL
from supervisor.sandbox.gate_frames import COMMANDS_VARIABLE

from .driver import CTRL_C, ENTER, PASTE_BEGIN, PASTE_END, Shell

NAMED = {COMMANDS_VARIABLE: "3"}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """As the gate makes it: neither end waits."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


def reporting(binary: Path, writing: int, *names: str) -> Shell:
    return Shell(binary, ["--allow", ",".join(names)], environment=NAMED, third=writing)


def said(reading: int) -> bytes:
    try:
        return os.read(reading, 65536)
    except BlockingIOError:
        return b""


def test_whom_the_supervisor_asks() -> None:
    assert Path(INSTALLED_AT).name == SHELL


def test_each_command_that_is_started(shell_binary: Path, pipe: tuple[int, int]) -> None:
    with reporting(shell_binary, pipe[1], "printf", "sh", "nowhere") as shell:
        shell.wait_for_prompt()
        assert said(pipe[0]) == b""
        assert shell.run("printf one") == "one"
        assert said(pipe[0]) == b"\0"
        shell.run("sh -c 'for i in 1 2 3; do /bin/true; done'")
        assert said(pipe[0]) == b"\0", "what commands start is no command of the shell's"
        shell.press(PASTE_BEGIN, "printf two\nprintf three", PASTE_END, ENTER)
        shell.wait_for_line("printf three")
        shell.enter("")
        assert said(pipe[0]) == b"\0\0"
        assert shell.run("nowhere") == "nowhere: not installed here"
        assert said(pipe[0]) == b"\0", "a process was started, and looked for it"


@pytest.mark.parametrize("line", ["help", "clear", "", "cat x", "/bin/cat", "printf a; printf b", "exit 999"])
def test_what_starts_nothing_is_not_told(shell_binary: Path, pipe: tuple[int, int], line: str) -> None:
    with reporting(shell_binary, pipe[1], "printf") as shell:
        shell.wait_for_prompt()
        shell.enter(line)
        shell.press("printf ", CTRL_C)
        shell.wait_for_prompt()
        assert said(pipe[0]) == b""


def test_a_command_is_told_of_while_it_runs(shell_binary: Path, pipe: tuple[int, int]) -> None:
    with reporting(shell_binary, pipe[1], "sh") as shell:
        shell.wait_for_prompt()
        shell.press("sh -c 'echo be''gun; exec sleep 100'", ENTER)
        shell.wait_for_output(b"begun\r\n")
        assert said(pipe[0]) == b"\0"
        shell.press(CTRL_C)
        shell.wait_for_prompt()


def test_commands_do_not_get_the_descriptor(shell_binary: Path, pipe: tuple[int, int]) -> None:
    with reporting(shell_binary, pipe[1], "sh", "env") as shell:
        shell.wait_for_prompt()
        # ls itself opens the directory, as descriptor 3
        assert shell.run("sh -c 'ls /proc/self/fd | tr \"\\n\" ,'") == "0,1,2,3,"
        assert "pipe:" not in shell.run("sh -c 'ls -l /proc/$$/fd'")
        assert COMMANDS_VARIABLE not in shell.run("env")
        proc = Path(f"/proc/{shell.process.pid}")
        assert sorted(link.name for link in (proc / "fd").iterdir()) == ["0", "1", "2", "3"]
        flags = int((proc / "fdinfo/3").read_text().split("flags:")[1].split()[0], 8)
        assert flags & os.O_CLOEXEC


def test_a_full_pipe_does_not_hold_the_shell_up(shell_binary: Path, pipe: tuple[int, int]) -> None:
    with reporting(shell_binary, pipe[1], "printf") as shell:
        shell.wait_for_prompt()
        with pytest.raises(BlockingIOError):
            while True:
                os.write(pipe[1], b"x" * 4096)
        assert shell.run("printf on") == "on"


def test_nobody_reads_any_more(shell_binary: Path) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with reporting(shell_binary, writing, "printf") as shell:
        shell.wait_for_prompt()
        os.close(reading)
        os.close(writing)
        assert shell.run("printf on") == "on"


@pytest.mark.parametrize("value", [None, "", "4", "1", "03", "3 ", "-1"])
def test_a_descriptor_that_is_not_named_is_closed(
    shell_binary: Path, pipe: tuple[int, int], value: str | None
) -> None:
    environment = {} if value is None else {COMMANDS_VARIABLE: value}
    with Shell(shell_binary, ["--allow", "printf"], environment=environment, third=pipe[1]) as shell:
        shell.wait_for_prompt()
        assert shell.run("printf on") == "on"
        assert sorted(link.name for link in Path(f"/proc/{shell.process.pid}/fd").iterdir()) == [
            "0",
            "1",
            "2",
        ]
        assert said(pipe[0]) == b""


def test_whoever_sets_the_variable_alone_has_nothing_written_anywhere(
    shell_binary: Path, tmp_path: Path
) -> None:
    """What is open as descriptor 3 is no pipe."""
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        with reporting(shell_binary, file, "printf") as shell:
            shell.wait_for_prompt()
            assert shell.run("printf on") == "on"
    finally:
        os.close(file)
    assert (tmp_path / "file").read_bytes() == b""
    with Shell(shell_binary, ["--allow", "printf"], environment=NAMED) as shell:
        assert shell.run("printf on") == "on"
