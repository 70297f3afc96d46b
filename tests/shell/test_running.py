"""Commands under the shell: signals, terminal modes, environment, descriptors, and what they leave behind."""

import os
import pwd
import re
import shutil
import signal
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .driver import CTRL_C, CTRL_D, DEADLINE, ENTER, PROMPT, Shell, running


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


def test_a_command_that_leaves_the_terminal_non_blocking(shell_binary: Path) -> None:
    """The flag belongs to the open file, which the shell shares with its commands."""
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
import os, signal, sys, termios, time
if os.fork() == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.setpgid(0, 0)
    time.sleep(0.2)
    {theft}
    os.write(1, b"STOLEN")
    time.sleep(20)
print("pid", os.getpid() + 1)
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
def test_a_background_process_that_takes_the_terminal(shell_binary: Path, tmp_path: Path, theft: str) -> None:
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


def test_commands_have_default_signals(shell_binary: Path) -> None:
    with running(shell_binary, "grep") as shell:
        shown = shell.run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        assert [int(line.split()[1], 16) for line in shown.splitlines()] == [0, 0]


def test_commands_get_descriptors_0_to_2_only(shell_binary: Path) -> None:
    extra = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(5)]
    try:
        with Shell(shell_binary, ["--allow", "sh"], descriptors=extra) as shell:
            # ls itself opens the directory, as descriptor 3
            assert shell.run("sh -c 'ls /proc/self/fd | tr \"\\n\" ,'") == "0,1,2,3,"
            descriptors = Path(f"/proc/{shell.process.pid}/fd").iterdir()
            assert sorted(descriptor.name for descriptor in descriptors) == ["0", "1", "2"]
    finally:
        for descriptor in extra:
            os.close(descriptor)


def test_commands_are_in_a_group_of_their_own_in_the_foreground(shell_binary: Path) -> None:
    with running(shell_binary, "sh") as shell:
        shown = shell.run("sh -c 'read a b c d e f g h i </proc/self/stat; echo $$ $e $h'")
        pid, group, foreground = map(int, shown.split())
        assert pid == group == foreground
        assert pid != shell.process.pid


def test_the_shell_cannot_be_read_by_its_commands(shell_binary: Path, public_directory: Path) -> None:
    """A process that is not dumpable keeps its memory from others of the same user."""
    binary = public_directory / "shell"
    shutil.copy(shell_binary, binary)
    user = 65534 if os.geteuid() == 0 else None
    with Shell(binary, ["--allow", "cat,sh"], user=user, directory=public_directory) as shell:
        shell.wait_for_prompt()
        for file in ("environ", "maps", "mem"):
            assert "Permission denied" in shell.run(f"cat /proc/{shell.process.pid}/{file}")
        assert shell.run("sh -c 'cat /proc/$$/environ >/dev/null && echo readable'") == "readable"


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="restricted-shell-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_orphans_are_reaped(shell_binary: Path) -> None:
    """Children that the shell did not start (as a first process it gets them) leave no zombies."""
    with running(shell_binary, "sh") as shell:
        shell.run("sh -c '(sleep 0.1 &) ; exit 0'")
        assert shell.run("sh -c 'sleep 0.3; echo done'") == "done"
        assert shell.children() == []


ENVIRONMENT = {
    "TERM": "screen-256color",
    "COLORTERM": "truecolor",
    "NO_COLOR": "1",
    "LANG": "en_US.UTF-8",
    "LC_ALL": "C.UTF-8",
    "LC_CTYPE": "de_DE.UTF-8@euro",
    "ABLY_API_KEY": "name.key:sec ret/=",
    "ABLY_ACCESS_TOKEN": "t" * 8000,
    "ABLY_EMPTY": "",
    "EXTRA": "kept",
}
DROPPED = {
    "PATH": "/tmp/evil",
    "HOME": "/tmp/evil",
    "USER": "evil",
    "LOGNAME": "evil",
    "SHELL": "/bin/evil",
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp",
    "LD_AUDIT": "/tmp/evil.so",
    "BASH_ENV": "/tmp/evil",
    "ENV": "/tmp/evil",
    "IFS": "x",
    "PS1": "$ ",
    "PS4": "$(id)",
    "CDPATH": "/tmp",
    "PROMPT_COMMAND": "id",
    "SHELLOPTS": "xtrace",
    "BASHOPTS": "extglob",
    "BASH_FUNC_ably%%": "() { id; }",
    "NODE_OPTIONS": "--require /tmp/evil.js",
    "NODE_PATH": "/tmp",
    "NODE_EXTRA_CA_CERTS": "/tmp/evil.pem",
    "PYTHONPATH": "/tmp",
    "PYTHONSTARTUP": "/tmp/evil",
    "PERL5LIB": "/tmp",
    "PERL5OPT": "-Mevil",
    "RUBYOPT": "-revil",
    "GCONV_PATH": "/tmp",
    "LOCPATH": "/tmp",
    "NLSPATH": "/tmp",
    "TERMINFO": "/tmp",
    "TERMINFO_DIRS": "/tmp",
    "TERMCAP": "/tmp/evil",
    "HISTFILE": "/tmp/evil",
    "INPUTRC": "/tmp/evil",
    "MAIL": "/tmp/evil",
    "EDITOR": "evil",
    "VISUAL": "evil",
    "PAGER": "evil",
    "LESSOPEN": "|evil",
    "GIT_SSH_COMMAND": "evil",
    "http_proxy": "http://evil",
    "TMPDIR": "/tmp/evil",
    "TZ": ":/etc/shadow",
    "MALLOC_TRACE": "/tmp/evil",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "SHLVL": "1",
    "OLDPWD": "/tmp",
    "ABLY": "no prefix",
    "ABLY_": "nothing behind the prefix",
    "ABLY_B%d": "not a name",
    "ABLY_LARGE": "x" * 17000,
    "LC_": "C",
    "LC_PATH": "../../tmp/evil",
    "LANGUAGE": "/tmp/evil",
}


def environment_of(shell: Shell) -> dict[str, str]:
    before = len(shell.output)
    shell.enter("env -0")
    lines = shell.output[before:].partition(b"\x1b[?2004l")[2].partition(b"\x1b[!p")[0].decode().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def test_commands_get_an_environment_made_from_scratch(shell_binary: Path) -> None:
    user = pwd.getpwuid(os.geteuid())
    arguments = ["--allow", "env", "--keep", "EXTRA,ABSENT"]
    with Shell(shell_binary, arguments, environment={**DROPPED, **ENVIRONMENT, "PS1": PROMPT}) as shell:
        shell.wait_for_prompt()
        got = environment_of(shell)
    assert got == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "SHELL": "/usr/local/bin/restricted-shell",
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        **ENVIRONMENT,
    }


def test_the_environment_is_bounded(shell_binary: Path) -> None:
    with Shell(
        shell_binary, ["--allow", "env"], environment={f"ABLY_{n}": "x" for n in range(1000)}
    ) as shell:
        shell.wait_for_prompt()
        got = environment_of(shell)
        assert len(got) <= 128
        assert {"PATH", "HOME", "USER", "SHELL", "TERM", "ABLY_0"} <= got.keys()


@pytest.mark.parametrize(
    "term", ["", "../../tmp/evil", "/tmp/evil", "x" * 65, "xterm\n", "xt erm", ".hidden"]
)
def test_a_strange_terminal_name_is_replaced(shell_binary: Path, term: str) -> None:
    with Shell(shell_binary, ["--allow", "env"], environment={"TERM": term}) as shell:
        shell.wait_for_prompt()
        assert environment_of(shell)["TERM"] == "xterm-256color"


def test_commands_are_found_in_fixed_directories_only(shell_binary: Path, tmp_path: Path) -> None:
    evil = tmp_path / "ably"
    evil.write_text("#!/bin/sh\necho OWNED\n")
    evil.chmod(0o755)
    with Shell(
        shell_binary, ["--allow", "ably"], environment={"PATH": str(tmp_path)}, directory=tmp_path
    ) as shell:
        assert shell.run("ably") == "ably: not installed here"
        assert "OWNED" not in shell.screen.text()


def test_the_prompt_comes_at_once(shell_binary: Path) -> None:
    """Without start-up files, locales or dynamic libraries there is nothing to wait for."""
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        with running(shell_binary, "printf"):
            times.append(time.perf_counter() - begin)
    assert sorted(times)[2] < 0.05  # 1 to 2 ms on a quiet machine, Python's part included
