"""Where lifelines come from: a private socket per container, to which its gate connects once.

The socket's directory is what gets bind-mounted into the container, read-only. On the host nobody but us can
reach it: its
parent belongs to us with mode 0700. In the container the mount makes the parent irrelevant: the directory
itself has mode 0711 and the socket belongs to the container's user, so this also works where user namespaces
are remapped. The path shows in the container's /proc/net/unix and says nothing about the session.

The gate is told from everybody else by the process id that the kernel saw connect. docs/gate.md has the
protocol.
"""

import os
import secrets
import socket
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, final

import trio

from supervisor.errors import ConfigurationError, SandboxError
from supervisor.reaping.directories import PREFIX, remove_dead_directories
from supervisor.reaping.places import LIFELINES, open_place, require_private
from supervisor.sandbox.lifeline_terminal import Lifeline, LifelineTerminal, shake_hands

__all__ = [
    "SOCKET_NAME",
    "Lifeline",
    "LifelineSocket",
    "LifelineTerminal",
    "open_lifeline_socket",
    "runtime_directory",
]

SOCKET_NAME: Final = "gate"
"""Name of the socket in its directory, on both sides of the mount."""

_MAX_PATH = 107  # bytes of a unix socket's path (unix(7): sun_path has 108, with the NUL)
_BACKLOG = 8
_STALE_AFTER = 3600.0  # seconds; a directory lives as long as one container takes to start
_PEER_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user and group id


def runtime_directory() -> Path:
    """Return the directory for lifeline sockets, made when missing, cleared of what ended processes left.

    Raises:
        ConfigurationError: it cannot be made, or somebody else could reach into it.
    """
    directory = open_place(LIFELINES)
    remove_dead_directories(directory)
    _remove_stale(directory)
    return directory


def _remove_stale(parent: Path) -> None:
    """Remove sockets that were not in a supervisor's own directory, when they are old: whose they are cannot
    be told.
    """
    for directory in parent.iterdir():
        if directory.name.startswith(PREFIX):
            continue
        with suppress(OSError):  # somebody else removes it at the same time, or it is none of ours
            if directory.lstat().st_mtime < time.time() - _STALE_AFTER:
                (directory / SOCKET_NAME).unlink(missing_ok=True)
                directory.rmdir()


@final
class LifelineSocket:
    """One container's socket, listening. `accept` takes one connection, from the right process, and is over.

    Made by `open_lifeline_socket`.

    Attributes:
        directory: what is to be mounted into the container. The socket in it is called `SOCKET_NAME`.
    """

    def __init__(self, directory: Path, listener: trio.socket.SocketType) -> None:
        self.directory = directory
        self._listener = listener

    def __repr__(self) -> str:
        return f"<LifelineSocket {self.directory} {'open' if self._listener.fileno() >= 0 else 'closed'}>"

    async def accept(self, expected: int | Callable[[int], Awaitable[bool]], timeout: float) -> Lifeline:
        """Wait for the gate to connect and to be ready. Whoever else connects is turned away.

        Args:
            expected: the gate's process id as this process sees it (the engine calls it the container's
                `Pid`), or a function that says whether a process id is the gate's.
            timeout: seconds for the gate to connect. For what it has to say then there is
                `HANDSHAKE_TIMEOUT`.

        Resource handling: the caller owns the result. Listener and name are gone once the gate has connected:
        there is no second connection.

        Raises:
            SandboxError: the gate did not connect in time, or did not behave.
        """
        refused: list[int] = []
        accepted = None
        with trio.move_on_after(timeout):
            accepted = await self._accept_gate(expected, refused)
            self.close()
        if accepted is None:
            strangers = f"; refused were processes {refused[-5:]}" if refused else ""
            raise SandboxError(f"the gate did not connect within {timeout:g} s{strangers}")
        return await shake_hands(*accepted)

    async def _accept_gate(
        self, expected: int | Callable[[int], Awaitable[bool]], refused: list[int]
    ) -> tuple[trio.socket.SocketType, int]:
        while True:
            connection, _ = await self._listener.accept()
            try:
                credentials = connection.getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
                )
                pid: int = _PEER_CREDENTIALS.unpack(credentials)[0]
                if pid == expected if isinstance(expected, int) else await expected(pid):
                    return connection, pid
            except BaseException:
                connection.close()
                raise
            connection.close()
            refused.append(pid)

    def close(self) -> None:
        """Close the listener and remove the socket's name, if that has not happened yet."""
        if self._listener.fileno() >= 0:
            self._listener.close()
            (self.directory / SOCKET_NAME).unlink(missing_ok=True)


@asynccontextmanager
async def open_lifeline_socket(parent: Path, uid: int | None = None) -> AsyncGenerator[LifelineSocket, None]:
    """Make a socket for one container, in a new directory under `parent`.

    Args:
        parent: ours, with mode 0700: this supervisor's own (`reaping.directories`) in `runtime_directory`.
        uid: user id of the gate as the host sees it (remapped, where the engine remaps), so that only this
            user can connect. None, or when we are not root and so cannot give files away: whoever has the
            directory mounted can connect. Either way nobody else on the host can, and `accept` checks who it
            was.

    Resource handling: leaving closes the listener and removes socket and directory, which is right as soon as
    `accept` has returned; the container's mount keeps what it needs. What a killed process leaves,
    `runtime_directory` removes later.

    Raises:
        ConfigurationError: `parent` is not private, or its path is too long for a socket.
        SandboxError: the socket could not be made.
    """
    require_private(parent)
    directory = parent / secrets.token_hex(8)
    path = directory / SOCKET_NAME
    if len(os.fsencode(path)) > _MAX_PATH:
        raise ConfigurationError(
            f"{parent} is too long for sockets in it (their paths have at most {_MAX_PATH} bytes): "
            "set XDG_RUNTIME_DIR to a shorter path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        try:
            try:
                directory.mkdir(mode=0o700)
                listener.bind(os.fspath(path))
                if uid is None or (uid != os.geteuid() and os.geteuid() != 0):
                    path.chmod(0o666)
                else:
                    path.chmod(0o600)  # before it is somebody else's, which would take CAP_FOWNER
                    os.chown(path, uid, -1)
                directory.chmod(0o711)
                # What a gate and its child send tells who sent it.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                # Only now can anybody connect.
                listener.listen(_BACKLOG)
            except OSError as error:
                raise SandboxError(f"cannot make a lifeline socket: {error}") from error
            lifeline = LifelineSocket(directory, trio.socket.from_stdlib_socket(listener))
            try:
                yield lifeline
            finally:
                lifeline.close()
        finally:
            path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                directory.rmdir()
