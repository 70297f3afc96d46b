"""The conversation between the two processes: small JSON messages with descriptors, over a unix socket.

The socket is of type SEQPACKET (unix(7)): a message arrives whole, with its descriptors, or not at all. Its
two ends are what the hand-over hangs on: `shut` and a `send` from the other side are put in order by the
kernel, which holds a lock for each. So either the message is in our queue when `shut` returns, or its sender
has been told EPIPE; there is no third case, whoever is stopped, slow or killed meanwhile.
"""

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, final

import trio

from supervisor.errors import SupervisorError

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a message; everything large travels in a file of its own."""
MAX_DESCRIPTORS: Final = 200
"""Descriptors of a message; the kernel's limit is 253 (SCM_MAX_FD, unix(7))."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred: process, user and group id


class HandoverError(SupervisorError):
    """The server could not be taken over, or handed over. Whoever had the sessions has them still."""


class RefusedError(HandoverError):
    """The other process, which is alive, said no."""


class GoneError(HandoverError):
    """The other process has ended the conversation without a word; it may have died."""


@final
class Channel:
    """One end of the conversation.

    Resource handling: owns the socket; `close` ends the conversation.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(connection)

    def require_same_user(self) -> int:
        """Check who is at the other end, and return its process id.

        Raises:
            HandoverError: another user.
        """
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.geteuid():
            raise HandoverError(f"the process at the other end is of user {user}, not {os.geteuid()}")
        return int(pid)

    async def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a message; its descriptors stay the caller's. Cancelled, nothing was sent.

        Raises:
            GoneError: the other end is closed.
        """
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        try:
            await self._socket.sendmsg([json.dumps(message).encode()], ancillary)
        except OSError as error:
            raise GoneError(f"the other process has gone: {error.strerror}") from error

    async def receive(self, *kinds: str) -> tuple[dict[str, Any], list[int]]:
        """Return the next message, which must be of one of these kinds, and its descriptors (close-on-exec,
        the caller's).

        Raises:
            RefusedError: the other process says that it does not go on with this.
            GoneError: it has gone.
            HandoverError: it said something else.
        """
        message, descriptors = await self._receive()
        if message.get("type") in kinds:
            return message, descriptors
        close_all(descriptors)
        if message.get("type") == "refusal":
            raise RefusedError(str(message.get("message")))
        raise HandoverError(f"the other process said {message.get('type')!r} instead of {' or '.join(kinds)}")

    async def _receive(self) -> tuple[dict[str, Any], list[int]]:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * struct.calcsize("i"))
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(
                MAX_MESSAGE, space, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise GoneError(f"the other process has gone: {error.strerror}") from error
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise HandoverError(
                    "not all descriptors arrived: this process may not have that many open files"
                )
            if not data:
                raise GoneError("the other process has ended the conversation")
            message: dict[str, Any] = dict(json.loads(data))
        except (HandoverError, ValueError, TypeError) as error:
            close_all(descriptors)
            raise error if isinstance(error, HandoverError) else HandoverError(str(error)) from error
        return message, list(descriptors)

    async def wait_message(self) -> None:
        """Wait for the next message, or the end, and leave it where it is."""
        await trio.lowlevel.wait_readable(self._socket)

    def shut(self, why: str) -> list[str]:
        """Say why and end the conversation in both directions; return the types of the messages that had
        arrived before.

        The other side cannot send anything any more once this has returned.
        """
        arrived: list[str] = []
        with socket.socket(fileno=os.dup(self._socket.fileno())) as rest:
            with suppress(OSError):  # it has gone, or takes nothing
                rest.send(json.dumps({"type": "refusal", "message": why}).encode(), socket.MSG_DONTWAIT)
            with suppress(OSError):
                rest.shutdown(socket.SHUT_RDWR)
            while True:
                try:
                    data = rest.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
                except OSError:
                    return arrived
                if not data:
                    return arrived
                arrived.append(str(json.loads(data).get("type")))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def close_all(descriptors: Sequence[int]) -> None:
    """Close raw descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
