"""The server name that a TLS client asks for, read off its first message. Sans-IO.

RFC 8446 (TLS 1.3, 4.1.2 and 5.1), which keeps the form of all versions before; RFC 6066, 3 (server names).
A message that hides another server name inside (encrypted client hello, RFC 9849) is refused: what shows
on the outside is not what the server heeds.
"""

from collections.abc import Iterator
from typing import Final

LARGEST: Final = 32 * 1024
"""Bytes after which a first message counts as none. With post-quantum keys they have about 2 KB."""
_HANDSHAKE_RECORD = 22
_MOST_RECORDS = (
    8  # for one message, which usually is one record; each is looked at with every byte that comes
)
_LARGEST_RECORD = 16 * 1024
_CLIENT_HELLO = 1
_RANDOM = 2 + 32  # bytes of version and random number
_SERVER_NAME = 0
_HOST_NAME = 0
_ENCRYPTED_CLIENT_HELLO = 0xFE0D


class HelloError(ValueError):
    """The bytes are no TLS client's first message, or one that names no server. The text says which."""


def server_name(received: bytes) -> str | None:
    """Return the server name in a client's first bytes, in small letters, or None while there are too few.

    Raises:
        HelloError: more bytes would not help.
    """
    message = _first_message(received)
    if message is None:
        if len(received) >= LARGEST:
            raise HelloError("a TLS client's first message is not that large")
        return None
    try:
        return _name_in(message)
    except (IndexError, UnicodeDecodeError) as error:
        raise HelloError("a broken TLS client hello") from error


def _first_message(received: bytes) -> bytes | None:
    """Return the body of the first handshake message, put together from its records; None if incomplete."""
    message = b""
    position = 0
    for _ in range(_MOST_RECORDS):
        if position + 5 > len(received):
            break
        size = int.from_bytes(received[position + 3 : position + 5], "big")
        if (
            received[position] != _HANDSHAKE_RECORD
            or received[position + 1] != 3
            or not 0 < size <= _LARGEST_RECORD
        ):
            raise HelloError("not TLS")
        message += received[position + 5 : position + 5 + size]
        if message[0:1] and message[0] != _CLIENT_HELLO:
            raise HelloError("TLS that does not begin with a client hello")
        if len(message) >= 4 and len(message) >= 4 + (end := int.from_bytes(message[1:4], "big")):
            return message[4 : 4 + end]
        position += 5 + size
    else:
        raise HelloError("a TLS client hello in too many pieces")
    if received and received[0] != _HANDSHAKE_RECORD:
        raise HelloError("not TLS")
    return None


class _Reader:
    """Takes vectors off the front; IndexError when there are not enough bytes."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def take(self, size: int) -> bytes:
        if len(self.rest) < size:
            raise IndexError
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))


def _name_in(message: bytes) -> str:
    reader = _Reader(message)
    reader.take(_RANDOM)
    reader.vector(1)  # session id
    reader.vector(2)  # cipher suites
    reader.vector(1)  # compression methods
    names: list[str] = []
    for kind, body in _extensions(_Reader(reader.vector(2)) if reader.rest else reader):
        if kind == _ENCRYPTED_CLIENT_HELLO:
            raise HelloError("an encrypted client hello, which hides the server's name")
        if kind == _SERVER_NAME:
            names += _host_names(_Reader(_Reader(body).vector(2)))
    if len(names) != 1:
        raise HelloError("TLS without a server name" if not names else "TLS with several server names")
    return names[0].lower()


def _extensions(reader: _Reader) -> Iterator[tuple[int, bytes]]:
    while reader.rest:
        kind = reader.number(2)
        yield kind, reader.vector(2)


def _host_names(reader: _Reader) -> Iterator[str]:
    while reader.rest:
        kind = reader.number(1)
        name = reader.vector(2)
        if kind == _HOST_NAME:
            yield name.decode("ascii")
