"""Gate and supervisor's end together: real gates as PID 1, leased through the real lifeline."""

import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from gate.test_counting import FLOOD
from supervisor.sandbox.lifeline import SOCKET_NAME, Lifeline, LifelineTerminal, open_lifeline_socket
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

TIMEOUT = 10.0
REPEATS = 1000  # takes about 40 s on two quiet cores
REQUEST = LeaseRequest("session", (), {"PATH": "/usr/bin:/bin", "PS1": "$ "}, cols=101, rows=33)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def entries(directory: str | Path) -> list[str]:
    return sorted(entry.name for entry in Path(directory).iterdir())


Start = Callable[[], AbstractAsyncContextManager[Lifeline]]


@pytest.fixture
def start(gate_binary: Path, pid_namespace: list[str], tmp_path: Path) -> Start:
    """Start a gate and wait until it is ready."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Lifeline]:
        async with open_lifeline_socket(tmp_path) as listening:
            process = await trio.lowlevel.open_process(
                [*pid_namespace, gate_binary, listening.directory / SOCKET_NAME], stdin=subprocess.DEVNULL
            )
            try:

                async def is_gate(pid: int) -> bool:
                    # The engine would tell.
                    return pid in children(process.pid)

                async with await listening.accept(is_gate, TIMEOUT) as lifeline:
                    await lifeline.receive_report()
                    yield lifeline
            finally:
                listening.close()  # with whoever waits there
                with trio.move_on_after(TIMEOUT, shield=True) as scope:
                    await process.wait()
                if scope.cancelled_caught:
                    process.kill()
                assert not scope.cancelled_caught, "the gate lives on"

    return start


def command(*words: str) -> LeaseRequest:
    return attrs.evolve(REQUEST, command=words)


async def receive_until(terminal: LifelineTerminal, end: bytes) -> bytes:
    received = b""
    while end not in received:
        data = await terminal.receive_some()
        assert data, received
        received += data
    return received


async def test_a_session(start: Start) -> None:
    with trio.fail_after(TIMEOUT):
        async with start() as lifeline:
            terminal = await lifeline.claim(command("sh", "-i"))
            await receive_until(terminal, b"$ ")
            await terminal.send_all(b"stty size\r")
            await receive_until(terminal, b"33 101\r\n$ ")
            await terminal.resize(132, 50)
            await terminal.send_all(b"stty size; echo $((6*7))\r")
            await receive_until(terminal, b"50 132\r\n42\r\n$ ")
            await terminal.send_all(b"exit 7\r")
            while await terminal.receive_some():
                pass
            assert await terminal.wait_closed() == ExitStatus(7)


async def test_every_byte_and_the_status_a_thousand_times(start: Start) -> None:
    request = command("sh", "-c", "head -c 1048576 /dev/zero | tr '\\0' x; exit 3")
    begun = 0

    async def once(wait_first: bool) -> None:
        received = 0
        status: list[ExitStatus] = []

        async def wait(terminal: LifelineTerminal) -> None:
            status.append(await terminal.wait_closed())

        with trio.fail_after(6 * TIMEOUT):
            async with start() as lifeline, trio.open_nursery() as nursery:
                terminal = await lifeline.claim(request)
                if wait_first:
                    # Then the end of the output is told by the lifeline, else by the PTY.
                    nursery.start_soon(wait, terminal)
                while data := await terminal.receive_some():
                    received += len(data)
                    assert data.strip(b"x") == b""
                if not wait_first:
                    await wait(terminal)
        assert received == 1048576
        assert status == [ExitStatus(3)]

    async def worker() -> None:
        nonlocal begun
        while begun < REPEATS:
            begun += 1
            await once(begun % 2 == 0)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(worker)


async def test_a_flood_of_counts_is_a_call_now_and_then(start: Start) -> None:
    """Whoever writes where the shell says what it starts costs the supervisor ten calls a second."""
    calls: list[int] = []
    request = attrs.evolve(command("sh", "-c", FLOOD), note_commands=calls.append)
    with trio.fail_after(6 * TIMEOUT):
        async with start() as lifeline, trio.open_nursery() as nursery:
            terminal = await lifeline.claim(request)
            nursery.start_soon(terminal.listen)
            while not calls:
                await trio.sleep(0.01)
            before, begun, used = len(calls), trio.current_time(), time.process_time()
            await trio.sleep(2)
            took, used = trio.current_time() - begun, time.process_time() - used
            assert len(calls) - before <= took / 0.1 + 1
            assert max(calls) <= 4096
            assert used < 0.2
            nursery.cancel_scope.cancel()


async def test_a_shell_that_says_what_it_starts(start: Start) -> None:
    calls: list[int] = []
    script = "printf xx >&3; read line; printf x >&3; exit 3"
    request = attrs.evolve(command("sh", "-c", script), note_commands=calls.append)
    with trio.fail_after(TIMEOUT):
        async with start() as lifeline, trio.open_nursery() as nursery:
            terminal = await lifeline.claim(request)
            nursery.start_soon(terminal.listen)
            while not calls:
                await trio.sleep(0.01)
            await terminal.send_all(b"\r")
            while await terminal.receive_some():
                pass
            assert await terminal.wait_closed() == ExitStatus(3)
            assert sum(calls) == 3
            nursery.cancel_scope.cancel()


async def test_terminate(start: Start) -> None:
    script = "trap 'exit 5' HUP; echo on; while :; do sleep 0.05; done"
    with trio.fail_after(TIMEOUT):
        async with start() as lifeline:
            terminal = await lifeline.claim(command("sh", "-c", script))
            await receive_until(terminal, b"on\r\n")
            await terminal.terminate()
            assert await terminal.wait_closed() == ExitStatus(5)
            while await terminal.receive_some():
                pass


async def test_terminate_with_a_session_that_does_not_go(start: Start) -> None:
    request = attrs.evolve(command("sh", "-c", "trap '' HUP; echo on; sleep 60"), hangup_grace=0.2)
    with trio.fail_after(TIMEOUT):
        async with start() as lifeline:
            terminal = await lifeline.claim(request)
            await receive_until(terminal, b"on\r\n")
            await terminal.terminate()
            with pytest.raises(trio.BrokenResourceError, match="without a status"):
                await terminal.wait_closed()


async def test_the_gate_is_killed(start: Start) -> None:
    with trio.fail_after(TIMEOUT):
        async with start() as lifeline:
            terminal = await lifeline.claim(command("sh", "-c", "echo on; sleep 60"))
            await receive_until(terminal, b"on\r\n")
            os.kill(lifeline.pid, 9)
            assert await terminal.receive_some() == b""
            with pytest.raises(trio.BrokenResourceError, match="without a status"):
                await terminal.wait_closed()


async def test_a_megabyte_through_cat(start: Start) -> None:
    data = os.urandom(1 << 20)
    received = bytearray()
    with trio.fail_after(3 * TIMEOUT):
        async with start() as lifeline, trio.open_nursery() as nursery:
            terminal = await lifeline.claim(command("sh", "-c", "stty raw -echo; echo on; exec cat"))
            received += await receive_until(terminal, b"on\n")
            received.clear()
            nursery.start_soon(terminal.send_all, data)
            while len(received) < len(data):
                received += await terminal.receive_some()
    assert received == data


@pytest.mark.parametrize("through", ["exit", "close"])
async def test_cancelled_at_every_checkpoint(start: Start, tmp_path: Path, through: str) -> None:
    async def scenario() -> None:
        async with start() as lifeline:
            terminal = await lifeline.claim(
                command("sh", "-c", "trap '' HUP; echo on; read line; exit $line")
            )
            await receive_until(terminal, b"on\r\n")
            if through == "exit":
                await terminal.send_all(b"4\r")
                while await terminal.receive_some():
                    pass
                assert await terminal.wait_closed() == ExitStatus(4)

    before = entries("/proc/self/fd")

    async def nothing_is_left() -> None:
        assert entries("/proc/self/fd") == before
        assert not entries(tmp_path)

    with trio.fail_after(6 * TIMEOUT):
        assert await cancel_at_every_checkpoint(scenario, nothing_is_left) > 5
