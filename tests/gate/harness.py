"""A gate that runs as PID 1 of a PID namespace, and a scripted supervisor at its other end."""

import array
import os
import select
import signal
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

TIMEOUT = 10.0  # seconds for anything that should happen at once
PATH = {"PATH": "/usr/bin:/bin"}
READY = b"REDY\0\0\0\4\0\0\0\3"
TERMINATE = b"TERM\0\0\0\0"


def exec_frame(
    command: Sequence[bytes | str],
    environment: Mapping[str, str] = PATH,
    lifetime: int = 60,
    grace: int = 1000,
    options: int = 0,
) -> bytes:
    words = [word.encode() if isinstance(word, str) else word for word in command]
    words += [f"{name}={value}".encode() for name, value in environment.items()]
    payload = struct.pack(">IIIHH", lifetime, grace, options, len(command), len(environment))
    return frame(b"EXEC", payload + b"".join(word + b"\0" for word in words))


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + struct.pack(">I", len(payload)) + payload


def count_frame(count: int) -> bytes:
    return frame(b"CMDS", struct.pack(">I", count))


def exit_frame(status: int, signal_number: int = 0) -> bytes:
    return frame(b"EXIT", struct.pack(">II", status, signal_number))


class Gate:
    """One gate under test. `accept` first; everything waits at most `TIMEOUT`."""

    def __init__(self, command: Sequence[str], directory: Path, cwd: str = "/") -> None:
        path = directory / uuid.uuid4().hex[:8]
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.settimeout(TIMEOUT)
        # SIGPIPE stays ignored as in this process, and a descriptor is inherited: the gate has to put up with
        # it.
        self.process = subprocess.Popen(
            [*command, str(path)],
            stdin=subprocess.DEVNULL,
            restore_signals=False,
            pass_fds=[self.listener.fileno()],
            cwd=cwd,
        )
        self.connection: socket.socket | None = None
        self.master = -1
        self.pid = 0
        self.report = b""

    def __enter__(self) -> "Gate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()  # takes PID 1 along (unshare --kill-child)
        self.process.wait(TIMEOUT)
        self.listener.close()
        self.close()

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.close_master()

    def close_master(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    @property
    def lifeline(self) -> socket.socket:
        assert self.connection is not None
        return self.connection

    def accept(self) -> "Gate":
        """Take the connection, REDY and the PTY."""
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(TIMEOUT)
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid = struct.unpack("iII", credentials)[0]
        data, ancillary, flags, _ = self.connection.recvmsg(
            100, socket.CMSG_SPACE(64 * 4), socket.MSG_CMSG_CLOEXEC
        )
        assert data == READY
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        ((level, kind, content),) = ancillary
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        (self.master,) = array.array("i", content)
        os.set_blocking(self.master, False)
        self.report = self._receive_report()
        return self

    def _receive_report(self) -> bytes:
        """Take SEEN."""
        header = self.lifeline.recv(8, socket.MSG_WAITALL)
        assert header[:4] == b"SEEN"
        return self.lifeline.recv(int.from_bytes(header[4:], "big"), socket.MSG_WAITALL)

    def send(self, data: bytes) -> None:
        self.lifeline.sendall(data)

    def run(self, *command: str, **options: object) -> "Gate":
        """Send EXEC."""
        self.send(exec_frame(command, **options))  # type: ignore[arg-type]
        return self

    def shell(self, script: str, **options: object) -> "Gate":
        return self.run("sh", "-c", script, **options)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self) -> bytes | None:
        """Return some output, None at its end."""
        assert select.select([self.master], [], [], TIMEOUT)[0], "no output"
        try:
            return os.read(self.master, 65536)
        except OSError:
            return None

    def read_until(self, end: str) -> str:
        output = b""
        while end.encode() not in output:
            data = self.read()
            assert data is not None, f"output ended after {output!r}"
            output += data
        return output.decode()

    def read_all(self) -> str:
        output = b""
        while (data := self.read()) is not None:
            output += data
        return output.decode()

    def hear(self) -> tuple[bytes, int]:
        """Return the next frame's type and the first number in it."""
        header = self.lifeline.recv(8, socket.MSG_WAITALL)
        payload = self.lifeline.recv(int.from_bytes(header[4:], "big"), socket.MSG_WAITALL)
        return header[:4], int.from_bytes(payload[:4], "big")

    def said(self) -> bytes:
        """Return all that comes over the lifeline until its end."""
        data = b""
        while True:
            try:
                more = self.lifeline.recv(65536)
            except ConnectionResetError:  # it left something of ours unread
                return data
            if not more:
                return data
            data += more

    def wait(self) -> int:
        """Wait for the gate's end and return its exit status."""
        return self.process.wait(TIMEOUT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send the gate itself a signal, as the engine does."""
        os.kill(self.pid, number)

    def processes(self) -> list[str]:
        """Return the command lines of all processes in the gate's namespace, but for the gate's own and that
        of its child before it is the command.
        """
        namespace = Path(f"/proc/{self.pid}/ns/pid").stat().st_ino
        found: list[str] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.pid:
                try:
                    if (entry / "ns/pid").stat().st_ino == namespace:
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
                except OSError:  # it has just ended
                    continue
        return [line for line in found if "/gate " not in f"{line} "]


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until `condition()` holds, for what cannot be waited for."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


class AttachedGate:
    """A gate with `--attach`: PID 1, leader of the session on its terminal, as an engine starts it."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start `command`: the prefix that makes a namespace, the gate's path, and further options."""
        self.master, slave = os.openpty()
        os.set_blocking(self.master, False)
        program = next(i for i, word in enumerate(command) if word.endswith("/gate"))
        # setsid becomes the leader, and then the gate. It must not be unshare, which is the gate's parent.
        self.process = subprocess.Popen(
            [*command[:program], "setsid", "--ctty", command[program], "--attach", *command[program + 1 :]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.output = b""

    def __enter__(self) -> "AttachedGate":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        self.close()

    def close(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def receive_report(self) -> bytes:
        """Take SEEN, after READY."""
        while len(self.output) < 8 or len(self.output) < (
            size := 8 + int.from_bytes(self.output[4:8], "big")
        ):
            data = self._read()
            assert data, f"output ended after {self.output!r}"
            self.output += data
        assert self.output[:4] == b"SEEN"
        report, self.output = self.output[8:size], self.output[size:]
        return report

    def read_until(self, end: bytes) -> bytes:
        """Return the output up to and with `end`; what follows is kept."""
        while end not in self.output:
            data = self._read()
            assert data, f"output ended after {self.output!r}"
            self.output += data
        before, _, self.output = self.output.partition(end)
        return before + end

    def read_all(self) -> bytes:
        while data := self._read():
            self.output += data
        output, self.output = self.output, b""
        return output

    def _read(self) -> bytes:
        assert select.select([self.master], [], [], TIMEOUT)[0], f"no output after {self.output!r}"
        try:
            return os.read(self.master, 65536)
        except OSError:
            return b""

    def send(self, data: bytes) -> None:
        while data:
            assert select.select([], [self.master], [], TIMEOUT)[1], "the terminal takes no more"
            data = data[os.write(self.master, data) :]

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def signal(self, number: signal.Signals) -> None:
        """Send the gate a signal."""
        (child,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(child), number)
