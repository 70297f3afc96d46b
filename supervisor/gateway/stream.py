"""Bytes out: as fast as the peer takes them, no slower than a stall allows, and so that the last ones
arrive.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

import trio

PIECE = 64 * 1024  # bytes whose taking counts as progress
LINGER = 1.0  # seconds for the peer to read our last words
READ_SIZE = 16 * 1024


async def send_steadily(stream: trio.abc.SendStream, data: bytes, stall_timeout: float) -> None:
    """Send `data`. However long that takes, the peer must go on taking it.

    Error handling: cancelled or stalled, an unknown part of `data` has been sent, so nothing may follow it.

    Raises:
        trio.TooSlowError: the peer took less than a piece in `stall_timeout` seconds.
        trio.BrokenResourceError: it is gone.
    """
    with memoryview(data) as whole:
        for position in range(0, len(whole), PIECE):
            with trio.fail_after(stall_timeout):
                await stream.send_all(whole[position : position + PIECE])


def send_now(stream: trio.abc.SendStream, pieces: Sequence[bytes]) -> int:
    """Send the beginning of `pieces` and return how many bytes the kernel took without anybody waiting: 0
    also where `stream` is no bare socket. No other task may be sending.

    Most output fits into the socket's buffer; then this is all, without a copy.

    Raises:
        trio.BrokenResourceError: the peer is gone.
    """
    if not isinstance(stream, trio.SocketStream):
        return 0
    try:
        return os.writev(stream.socket.fileno(), pieces)  # Trio's sockets do not block
    except BlockingIOError:
        return 0
    except OSError as error:
        raise trio.BrokenResourceError(f"cannot send: {error}") from error


async def receive_when_ready(stream: trio.abc.ReceiveStream, max_bytes: int) -> bytes:
    """As `stream.receive_some`, for whoever has reason to think that nothing is there yet: it waits first and
    looks then, which saves a bare socket the attempt that fails.
    """
    if not isinstance(stream, trio.SocketStream):
        return bytes(await stream.receive_some(max_bytes))
    while True:
        if stream.socket.fileno() < 0:
            raise trio.ClosedResourceError("this socket is closed")
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            return os.read(stream.socket.fileno(), max_bytes)
        except BlockingIOError:
            continue  # woken for nothing
        except OSError as error:
            raise trio.BrokenResourceError(f"cannot receive: {error}") from error


async def linger(stream: trio.abc.Stream) -> None:
    """Wait a moment for the peer to close, after the last words.

    A TCP socket that is closed while input is unread resets the connection, and a peer that is reset may lose
    what it has not read yet: the very answer that says why.
    """
    try:
        with trio.move_on_after(LINGER):
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
            while await stream.receive_some(READ_SIZE):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


def tell_in_passing(descriptor: int, data: bytes) -> None:
    """Send `data` on a socket that does not block, if it takes them, and take what has come, so that closing
    does not reset the connection and lose the words again.
    """
    with suppress(OSError):
        os.write(descriptor, data)
        os.read(descriptor, READ_SIZE)
