"""What a session's program says that it starts: relayed by the gate as numbers, seldom, and never more than
numbers."""

import array
import ctypes
import os
import signal
import socket
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest

from gate.harness import PATH, TERMINATE, Gate, count_frame, eventually, exec_frame, exit_frame
from gate.test_gate import LIFELINE, TERMINATED

COUNT = 1
PAUSE = 0.1  # seconds between two frames at least
MOST = 4096  # commands that one frame tells of
SAY = "printf x >&3"
FLOOD = "while :; do printf '%04096d' 0 >&3; done 2>/dev/null"  # a full pipe is an error

Start = Callable[..., Gate]


def counted(gate: Gate, script: str, grace: int = 1000) -> Gate:
    gate.accept().send(exec_frame(["sh", "-c", script], options=COUNT, grace=grace))
    return gate


def test_the_command_s_descriptor(start_gate: Start) -> None:
    gate = counted(start_gate(), "exec sleep 60")
    eventually(lambda: gate.processes() == ["sleep 60"], "not started")
    (child,) = Path(f"/proc/{gate.pid}/task/{gate.pid}/children").read_text().split()
    # It is named so before it has loaded its libraries, which takes descriptors for a moment.
    opened = Path(f"/proc/{child}/fd")
    eventually(lambda: sorted(each.name for each in opened.iterdir()) == ["0", "1", "2", "3"], "others")
    links = {link.name: str(link.readlink()) for link in opened.iterdir()}
    assert links["3"].startswith("pipe:")
    info = Path(f"/proc/{child}/fdinfo/3").read_text()
    flags = int(info.split("flags:")[1].split()[0], 8)
    assert flags & os.O_ACCMODE == os.O_WRONLY
    assert flags & os.O_NONBLOCK, "a full pipe would hold the command up"
    own = [str(link.readlink()) for link in Path(f"/proc/{gate.pid}/fd").iterdir()]
    assert own.count(links["3"]) == 1, "the gate has the end to read from, and no other"


def test_nobody_asked(start_gate: Start) -> None:
    """Other commands have no such descriptor, and the gate nothing to read from."""
    gate = start_gate().accept().shell(f"({SAY}) 2>/dev/null || echo none; sleep 0.2; exit 3")
    assert gate.said() == exit_frame(3)
    assert gate.read_all() == "none\r\n"


def test_a_count_comes_at_once_and_further_ones_together(start_gate: Start) -> None:
    gate = counted(
        start_gate(), f"for i in $(seq 5); do read line; {SAY}; echo done; done; read line; exit 3"
    )
    gate.type("\n")
    assert gate.hear() == (b"CMDS", 1)
    first = time.monotonic()
    gate.type("\n\n\n\n")
    assert gate.hear() == (b"CMDS", 4)
    assert time.monotonic() - first > PAUSE / 2  # by this process's clock, which may have been late before
    gate.type("\n")
    assert gate.said() == exit_frame(3)


def test_what_is_started_just_before_the_end_is_told_before_it(start_gate: Start) -> None:
    gate = counted(start_gate(), f"{SAY}; read line; {SAY}; {SAY}; exit 3")
    assert gate.hear() == (b"CMDS", 1)
    gate.type("\n")
    assert gate.said() == count_frame(2) + exit_frame(3)
    assert gate.wait() == 3


def test_a_flood_is_a_frame_now_and_then(start_gate: Start) -> None:
    gate = counted(start_gate(), FLOOD, grace=60_000)
    assert gate.hear() == (b"CMDS", MOST)
    begun, frames = time.monotonic(), 0
    cpu = cpu_ticks(gate)
    while time.monotonic() - begun < 2:
        assert gate.hear() == (b"CMDS", MOST)
        frames += 1
    assert frames <= 2 / PAUSE + 2
    assert cpu_ticks(gate) - cpu <= 20, "the gate is busy"
    gate.send(TERMINATE)
    ends = gate.said()
    assert gate.wait() == 129
    assert ends.endswith(exit_frame(129, signal.SIGHUP))
    assert set(ends[: -len(exit_frame(0))]) <= set(count_frame(MOST))


def cpu_ticks(gate: Gate) -> int:
    """CPU time that the gate has used, hundredths of a second."""
    fields = Path(f"/proc/{gate.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def gate_s_end(gate: Gate) -> socket.socket:
    """The very socket that the gate has as its lifeline (pidfd_getfd(2))."""
    (descriptor,) = (
        int(link.name)
        for link in Path(f"/proc/{gate.pid}/fd").iterdir()
        if str(link.readlink()).startswith("socket:")
    )
    pidfd = os.pidfd_open(gate.pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=copy)


def unread(gate: Gate) -> int:
    """Bytes that the supervisor has not read."""
    count = array.array("i", [0])
    ioctl(gate.lifeline, termios.FIONREAD, count)
    return count[0]


def test_a_supervisor_that_does_not_read_still_gets_the_exit(start_gate: Start) -> None:
    """There is room for it, however many counts there would have been to tell."""
    gate = start_gate().accept()
    with gate_s_end(gate) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that the kernel has: some frames
    gate.send(exec_frame(["sh", "-c", f"({FLOOD}) & read line; exit 3"], options=COUNT))
    frame = len(count_frame(MOST))
    eventually(lambda: unread(gate) >= 2 * frame, "it says nothing")
    time.sleep(10 * PAUSE)  # in which nothing more is to come
    assert unread(gate) == 2 * frame
    gate.type("\n")
    assert gate.wait() == 3
    assert gate.said() == 2 * count_frame(MOST) + exit_frame(3)


def test_lifeline_and_deadline_count_during_a_flood(start_gate: Start) -> None:
    gate = counted(start_gate(), f"trap '' HUP TERM; {FLOOD}", grace=200)
    assert gate.hear() == (b"CMDS", MOST)
    gate.send(TERMINATE)
    assert gate.wait() == TERMINATED
    gate = counted(start_gate(), f"trap '' HUP TERM; {FLOOD}")
    assert gate.hear() == (b"CMDS", MOST)
    gate.lifeline.close()
    assert gate.wait() == LIFELINE


TAKE = """
import contextlib, fcntl, os, time
fcntl.fcntl(3, fcntl.F_SETFL, 0)  # no O_NONBLOCK any more
mine = os.open("/proc/self/fd/3", os.O_RDONLY | os.O_NONBLOCK)
until = time.monotonic() + 2
while time.monotonic() < until:  # whatever the gate is just about to read
    os.write(3, b"x")
    with contextlib.suppress(BlockingIOError):
        os.read(mine, 1)
print("taken", flush=True)
time.sleep(60)
"""


def test_a_session_that_takes_its_counts_back_does_not_hold_the_gate_up(start_gate: Start) -> None:
    gate = start_gate().accept()
    gate.send(exec_frame(["python3", "-c", TAKE], PATH, options=COUNT))
    gate.read_until("taken")
    gate.lifeline.close()
    assert gate.wait() == LIFELINE


def test_a_session_that_closes_its_end_is_left_alone(start_gate: Start) -> None:
    gate = counted(start_gate(), f"{SAY}; exec 3>&-; echo closed; read line; exit 4")
    assert gate.hear() == (b"CMDS", 1)
    gate.read_until("closed")
    time.sleep(2 * PAUSE)  # it would be busy now
    cpu = cpu_ticks(gate)
    time.sleep(0.5)
    assert cpu_ticks(gate) - cpu <= 5
    gate.type("\n")
    assert gate.said() == exit_frame(4)


@pytest.mark.parametrize("size", [1, 100, MOST, MOST + 1])
def test_how_many_at_once(start_gate: Start, size: int) -> None:
    gate = counted(start_gate(), f"printf '%0{size}d' 0 >&3; sleep 60")
    assert gate.hear() == (b"CMDS", min(size, MOST))
    if size > MOST:
        assert gate.hear() == (b"CMDS", size - MOST)
