"""The supervisor's end of the lifeline, against gates that behave, and against whatever else connects."""

import contextlib
import gc
import math
import os
import socket
import stat
import struct
import subprocess
import sys
import time
import tty
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.errors import ConfigurationError, SandboxError
from supervisor.sandbox import gate_frames, lifeline_terminal
from supervisor.sandbox.lifeline import (
    SOCKET_NAME,
    Lifeline,
    LifelineSocket,
    LifelineTerminal,
    open_lifeline_socket,
    runtime_directory,
)
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, Terminal
from supervisor.testing.checkpoints import cancel_at_every_checkpoint

TIMEOUT = 10.0
READY = b"REDY\0\0\0\4\0\0\0\3"
ME = os.getpid()
REQUEST = LeaseRequest(
    "session", ("sh", "-c", "true"), {"PATH": "/bin", "SECRET": "battery"}, cols=101, rows=33, lifetime=99.5
)


def exit_frame(status: int, signal: int = 0) -> bytes:
    return b"EXIT" + struct.pack(">III", 8, status, signal)


def count_frame(count: int) -> bytes:
    return b"CMDS" + struct.pack(">II", 4, count)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner(path: Path) -> int:
    return path.lstat().st_uid


def entries(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def make_directory(directory: Path, bits: int = 0o700) -> Path:
    directory.mkdir()
    directory.chmod(bits)
    return directory


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    gc.collect()
    before = descriptor_count()
    yield
    gc.collect()
    assert descriptor_count() == before


class FakeGate:
    """What connects to a lifeline socket in place of a gate, from this process."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(str(path))
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)

    def __enter__(self) -> "FakeGate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.close_master()
        self.close_slave()

    def close_master(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def close_slave(self) -> None:
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    def say(self, data: bytes, *fds: int) -> None:
        if fds:
            socket.send_fds(self.socket, [data], list(fds))
        else:
            self.socket.sendall(data)

    def be_ready(self) -> None:
        self.say(READY, self.master)
        self.close_master()

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            assert more
            data += more
        return data

    def read_order(self) -> bytes:
        header = self.read(8)
        assert header[:4] == b"EXEC"
        return self.read(int.from_bytes(header[4:], "big"))


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[LifelineSocket]:
    async with open_lifeline_socket(tmp_path) as lifeline_socket:
        yield lifeline_socket


@pytest.fixture
def fake(listening: LifelineSocket) -> Iterator[FakeGate]:
    with FakeGate(listening.directory / SOCKET_NAME) as gate:
        yield gate


@pytest.fixture
async def lifeline(listening: LifelineSocket, fake: FakeGate) -> AsyncIterator[Lifeline]:
    fake.be_ready()
    with trio.fail_after(TIMEOUT):
        async with await listening.accept(ME, TIMEOUT) as lifeline:
            yield lifeline


@pytest.fixture
async def terminal(lifeline: Lifeline, fake: FakeGate) -> LifelineTerminal:
    terminal = await lifeline.claim(REQUEST)
    fake.read_order()
    return terminal


# --- the socket


async def test_modes(tmp_path: Path) -> None:
    async with open_lifeline_socket(tmp_path) as lifeline_socket:
        path = lifeline_socket.directory / SOCKET_NAME
        assert lifeline_socket.directory.parent == tmp_path
        assert mode(tmp_path) == 0o700
        assert mode(lifeline_socket.directory) == 0o711
        assert mode(path) == 0o666
        assert "open" in repr(lifeline_socket)
    assert not entries(tmp_path)
    async with open_lifeline_socket(tmp_path, os.getuid()) as lifeline_socket:
        assert mode(lifeline_socket.directory / SOCKET_NAME) == 0o600


async def test_socket_belongs_to_the_containers_user(tmp_path: Path) -> None:
    async with open_lifeline_socket(tmp_path, 12345) as lifeline_socket:
        path = lifeline_socket.directory / SOCKET_NAME
        # Only root can give it away; then the test below is the one that matters.
        assert (owner(path), mode(path)) == ((12345, 0o600) if os.geteuid() == 0 else (os.geteuid(), 0o666))


async def test_without_root_the_mount_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 4321, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4321)
    async with open_lifeline_socket(tmp_path, 12345) as lifeline_socket:
        assert mode(lifeline_socket.directory / SOCKET_NAME) == 0o666


@pytest.mark.parametrize("bits", [0o755, 0o750, 0o701, 0o777])
async def test_parent_is_open_to_others(tmp_path: Path, bits: int) -> None:
    parent = make_directory(tmp_path / "parent", bits)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        async with open_lifeline_socket(parent):
            pass


async def test_parent_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(ConfigurationError, match="must be a directory of user 4321"):
        async with open_lifeline_socket(tmp_path):
            pass


async def test_parent_is_a_link_or_missing(tmp_path: Path) -> None:
    link(tmp_path / "link", make_directory(tmp_path / "real"))
    with pytest.raises(ConfigurationError, match="must be a directory"):
        async with open_lifeline_socket(tmp_path / "link"):
            pass
    with pytest.raises(ConfigurationError, match="no directory"):
        async with open_lifeline_socket(tmp_path / "missing"):
            pass


async def test_path_too_long(tmp_path: Path) -> None:
    # The directory's name and the socket's take 1 + 16 + 1 + 4 bytes.
    longest = tmp_path / ("x" * (107 - 22 - len(str(tmp_path)) - 1))
    async with open_lifeline_socket(make_directory(longest)) as lifeline_socket:
        assert len(str(lifeline_socket.directory / SOCKET_NAME)) == 107
    too_long = tmp_path / (longest.name + "x")
    with pytest.raises(ConfigurationError, match="too long for sockets"):
        async with open_lifeline_socket(make_directory(too_long)):
            pass


async def test_socket_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, uid: int, gid: int) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(SandboxError, match="cannot make a lifeline socket"):
        async with open_lifeline_socket(tmp_path, os.geteuid()):
            pass
    assert not entries(tmp_path)


def test_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = 4321 if os.geteuid() == 0 else os.geteuid()
    expected = tmp_path / "terminal-supervisor" / "lifeline"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    if os.getuid() == 0:
        expected.mkdir(parents=True, mode=0o700)
        os.chown(expected, user, -1)
    assert runtime_directory() == expected
    assert stat.S_IMODE(expected.stat().st_mode) == 0o700
    for name, age in [("old", 7200), ("young", 60)]:
        (expected / name).mkdir()
        (expected / name / SOCKET_NAME).touch()
        os.utime(expected / name, (time.time() - age,) * 2)
    (expected / "odd").touch()
    os.utime(expected / "odd", (0, 0))
    assert runtime_directory() == expected
    assert sorted(entry.name for entry in expected.iterdir()) == ["odd", "young"]
    expected.chmod(0o711)
    with pytest.raises(ConfigurationError, match="mode 0700"):
        runtime_directory()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/no/such")
    with pytest.raises(ConfigurationError, match="cannot make"):
        runtime_directory()


# --- who connects


async def test_accept(listening: LifelineSocket, fake: FakeGate) -> None:
    fake.be_ready()
    with trio.fail_after(TIMEOUT):
        async with await listening.accept(ME, TIMEOUT) as lifeline:
            assert lifeline.pid == ME
            assert not os.get_inheritable(lifeline._connection.fileno())
            assert not os.get_inheritable(lifeline._pty._fd)
            assert "ready" in repr(lifeline)
            assert "closed" in repr(listening)
            # Once, and the name is gone.
            assert not entries(listening.directory)
            with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as second:
                second.connect(str(listening.directory / SOCKET_NAME))


CONNECT_AND_WAIT = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
    "print('connected', flush=True); sys.exit(len(s.recv(1)))"
)


@attrs.define
class Stranger:
    """Another process that connects."""

    process: "subprocess.Popen[bytes]"

    @classmethod
    def connect(cls, path: Path) -> "Stranger":
        command = [sys.executable, "-c", CONNECT_AND_WAIT, str(path)]
        stranger = cls(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert stranger.process.stdout is not None
        assert stranger.process.stdout.readline() == b"connected\n"
        return stranger

    def wait_refused(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("kind", ["number", "function"])
async def test_others_are_turned_away(listening: LifelineSocket, kind: str) -> None:
    path = listening.directory / SOCKET_NAME
    strangers = [Stranger.connect(path) for _ in range(2)]
    asked: list[int] = []

    async def is_me(pid: int) -> bool:
        await trio.lowlevel.checkpoint()
        asked.append(pid)
        return pid == ME

    with FakeGate(path) as fake:
        fake.be_ready()
        with trio.fail_after(TIMEOUT):
            async with await listening.accept(ME if kind == "number" else is_me, TIMEOUT):
                pass
    for stranger in strangers:
        stranger.wait_refused()
    if kind == "function":
        assert asked == [*(stranger.process.pid for stranger in strangers), ME]


async def test_nobody_connects(listening: LifelineSocket, autojump_clock: MockClock) -> None:
    with pytest.raises(SandboxError, match=r"did not connect within 3 s$"):
        await listening.accept(ME, 3)
    assert trio.current_time() == pytest.approx(3)


async def test_only_others_connect(listening: LifelineSocket, autojump_clock: MockClock) -> None:
    stranger = Stranger.connect(listening.directory / SOCKET_NAME)
    with pytest.raises(SandboxError, match=rf"refused were processes \[{stranger.process.pid}\]"):
        await listening.accept(ME, 3)
    stranger.wait_refused()


async def test_the_connection_is_closed_when_the_question_fails(
    listening: LifelineSocket, fake: FakeGate
) -> None:
    async def fail(pid: int) -> bool:
        raise RuntimeError("the engine is away")

    with pytest.raises(RuntimeError, match="away"):
        await listening.accept(fail, TIMEOUT)
    assert fake.socket.recv(1) == b""


# --- what a gate says that is none


LIARS = {
    "a slave": "not a PTY master",
    "a pipe": "not a PTY master",
    "a socket": "not a PTY master",
    "a file": "not a PTY master",
    "/dev/null": "not a PTY master",
    "no access": "not opened for reading and writing",
    "nothing": "sent no descriptor",
    "two masters": "too many descriptors",
    "hundreds": "too many descriptors",
}


@pytest.mark.parametrize("liar", LIARS)
async def test_descriptors_that_are_no_master(listening: LifelineSocket, fake: FakeGate, liar: str) -> None:
    with ExitStack() as stack:

        def opened(path: str, flags: int) -> int:
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        ends = os.pipe()
        for end in ends:
            stack.callback(os.close, end)
        fds: dict[str, Sequence[int]] = {
            "a slave": [fake.slave],
            "a pipe": ends[:1],
            "a socket": [fake.socket.fileno()],
            "a file": [opened("/etc/passwd", os.O_RDONLY)],
            "/dev/null": [opened("/dev/null", os.O_RDWR)],
            "no access": [opened("/dev/ptmx", os.O_PATH)],
            "nothing": [],
            "two masters": [fake.master] * 2,
            "hundreds": [fake.master] * 250,
        }
        fake.say(READY, *fds[liar])
        await refused(listening, LIARS[liar])


async def refused(listening: LifelineSocket, complaint: str) -> None:
    before = descriptor_count() - 1  # less the listener
    with trio.fail_after(TIMEOUT), pytest.raises(SandboxError, match=complaint):
        await listening.accept(ME, TIMEOUT)
    assert descriptor_count() == before


@pytest.mark.parametrize(
    "data",
    [
        *(b"x", b"\0" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"REDY\0\0\0\5\0\0\0\1\0"),
        *(b"EXIT\0\0\0\4\0\0\0\1", b"REDY\xff\xff\xff\xff", b"redy\0\0\0\4\0\0\0\1", b"y" * 200_000),
    ],
    ids=lambda data: f"{data[:8]!r} {len(data)}",
)
async def test_garbage(listening: LifelineSocket, fake: FakeGate, data: bytes) -> None:
    fake.say(data, fake.master)
    await refused(listening, "instead of REDY")


async def test_wrong_version(listening: LifelineSocket, fake: FakeGate) -> None:
    fake.say(READY[:-1] + b"\2", fake.master)
    await refused(listening, "speaks version 2 of the lifeline's protocol, not 3")


@pytest.mark.parametrize("count", [0, 1, 8, 11])
@pytest.mark.parametrize("end", ["closed", "shut down"])
async def test_end_of_file_in_the_handshake(
    listening: LifelineSocket, fake: FakeGate, count: int, end: str
) -> None:
    if count:
        fake.say(READY[:count], fake.master)
    if end == "closed":
        fake.socket.close()
    else:
        fake.socket.shutdown(socket.SHUT_WR)
    await refused(listening, "is gone")


@pytest.mark.parametrize("count", [0, 1, 11])
async def test_silence(
    listening: LifelineSocket, fake: FakeGate, count: int, autojump_clock: MockClock
) -> None:
    if count:
        fake.say(READY[:count], fake.master)
    with pytest.raises(SandboxError, match="did not say that it is ready within 5 s"):
        await listening.accept(ME, 60)
    assert trio.current_time() == pytest.approx(5)


async def test_ready_in_pieces(listening: LifelineSocket, fake: FakeGate) -> None:
    fake.say(READY[:1], fake.master)
    fake.say(READY[1:9])
    fake.say(READY[9:])
    with trio.fail_after(TIMEOUT):
        async with await listening.accept(ME, TIMEOUT):
            pass


async def test_a_descriptor_with_every_byte(listening: LifelineSocket, fake: FakeGate) -> None:
    for byte in READY:
        fake.say(bytes([byte]), fake.master)
    await refused(listening, "too many descriptors")


async def test_no_room_for_a_descriptor(
    listening: LifelineSocket, fake: FakeGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this process had no descriptor left: the kernel drops it and says so.
    monkeypatch.setattr(lifeline_terminal, "_ANCILLARY_SIZE", socket.CMSG_SPACE(12))
    fake.be_ready()
    await refused(listening, "one that this process may not have")


# --- claiming


async def test_claim(lifeline: Lifeline, fake: FakeGate) -> None:
    terminal: Terminal = await lifeline.claim(REQUEST)
    order = fake.read_order()
    assert order[:16] == struct.pack(">IIIHH", 100, 2000, 0, 3, 2)
    assert order[16:] == b"sh\0-c\0true\0PATH=/bin\0SECRET=battery\0"
    assert os.get_terminal_size(fake.slave) == (101, 33)
    assert "claimed" in repr(lifeline)
    assert "running" in repr(terminal)
    with pytest.raises(ValueError, match="claimed already"):
        await lifeline.claim(REQUEST)


BAD_REQUESTS = {
    "no command": {"command": ()},
    "empty command": {"command": ("",)},
    "65 words": {"command": ("x",) * 65},
    "NUL in the command": {"command": ("x\0",)},
    "NUL in a name": {"environment": {"A\0": "battery"}},
    "NUL in a value": {"environment": {"A": "battery\0"}},
    "no name": {"environment": {"": "battery"}},
    "= in a name": {"environment": {"A=B": "battery"}},
    "257 variables": {"environment": {f"A{i}": "battery" for i in range(257)}},
    "too much": {"environment": {"A": "battery" * 10_000}},
    "not encodable": {"environment": {"A": "battery\ud800"}},
    "no columns": {"cols": 0},
    "too many rows": {"rows": 1001},
    "no lifetime": {"lifetime": 0.0},
    "infinite lifetime": {"lifetime": math.inf},
    "no number": {"lifetime": math.nan},
    "negative grace": {"hangup_grace": -1.0},
    "long grace": {"hangup_grace": 601.0},
}


@pytest.mark.parametrize("bad", BAD_REQUESTS)
async def test_bad_requests_are_not_sent(lifeline: Lifeline, fake: FakeGate, bad: str) -> None:
    with pytest.raises(ValueError) as caught:
        await lifeline.claim(attrs.evolve(REQUEST, **BAD_REQUESTS[bad]))  # type: ignore[arg-type]
    assert "battery" not in str(caught.value)
    await lifeline.claim(REQUEST)
    assert fake.read_order().endswith(b"SECRET=battery\0")


async def test_largest_order(lifeline: Lifeline, fake: FakeGate) -> None:
    room = 65536 - 16 - len("sh") - 1 - len("A=") - 1
    request = attrs.evolve(REQUEST, command=("sh",), environment={"A": "x" * room}, lifetime=0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifeline.claim, request)
        order = await trio.to_thread.run_sync(fake.read_order)
    assert len(order) == 65536
    with pytest.raises(ValueError, match="65537 bytes"):
        gate_frames.encode_exec(attrs.evolve(request, environment={"A": "x" * (room + 1)}))


async def test_bytes_that_are_no_text(lifeline: Lifeline, fake: FakeGate) -> None:
    await lifeline.claim(attrs.evolve(REQUEST, command=(os.fsdecode(b"\xff\xfe"), "ü"), environment={}))
    assert fake.read_order()[16:] == b"\xff\xfe\0\xc3\xbc\0"


@pytest.mark.parametrize("how", ["closed", "spoke"])
async def test_claim_of_a_gate_that_is_lost(lifeline: Lifeline, fake: FakeGate, how: str) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lifeline.wait_lost)
        await wait_all_tasks_blocked()
        if how == "closed":
            fake.socket.close()
        else:
            fake.say(b"x")
    with pytest.raises(SandboxError, match=r"ended, or spoke, before"):
        await lifeline.claim(REQUEST)
    with pytest.raises(trio.ClosedResourceError):
        await lifeline._pty.receive_some()


async def test_claim_of_a_gate_that_does_not_read(
    lifeline: Lifeline, fake: FakeGate, autojump_clock: MockClock
) -> None:
    lifeline._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pytest.raises(SandboxError, match="did not take its order within 5 s"):
        await lifeline.claim(attrs.evolve(REQUEST, environment={"A": "x" * 60_000}))


async def test_claim_of_a_gate_that_goes_meanwhile(lifeline: Lifeline, fake: FakeGate) -> None:
    lifeline._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    async with trio.open_nursery() as nursery:

        async def claim() -> None:
            with pytest.raises(SandboxError, match="is gone"):
                await lifeline.claim(attrs.evolve(REQUEST, environment={"A": "x" * 60_000}))

        nursery.start_soon(claim)
        await wait_all_tasks_blocked()
        fake.socket.close()


# --- the terminal


async def test_bytes_travel_both_ways(terminal: LifelineTerminal, fake: FakeGate) -> None:
    os.write(fake.slave, b"$ ")
    assert await terminal.receive_some() == b"$ "
    await terminal.send_all(b"ls\r")
    assert os.read(fake.slave, 100) == b"ls\r"
    await terminal.resize(132, 50)
    assert os.get_terminal_size(fake.slave) == (132, 50)
    with pytest.raises(ValueError, match="1 to 1000"):
        await terminal.resize(0, 0)


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (exit_frame(0), ExitStatus(0)),
        (exit_frame(255), ExitStatus(255)),
        (exit_frame(137), ExitStatus(137)),
        (exit_frame(137, 9), ExitStatus(None, 9)),
        (exit_frame(192, 64), ExitStatus(None, 64)),
    ],
)
async def test_exit(terminal: LifelineTerminal, fake: FakeGate, report: bytes, status: ExitStatus) -> None:
    os.write(fake.slave, b"last words")
    fake.say(report)
    assert await terminal.wait_closed() == status
    assert await terminal.wait_closed() == status
    # The fake keeps the slave open, for ever, and it does not matter.
    assert await terminal.receive_some() == b"last words"
    assert await terminal.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError, match="has ended"):
        await terminal.send_all(b"x")
    assert str(status) in repr(terminal)


async def test_exit_wakes_the_reader(terminal: LifelineTerminal, fake: FakeGate) -> None:
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert await terminal.receive_some() == b""

        nursery.start_soon(read)
        nursery.start_soon(terminal.wait_closed)
        await wait_all_tasks_blocked()
        fake.say(exit_frame(0))


async def test_end_of_output_without_anybody_waiting_for_the_status(
    terminal: LifelineTerminal, fake: FakeGate
) -> None:
    os.write(fake.slave, b"last words")
    fake.say(exit_frame(3))
    fake.socket.close()
    fake.close_slave()
    assert await terminal.receive_some() == b"last words"
    assert await terminal.receive_some() == b""
    assert await terminal.wait_closed() == ExitStatus(3)


async def test_exit_in_pieces_and_a_cancelled_wait(terminal: LifelineTerminal, fake: FakeGate) -> None:
    for byte in exit_frame(7):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminal.wait_closed)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        fake.say(bytes([byte]))
    assert await terminal.wait_closed() == ExitStatus(7)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"x" * 500_000, "instead of EXIT"),
        (b"\0", "instead of EXIT"),
        (b"EXIT\0\0\0\x09", "instead of EXIT"),
        (READY, "instead of EXIT"),
        (b"STRT\0\0\0\0", "instead of EXIT"),
        (exit_frame(256), "reported status 256"),
        (exit_frame(2**32 - 1), "reported status"),
        (exit_frame(9, 9), "reported status 9 with signal 9"),
        (exit_frame(193, 65), "reported status 193 with signal 65"),
        (exit_frame(1)[:15], "is gone"),
        (b"", "is gone"),
    ],
)
async def test_breach_of_protocol(
    terminal: LifelineTerminal, fake: FakeGate, data: bytes, complaint: str
) -> None:
    os.write(fake.slave, b"last words")
    fake.socket.settimeout(0)
    with contextlib.suppress(BlockingIOError):  # a flood
        fake.say(data)
    if "gone" in complaint:
        fake.socket.close()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match=complaint) as caught:
            await terminal.wait_closed()
        assert isinstance(caught.value.__cause__, SandboxError)
    assert terminal._connection.fileno() < 0  # closed, whereupon a gate dies
    assert await terminal.receive_some() == b"last words"
    assert await terminal.receive_some() == b""
    await terminal.terminate()


@pytest.mark.parametrize(
    ("count", "complaint"), [(1, "nobody asked for"), (2, "too many"), (250, "too many")]
)
async def test_unwanted_descriptors(
    terminal: LifelineTerminal, fake: FakeGate, count: int, complaint: str
) -> None:
    before = descriptor_count()
    fake.say(b"E", *[fake.slave] * count)
    with pytest.raises(trio.BrokenResourceError, match=complaint):
        await terminal.wait_closed()
    assert descriptor_count() == before - 1  # the lifeline


async def test_a_gate_that_leaves_something_unread(terminal: LifelineTerminal, fake: FakeGate) -> None:
    await terminal.terminate()
    fake.socket.close()  # the kernel reports a reset, not an end of file
    with pytest.raises(trio.BrokenResourceError, match="is gone"):
        await terminal.wait_closed()


async def test_exit_before_a_reset_is_not_lost(terminal: LifelineTerminal, fake: FakeGate) -> None:
    await terminal.terminate()
    fake.say(exit_frame(5))
    fake.socket.close()
    assert await terminal.wait_closed() == ExitStatus(5)


async def test_terminate(terminal: LifelineTerminal, fake: FakeGate) -> None:
    await terminal.terminate()
    assert fake.read(8) == b"TERM\0\0\0\0"
    fake.socket.close()
    await terminal.terminate()


async def test_closing(terminal: LifelineTerminal, fake: FakeGate) -> None:
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await terminal.receive_some()

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await terminal.wait_closed()

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await terminal.send_all(b"x" * 1_000_000)

        nursery.start_soon(read)
        nursery.start_soon(wait)
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await terminal.wait_closed()
        await terminal.aclose()
    await terminal.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await terminal.wait_closed()
    with pytest.raises(trio.ClosedResourceError):
        await terminal.terminate()
    assert fake.socket.recv(1) == b""


async def test_closing_although_cancelled(terminal: LifelineTerminal, fake: FakeGate) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await terminal.aclose()
    assert fake.socket.recv(1) == b""


# --- what commands are started


@pytest.fixture
def told() -> list[int]:
    """What `counted` was told."""
    return []


@pytest.fixture
async def counted(lifeline: Lifeline, fake: FakeGate, told: list[int]) -> LifelineTerminal:
    """A terminal whose shell says what it starts."""
    terminal = await lifeline.claim(attrs.evolve(REQUEST, note_commands=told.append))
    order = fake.read_order()
    assert order[:16] == struct.pack(">IIIHH", 100, 2000, 1, 3, 3)
    assert order.endswith(b"TERMINAL_SUPERVISOR_COMMANDS=3\0")
    return terminal


async def test_counts_are_heard_by_whoever_listens(
    counted: LifelineTerminal, fake: FakeGate, told: list[int]
) -> None:
    fake.say(count_frame(1) + count_frame(4096))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counted.listen)
        await wait_all_tasks_blocked()
        assert told == [1, 4096]
        fake.say(count_frame(7))
        await wait_all_tasks_blocked()
        assert told == [1, 4096, 7]
        nursery.cancel_scope.cancel()
    fake.say(count_frame(2) + exit_frame(3))
    assert await counted.wait_closed() == ExitStatus(3)
    assert told == [1, 4096, 7, 2], "the last ones come right before the end"


async def test_counts_and_exit_split_at_every_byte(
    counted: LifelineTerminal, fake: FakeGate, told: list[int]
) -> None:
    """Heard in turns by a task that listens, is cancelled again and again, and one that waits for the end."""
    status: list[ExitStatus] = []

    async def wait() -> None:
        status.append(await counted.wait_closed())

    for number, byte in enumerate(count_frame(3) + count_frame(5) + exit_frame(7)):
        async with trio.open_nursery() as nursery:
            for task in (counted.listen, wait) if number % 2 else (wait, counted.listen):
                nursery.start_soon(task)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        fake.say(bytes([byte]))
    await wait()
    assert told == [3, 5]
    assert status == [ExitStatus(7)]


@pytest.mark.parametrize("split", range(1, 28))
async def test_counts_and_exit_in_two_pieces(
    counted: LifelineTerminal, fake: FakeGate, told: list[int], split: int
) -> None:
    said = count_frame(9) + exit_frame(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counted.listen)
        fake.say(said[:split])
        await wait_all_tasks_blocked()
        fake.say(said[split:])
        assert await counted.wait_closed() == ExitStatus(1)
        nursery.cancel_scope.cancel()
    assert told == [9]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (count_frame(0), "told of 0 commands"),
        (count_frame(4097), "told of 4097 commands"),
        (count_frame(2**32 - 1), "told of 4294967295 commands"),
        (b"CMDS\0\0\0\x05", "instead of CMDS"),
        (b"CMDX", "instead of EXIT"),
        (b"C" * 500_000, "instead of EXIT"),
        (READY, "instead of EXIT"),
        (b"", "is gone"),
        (count_frame(1)[:11], "is gone"),
    ],
)
async def test_who_breaks_the_protocol_while_somebody_listens_is_ended(
    counted: LifelineTerminal, fake: FakeGate, told: list[int], data: bytes, complaint: str
) -> None:
    os.write(fake.slave, b"last words")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counted.listen)
        fake.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # a flood
            fake.say(data)
        if complaint == "is gone":
            fake.socket.close()
        await wait_all_tasks_blocked()
        if complaint != "is gone":
            assert fake.socket.recv(1) == b"", "a gate that reads this dies"
        assert min(counted.descriptors) >= 0  # there until somebody has noticed the end
        with pytest.raises(trio.BrokenResourceError, match=complaint):
            await counted.wait_closed()
        nursery.cancel_scope.cancel()
    assert told == []
    assert counted._connection.fileno() < 0
    assert await counted.receive_some() == b"last words"
    assert await counted.receive_some() == b""


async def test_a_gate_that_was_not_asked_does_not_tell(terminal: LifelineTerminal, fake: FakeGate) -> None:
    fake.say(count_frame(1))
    with pytest.raises(trio.BrokenResourceError, match="instead of EXIT"):
        await terminal.wait_closed()


async def test_who_goes_on_hears_the_rest_of_a_count(
    counted: LifelineTerminal, fake: FakeGate, told: list[int]
) -> None:
    """A hand-over in the middle of a frame."""
    fake.say(count_frame(1) + count_frame(6)[:9])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counted.listen)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    received, status = counted.heard
    assert (told, received, status) == ([1], count_frame(6)[:9], None)
    heard: list[int] = []
    connection, pty = map(os.dup, counted.descriptors)
    successor = LifelineTerminal.resume(connection, pty, received, status)
    successor.note_commands = heard.append
    counted.close()
    fake.say(count_frame(6)[9:] + exit_frame(2))
    assert await successor.wait_closed() == ExitStatus(2)
    await successor.aclose()
    assert heard == [6]


async def test_the_gate_of_an_older_process_only_tells_the_end(
    terminal: LifelineTerminal, fake: FakeGate
) -> None:
    """It was never asked to tell more; whoever goes on with it listens all the same."""
    connection, pty = map(os.dup, terminal.descriptors)
    successor = LifelineTerminal.resume(connection, pty, *terminal.heard)
    heard: list[int] = []
    successor.note_commands = heard.append
    terminal.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(successor.listen)
        await wait_all_tasks_blocked()
        fake.say(exit_frame(5))
        assert await successor.wait_closed() == ExitStatus(5)
        nursery.cancel_scope.cancel()
    await successor.aclose()
    assert heard == []


def test_there_is_room_for_our_variable() -> None:
    full = attrs.evolve(REQUEST, environment={f"A{i}": "" for i in range(256)})
    gate_frames.encode_exec(full)
    with pytest.raises(ValueError, match="at most 256 environment variables, not 257"):
        gate_frames.encode_exec(attrs.evolve(full, note_commands=print))


# --- cancellation


async def test_cancelled_at_every_checkpoint(tmp_path: Path) -> None:
    passed = 0

    async def is_me(pid: int) -> bool:
        await trio.lowlevel.checkpoint()
        return pid == ME

    async def gate(directory: Path) -> None:
        """A gate that lets the supervisor wait at each step."""

        async def pause() -> None:
            await wait_all_tasks_blocked()

        await pause()
        with FakeGate(directory / SOCKET_NAME) as fake:
            await pause()
            fake.say(READY[:5], fake.master)
            await pause()
            fake.say(READY[5:])
            fake.close_master()
            await pause()
            os.write(fake.slave, b"$ ")
            await pause()
            for piece in (count_frame(2)[:5], count_frame(2)[5:] + exit_frame(3)[:9], exit_frame(3)[9:]):
                fake.say(piece)
                await pause()

    async def scenario() -> None:
        nonlocal passed
        async with trio.open_nursery() as nursery:
            async with open_lifeline_socket(tmp_path) as listening:
                nursery.start_soon(gate, listening.directory)
                lifeline = await listening.accept(is_me, TIMEOUT)
            told: list[int] = []
            async with lifeline:
                terminal = await lifeline.claim(attrs.evolve(REQUEST, note_commands=told.append))
                await terminal.send_all(b"x")
                assert await terminal.receive_some() == b"$ "
                await terminal.resize(1, 1)
                async with trio.open_nursery() as listeners:
                    listeners.start_soon(terminal.listen)
                    assert await terminal.wait_closed() == ExitStatus(3)
                    listeners.cancel_scope.cancel()
                assert told == [2]
                await terminal.terminate()
                await terminal.aclose()
        passed += 1

    before = descriptor_count()

    async def nothing_is_left() -> None:
        assert descriptor_count() == before
        assert not entries(tmp_path)

    with trio.fail_after(6 * TIMEOUT):
        checkpoints = await cancel_at_every_checkpoint(scenario, nothing_is_left)
    assert checkpoints > 15
    assert passed >= 2
