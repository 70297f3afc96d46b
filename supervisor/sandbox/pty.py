"""A PTY's master end as a Trio stream, and the proof that a descriptor is one.

`PtyStream` owns the descriptor. Reading and writing are independent of each other: a flood of output never
keeps input from being written, nor the other way round. The kernel reports the end of a PTY's output as the
error EIO, once the last process has closed the slave; here it is an end of file.
"""

import array
import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import termios
import time
import warnings
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, final

import trio

from supervisor.errors import SandboxError

MAX_COLUMNS_OR_ROWS: Final = 1000
_WRITE_CHUNK = 64 * 1024  # bytes written between two looks at other tasks; a PTY buffers less

_FULL_READ = 2048  # bytes; a read that returns so many (of the 4095 that a PTY can hold) is part of a flood
_FLOOD = 2  # such reads in a row after which a thread reads on
_TURN = 0.002  # seconds for which a thread collects output before it hands it over
_MOST = 4096  # bytes; a PTY returns one less at most
_READERS = trio.CapacityLimiter(2)  # floods that are read at the same time; more take turns

_PTMX = os.makedev(5, 2)  # the device of every UNIX 98 PTY master (ioctl_tty(2), pts(4))
_TIOCGPTN = 0x80045430  # number of the PTY; works on masters only (ioctl_tty(2))
_TIOCGPKT = 0x80045438  # packet mode
_TIOCGSID = 0x5429  # leader of the session that it controls
_O_PATH = 0o10000000
_N_TTY = 0  # the ordinary line discipline


def require_pty_master(fd: int) -> None:
    """Check that `fd`, from somebody who is not trusted, is an ordinary PTY master, readable and writable.

    Also resets its status flags, all but O_NONBLOCK, which is set. These flags belong to the open file, not
    to the descriptor:
    a sender that keeps a copy could clear O_NONBLOCK later and so block this process. The gate keeps none.

    Raises:
        SandboxError: it is something else: a slave, another terminal or device, a file, pipe or socket, a
            descriptor without access (O_PATH), or a master in packet mode or with another line discipline.
    """
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _PTMX:
        raise SandboxError(f"the descriptor is not a PTY master: {_kind(status)}")
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & _O_PATH or flags & os.O_ACCMODE != os.O_RDWR:
        raise SandboxError(f"the PTY master was not opened for reading and writing (flags {flags:#o})")
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)
        _ioctl_number(fd, _TIOCGPTN)
        packet_mode, discipline = _ioctl_number(fd, _TIOCGPKT), _ioctl_number(fd, termios.TIOCGETD)
    except OSError as error:
        raise SandboxError(f"the descriptor does not behave as a PTY master: {error}") from error
    if packet_mode or discipline != _N_TTY:
        raise SandboxError(
            f"the PTY master is in packet mode ({packet_mode}) or line discipline {discipline}"
        )


def _ioctl_number(fd: int, request: int) -> int:
    result = array.array("i", [0])
    fcntl.ioctl(fd, request, result, True)
    return result[0]


def _kind(status: os.stat_result) -> str:
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        return f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return f"file type {stat.S_IFMT(status.st_mode):#o}"


def check_window_size(cols: int, rows: int) -> None:
    """Raise ValueError unless both are 1 to 1000: programs fail on, or allocate for, what is outside."""
    if not (1 <= cols <= MAX_COLUMNS_OR_ROWS and 1 <= rows <= MAX_COLUMNS_OR_ROWS):
        raise ValueError(f"cols and rows must be 1 to {MAX_COLUMNS_OR_ROWS}, not {cols} and {rows}")


class OneTaskAtATime:
    """Context manager for a method that two tasks must not be in at once."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(self._message)
        self._held = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False


@final
class PtyStream:
    """Bytes to and from whatever runs on the slave end of a PTY.

    One task may receive while another sends.

    Resource handling: owns `fd` from the call of the constructor on, and closes it in `close` or `aclose`.
    Closing the last
    descriptor of a master hangs the terminal up: SIGHUP to the session on its slave.

    Error handling: `trio.ClosedResourceError` after closing, `trio.BusyResourceError` for two tasks in one
    method, `trio.BrokenResourceError` with the cause for everything that the kernel refuses.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        self._finished = False
        self._end_of_output = False
        self._full_reads = 0
        self._lent = -1  # the descriptor, while a thread reads from it
        self._receiving = OneTaskAtATime("another task is receiving from this PTY")
        self._sending = OneTaskAtATime("another task is sending to this PTY")

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else "finished" if self._finished else "open"
        return f"<PtyStream fd={self._fd} {state}>"

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """Return 1 to `max_bytes` bytes of output; `b""` at the end.

        The end is when nothing has the slave open any more, or when `finish` was called and all that had been
        written by then has been returned. Cancelling loses nothing.
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._full_reads >= _FLOOD:
                data = await self._receive_flood(max_bytes)
            else:
                # After a little the next read would mostly find nothing; what is there is told at once.
                data = None
                if self._full_reads or self._finished or self._end_of_output or self._fd < 0:
                    data = self._read_once(self._fd, max_bytes)
                    if data is not None:
                        await trio.lowlevel.cancel_shielded_checkpoint()
            while data is None:
                await self._wait(trio.lowlevel.wait_readable)
                data = self._read_once(self._fd, max_bytes)
            self._full_reads = self._full_reads + 1 if len(data) >= _FULL_READ else 0
            return data

    async def _receive_flood(self, max_bytes: int) -> bytes | None:
        """Return what a thread reads within a turn, `b""` at the end, None when that is nothing.

        A PTY hands out 4 KB at a time, and whoever has emptied it waits (in read(2) as in poll(2), also where
        it asked not to wait) until a thread of the kernel has moved the next 4 KB there
        (tty_buffer_flush_work). On a busy machine that takes milliseconds, in which the event loop would
        serve nobody else.
        """
        self._check_open()
        fd = self._lent = self._fd
        try:
            data = await trio.to_thread.run_sync(self._collect, fd, max_bytes, limiter=_READERS)
        finally:
            self._lent = -1
            if self._fd < 0:
                os.close(fd)
        self._check_open()
        return data

    def _collect(self, fd: int, max_bytes: int) -> bytes | None:
        chunks: list[bytes] = []
        room, until = max_bytes, time.monotonic() + _TURN
        more = select.poll()
        more.register(fd, select.POLLIN)
        while room:
            data = self._read_once(fd, min(room, _MOST))
            if data == b"":
                return b"".join(chunks)
            if data:
                chunks.append(data)
                room -= len(data)
            left = until - time.monotonic()
            if left <= 0 or ((data is None or len(data) < _FULL_READ) and not more.poll(left * 1000)):
                break
        return b"".join(chunks) or None

    def _read_once(self, fd: int, max_bytes: int) -> bytes | None:
        """Return what can be read without waiting for the program, `b""` at the end, None when there is
        nothing yet.
        """
        if fd < 0:
            self._check_open()
        if self._end_of_output:
            return b""
        try:
            data = os.read(fd, max_bytes)
        except BlockingIOError:
            # The kernel pushes everything written so far through to the reader before it says this
            # (n_tty_read), so nothing that was written before `finish` is left.
            self._end_of_output = self._finished
            return b"" if self._finished else None
        except OSError as error:
            if error.errno != errno.EIO:
                raise trio.BrokenResourceError(f"cannot read from the PTY: {error}") from error
            data = b""
        self._end_of_output = not data
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Type `data`. Waits while nobody reads it; cancelling may leave a prefix delivered.

        Raises:
            trio.BrokenResourceError: `finish` was called; or nothing has the slave open any more and the
                kernel's buffer (some KB) is full: until then it takes what nobody will read.
        """
        with self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as whole:
                sent = 0
                while True:
                    self._check_open()
                    if self._finished:
                        raise trio.BrokenResourceError("the command on this PTY has ended")
                    count = self._write_now(whole[sent : sent + _WRITE_CHUNK])
                    sent += count
                    if sent == len(whole):
                        break
                    if count:
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._wait(trio.lowlevel.wait_writable)
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_some(self, data: bytes) -> int:
        """Type the beginning of `data`, one byte at least, and return how many; cancelled, it has typed
        nothing.

        Raises:
            trio.BrokenResourceError: as `send_all`.
        """
        with self._sending, memoryview(data) as whole:
            await trio.lowlevel.checkpoint_if_cancelled()
            while True:
                self._check_open()
                if self._finished:
                    raise trio.BrokenResourceError("the command on this PTY has ended")
                if count := self._write_now(whole[:_WRITE_CHUNK]):
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return count
                await self._wait(trio.lowlevel.wait_writable)

    def send_now(self, data: bytes) -> int:
        """Type the beginning of `data`, as much as takes no wait; return how many bytes that was.

        Raises:
            trio.BrokenResourceError: as `send_all`.
        """
        with self._sending:
            self._check_open()
            if self._finished:
                raise trio.BrokenResourceError("the command on this PTY has ended")
            return self._write_now(data)

    def _write_now(self, chunk: bytes | memoryview) -> int:
        if not chunk:
            return 0
        try:
            return os.write(self._fd, chunk)
        except BlockingIOError:
            if not self._hung_up():
                return 0
            raise trio.BrokenResourceError("nothing has the other end of this PTY open any more") from None
        except OSError as error:
            raise trio.BrokenResourceError(f"cannot write to the PTY: {error}") from error

    def _hung_up(self) -> bool:
        # Asked when a write would wait: nobody will make room then, and waiting would return at once, for
        # ever.
        poll = select.poll()
        poll.register(self._fd, 0)
        return bool(poll.poll(0))

    async def _wait(self, for_what: Callable[[int], Awaitable[None]]) -> None:
        """Wait until the descriptor is ready or `finish` or `close` was called: the caller looks again."""
        with contextlib.suppress(trio.ClosedResourceError):
            await for_what(self._fd)

    def set_size(self, cols: int, rows: int) -> None:
        """Set the window size (1 to 1000 each), which signals (SIGWINCH) the foreground process group."""
        check_window_size(cols, rows)
        self._check_open()
        try:
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        except OSError as error:
            raise trio.BrokenResourceError(f"cannot set the window size: {error}") from error

    def session_leader(self) -> int:
        """Return the process that leads the session on this terminal, as this process sees it; 0 for none."""
        self._check_open()
        leader = array.array("i", [0])
        try:
            fcntl.ioctl(self._fd, _TIOCGSID, leader)
        except OSError:  # ENOTTY: it controls no session
            return 0
        return leader[0]

    async def resize(self, cols: int, rows: int) -> None:
        """As `set_size`, with a checkpoint, as an interactive stream's method should have."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.set_size(cols, rows)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def finish(self) -> None:
        """Say that the command has ended: what it has written can still be read, then comes `b""`.

        Needed where somebody else keeps the slave open, so that the kernel never reports the end. Sending is
        over at once.
        """
        self._finished = True
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)  # wakes whoever waits in `_wait`

    def fileno(self) -> int:
        """Return the descriptor; -1 after closing."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor, unless closed already. Tasks that wait get `trio.ClosedResourceError`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(fd)
            if fd != self._lent:
                os.close(fd)

    async def aclose(self) -> None:
        """As `close`, with a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError("this PTY is closed")
