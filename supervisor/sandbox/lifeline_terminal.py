"""The supervisor's end of a lifeline: a gate that is ready (`Lifeline`), and the terminal that it becomes.

A `Lifeline` holds two descriptors: the socket, whose closing ends the container, and the PTY's master, which
carries the terminal's bytes. The terminal reads output from the PTY, and from the socket how many commands
were started and the exit status. There is no background task: the gate reports the exit after it has killed
and reaped every process in the container, so the PTY's end and the status each come by themselves, to whoever
waits for them.
"""

import array
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, final

import attrs
import trio

from supervisor.errors import SandboxError
from supervisor.sandbox import gate_frames
from supervisor.sandbox.gate_frames import Expected
from supervisor.sandbox.pty import OneTaskAtATime, PtyStream, require_pty_master
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest

HANDSHAKE_TIMEOUT: Final = 5.0  # seconds for REDY once the gate has connected; it sends it at once
CLAIM_TIMEOUT: Final = 5.0  # seconds for the gate to take EXEC; it does nothing but wait for it

_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user and group id
# Room for the sender's credentials, and for one descriptor and not for two (CMSG_SPACE would have room for
# two): the kernel closes the others and says so.
_ANCILLARY_SIZE = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_LEN(struct.calcsize("i"))


@attrs.frozen
class Arrived:
    """What came along with bytes of a frame.

    Attributes:
        descriptors: one at most, close-on-exec, the receiver's to close.
        sender: process that sent them, by the kernel's word and as this process sees it; 0 when it does not
            say.
    """

    descriptors: list[int]
    sender: int


async def receive_frame_bytes(
    connection: trio.socket.SocketType, received: bytearray, expected: Expected
) -> Arrived:
    """Add more bytes of `expected` to `received`, never one beyond it; return what came along.

    Cancelling loses neither bytes nor descriptors.

    Raises:
        SandboxError: end of file, or more descriptors than one, or some that could not be received; none is
            left open.
    """
    wanted = expected.wanted(received)
    try:
        data, ancillary, flags, _ = await connection.recvmsg(wanted, _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        raise SandboxError("the gate is gone") from None  # it left something of ours unread
    except OSError as error:
        if connection.fileno() < 0:
            raise trio.ClosedResourceError("this lifeline is closed") from None
        raise SandboxError(f"cannot read from the gate: {error}") from error
    descriptors = array.array("i")
    sender = 0
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            sender = int(_CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0])
    try:
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            raise SandboxError("the gate sent too many descriptors, or one that this process may not have")
        if not data:
            raise SandboxError("the gate is gone")
    except SandboxError:
        close_all(descriptors)
        raise
    received += data
    return Arrived(list(descriptors), sender)


def close_all(descriptors: Iterable[int]) -> None:
    """Close raw descriptors that somebody sent."""
    for descriptor in descriptors:
        socket.close(descriptor)


async def _send(connection: trio.socket.SocketType, data: bytes) -> None:
    with memoryview(data) as view:
        sent = 0
        while sent < len(view):
            sent += await connection.send(view[sent:])


async def shake_hands(connection: trio.socket.SocketType, pid: int) -> "Lifeline":
    """Receive `REDY` and the PTY from a gate that has just connected.

    Resource handling: owns `connection` from the call on; when this raises, nothing is left open.

    Raises:
        SandboxError: the gate sent anything else than the contract says, or too late.
    """
    received = bytearray()
    descriptors: list[int] = []
    try:
        with trio.fail_after(HANDSHAKE_TIMEOUT):
            payload = None
            while payload is None:
                arrived = await receive_frame_bytes(connection, received, gate_frames.READY)
                descriptors += arrived.descriptors
                if len(descriptors) > 1:
                    raise SandboxError("the gate sent too many descriptors")
                payload = gate_frames.READY.take(received)
        gate_frames.check_ready(payload)
        if not descriptors:
            raise SandboxError("the gate sent no descriptor with REDY")
        (master,) = descriptors
        require_pty_master(master)
        descriptors.clear()
        return Lifeline(connection, PtyStream(master), pid)
    except trio.TooSlowError:
        close_all(descriptors)
        connection.close()
        raise SandboxError(
            f"the gate connected and did not say that it is ready within {HANDSHAKE_TIMEOUT:g} s"
        ) from None
    except BaseException:
        close_all(descriptors)
        connection.close()
        raise


@final
class Lifeline:
    """A gate that is ready: a container that is up and empty-handed, waiting for a command. Pools hold these.

    Resource handling: owns socket and PTY, also on behalf of the terminal that `claim` returns; `async with`
    or `aclose` closes both, whereupon the container ends.
    """

    def __init__(self, connection: trio.socket.SocketType, pty: PtyStream, pid: int) -> None:
        self._connection = connection
        self._pty = pty
        self._pid = pid
        self._claimed = False

    def __repr__(self) -> str:
        return f"<Lifeline pid={self._pid} {'claimed' if self._claimed else 'ready'}>"

    @property
    def pid(self) -> int:
        """The gate's process id, as this process sees it. It may be reused once the gate is gone."""
        return self._pid

    async def __aenter__(self) -> "Lifeline":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close socket and PTY, if that has not happened yet."""
        self._connection.close()
        self._pty.close()

    async def aclose(self) -> None:
        """As `close`, with a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def receive_report(self) -> tuple[bytes, int]:
        """Receive `SEEN`, and return its payload and the process that sent it: the one that will become the
        command. Once, before a claim.

        That process leads the session on the terminal, by the kernel's word, and is not the gate. Whether it
        belongs to the container shows in what the host says of it (`inside`).

        Raises:
            SandboxError: something else came, or nothing in time, or from somebody else.
        """
        received = bytearray()
        payload = None
        sender = 0
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                while payload is None:
                    arrived = await receive_frame_bytes(self._connection, received, gate_frames.SEEN)
                    if arrived.descriptors:
                        close_all(arrived.descriptors)
                        raise SandboxError("the gate sent a descriptor that nobody asked for")
                    if arrived.sender in {0, self._pid} or sender not in {0, arrived.sender}:
                        raise SandboxError("the report came from another process than the session's first")
                    sender = arrived.sender
                    payload = gate_frames.SEEN.take(received)
        except trio.TooSlowError:
            raise SandboxError(f"the gate did not say what it sees within {HANDSHAKE_TIMEOUT:g} s") from None
        if self.session_leader() != sender:
            raise SandboxError("the terminal belongs to another process than the one that reported")
        return payload, sender

    def session_leader(self) -> int:
        """Return the process that leads the session on the terminal, as this process sees it; 0 for none."""
        return self._pty.session_leader()

    async def wait_lost(self) -> None:
        """Wait until this gate cannot be claimed any more. For a pool; cancel it before a claim.

        A gate that waits for a claim has nothing to say, so whatever makes its socket readable is the end.
        """
        await trio.lowlevel.wait_readable(self._connection)

    async def claim(self, request: LeaseRequest) -> "LifelineTerminal":
        """Have the gate run `request`'s command, and return its terminal. A lifeline can be claimed once.

        Resource handling: the lifeline goes on owning both descriptors. When this raises anything but
        ValueError it is closed.

        Raises:
            ValueError: the request breaks a bound of the protocol; nothing was sent, another claim is
                possible.
            SandboxError: the gate is gone, has said something before its turn, or does not take the order in
                time.
        """
        if self._claimed:
            raise ValueError("this lifeline has been claimed already")
        order = gate_frames.encode_exec(request)
        self._claimed = True
        try:
            if self._connection.is_readable():
                raise SandboxError("the gate ended, or spoke, before it was claimed")
            self._pty.set_size(request.cols, request.rows)
            with trio.fail_after(CLAIM_TIMEOUT):
                await _send(self._connection, order)
        except trio.TooSlowError:
            self.close()
            raise SandboxError(f"the gate did not take its order within {CLAIM_TIMEOUT:g} s") from None
        except OSError as error:
            self.close()
            raise SandboxError(f"the gate is gone: {error}") from error
        except BaseException:
            self.close()
            raise
        return LifelineTerminal(self._connection, self._pty, request.note_commands)


@final
class LifelineTerminal:
    """A `Terminal` whose bytes travel through the PTY itself; what commands are started, and the exit status,
    come over the lifeline.

    Resource handling: `aclose` closes PTY and lifeline, which ends the container.

    Attributes:
        note_commands: see `LeaseRequest`. While it is None, the gate has nothing to say but the end.
    """

    def __init__(
        self,
        connection: trio.socket.SocketType,
        pty: PtyStream,
        note_commands: Callable[[int], None] | None = None,
    ) -> None:
        self._connection = connection
        self._pty = pty
        self.note_commands = note_commands
        self._received = bytearray()
        self._hearing = trio.Lock()
        self._status: ExitStatus | None = None
        self._breach: SandboxError | None = None
        self._waiting = OneTaskAtATime("another task is waiting for this terminal's end")

    @classmethod
    def resume(
        cls, connection: int, pty: int, received: bytes, status: ExitStatus | None
    ) -> "LifelineTerminal":
        """Return the terminal that another process had, from its descriptors and what it had heard from the
        gate.

        Resource handling: owns both descriptors from the call on.

        Raises:
            SandboxError: they are not a lifeline and a PTY.
        """
        try:
            lifeline = socket.socket(fileno=connection)
        except OSError as error:
            close_all([connection, pty])
            raise SandboxError(f"the descriptor is not a lifeline: {error}") from error
        try:
            require_pty_master(pty)
            terminal = cls(trio.socket.from_stdlib_socket(lifeline), PtyStream(pty))
        except BaseException:
            lifeline.close()
            close_all([pty])
            raise
        terminal._received += received
        terminal._status = status
        return terminal

    @property
    def descriptors(self) -> tuple[int, int]:
        """Those of lifeline and PTY, which stay the terminal's."""
        self._check_open()
        return self._connection.fileno(), self._pty.fileno()

    @property
    def heard(self) -> tuple[bytes, ExitStatus | None]:
        """What there is of a frame that the gate has begun, and how the command ended, if that is known."""
        return bytes(self._received), self._status

    def __repr__(self) -> str:
        return f"<LifelineTerminal {self._pty!r} {self._status or self._breach or 'running'}>"

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """See `Terminal`."""
        return await self._pty.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        """See `Terminal`."""
        await self._pty.send_all(data)

    async def send_some(self, data: bytes) -> int:
        """See `Terminal`."""
        return await self._pty.send_some(data)

    def send_now(self, data: bytes) -> int:
        """See `Terminal`."""
        return self._pty.send_now(data)

    async def resize(self, cols: int, rows: int) -> None:
        """See `Terminal`. Raises ValueError for sizes out of range."""
        await self._pty.resize(cols, rows)

    async def wait_closed(self) -> ExitStatus:
        """See `Terminal`.

        Raises:
            trio.BrokenResourceError: the gate ended without telling a status, or broke the protocol,
                whereupon the lifeline was closed. The cause says which. What was written until then can still
                be received.
        """
        with self._waiting:
            await trio.lowlevel.checkpoint()
            if self._breach is None:
                self._check_open()
            while not self._is_over:
                await self._hear()
            self._pty.finish()
            if self._breach is not None:
                self._connection.close()
        if self._status is None:
            raise trio.BrokenResourceError(
                f"the sandbox ended without a status: {self._breach}"
            ) from self._breach
        return self._status

    async def listen(self) -> None:
        """See `Terminal`. A gate that breaks the protocol is ended at once; to tell of it, or of one that has
        gone, is `wait_closed`'s."""
        while not self._is_over:
            await self._hear()
        await trio.sleep_forever()

    @property
    def _is_over(self) -> bool:
        return self._status is not None or self._breach is not None

    async def _hear(self) -> None:
        """Take in what comes next from the gate. Another task may be doing so: then that goes first."""
        async with self._hearing:
            if self._is_over:
                return
            self._check_open()
            try:
                await self._receive()
            except SandboxError as error:
                self._breach = error
                # The end for the gate. The descriptor stays, for it may be in the middle of a hand-over.
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    async def _receive(self) -> None:
        counted = self.note_commands is not None
        expected = gate_frames.begun(self._received, counted=counted)
        arrived = await receive_frame_bytes(self._connection, self._received, expected)
        if arrived.descriptors:
            close_all(arrived.descriptors)
            raise SandboxError("the gate sent a descriptor that nobody asked for")
        expected = gate_frames.begun(self._received, counted=counted)
        payload = expected.take(self._received)
        if payload is None:
            return
        if self.note_commands is not None and expected is gate_frames.COMMANDS:
            self.note_commands(gate_frames.decode_count(payload))
        else:
            self._status = gate_frames.decode_exit(payload)

    async def terminate(self) -> None:
        """Have the gate hang the session up and, after the request's grace, end the container.

        Returns once the gate has been told. A gate that is gone already is no error: its end is what was
        asked for.
        """
        if self._breach is not None:
            await trio.lowlevel.checkpoint()
            return
        self._check_open()
        try:
            await _send(self._connection, gate_frames.TERMINATE)
        except (BrokenPipeError, ConnectionResetError):
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close PTY and lifeline, if that has not happened yet."""
        self._connection.close()
        self._pty.close()

    async def aclose(self) -> None:
        """See `Terminal`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._connection.fileno() < 0:
            raise trio.ClosedResourceError("this terminal is closed")
