"""A terminal client that measures: `terminal-supervisor.v1`, nothing rendered, everything acknowledged."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

ACKNOWLEDGE_EVERY = 32 * 1024  # bytes; well below a quarter of the smallest window


class Client:
    """One session, seen from the wire.

    Attributes:
        hello: the server's first message.
        received: bytes of output so far.
    """

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self.hello: dict[str, Any] = {}
        self.received = 0
        self._acknowledged = 0

    async def type(self, data: bytes) -> None:
        """Send input."""
        await self._websocket.send_message(data)

    async def read(self) -> bytes:
        """Return the next piece of output; `b""` when the session is over."""
        while True:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed:
                return b""
            if isinstance(message, bytes):
                self.received += len(message)
                if self.received - self._acknowledged >= ACKNOWLEDGE_EVERY:
                    self._acknowledged = self.received
                    await self._websocket.send_message(json.dumps({"type": "ack", "offset": self.received}))
                return message
            control = json.loads(message)
            if control["type"] == "hello":
                self.hello = control
            elif control["type"] == "error":
                raise RuntimeError(f"the server refuses: {control['message']}")

    async def read_until(self, mark: bytes) -> bytes:
        """Return the output up to and including the piece in which `mark` ends.

        Raises:
            RuntimeError: the session ended before.
        """
        seen = b""
        while mark not in seen:
            piece = await self.read()
            if not piece:
                raise RuntimeError(f"the session ended before {mark!r}; last output {seen[-200:]!r}")
            seen += piece
        return seen


@asynccontextmanager
async def connect(url: str, token: str, cols: int = 80, rows: int = 24) -> AsyncGenerator[Client]:
    """Open a session of its own at `url` (`ws://host:port/ws`); it is ended when the block is left."""
    async with open_websocket_url(
        url, subprotocols=["terminal-supervisor.v1"], message_queue_size=8, receive_buffer_size=64 * 1024
    ) as websocket:
        await websocket.send_message(json.dumps({"type": "auth", "token": token, "cols": cols, "rows": rows}))
        yield Client(websocket)
        with trio.move_on_after(2, shield=True):
            try:
                await websocket.send_message('{"type":"leave"}')
            except ConnectionClosed:
                return
