"""A WebSocket client that costs little, so that a measurement shows the server and not its ruler.

Only what load needs of RFC 6455: no extensions, whole messages, pings answered. Frames are masked with the
key 0, which leaves the payload as it is; servers must accept it (section 5.3), and no proxy is in between.
"""

import base64
import os
import ssl
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import h11
import trio

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
READ_SIZE = 256 * 1024
MAX_MESSAGE = 64 * 1024 * 1024  # bytes; a server that sends more is not measured but broken
_NO_MASK = b"\0\0\0\0"


class ConnectionEndedError(Exception):
    """The server closed the connection (`code`, 1006 without a close frame) or refused the upgrade (an HTTP
    status)."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the server closed with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class WebSocket:
    """The client's end of a connection; one task sends, one receives."""

    def __init__(self, stream: trio.abc.Stream, rest: bytes) -> None:
        self.stream = stream
        self._buffer = bytearray(rest)
        self._sending = trio.Lock()

    async def send(self, data: bytes, opcode: int = BINARY) -> None:
        """Send one message."""
        if len(data) < 126:
            head = bytes((0x80 | opcode, 0x80 | len(data)))
        elif len(data) < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0xFE, len(data))
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, len(data))
        async with self._sending:
            await self.stream.send_all(head + _NO_MASK + data)

    async def receive(self) -> tuple[int, bytes]:
        """Return the next message and its kind, TEXT or BINARY.

        Raises:
            ConnectionEndedError: there is none any more.
        """
        whole = b""
        kind = 0
        while True:
            final, opcode, payload = await self._frame()
            if opcode == PING:
                await self.send(payload, PONG)
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                raise ConnectionEndedError(code, payload[2:].decode(errors="replace"))
            elif opcode != PONG:
                kind = opcode or kind
                if final:
                    return kind, whole + payload if whole else payload
                whole += payload

    async def _frame(self) -> tuple[bool, int, bytes]:
        buffer = self._buffer
        while True:
            if len(buffer) >= 2:
                length, start = buffer[1], 2
                if length == 126 and len(buffer) >= 4:
                    length, start = int.from_bytes(buffer[2:4], "big"), 4
                elif length == 127 and len(buffer) >= 10:
                    length, start = int.from_bytes(buffer[2:10], "big"), 10
                elif length > 125:
                    length = MAX_MESSAGE  # its length has not arrived
                if length > MAX_MESSAGE:
                    raise ConnectionEndedError(1009, f"a frame of {length} bytes")
                if len(buffer) >= start + length:
                    first = buffer[0]
                    payload = bytes(memoryview(buffer)[start : start + length])
                    del buffer[: start + length]
                    return first >= 0x80, first & 15, payload
            try:
                data = await self.stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise ConnectionEndedError(1006)
            buffer += data


@asynccontextmanager
async def open_websocket(
    url: str, *, subprotocols: Sequence[str] = (), origin: str | None = None, source: str | None = None
) -> AsyncGenerator[WebSocket]:
    """Connect to `url` (ws:// or wss://), from the address `source` if it is given. Leaving the block cuts
    the connection without a word.

    Raises:
        ConnectionEndedError: the server does not upgrade; `code` is its HTTP status.
        OSError: nobody listens there.
    """
    parts = urlsplit(url)
    host, secure = parts.hostname or "127.0.0.1", parts.scheme in {"wss", "https"}
    port = parts.port or (443 if secure else 80)
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, port, local_address=source)
    if secure:
        context = ssl.create_default_context()
        stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [
            ("Host", parts.netloc.rpartition("@")[2]),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", base64.b64encode(os.urandom(16)).decode()),
        ]
        headers += [("Sec-WebSocket-Protocol", ", ".join(subprotocols))] if subprotocols else []
        headers += [("Origin", origin)] if origin else []
        yield WebSocket(stream, await _upgrade(stream, target, headers))
    finally:
        await trio.aclose_forcefully(stream)


async def _upgrade(stream: trio.abc.Stream, target: str, headers: list[tuple[str, str]]) -> bytes:
    connection = h11.Connection(h11.CLIENT)
    request = connection.send(h11.Request(method="GET", target=target, headers=headers))
    assert request is not None
    await stream.send_all(request)
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some(READ_SIZE)
            if not data:
                raise ConnectionEndedError(1006, "no answer to the upgrade")
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.InformationalResponse) and event.status_code == 101:
            return connection.trailing_data[0]
        elif isinstance(event, h11.Response):
            raise ConnectionEndedError(event.status_code, "instead of an upgrade")
