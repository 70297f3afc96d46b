"""PTY streams on real PTYs: ends, waits, cancellation, and what a liar may pass off as a master."""

import array
import gc
import os
import socket
import struct
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from fcntl import F_GETFL, F_SETFL, fcntl, ioctl
from os import read
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from supervisor.errors import SandboxError
from supervisor.sandbox.pty import OneTaskAtATime, PtyStream, require_pty_master
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

TIMEOUT = 10.0
MEGABYTE = 1 << 20


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    gc.collect()
    before = len(descriptors())
    yield
    gc.collect()
    assert len(descriptors()) == before


@attrs.define
class Pair:
    """A PTY: its master as a stream, its slave (raw mode) as a descriptor."""

    stream: PtyStream
    slave: int

    def write(self, data: bytes) -> None:
        assert os.write(self.slave, data) == len(data)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=subprocess.DEVNULL)

    def close_slave(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    master, slave = os.openpty()
    tty.setraw(slave)
    pair = Pair(PtyStream(master), slave)
    with trio.fail_after(TIMEOUT):
        yield pair
    pair.close_slave()
    pair.stream.close()


async def test_both_directions(pair: Pair) -> None:
    pair.write(b"out")
    assert await pair.stream.receive_some() == b"out"
    await pair.stream.send_all(b"in")
    assert os.read(pair.slave, 100) == b"in"
    await pair.stream.send_all(b"")
    pair.write(b"abc")
    assert await pair.stream.receive_some(2) == b"ab"
    assert await pair.stream.receive_some(2) == b"c"
    with pytest.raises(ValueError, match="max_bytes"):
        await pair.stream.receive_some(0)


async def test_receive_waits(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await pair.stream.receive_some() == b"late"

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        pair.write(b"late")


async def test_everything_before_the_end(pair: Pair) -> None:
    pair.write(b"x" * 3000)
    pair.close_slave()
    received = b""
    while data := await pair.stream.receive_some(1000):
        received += data
    assert received == b"x" * 3000
    assert await pair.stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError, match="nothing has the other end"):
        await pair.stream.send_all(b"x" * MEGABYTE)


async def test_the_end_while_sending(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError, match="nothing has the other end"):
                await pair.stream.send_all(b"x" * MEGABYTE)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        pair.close_slave()


async def test_finish_while_the_slave_stays_open(pair: Pair) -> None:
    pair.write(b"last words")
    pair.stream.finish()
    pair.stream.finish()
    assert await pair.stream.receive_some(4) == b"last"
    assert await pair.stream.receive_some() == b" words"
    assert await pair.stream.receive_some() == b""
    pair.write(b"too late")
    assert await pair.stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError, match="has ended"):
        await pair.stream.send_all(b"x")


async def test_the_end_stays_the_end_when_somebody_opens_the_slave_again(pair: Pair) -> None:
    name = os.ttyname(pair.slave)
    os.close(pair.slave)
    assert await pair.stream.receive_some() == b""
    again = os.open(name, os.O_RDWR | os.O_NOCTTY)
    try:
        with trio.fail_after(5):
            assert await pair.stream.receive_some() == b""
    finally:
        pair.slave = again


async def test_finish_wakes_whoever_waits(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await pair.stream.receive_some() == b""

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError, match="has ended"):
                await pair.stream.send_all(b"x" * MEGABYTE)

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        pair.stream.finish()


async def test_close_wakes_whoever_waits(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pair.stream.receive_some()

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pair.stream.send_all(b"x" * MEGABYTE)

        nursery.start_soon(receive)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await pair.stream.aclose()
    await pair.stream.aclose()
    for method in (
        pair.stream.receive_some,
        lambda: pair.stream.send_all(b"x"),
        lambda: pair.stream.resize(1, 1),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await method()
    pair.stream.finish()
    assert "closed" in repr(pair.stream)


async def test_two_tasks_in_one_method(pair: Pair) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.stream.receive_some)
        nursery.start_soon(pair.stream.send_all, b"x" * MEGABYTE)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="receiving"):
            await pair.stream.receive_some()
        with pytest.raises(trio.BusyResourceError, match="sending"):
            await pair.stream.send_all(b"x")
        nursery.cancel_scope.cancel()


async def test_one_task_at_a_time_lets_go() -> None:
    one = OneTaskAtATime("busy")
    with pytest.raises(RuntimeError), one:
        raise RuntimeError
    with one, pytest.raises(trio.BusyResourceError), one:
        pass
    with one:
        pass


async def test_every_call_is_a_checkpoint(pair: Pair) -> None:
    pair.write(b"abc")
    with assert_checkpoints():
        await pair.stream.receive_some(1)
    with assert_checkpoints():
        await pair.stream.send_all(b"x")
    with assert_checkpoints():
        await pair.stream.send_all(b"")
    with assert_checkpoints():
        await pair.stream.resize(80, 24)
    pair.close_slave()
    while await pair.stream.receive_some():
        pass
    with assert_checkpoints():
        await pair.stream.receive_some()


async def test_cancelled_calls_do_nothing(pair: Pair) -> None:
    pair.write(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(trio.Cancelled):
            await pair.stream.receive_some()
        with pytest.raises(trio.Cancelled):
            await pair.stream.send_all(b"x")
        with pytest.raises(trio.Cancelled):
            await pair.stream.resize(7, 7)
    assert await pair.stream.receive_some() == b"abc"
    await pair.stream.send_all(b"y")
    assert os.read(pair.slave, 100) == b"y"


async def test_cancelled_while_receiving_loses_nothing(pair: Pair) -> None:
    received = b""

    async def writer() -> None:
        for _ in range(3):
            await trio.lowlevel.cancel_shielded_checkpoint()
        pair.write(b"abc")

    async def scenario() -> None:
        nonlocal received
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer)
            received += await pair.stream.receive_some()

    async def afterwards() -> None:
        nonlocal received
        if not received:
            received += await pair.stream.receive_some()
        assert received == b"abc"
        received = b""

    assert await cancel_at_every_checkpoint(scenario, afterwards) > 3


async def test_a_megabyte_there_and_back(pair: Pair) -> None:
    # `cat` stops reading as soon as nobody takes what it writes: only independent directions get through.
    process = pair.start("cat")
    pair.close_slave()
    data = os.urandom(MEGABYTE)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.stream.send_all, data)
        while len(received) < len(data):
            received += await pair.stream.receive_some()
    assert received == data
    await pair.stream.aclose()
    assert process.wait(TIMEOUT) == 1  # it could not read


async def test_a_megabyte_in_while_the_other_side_floods(pair: Pair) -> None:
    # The writer fills its terminal and sticks there, until somebody reads; it reads its input by another
    # process.
    script = "yes flood & head -c 1048576 >/dev/null; kill $!; printf done"
    process = pair.start("sh", "-c", script)
    pair.close_slave()
    sent = trio.Event()

    async def send() -> None:
        await pair.stream.send_all(b"y" * MEGABYTE)
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await sent.wait()  # without reading a byte
        tail = b""
        while data := await pair.stream.receive_some():
            tail = (tail + data)[-100:]
    assert tail.endswith(b"done")
    process.wait(TIMEOUT)


@attrs.define
class Reads:
    """What reads from PTYs: which threads, and, once `hold` is cleared, not before it is set again."""

    threads: list[int] = attrs.field(factory=list[int])
    hold: threading.Event = attrs.field(factory=threading.Event)
    held: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, fd: int, size: int) -> bytes:
        self.threads.append(threading.get_ident())
        if not self.hold.is_set():
            self.held.set()
            assert self.hold.wait(TIMEOUT)
        return read(fd, size)

    async def wait_held(self) -> None:
        await trio.to_thread.run_sync(self.held.wait, TIMEOUT)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    reads = Reads()
    reads.hold.set()
    monkeypatch.setattr("supervisor.sandbox.pty.os.read", reads)
    yield reads
    reads.hold.set()


async def _until_a_thread_reads(pair: Pair, reads: Reads) -> int:
    """Have the PTY flood; return how many bytes that took."""
    received = 0
    while reads.threads[-1:] in ([], [threading.get_ident()]):
        received += len(await pair.stream.receive_some())
    return received


async def test_a_flood_is_read_by_a_thread_and_all_else_is_not(pair: Pair, reads: Reads) -> None:
    here = threading.get_ident()
    with pair.start(
        "sh", "-c", f"head -c {MEGABYTE} /dev/zero; printf end; read x <&0; printf quiet"
    ) as program:
        received = b""
        while not received.endswith(b"end"):
            received += await pair.stream.receive_some()
        assert received == bytes(MEGABYTE) + b"end"
        assert reads.threads[0] == here
        assert here not in reads.threads[20:-20]
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await pair.stream.receive_some() == b"quiet"

            nursery.start_soon(receive)
            await wait_all_tasks_blocked(0.05)  # nobody but the event loop waits for what is quiet
            del reads.threads[:]
            await pair.stream.send_all(b"\n")
        assert set(reads.threads) == {here}
        program.wait()


@pytest.mark.parametrize("way", ["close", "cancel", "finish"])
async def test_what_comes_between_while_a_thread_reads(pair: Pair, reads: Reads, way: str) -> None:
    """Others go on although the thread does not; the descriptor stays its own until it is back."""
    with pair.start("yes", "x" * 100) as program:
        await _until_a_thread_reads(pair, reads)
        reads.hold.clear()
        descriptor = pair.stream.fileno()
        came: list[bytes] = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def receive() -> None:
                    try:
                        while data := await pair.stream.receive_some():
                            came.append(data)
                    except trio.ClosedResourceError:
                        came.append(b"closed")

                nursery.start_soon(receive)
                await reads.wait_held()
                {"close": pair.stream.close, "cancel": scope.cancel, "finish": program.kill}[way]()
                if way == "close":
                    assert pair.stream.fileno() == -1
                    os.fstat(descriptor)
                if way == "finish":
                    program.wait()
                    pair.stream.finish()
                reads.hold.set()
        assert scope.cancelled_caught == (way == "cancel")
        assert came[-1] == b"closed" if way == "close" else len(came[-1]) > 0
        if way == "close":
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        else:
            assert os.fstat(descriptor)
        program.kill()


async def test_a_flood_leaves_room_for_others(pair: Pair) -> None:
    process = pair.start("dd", "if=/dev/zero", "bs=64k")
    ticks = 0
    largest = 0

    async def ticker() -> None:
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker)
        for _ in range(300):
            largest = max(largest, len(await pair.stream.receive_some(10_000)))
        nursery.cancel_scope.cancel()
    process.kill()
    process.wait(TIMEOUT)
    assert ticks >= 300
    assert 2048 < largest <= 10_000


@pytest.mark.parametrize(("cols", "rows"), [(1, 1), (80, 24), (1000, 1000)])
async def test_resize(pair: Pair, cols: int, rows: int) -> None:
    await pair.stream.resize(cols, rows)
    assert os.get_terminal_size(pair.slave) == (cols, rows)


@pytest.mark.parametrize(("cols", "rows"), [(0, 24), (80, 0), (-1, 5), (1001, 24), (80, 65537)])
async def test_resize_out_of_range(pair: Pair, cols: int, rows: int) -> None:
    await pair.stream.resize(80, 24)
    with pytest.raises(ValueError, match="1 to 1000"):
        await pair.stream.resize(cols, rows)
    assert os.get_terminal_size(pair.slave) == (80, 24)


async def test_the_descriptor_is_private_and_does_not_block(pair: Pair) -> None:
    fd = pair.stream._fd
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)


def test_never_closed() -> None:
    master, slave = os.openpty()
    os.close(slave)
    stream = PtyStream(master)
    assert "open" in repr(stream)
    with pytest.warns(ResourceWarning, match="never closed"):
        del stream


# --- proof of being a master


@pytest.fixture
def opened() -> Iterator[Callable[[int], int]]:
    """Have descriptors closed at the end."""
    fds: list[int] = []

    def open_(fd: int) -> int:
        fds.append(fd)
        return fd

    yield open_
    for fd in fds:
        os.close(fd)


Opened = Callable[[int], int]


def test_a_master_passes(opened: Opened) -> None:
    master, slave = map(opened, os.openpty())
    fcntl(master, F_SETFL, os.O_APPEND | os.O_ASYNC)
    require_pty_master(master)
    flags = fcntl(master, F_GETFL)
    assert flags & os.O_NONBLOCK
    assert not flags & (os.O_APPEND | os.O_ASYNC)
    os.write(slave, b"x")
    assert os.read(master, 10) == b"x"


def test_a_slave_does_not(opened: Opened) -> None:
    _, slave = map(opened, os.openpty())
    with pytest.raises(SandboxError, match="not a PTY master: device 136:"):
        require_pty_master(slave)


@pytest.mark.parametrize(
    "path", ["/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/etc/passwd", "/tmp"]
)
def test_other_files_do_not(opened: Opened, path: str) -> None:
    with pytest.raises(SandboxError, match="not a PTY master"):
        require_pty_master(opened(os.open(path, os.O_RDONLY)))


def test_pipes_and_sockets_do_not(opened: Opened) -> None:
    first, second = socket.socketpair()
    with first, second:
        for fd in (
            *map(opened, os.pipe()),
            first.fileno(),
            opened(os.eventfd(0)),
            opened(os.memfd_create("x")),
        ):
            with pytest.raises(SandboxError, match="not a PTY master: file type"):
                require_pty_master(fd)


def test_dev_tty_does_not(opened: Opened) -> None:
    """/dev/tty of a process that has a terminal: it comes from a helper with a session of its own."""
    script = (
        "import fcntl, os, socket, sys, termios\n"
        "os.setsid()\n"
        "master, slave = os.openpty()\n"
        "fcntl.ioctl(slave, termios.TIOCSCTTY, 0)\n"
        "socket.send_fds(socket.socket(fileno=0), [b'x'], [os.open('/dev/tty', os.O_RDWR), master])\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run([sys.executable, "-c", script], stdin=theirs.fileno(), timeout=TIMEOUT, check=True)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(8), socket.MSG_CMSG_CLOEXEC)
    terminal, master = map(opened, array.array("i", ancillary[0][2]))
    with pytest.raises(SandboxError, match="not a PTY master: device 5:0"):
        require_pty_master(terminal)
    require_pty_master(master)  # whoever has opened it


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDONLY | os.O_NOCTTY, os.O_WRONLY | os.O_NOCTTY])
def test_a_master_without_full_access_does_not(opened: Opened, flags: int) -> None:
    with pytest.raises(SandboxError, match="not opened for reading and writing"):
        require_pty_master(opened(os.open("/dev/ptmx", flags)))


def test_packet_mode_does_not(opened: Opened) -> None:
    master, _ = map(opened, os.openpty())
    ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
    with pytest.raises(SandboxError, match="packet mode"):
        require_pty_master(master)


def test_another_line_discipline_does_not(opened: Opened) -> None:
    master, _ = map(opened, os.openpty())
    n_null = 27  # in every kernel since 4.9
    ioctl(master, termios.TIOCSETD, struct.pack("i", n_null))
    with pytest.raises(SandboxError, match="line discipline 27"):
        require_pty_master(master)
