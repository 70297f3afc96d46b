"""`python -m benchmarks.standin`: the supervisor with terminals that nothing runs on.

Real gateway, real sessions, a real descriptor per session; the other end of it is held by nobody's program.
So thousands of idle sessions fit on one machine, and what they cost is the supervisor's alone. The terminal
is a socket pair and no PTY, of which a host has 4096.
"""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from supervisor.measures import NO_SECURITY
from supervisor.observability.log import configure_logging
from supervisor.sandbox.pty import PtyStream
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest
from supervisor.serve import running
from supervisor.settings.load import load_settings


class StandinTerminal:
    """A `Terminal` that shows a prompt and is silent ever after."""

    def __init__(self, stream: PtyStream) -> None:
        self._stream = stream
        self.receive_some = stream.receive_some
        self.send_all = stream.send_all
        self.send_some = stream.send_some
        self.send_now = stream.send_now

    async def resize(self, cols: int, rows: int) -> None:
        await trio.lowlevel.checkpoint()

    async def listen(self) -> None:
        await trio.sleep_forever()

    async def wait_closed(self) -> ExitStatus:
        await trio.lowlevel.checkpoint()
        return ExitStatus(0)

    async def aclose(self) -> None:
        await self._stream.aclose()


class StandinProvider:
    """Leases them."""

    name = "local"
    isolated = False
    security = NO_SECURITY
    unavailable: str | None = None

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncGenerator[StandinTerminal]:
        """See `SandboxProvider`."""
        ours, theirs = socket.socketpair()
        with theirs:
            stream = PtyStream(os.dup(ours.fileno()))
            ours.close()
            theirs.send(b"$ ")
            try:
                yield StandinTerminal(stream)
            finally:
                await stream.aclose()


async def main() -> None:
    """Serve until cancelled, on a free port."""
    settings = load_settings(dict(os.environ), port=0)
    async with running(settings, StandinProvider()) as supervisor:
        print(f"Open {supervisor.gateway.url}", flush=True)
        with trio.open_signal_receiver(2, 15) as signals:
            await anext(signals)


if __name__ == "__main__":
    configure_logging("console", "error")
    trio.run(main)
