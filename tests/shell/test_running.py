"""Commands under the shell: signals, terminal modes, and what they leave behind."""

import os
import re
import signal
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .driver import CTRL_C, CTRL_D, DEADLINE, ENTER, Shell, running


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that the terminal does not show."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


PID = re.compile(rb"pid (\d+)\r\n")


def started(shell: Shell, line: str) -> int:
    """Run a command that prints "pid N" and goes on; return that pid."""
    count = len(PID.findall(shell.output))
    shell.press(line, ENTER)
    shell.wait_for(lambda: len(PID.findall(shell.output)) > count, "pid")
    return int(PID.findall(shell.output)[-1])


def test_ctrl_c_interrupts_the_command_only(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'echo pid $$; exec sleep 100'")
        shell.press(CTRL_C)
        shell.wait_for_prompt()
        assert not is_running(pid)
        assert shell.run("sh -c 'echo fine'") == "fine"
        pid = started(shell, "sh -c 'echo pid $$; exec sleep 100'")
        shell.press(CTRL_C)
        shell.wait_for_prompt()
        shell.press(CTRL_D)
        assert shell.wait_for_exit() == 128 + signal.SIGINT


def test_ctrl_backslash_ends_the_command_only(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'ulimit -c 0; echo pid $$; exec sleep 100'")
        shell.press(b"\x1c")
        shell.wait_for_text("Quit")
        shell.wait_for_prompt()
        assert not is_running(pid)


def test_ctrl_z_stops_nobody(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'echo pid $$; read x; echo \"got $x\" | cat -v'")
        shell.press(b"a\x1ab", ENTER)
        shell.wait_for_text("\ngot a^Zb")
        shell.wait_for_prompt()
        assert not is_running(pid)


@pytest.mark.parametrize("signals", ["TSTP", "TTIN", "TTOU", "STOP"])
def test_commands_that_stop_are_ended(shell_binary: Path, signals: str) -> None:
    """As editors do on Ctrl-Z: they stop their whole group."""
    with running(shell_binary, "sh") as shell:
        pid = started(shell, f"sh -c 'echo pid $$; sleep 100 & kill -{signals} 0; echo OWNED; sleep 100'")
        shell.wait_for_text("jobs are not supported: the stopped command is ended")
        shell.wait_for_prompt()
        assert not is_running(pid)
        assert "\nOWNED" not in shell.screen.text()


def test_a_stopped_command_that_ignores_the_hang_up_is_killed(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'trap \"\" HUP; echo pid $$; kill -STOP $$; while :; do sleep 1; done'")
        shell.wait_for_text("Killed")
        shell.wait_for_prompt()
        assert not is_running(pid)


def test_a_command_that_stops_itself_is_ended(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'echo pid $$; kill -STOP $$; echo OWNED'")
        shell.wait_for_text("jobs are not supported")
        shell.wait_for_prompt()
        assert not is_running(pid)
        assert "\nOWNED" not in shell.screen.text()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGTERM, "Terminated"),
        (signal.SIGKILL, "Killed"),
        (signal.SIGHUP, "Hung up"),
        (signal.SIGABRT, "Aborted"),
        (signal.SIGSEGV, "Segmentation fault"),
        (signal.SIGUSR1, "User defined signal 1"),
        (signal.SIGINT, ""),
        (signal.SIGPIPE, ""),
    ],
)
def test_a_command_ended_by_a_signal(shell_binary: Path, number: signal.Signals, message: str) -> None:
    with running(shell_binary, "sh") as shell:
        shown = shell.run(f"sh -c 'ulimit -c 0; kill -{number.value} $$'")
        assert shown.strip() == message
        shell.press(CTRL_D)
        assert shell.wait_for_exit() == 128 + number


def test_output_without_a_line_break_keeps_its_row(shell_binary: Path) -> None:
    with running(shell_binary, "printf") as shell:
        assert shell.run("printf abc") == "abc"
        assert shell.run("printf %080d 0") == "0" * 80
        assert shell.run("printf 'abc\\n'") == "abc"
        assert shell.run("printf %079d 0") == "0" * 79
        assert shell.run("printf '%079d\\n' 0") == "0" * 79


@pytest.mark.parametrize(
    "settings", ["raw -echo", "-icanon min 0 time 0", "-onlcr -opost", "intr x eof y susp z", "tostop"]
)
def test_modes_that_a_command_changed(shell_binary: Path, settings: str) -> None:
    with running(shell_binary, "stty", "printf", "sh") as shell:
        at_prompt = shell.modes()
        shell.run(f"stty {settings}")
        assert shell.modes() == at_prompt
        before = shell.run("stty -a")
        assert "isig icanon iexten echo echoe echok" in before
        assert "intr = ^C; quit = ^\\; erase = ^?; kill = ^U; eof = ^D" in before
        assert shell.run("printf fine") == "fine"


def test_modes_are_as_before_after_the_end(shell_binary: Path) -> None:
    modes = termios.ICANON | termios.ISIG | termios.ECHONL
    with Shell(shell_binary, ["--allow", "printf"], local_modes=modes) as shell:
        shell.wait_for_prompt()
        assert shell.local_modes() == 0
        shell.press(CTRL_D)
        assert shell.wait_for_exit() == 0
        assert shell.local_modes() == modes


def test_a_broken_terminal_is_reset(shell_binary: Path) -> None:
    """Hidden cursor, alternate screen, mouse reports and colours of a program that was killed go away."""
    with running(shell_binary, "sh") as shell:
        shell.enter("sh -c 'printf \"\\033[?25l\\033[?1000h\\033[31m\"; kill -9 $$'")
        shown = shell.output.rpartition(b"Killed")[2]
        for sequence in (b"\x1b[!p", b"\x1b[?25h", b"1000;", b"1047l", b"\x1b[?2004h"):
            assert sequence in shown


def test_a_command_that_leaves_the_terminal_non_blocking(
    shell_binary: Path, need: Callable[[str], None]
) -> None:
    """The flag belongs to the open file, which the shell shares with its commands."""
    need("python3")
    with running(shell_binary, "python3", "printf") as shell:
        shell.run("python3 -c 'import os; [os.set_blocking(n, False) for n in (0, 1, 2)]'")
        assert shell.run("printf fine") == "fine"
        shell.enter("python3 -c 'import os; print([os.get_blocking(n) for n in (0, 1, 2)])'")
        assert "[True, True, True]" in shell.screen.text()


def test_a_background_process_that_writes(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        shell.press("sh -c 'trap \"\" HUP; (while :; do sleep 0.05; printf .; done) & echo pid $!'", ENTER)
        shell.wait_for_text("....")
        pid = int(shell.screen.text().rpartition("\npid ")[2].split()[0])
        shell.press("sh -c 'echo in between'", ENTER)
        shell.wait_for_text("\nin between")
        assert is_running(pid)
        os.kill(pid, signal.SIGKILL)


def test_what_a_command_leaves_behind_is_hung_up(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = int(shell.run("sh -c 'sleep 100 >/dev/null 2>&1 & echo $!'"))
        wait_until(lambda: not is_running(pid), "the end of the background process")


def test_a_background_process_that_reads_gets_nothing(shell_binary: Path) -> None:
    """It has been waiting for input since it was in the foreground."""
    with running(shell_binary, "sh") as shell:
        shell.enter("sh -c '(read x </dev/tty; echo \"STOLEN $x\") & sleep 0.2; exit 0'")
        for _ in range(3):
            assert shell.run("sh -c 'echo mine'") == "mine"
        assert "\nSTOLEN" not in shell.screen.text()


THIEF = """
import os, signal, termios, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork() == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.setpgid(0, 0)
    time.sleep(0.2)
    {theft}
    os.write(1, b"STOLEN")
    time.sleep(20)
"""


@pytest.mark.parametrize(
    "theft",
    [
        "os.tcsetpgrp(0, os.getpgrp())",
        "m = termios.tcgetattr(0); m[3] = termios.ICANON | termios.ECHO; termios.tcsetattr(0, 0, m)",
        "os.set_blocking(0, False)",
        "m = termios.tcgetattr(0); m[6][termios.VMIN] = 0; termios.tcsetattr(0, 0, m)",
    ],
    ids=["foreground", "modes", "non-blocking", "vmin 0"],
)
def test_a_background_process_that_takes_the_terminal(
    shell_binary: Path, tmp_path: Path, theft: str, need: Callable[[str], None]
) -> None:
    need("python3")
    script = tmp_path / "thief.py"
    script.write_text(THIEF.format(theft=theft))
    with running(shell_binary, "python3", "printf") as shell:
        shell.press(f"python3 {script}", ENTER)
        shell.wait_for_text("STOLEN")
        try:
            for _ in range(3):
                shell.press("printf fin%se e", ENTER)
            shell.wait_for(lambda: shell.screen.text().count("finee") == 3, "the output of the commands")
            assert shell.process.poll() is None
        finally:
            for process in Path("/proc").glob("[0-9]*"):
                if script_of(process) == str(script):
                    os.kill(int(process.name), signal.SIGKILL)


def script_of(process: Path) -> str:
    """The second argument of a process in /proc; empty when it is gone."""
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return os.fsdecode(arguments[1]) if len(arguments) > 1 else ""


def test_a_hang_up_ends_shell_and_command(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        pid = started(shell, "sh -c 'echo pid $$; exec sleep 100'")
        os.close(shell.master)
        assert shell.process.wait(DEADLINE) == 128 + signal.SIGHUP
        wait_until(lambda: not is_running(pid), "the command's end")
        shell.master = os.open("/dev/null", os.O_RDONLY)


def test_a_hang_up_signal_reaches_the_command(shell_binary: Path, tmp_path: Path) -> None:
    """As the gate sends it on a graceful stop, with the terminal still there."""
    told = tmp_path / "told"
    with running(shell_binary, "sh") as shell:
        started(
            shell, f"sh -c 'trap \"echo hup >{told}; exit\" HUP; echo pid $$; while :; do sleep 0.05; done'"
        )
        shell.signal(signal.SIGHUP)
        assert shell.wait_for_exit() == 128 + signal.SIGHUP
        wait_until(told.exists, "the command's own clean-up")


def test_a_hang_up_while_nobody_reads(shell_binary: Path) -> None:
    """The shell is stuck in a write to a full terminal; the hang-up must end it all the same."""
    with running(shell_binary, "sh") as shell:
        shell.press("sh -c 'yes | head -c 1000000'", ENTER)
        time.sleep(0.2)
        shell.signal(signal.SIGHUP)
        assert shell.process.wait(DEADLINE) == 128 + signal.SIGHUP


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGPIPE,
        signal.SIGALRM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGWINCH,
        signal.SIGURG,
        signal.SIGXFSZ,
        signal.SIGRTMIN,
        signal.SIGRTMAX,
    ],
)
def test_signals_do_not_end_the_shell(shell_binary: Path, number: signal.Signals) -> None:
    with running(shell_binary, "sh") as shell:
        shell.press("sh -c 'echo fi")
        shell.wait_for_line("sh -c 'echo fi")
        shell.signal(number)
        shell.press("ne'", ENTER)
        shell.wait_for_text("\nfine\n")
        shell.wait_for_prompt()
        # and from a command, which is how a user could send one
        assert shell.run(f"sh -c 'kill -{int(number)} $PPID; echo sent'") == "sent"
        assert shell.run("sh -c 'echo again'") == "again"


def test_orphans_are_reaped(shell_binary: Path) -> None:
    """Children that the shell did not start (as a first process it gets them) leave no zombies."""
    with running(shell_binary, "sh") as shell:
        shell.run("sh -c '(sleep 0.1 &) ; exit 0'")
        assert shell.run("sh -c 'sleep 0.3; echo done'") == "done"
        assert shell.children() == []
