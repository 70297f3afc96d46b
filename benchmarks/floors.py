"""The floors: what is there without any server in between, behind the same interface as a server's client.

`pty` is a PTY of this process, the physical limit of echo and output: it is read as fast as that goes, by
somebody who has nobody else to serve. `engine` is the engine alone: create,
attach, start, with the HostConfig that the supervisor's policy makes, over the same engine client.
"""

import errno
import fcntl
import os
import pty
import secrets
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from benchmarks.client import Access, Client
from supervisor.engine import Docker
from supervisor.engine.stream import Stream

COMMAND = ("/bin/bash", "--norc", "--noprofile")
MUCH = 64 * 1024
"""Bytes that are read at once: what a client of a server gets, too."""


class PtyClient:
    """A shell on a PTY; owns the descriptor."""

    ticket = ""
    close_code = 0

    def __init__(self, master: int) -> None:
        os.set_blocking(master, False)
        self._master = master

    async def type(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._master)

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        data = b""
        while len(data) < MUCH:
            try:
                piece = os.read(self._master, MUCH)
            except BlockingIOError:
                if data:
                    break
                await trio.lowlevel.wait_readable(self._master)
                continue
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the other end open any more
                    raise
                break
            data += piece
        return data

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()
        self.close()

    def close(self) -> None:
        if self._master >= 0:
            trio.lowlevel.notify_closing(self._master)
            os.close(self._master)
            self._master = -1


@asynccontextmanager
async def open_pty(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Start a shell on a PTY; it is hung up, then killed, when the block is left."""
    await trio.lowlevel.checkpoint()
    master, slave = pty.openpty()
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - does not wait
            COMMAND,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # By the session's leader, so that bash has job control.
            preexec_fn=_take_terminal,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "TERM": "xterm-256color", "PS1": "$ "},
        )
    finally:
        os.close(slave)
    client = PtyClient(master)
    try:
        yield client
    finally:
        client.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _take_terminal() -> None:
    # Ignored in what a script starts in the background; a shell could not undo that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class EngineClient:
    """A shell at the engine's attach."""

    ticket = ""
    close_code = 0

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def type(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def read(self) -> bytes:
        return await self._stream.receive_some(65536)

    async def leave(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def open_engine(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Create, attach, start; the container is removed when the block is left. `access.extra` holds the create
    call's body.
    """
    async with Docker(access.url) as docker:
        name = f"ts-bench-floor-{secrets.token_hex(6)}"
        container = await docker.containers.create(access.extra["config"], name=name)
        try:
            async with container.attach(stdout=True, stderr=True, stdin=True) as stream:
                await container.start()
                yield EngineClient(stream)
        finally:
            with trio.move_on_after(20, shield=True):
                await container.delete(force=True)


def engine_processes(url: str) -> list[int]:
    """Return the pids of the engine at `url`, a unix socket, and of what it runs to keep containers."""

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(url.removeprefix("unix://"))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    (daemon, _, _) = struct.unpack("iii", credentials)
    place = Path(f"/proc/{daemon}/ns/mnt").readlink()
    found = [daemon]
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and (entry / "comm").read_text().startswith("containerd")
                and (entry / "ns/mnt").readlink() == place
            ):
                found.append(int(entry.name))
    return found
