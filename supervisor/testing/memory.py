"""Terminals without programs: the test plays the program. For sessions, gateways and clients under virtual
time."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from supervisor.measures import NO_SECURITY, SecurityStatus
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, Terminal


class MemoryTerminal:
    """A `Terminal` whose other end is in the test's hands.

    Attributes:
        typed: everything that the user typed and that has been taken.
        sizes: window sizes that were set, the first one included.
        capacity: bytes that `print` accepts before it waits, as a PTY does.
        reads_input: while False, `send_all` waits, like a program that does not read.
    """

    def __init__(self, request: LeaseRequest, capacity: int = 4096) -> None:
        self.request = request
        self.typed = bytearray()
        self.sizes = [(request.cols, request.rows)]
        self.capacity = capacity
        self.reads_input = True
        self._output = bytearray()
        self._started = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._status: ExitStatus | None = None
        self._broken = False
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the terminal is closed")

    # the program's side

    async def print(self, data: bytes) -> None:
        """Write output; waits while `capacity` bytes are unread."""
        for position in range(0, len(data), self.capacity):
            while len(self._output) >= self.capacity:
                await self._changed.park()
            self._output += data[position : position + self.capacity]
            self._changed.unpark_all()
        await trio.lowlevel.checkpoint()

    def start_commands(self, count: int = 1) -> None:
        """Say that so many commands have been started; heard while somebody listens."""
        self._started += count
        self._changed.unpark_all()

    def exit(self, code: int | None = 0, signal: int | None = None) -> None:
        """End the command."""
        self._status = ExitStatus(code, signal)
        self._changed.unpark_all()

    def vanish(self) -> None:
        """End without a status, as when the sandbox is lost."""
        self._broken = True
        self._changed.unpark_all()

    def set_reading(self, reads: bool) -> None:
        """Let the program read its input, or not."""
        self.reads_input = reads
        self._changed.unpark_all()

    # the session's side: see supervisor.sandbox.terminal.Terminal

    async def receive_some(self, max_bytes: int = 65536) -> bytes:  # noqa: D102
        await trio.lowlevel.checkpoint()
        self._check()
        while not self._output and self._status is None and not self._broken:
            await self._changed.park()
            self._check()
        data = bytes(self._output[:max_bytes])
        del self._output[:max_bytes]
        self._changed.unpark_all()
        return data

    async def send_all(self, data: bytes) -> None:  # noqa: D102
        await trio.lowlevel.checkpoint()
        self._check()
        while not self.reads_input:
            await self._changed.park()
        self.typed += data

    async def send_some(self, data: bytes) -> int:  # noqa: D102
        await self.send_all(data)
        return len(data)

    def send_now(self, data: bytes) -> int:  # noqa: D102
        self._check()
        if not self.reads_input:
            return 0
        self.typed += data
        return len(data)

    async def resize(self, cols: int, rows: int) -> None:  # noqa: D102
        await trio.lowlevel.checkpoint()
        self._check()
        self.sizes.append((cols, rows))

    async def listen(self) -> None:  # noqa: D102
        while True:
            if self._started and self.request.note_commands:
                self.request.note_commands(self._started)
                self._started = 0
            await self._changed.park()

    async def wait_closed(self) -> ExitStatus:  # noqa: D102
        while self._status is None:
            if self._broken:
                raise trio.BrokenResourceError("the sandbox vanished")
            await self._changed.park()
        await trio.lowlevel.checkpoint()
        return self._status

    async def aclose(self) -> None:  # noqa: D102
        self._closed = True
        self._changed.unpark_all()
        await trio.lowlevel.checkpoint()


class MemoryProvider:
    """A `SandboxProvider` of memory terminals.

    Attributes:
        terminals: all that were ever leased, in order.
        leased: how many are out now.
        start_delay: seconds that a start takes.
        failure: raised instead of a start, when set.
        unavailable, security: see `SandboxProvider`.
        counted: whether its terminals' shells say what they start.
    """

    name = "memory"
    isolated = True

    def __init__(self) -> None:
        self.terminals: list[MemoryTerminal] = []
        self.leased = 0
        self.start_delay = 0.0
        self.failure: Exception | None = None
        self.unavailable: str | None = None
        self.security: SecurityStatus = NO_SECURITY
        self.counted = False

    def lease(self, request: LeaseRequest) -> AbstractAsyncContextManager[Terminal]:  # noqa: D102
        return self._lease(request)

    @asynccontextmanager
    async def _lease(self, request: LeaseRequest) -> AsyncGenerator[Terminal]:
        self.leased += 1
        try:
            await trio.sleep(self.start_delay)
            if self.failure is not None:
                raise self.failure
            request.facts.counted = self.counted
            terminal = MemoryTerminal(request)
            self.terminals.append(terminal)
            try:
                yield terminal
            finally:
                with trio.CancelScope(shield=True):
                    await terminal.aclose()
        finally:
            self.leased -= 1
