"""Transport `attach`: the terminal's bytes travel through the engine, where a descriptor cannot cross.

The container has a terminal of its own, made by the engine, and the gate (`gate --attach`) takes its one
order over it before the command gets it: so no credential shows in what the engine knows of the container.
docs/gate.md has the frames.

What is different from the lifeline, all of it the engine's doing: a signal that ended the command shows as
exit status 128 plus its number; the engine buffers about 1 MB of output; it cannot kill, inspect or remove a
container whose output nobody reads, so the stream is always closed first. And nothing tells the gate that the
supervisor has died: the guard process removes the container then; without a guard it lives until its lifetime
is over.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, final

import trio

from supervisor.engine import DockerContainer, DockerError, Stream
from supervisor.engine.reply import Reply
from supervisor.errors import SandboxError
from supervisor.observability.log import get_logger
from supervisor.sandbox import gate_frames
from supervisor.sandbox.gate_frames import Expected
from supervisor.sandbox.pty import OneTaskAtATime, check_window_size
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest

_log = get_logger("sandbox")

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for REDY once the container runs, and for STRT once EXEC was sent. The gate answers at once; an
engine under load does not.
"""
RESIZE_PAUSE: Final = 0.05
"""Seconds between two resize calls; sizes that come in between are dropped for the last one."""
_CALL_TIMEOUT = 5.0
_MAX_CHUNK = 65536


@asynccontextmanager
async def attach_gate(container: DockerContainer, nursery: trio.Nursery) -> AsyncGenerator["AttachedGate"]:
    """Attach to `container`, which was created with a terminal and has not been started.

    Args:
        container: the engine's.
        nursery: where window sizes are passed on in the background. Must outlive the result.

    Resource handling: leaving closes the stream and the request that waits for the exit status. The container
    is the caller's.

    Raises:
        DockerError: the engine refuses.
    """
    async with container.attach(
        stdin=True, stdout=True, stderr=True, tty=True, timeout=_CALL_TIMEOUT
    ) as stream:
        # The engine answers as soon as it has begun to wait, and tells the status in the answer's body. Asked
        # before the start, because a container that ends is removed at once, and its status with it.
        path = f"containers/{container.id}/wait"
        async with await container.docker.api.open(
            "POST", path, params={"condition": "next-exit"}, timeout=None
        ) as ending:
            gate = AttachedGate(container, stream, ending, nursery)
            try:
                yield gate
            finally:
                gate.close()


@final
class AttachedGate:
    """A gate at the other end of an attach stream, and what both its waiting and its terminal need to know.

    Attributes:
        stream: the terminal's bytes.
    """

    def __init__(
        self, container: DockerContainer, stream: Stream, ending: Reply, nursery: trio.Nursery
    ) -> None:
        self.stream = stream
        self._container = container
        self._ending = ending
        self._nursery = nursery
        self._asking = trio.Lock()
        self._status: ExitStatus | None = None
        self._received = bytearray()
        self._sending = trio.CancelScope()
        self._size_wanted: tuple[int, int] | None = None
        self._resizing: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<AttachedGate {self._container!r} {self._status or 'running'}>"

    async def wait_ready(self) -> None:
        """Wait for `REDY`. The container must have been started.

        Raises:
            SandboxError: something else came, or nothing in time.
        """
        gate_frames.check_ready(await self._receive(gate_frames.READY))

    async def receive_report(self) -> bytes:
        """Receive `SEEN`, and return its payload: what the process sees that will become the command.

        Raises:
            SandboxError: something else came, or nothing in time.
        """
        return await self._receive(gate_frames.SEEN)

    async def wait_lost(self) -> None:
        """Wait until this gate cannot be claimed any more. For a pool; cancel it before a claim.

        A gate that waits for a claim has nothing to say, so whatever comes is the end.
        """
        try:
            await self.stream.receive_some(_MAX_CHUNK)
        except trio.BrokenResourceError:
            return

    async def claim(self, request: LeaseRequest) -> "AttachTerminal":
        """Have the gate run `request`'s command, and return its terminal. Only once.

        Raises:
            ValueError: the request breaks a bound of the protocol.
            SandboxError: the gate does not start it.
        """
        order = gate_frames.encode_exec(request)
        try:
            # Before the order, so that the command's first instruction sees it.
            await self._container.resize(h=request.rows, w=request.cols, timeout=_CALL_TIMEOUT)
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                await self.stream.send_all(order)
        except (DockerError, trio.TooSlowError, trio.BrokenResourceError) as error:
            raise SandboxError("the gate could not be given its order") from error
        await self._receive(gate_frames.STARTED)
        return AttachTerminal(self, bytes(self._received))

    async def _receive(self, expected: Expected) -> bytes:
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                while (payload := expected.take(self._received)) is None:
                    data = await self.stream.receive_some(_MAX_CHUNK)
                    if not data:
                        raise SandboxError("the gate ended before its command was started")
                    self._received += data
                return payload
        except trio.TooSlowError:
            raise SandboxError(
                f"the gate did not say {expected.kind.decode()} within {HANDSHAKE_TIMEOUT:g} s"
            ) from None
        except trio.BrokenResourceError as error:
            raise SandboxError("the engine's stream broke before the command was started") from error

    async def wait_ended(self) -> ExitStatus:
        """Wait for the command's end. Any number of tasks may.

        Raises:
            trio.BrokenResourceError: the engine ended first, or does not know.
        """
        async with self._asking:
            if self._status is None:
                try:
                    answer = json.loads(await self._ending.read(_MAX_CHUNK))
                    self._status = ExitStatus(int(answer["StatusCode"]))
                    self._sending.cancel()
                except (DockerError, ValueError, KeyError, TypeError) as error:
                    raise trio.BrokenResourceError(
                        "the sandbox ended without a status, or the engine did"
                    ) from error
            return self._status

    async def send_all(self, data: bytes) -> None:
        """Send to the command's terminal.

        The engine goes on accepting, and then not reading, what is sent to a command that has ended. So
        whoever learns of the end stops this.

        Raises:
            trio.BrokenResourceError: the command has ended, or the engine has.
        """
        if self._status is None:
            with trio.CancelScope() as self._sending:
                await self.stream.send_all(data)
            if not self._sending.cancelled_caught:
                return
        raise trio.BrokenResourceError("the command on this terminal has ended")

    def want_size(self, cols: int, rows: int) -> None:
        """Have the window size set soon; the last one counts."""
        self._size_wanted = (cols, rows)
        if self._resizing is None:
            self._resizing = trio.CancelScope()
            self._nursery.start_soon(self._resize, self._resizing)

    async def _resize(self, scope: trio.CancelScope) -> None:
        with scope:
            while self._size_wanted is not None:
                (cols, rows), self._size_wanted = self._size_wanted, None
                try:
                    await self._container.resize(h=rows, w=cols, timeout=_CALL_TIMEOUT)
                except DockerError as error:
                    # 404 and 409: it has just ended. Anything else shows on the stream, if it matters.
                    _log.debug("window size not set", error=str(error))
                await trio.sleep(RESIZE_PAUSE)
        self._resizing = None

    async def hang_up(self) -> None:
        """Signal TERM to the gate, which hangs the session up. No error when it is gone already."""
        if self._status is not None:
            return
        try:
            await self._container.kill(signal="TERM", timeout=_CALL_TIMEOUT)
        except DockerError as error:
            _log.debug("not hung up", error=str(error))

    def close(self) -> None:
        """End the passing on of window sizes."""
        if self._resizing is not None:
            self._resizing.cancel()


@final
class AttachTerminal:
    """A `Terminal` over an attach stream.

    Resource handling: `aclose` closes the stream; the container is the lease's to end.
    """

    def __init__(self, gate: AttachedGate, received: bytes) -> None:
        self._gate = gate
        self._received = received
        self._closed = False
        self._waiting = OneTaskAtATime("another task is waiting for this terminal's end")
        self._receiving = OneTaskAtATime("another task is receiving from this terminal")
        self._sending = OneTaskAtATime("another task is sending to this terminal")

    def __repr__(self) -> str:
        return f"<AttachTerminal {self._gate!r}>"

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """See `Terminal`.

        Raises:
            trio.BrokenResourceError: the engine ended the stream, and cannot say that the command has ended.
        """
        with self._receiving:
            self._check_open()
            if self._received:
                await trio.lowlevel.checkpoint()
                data, self._received = self._received[:max_bytes], self._received[max_bytes:]
                return data
            data = await self._gate.stream.receive_some(max_bytes)
            if not data:
                # The end of the stream is not the end of the command: the engine may have gone.
                await self._gate.wait_ended()
            return data

    async def send_all(self, data: bytes) -> None:
        """See `Terminal`."""
        with self._sending:
            self._check_open()
            await self._gate.send_all(data)

    async def send_some(self, data: bytes) -> int:
        """See `Terminal`; but cancelling may leave a prefix delivered: what the engine has taken shows
        nowhere."""
        await self.send_all(data)
        return len(data)

    def send_now(self, data: bytes) -> int:
        """See `Terminal`: what the engine takes, and when, it does not tell at once."""
        self._check_open()
        return 0

    async def resize(self, cols: int, rows: int) -> None:
        """See `Terminal`. It takes effect soon: the engine is asked in the background. Raises ValueError for
        sizes out of range.
        """
        check_window_size(cols, rows)
        self._check_open()
        self._gate.want_size(cols, rows)
        await trio.lowlevel.checkpoint()

    async def listen(self) -> None:
        """See `Terminal`. There is no way for a shell to say what it starts."""
        await trio.sleep_forever()

    async def wait_closed(self) -> ExitStatus:
        """See `Terminal`. A signal n shows as status 128 + n.

        The engine does not report the end before all output has been read or the stream was closed.
        """
        with self._waiting:
            self._check_open()
            return await self._gate.wait_ended()

    async def terminate(self) -> None:
        """Have the gate hang the session up and, after the request's grace, end the container.

        A container that is gone already is no error.
        """
        self._check_open()
        await self._gate.hang_up()

    async def aclose(self) -> None:
        """See `Terminal`."""
        self._closed = True
        await self._gate.stream.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this terminal is closed")
