"""What commands get from the shell, and what they do not: environment, descriptors, signals, memory."""

import os
import pwd
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driver import PROMPT, Shell, running


def test_commands_have_default_signals(shell_binary: Path) -> None:
    with running(shell_binary, "grep") as shell:
        shown = shell.run("grep -E '^Sig(Blk|Ign)' /proc/self/status")
        # 32 and 33 are the C library's own (signal(7)): whoever started the tests may have left them ignored.
        library = 1 << 31 | 1 << 32
        assert [int(line.split()[1], 16) & ~library for line in shown.splitlines()] == [0, 0]


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


def test_a_user_id_without_an_entry_gets_the_images_defaults(
    shell_binary: Path, public_directory: Path
) -> None:
    """As sessions do that have a user id of their own. Only root can become somebody who does not exist."""
    binary = public_directory / "shell"
    shutil.copy(shell_binary, binary)
    user = 54321 if os.geteuid() == 0 else None
    with Shell(binary, ["--allow", "env"], user=user, directory=public_directory) as shell:
        shell.wait_for_prompt()
        got = environment_of(shell)
    expected = ("appuser", "/home/appuser") if user else (pwd.getpwuid(os.geteuid())[0], str(Path.home()))
    assert (got["USER"], got["HOME"]) == expected
