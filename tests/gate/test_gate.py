"""The gate as PID 1, with a supervisor that behaves, one that does not, and sessions of every kind."""

import contextlib
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest

from gate.harness import PATH, TERMINATE, Gate, eventually, exec_frame, exit_frame, frame

USAGE, SYSTEM, TERMINAL, CONNECT, FRAME, LIFELINE, IDLE, LIFETIME, TERMINATED, SURVIVORS = range(240, 250)
# Goes on for ever, whatever hang-ups it gets, and floods its terminal.
STUBBORN = "trap '' HUP TERM; echo started; while :; do echo flood; done"

Start = Callable[..., Gate]


# --- start


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            [],
            ["a", "b"],
            [""],
            ["--idle", "a"],
            ["--idle", "0", "a"],
            ["--idle", "x", "a"],
            ["--attach", "a"],
        ),
        *(["--idle", "99999999999999999999", "a"], ["--what", "a"], ["x" * 108]),
    ],
)
def test_wrong_arguments(gate_binary: Path, pid_namespace: list[str], arguments: list[str]) -> None:
    command = [*pid_namespace, str(gate_binary), *arguments]
    assert subprocess.run(command, timeout=10, check=False).returncode == USAGE


def test_refuses_to_be_anything_but_pid_1(gate_binary: Path, tmp_path: Path) -> None:
    assert subprocess.run([gate_binary, tmp_path / "s"], timeout=10, check=False).returncode == USAGE


def test_no_socket(gate_binary: Path, pid_namespace: list[str], tmp_path: Path) -> None:
    command = [*pid_namespace, str(gate_binary), str(tmp_path / "nobody")]
    assert subprocess.run(command, timeout=10, check=False).returncode == CONNECT


def test_ready(start_gate: Start) -> None:
    gate = start_gate().accept()
    status = os.fstat(gate.master)
    assert stat.S_ISCHR(status.st_mode)
    assert status.st_rdev == os.makedev(5, 2)

    def links() -> list[str]:
        return [str(link.readlink()) for link in Path(f"/proc/{gate.pid}/fd").iterdir()]

    eventually(lambda: not any("ptmx" in link for link in links()), "it keeps the master")
    # Standard streams and its own descriptors; nothing inherited.
    kinds = sorted(re.sub(r"\d+", "N", link) for link in links())
    own = [
        "/dev/pts/N",
        "anon_inode:[eventfd]",
        "anon_inode:[signalfd]",
        "anon_inode:[timerfd]",
        "pipe:[N]",
        "socket:[N]",
    ]
    assert [kind for kind in kinds if kind in own] == own
    assert len(kinds) == 3 + len(own)


def test_terminal_modes(start_gate: Start) -> None:
    gate = start_gate().accept()
    modes = termios.tcgetattr(gate.master)
    iutf8 = 0o40000
    assert modes[0] == termios.ICRNL | termios.IXON | iutf8
    assert modes[1] == termios.OPOST | termios.ONLCR
    assert (
        modes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        == termios.ICANON | termios.ECHO | termios.ISIG
    )
    assert modes[6][termios.VINTR] == b"\x03"


# --- the command's world


def test_child(start_gate: Start) -> None:
    gate = start_gate().accept().run("sleep", "100", environment={**PATH, "SECRET": "ü =\n'\"", "EMPTY": ""})
    eventually(lambda: gate.processes() == ["sleep 100"], "not started")
    (child,) = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    proc = Path(f"/proc/{child}")
    links = {link.name: str(link.readlink()) for link in (proc / "fd").iterdir()}
    assert sorted(links) == ["0", "1", "2"]
    assert len(set(links.values())) == 1
    assert links["0"].startswith("/dev/pts/")
    assert (proc / "environ").read_bytes() == "PATH=/usr/bin:/bin\0SECRET=ü =\n'\"\0EMPTY=\0".encode()
    assert (proc / "oom_score_adj").read_text() == "1000\n"
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert {status[name] for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {"0" * 16}
    after_name = (proc / "stat").read_text().rpartition(")")[2].split()
    group, session, terminal, foreground = after_name[2:6]
    assert group == session == child
    assert int(terminal) != 0
    assert int(foreground) == int(child) or int(foreground) > 0


def test_the_gate_forgets_the_environment(start_gate: Start) -> None:
    gate = start_gate().accept().run("cat", environment={**PATH, "SECRET": "correct horse battery"})
    eventually(lambda: gate.processes() == ["cat"], "not started")
    regions = [line.split()[0].split("-") for line in Path(f"/proc/{gate.pid}/maps").read_text().splitlines()]
    found = b""
    with Path(f"/proc/{gate.pid}/mem").open("rb", buffering=0) as memory:
        for first, last in regions:
            if int(first, 16) < 1 << 47:  # not the vsyscall page
                memory.seek(int(first, 16))
                try:
                    found += memory.read(int(last, 16) - int(first, 16))
                except OSError:  # [vvar] cannot be read this way
                    continue
    assert len(found) > 65536
    assert b"battery" not in found


def test_window_size_before_the_first_instruction(start_gate: Start) -> None:
    gate = start_gate().accept()
    ioctl(gate.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    assert gate.run("stty", "size").read_all() == "33 101\r\n"


def test_controlling_terminal(start_gate: Start) -> None:
    gate = (
        start_gate()
        .accept()
        .shell("trap 'echo interrupted; exit 9' INT; echo on >/dev/tty; while :; do sleep 0.05; done")
    )
    gate.read_until("on\r\n")
    gate.type("\x03")
    assert "interrupted" in gate.read_all()
    assert gate.said() == exit_frame(9)


# --- exit


@pytest.mark.parametrize(
    ("script", "status", "number"),
    [
        ("exit 0", 0, 0),
        ("exit 3", 3, 0),
        ("exit 255", 255, 0),
        ("kill -KILL $$", 137, 9),
        ("kill -HUP $$", 129, 1),
    ],
)
def test_exit(start_gate: Start, script: str, status: int, number: int) -> None:
    gate = start_gate().accept().shell(script)
    assert gate.said() == exit_frame(status, number)
    assert gate.wait() == status
    assert gate.read() is None


def test_output_before_exit(start_gate: Start) -> None:
    gate = start_gate().accept().shell("printf 'last words'; exit 3")
    assert gate.said() == exit_frame(3)
    assert gate.wait() == 3
    assert gate.read_all() == "last words"


def test_commands_that_cannot_run(start_gate: Start, tmp_path: Path) -> None:
    (tmp_path / "denied").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "binary").write_bytes(b"\0\1\2\3")
    (tmp_path / "binary").chmod(0o755)
    (tmp_path / "uninterpreted").write_text("#!/no/such/interpreter\n")
    (tmp_path / "uninterpreted").chmod(0o755)
    here = {"PATH": str(tmp_path)}
    for command, environment, status, reason in [
        ("nowhere", PATH, 127, "cannot run nowhere: not found"),
        ("/no/where", PATH, 127, "cannot run /no/where: not found"),
        ("sh", {}, 127, "cannot run sh: not found"),
        ("sh", {"PATH": ""}, 127, "cannot run sh: not found"),
        ("sh", {"XPATH": "/bin"}, 127, "cannot run sh: not found"),
        ("denied", here, 126, "cannot run denied: permission denied"),
        (str(tmp_path / "denied"), {}, 126, "permission denied"),
        (str(tmp_path), {}, 126, "permission denied"),
        ("binary", here, 126, "it cannot be executed"),
        ("uninterpreted", here, 127, "not found"),
        ("x" * 5000, PATH, 127, "not found"),
    ]:
        gate = start_gate().accept().run(command, environment=environment)
        assert reason in gate.read_all(), command
        assert gate.said() == exit_frame(status), command


def test_path_is_searched_in_order(start_gate: Start, tmp_path: Path) -> None:
    for name, content in [("1", None), ("2", "exit 2"), ("3", "exit 3")]:
        (tmp_path / name).mkdir()
        program = tmp_path / name / "program"
        program.write_text(f"#!/bin/sh\n{content}\n")
        if content is not None:
            program.chmod(0o755)
    path = f"/no/such:/etc/passwd:{tmp_path}/1::{'x' * 4096}:{tmp_path}/2:{tmp_path}/3:"
    gate = start_gate().accept().run("program", environment={"PATH": path})
    assert gate.said() == exit_frame(2)


def test_the_current_directory_is_not_searched(
    gate_binary: Path, pid_namespace: list[str], tmp_path: Path
) -> None:
    with Gate([*pid_namespace, str(gate_binary)], tmp_path, cwd="/bin") as gate:
        gate.accept().run("sh", "-c", "exit 1", environment={"PATH": ":/no/such::"})
        assert gate.said() == exit_frame(127)


# --- supervisors that do not behave

ODD_COUNTS = struct.pack(">IIIHH", 60, 1000, 0, 2, 0)
BREACHES = {
    "garbage": b"\xff" * 100,
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "type": frame(b"EXIT"),
    "ready": frame(b"REDY", b"\0\0\0\3"),
    "version 2": frame(b"EXEC", struct.pack(">IIHH", 60, 1000, 1, 0) + b"true\0"),
    "lower case": exec_frame(["true"]).replace(b"EXEC", b"exec"),
    "empty": frame(b"EXEC"),
    "numbers only": frame(b"EXEC", ODD_COUNTS),
    "too long": b"EXEC" + struct.pack(">I", 65537),
    "longest": b"EXEC\xff\xff\xff\xff",
    "terminate with payload": frame(b"TERM", b"x"),
    "no arguments": exec_frame([], {"A": "bcdefgh"}),
    "too many arguments": exec_frame(["true"] * 65),
    "too many variables": exec_frame(["true"], {f"A{i}": "" for i in range(257)}),
    "fewer strings than said": frame(b"EXEC", ODD_COUNTS + b"true\0"),
    "more strings than said": frame(b"EXEC", ODD_COUNTS + b"a\0b\0c\0"),
    "bytes after the last": frame(b"EXEC", ODD_COUNTS + b"a\0b\0c"),
    "no last NUL": frame(b"EXEC", ODD_COUNTS + b"true\0x"),
    "empty command": exec_frame(["", "x"]),
    "variable without =": frame(b"EXEC", struct.pack(">IIIHH", 60, 1000, 0, 1, 1) + b"true\0NAME\0"),
    "variable without name": exec_frame(["true"], {"": "x"}),
    "lifetime 0": exec_frame(["true"], lifetime=0),
    "lifetime": exec_frame(["true"], lifetime=10_000_001),
    "grace": exec_frame(["true"], grace=600_001),
    "unknown option": exec_frame(["true"], options=2),
    "second order": exec_frame(["sleep", "60"]) + exec_frame(["true"]),
    "garbage afterwards": exec_frame(["sleep", "60"]) + b"x" * 100,
    "flood afterwards": exec_frame(["sleep", "60"]) + b"TERx" * 50_000,
    "terminate with payload afterwards": exec_frame(["sleep", "60"]) + frame(b"TERM", b"x"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_breach_of_protocol(start_gate: Start, breach: str) -> None:
    gate = start_gate().accept()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read all of it
        gate.send(BREACHES[breach])
    assert gate.said() == b""
    assert gate.wait() == FRAME


@pytest.mark.parametrize("sent", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("half", [False, True], ids=["closed", "shut down"])
def test_end_of_file_before_the_order_is_complete(start_gate: Start, sent: int, half: bool) -> None:
    gate = start_gate().accept()
    gate.send(exec_frame(["sh", "-c", "echo never"])[:sent])
    if half:
        gate.lifeline.shutdown(1)
        assert gate.said() == b""
    else:
        gate.lifeline.close()
    assert gate.wait() == LIFELINE


@pytest.mark.parametrize("script", [STUBBORN, "sleep 60", "setsid -f sleep 60; kill -STOP $$"])
def test_end_of_file_ends_everything_at_once(start_gate: Start, script: str) -> None:
    gate = start_gate().accept().shell(script)
    eventually(gate.processes, "not started")
    before = time.monotonic()
    gate.lifeline.close()
    assert gate.wait() == LIFELINE
    assert time.monotonic() - before < 2
    assert gate.read_all() is not None  # ends


def test_end_of_file_after_half_a_frame(start_gate: Start) -> None:
    gate = start_gate().accept().shell("sleep 60")
    gate.send(TERMINATE[:5])
    gate.lifeline.close()
    assert gate.wait() == LIFELINE


def test_order_byte_by_byte(start_gate: Start) -> None:
    gate = start_gate().accept()
    for byte in exec_frame(["sh", "-c", "exit 6"]):
        gate.send(bytes([byte]))
    assert gate.said() == exit_frame(6)


def test_largest_order(start_gate: Start) -> None:
    environment = {f"NAME{i}": "" for i in range(255)}
    command = ["sh", "-c", 'echo "$#" "${#1}" "$(env | grep -c ^NAME)"; exit 3', "x", *["a"] * 60]
    rest = 65536 + 8 - len(exec_frame(command, {**PATH, **environment}))
    command[4] += "b" * rest
    order = exec_frame(command, {**PATH, **environment})
    assert len(order) == 65536 + 8
    assert len(command) == 64
    gate = start_gate().accept()
    gate.send(order)
    assert gate.read_all() == f"60 {rest + 1} 255\r\n"
    assert gate.said() == exit_frame(3)


def test_descriptors_sent_to_the_gate_are_dropped(start_gate: Start) -> None:
    gate = start_gate().accept()
    socket.send_fds(gate.lifeline, [exec_frame(["sleep", "60"])], [gate.master] * 20)
    eventually(gate.processes, "not started")
    assert len(list(Path(f"/proc/{gate.pid}/fd").iterdir())) == 3 + 4  # as in test_ready


# --- time


@pytest.mark.parametrize("sent", [0, 9])
def test_idle_bound(start_gate: Start, sent: int) -> None:
    gate = start_gate("--idle", "1").accept()
    before = time.monotonic()
    gate.send(exec_frame(["true"])[:sent])
    assert gate.wait() == IDLE
    assert 0.5 < time.monotonic() - before < 3


def test_idle_bound_is_over_with_the_order(start_gate: Start) -> None:
    gate = start_gate("--idle", "1").accept().shell("sleep 1.3; exit 4")
    assert gate.said() == exit_frame(4)


@pytest.mark.parametrize("script", [STUBBORN, "sleep 60"])
def test_lifetime(start_gate: Start, script: str) -> None:
    gate = start_gate().accept()
    before = time.monotonic()
    gate.shell(script, lifetime=1)
    assert gate.said() == b""
    assert gate.wait() == LIFETIME
    assert 0.9 < time.monotonic() - before < 3


# --- terminate


@pytest.mark.parametrize("how", ["frame", "signal"])
def test_terminate_before_the_order(start_gate: Start, how: str) -> None:
    gate = start_gate().accept()
    if how == "frame":
        gate.send(TERMINATE)
    else:
        gate.signal(signal.SIGTERM)
    assert gate.wait() == TERMINATED


@pytest.mark.parametrize("how", ["frame", "bytes", "twice", "signal"])
def test_terminate_hangs_up(start_gate: Start, how: str) -> None:
    gate = start_gate().accept()
    gate.shell("trap 'echo bye; exit 5' HUP; echo on; while :; do sleep 0.05; done", grace=8000)
    gate.read_until("on\r\n")
    if how == "signal":
        gate.signal(signal.SIGTERM)
    else:
        parts = {"frame": [TERMINATE], "bytes": [b"TE", b"RM\0", b"\0\0\0"], "twice": [TERMINATE * 2]}
        for part in parts[how]:
            gate.send(part)
    assert gate.said() == exit_frame(5)
    assert gate.wait() == 5
    assert gate.read_all().endswith("bye\r\n")


def test_terminate_wakes_stopped_processes(start_gate: Start) -> None:
    gate = start_gate().accept().shell("kill -STOP $$")
    eventually(lambda: gate.processes() and "T" in state_of_child(gate), "not stopped")
    gate.send(TERMINATE)
    assert gate.said() == exit_frame(129, signal.SIGHUP)


def state_of_child(gate: Gate) -> str:
    children = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    return Path(f"/proc/{children[0]}/stat").read_text().rpartition(")")[2].split()[0] if children else ""


@pytest.mark.parametrize("again", [False, True])
def test_terminate_with_a_session_that_does_not_go(start_gate: Start, again: bool) -> None:
    gate = start_gate().accept().shell(STUBBORN, grace=300)
    gate.read_until("flood")
    before = time.monotonic()
    gate.send(TERMINATE)
    if again:
        time.sleep(0.2)
        gate.send(TERMINATE)  # must not make the grace longer
    assert gate.said() == b""
    assert gate.wait() == TERMINATED
    assert 0.25 < time.monotonic() - before < 2


def test_no_grace_at_all(start_gate: Start) -> None:
    gate = start_gate().accept().shell(STUBBORN, grace=0)
    gate.read_until("flood")
    gate.send(TERMINATE)
    assert gate.wait() == TERMINATED


# --- sessions of every kind


def test_daemons_end_with_the_command(start_gate: Start) -> None:
    gate = start_gate().accept()
    gate.shell(
        "daemon() { trap '' HUP TERM INT; setsid sh -c 'while :; do echo daemon; sleep 0.01; done' & };"
        "(daemon); (daemon); (setsid -f sleep 60); sleep 0.1; exit 7"
    )
    assert gate.said() == exit_frame(7)
    assert gate.wait() == 7
    assert "daemon" in gate.read_all()


def test_many_processes_end_with_the_command(start_gate: Start) -> None:
    gate = start_gate().accept().shell("for i in $(seq 150); do sleep 60 & done; kill -STOP %1 %2; exit 7")
    assert gate.said() == exit_frame(7)


def test_orphans_are_reaped(start_gate: Start) -> None:
    gate = start_gate().accept().shell("for i in $(seq 50); do (true &); done; exec sleep 60")
    eventually(lambda: gate.processes() == ["sleep 60"], "zombies stay")


def test_signals_of_the_session_do_not_harm_the_gate(start_gate: Start) -> None:
    gate = start_gate().accept()
    gate.shell(
        "for s in HUP INT QUIT KILL STOP TSTP USR1 SEGV ILL PIPE ALRM CHLD CONT 40 64; do kill -$s 1; done;"
        "for i in $(seq 300); do kill -CHLD 1; done; echo alive; exit 4"
    )
    assert "alive" in gate.read_all()
    assert gate.said() == exit_frame(4)


def test_a_session_that_terminates_its_gate_ends_itself(start_gate: Start) -> None:
    gate = start_gate().accept().shell("trap 'exit 6' HUP; kill -TERM 1; while :; do sleep 0.05; done")
    assert gate.said() == exit_frame(6)


def test_output_that_nobody_reads(start_gate: Start) -> None:
    gate = start_gate().accept().shell(STUBBORN, grace=200)
    eventually(gate.processes, "not started")
    time.sleep(0.1)
    gate.send(TERMINATE)
    assert gate.wait() == TERMINATED
    assert "flood" in gate.read_all()


def test_a_session_that_closes_its_terminal(start_gate: Start) -> None:
    gate = start_gate().accept().shell("exec <&- >&- 2>&-; sleep 0.2; exit 8")
    assert gate.said() == exit_frame(8)


def test_the_supervisor_may_close_the_terminal_first(start_gate: Start) -> None:
    gate = start_gate().accept().shell("trap 'exit 3' HUP; while :; do sleep 0.05; done")
    eventually(gate.processes, "not started")
    time.sleep(0.05)
    gate.close_master()  # the kernel hangs the terminal up
    assert gate.said() == exit_frame(3)


# --- the child before it is the command


def entries_of(report: bytes) -> dict[str, bytes | int]:
    found: dict[str, bytes | int] = {}
    while report:
        name, _, rest = report.partition(b"\0")
        (result,) = struct.unpack(">i", rest[:4])
        found[name.decode()] = rest[4 : 4 + result] if result >= 0 else result
        report = rest[4 + max(0, result) :]
    return found


def test_report(start_gate: Start) -> None:
    gate = start_gate().accept()
    (child,) = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    seen = entries_of(gate.report)
    for name in ("uid_map", "limits", "mountinfo"):
        assert seen[f"/proc/self/{name}"] == Path(f"/proc/{child}/{name}").read_bytes(), name
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        assert seen[f"/proc/self/ns/{kind}"] == str(Path(f"/proc/{child}/ns/{kind}").readlink()).encode()
    status = seen["/proc/self/status"]
    assert isinstance(status, bytes)
    assert b"\nPid:\t2\n" in status, "of the child, not of the gate"
    assert seen["landlock"] == b"\0\0\0\0", "without a rule nothing is given up"
    assert seen["/proc/version"] == Path("/proc/version").read_bytes()
    for name in ("nofile", "sigpending"):
        limits = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
        assert seen[f"limit {name}"] == b"".join(limit.to_bytes(8, "big") for limit in limits), name
    assert seen["no-new-privs"] in {bytes(4), b"\0\0\0\1"}
    assert seen["/dev/pts/ptmx"] == b""
    assert seen["memfd_create"] == -22, "there is no filter, and nothing has such flags"
    # Streams, what wakes it, and where it may be told to say what it starts.
    eventually(lambda: len(list(Path(f"/proc/{child}/fd").iterdir())) == 5, "it keeps more")


def test_confined(start_gate: Start) -> None:
    gate = start_gate("--allow", "x:/usr", "--allow", "x:/bin", "--allow", "x:/lib", "--allow", "x:/lib64")
    gate.accept()
    seen = entries_of(gate.report)
    assert seen["landlock"] != b"\0\0\0\0", "this kernel has no Landlock"
    assert seen["/dev/pts/ptmx"] == -13
    assert seen["/proc/self/status"] == -13
    gate.shell("cat /etc/passwd; echo x >$(tty); (echo y) 2>&1 >/dev/null; echo end")
    output = gate.read_until("end")
    assert "/etc/passwd: Permission denied" in output
    assert "/dev/null" in output
    assert "x\r\n" in output, "its own terminal is its own"


@pytest.mark.parametrize("rule", ["", "x", "x:", "x:usr", "q:/usr", ":/usr"])
def test_wrong_rules(gate_binary: Path, pid_namespace: list[str], rule: str) -> None:
    for option in ("--allow", "--connect"):
        command = [*pid_namespace, str(gate_binary), option, rule, "socket"]
        assert subprocess.run(command, timeout=10, check=False).returncode == USAGE


def test_no_session_without_its_profile(start_gate: Start) -> None:
    """The kernel has no AppArmor, or no such profile, or does not let an unconfined gate have it."""
    gate = start_gate("--stack", "ably-cli-sandbox-session-none")
    assert gate.wait() == SURVIVORS + 1


@pytest.mark.parametrize("names", [[""], ["x" * 201], ["one", "--stack", "two"], []])
def test_wrong_profiles(gate_binary: Path, pid_namespace: list[str], names: list[str]) -> None:
    command = [*pid_namespace, str(gate_binary), "socket", "--stack", *names]
    assert subprocess.run(command, timeout=10, check=False).returncode == USAGE


def test_a_child_that_dies_before_the_claim(start_gate: Start) -> None:
    gate = start_gate().accept()
    (child,) = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert gate.wait() == SURVIVORS + 1
    assert gate.said() == b""
