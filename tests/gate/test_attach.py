"""The gate on the container's own terminal: one order in, then everything belongs to the command."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gate.harness import PATH, READY, AttachedGate, eventually, exec_frame, frame
from gate.test_gate import BREACHES, FRAME, IDLE, LIFELINE, LIFETIME, STUBBORN, TERMINAL, TERMINATED

STARTED = b"STRT\0\0\0\0"

Attach = Callable[..., AttachedGate]


@pytest.fixture
def attach_gate(gate_binary: Path, pid_namespace: list[str]) -> Iterator[Attach]:
    """Start gates with terminals of their own."""
    with ExitStack() as stack:

        def start(*options: str) -> AttachedGate:
            gate = stack.enter_context(AttachedGate([*pid_namespace, str(gate_binary), *options]))
            assert gate.read_until(READY) == READY
            gate.receive_report()
            return gate

        yield start


def run(gate: AttachedGate, script: str, lifetime: int = 60, grace: int = 1000) -> AttachedGate:
    gate.send(exec_frame(["sh", "-c", script], lifetime=lifetime, grace=grace))
    assert gate.read_until(STARTED) == STARTED
    return gate


def test_without_a_terminal(gate_binary: Path, pid_namespace: list[str]) -> None:
    command = [*pid_namespace, str(gate_binary), "--attach"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=10, check=False)
    assert result.returncode == TERMINAL


def test_command(attach_gate: Attach) -> None:
    gate = run(attach_gate(), "tty </dev/tty; ls /proc/$$/fd; stty -a; echo lf; exit 3")
    output = gate.read_all().decode()
    assert "/dev/tty\r\n" in output  # what the terminal is called when it was opened so
    assert "\r\n0  1  2\r\nspeed" in output
    modes = {"icanon", "echo", "isig", "icrnl", "ixon", "iutf8", "opost", "onlcr", "iexten", "cs8", "cread"}
    assert modes < set(output.split())
    assert output.endswith("lf\r\n")
    assert gate.wait() == 3


def test_nothing_of_the_order_is_echoed(attach_gate: Attach) -> None:
    gate = attach_gate()
    gate.send(exec_frame(["cat"], {**PATH, "SECRET": "battery"}))
    assert gate.read_until(STARTED) == STARTED
    gate.send(b"\x04")
    assert gate.read_all() == b""
    assert gate.wait() == 0


def test_order_with_every_byte(attach_gate: Attach) -> None:
    every = bytes(range(1, 256))
    gate = attach_gate()
    gate.send(exec_frame(["sh", "-c", 'stty raw; printf %s "$1"; printf END', "x", every]))
    assert gate.read_until(STARTED) == STARTED
    assert gate.read_until(b"END") == every + b"END"


def test_largest_order(attach_gate: Attach) -> None:
    command = ["sh", "-c", 'echo "${#1}"; exit 3', "x", ""]
    rest = 65536 + 8 - len(exec_frame(command))
    gate = attach_gate()
    gate.send(exec_frame([*command[:-1], "b" * rest]))
    assert gate.read_until(STARTED) == STARTED
    assert gate.read_all() == f"{rest}\r\n".encode()
    assert gate.wait() == 3


def test_bytes_behind_the_order_are_the_commands(attach_gate: Attach) -> None:
    gate = attach_gate()
    gate.send(exec_frame(["head", "-n", "2"]) + b"first\nsecond\n")
    assert gate.read_until(STARTED) == STARTED
    output = gate.read_all()
    assert b"first\r\nsecond\r\n" in output
    assert gate.wait() == 0


def test_keys_after_the_start_go_through_the_terminal(attach_gate: Attach) -> None:
    gate = run(
        attach_gate(),
        "trap 'echo interrupted; exit 9' INT; read line; echo got $line; while :; do sleep 0.05; done",
    )
    gate.send(b"wro\x7f\x7f\x7fright\r")
    assert b"got right\r\n" in gate.read_until(b"got right\r\n")
    gate.send(b"\x03")
    assert gate.read_all().endswith(b"interrupted\r\n")
    assert gate.wait() == 9


def test_signal_death_shows_as_128_plus_n(attach_gate: Attach) -> None:
    assert run(attach_gate(), "kill -KILL $$").wait() == 137


def test_terminate(attach_gate: Attach) -> None:
    gate = attach_gate()
    gate.signal(signal.SIGTERM)
    assert gate.wait() == TERMINATED
    gate = run(attach_gate(), "trap 'exit 5' HUP; echo on; while :; do sleep 0.05; done", grace=8000)
    gate.read_until(b"on\r\n")
    gate.signal(signal.SIGTERM)
    assert gate.wait() == 5
    gate = run(attach_gate(), STUBBORN, grace=200)
    gate.read_until(b"flood")
    gate.signal(signal.SIGTERM)
    assert gate.wait() == TERMINATED


def test_the_terminal_hangs_up(attach_gate: Attach) -> None:
    gate = attach_gate()
    gate.close()
    assert gate.wait() == LIFELINE
    gate = run(attach_gate(), STUBBORN)
    gate.read_until(b"flood")
    before = time.monotonic()
    gate.close()
    assert gate.wait() == LIFELINE
    assert time.monotonic() - before < 2


def test_deadlines(attach_gate: Attach) -> None:
    idle = attach_gate("--idle", "1")
    lifetime = run(attach_gate("--idle", "1"), STUBBORN, lifetime=1)
    assert idle.wait() == IDLE
    eventually(lambda: lifetime.process.poll() is not None, "lives on")
    assert lifetime.wait() == LIFETIME


@pytest.mark.parametrize(
    "breach", [name for name in BREACHES if "second" not in name and "after" not in name]
)
def test_breach_of_protocol(attach_gate: Attach, breach: str) -> None:
    gate = attach_gate()
    gate.send(BREACHES[breach])
    assert gate.wait() == FRAME


def test_no_frames_after_the_order(attach_gate: Attach) -> None:
    gate = run(attach_gate(), "head -c 8; exit 2")
    gate.send(frame(b"TERM") + b"\r")
    gate.wait()
    assert gate.process.returncode == 2
