"""A visitor: `terminal-supervisor.v1` from the wire's side, with everything that a fault may do to it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from faults.supervised import TOKEN

PROMPT = b"$ "
ACKNOWLEDGE_EVERY = 32 * 1024


class SessionOverError(Exception):
    """The server ended the connection: with `code` and `reason`, or None where it just vanished."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Visitor:
    """One connection.

    Attributes:
        hello: the server's first message.
        offset: bytes of live output seen, resumed ones included.
        errors: messages of type `error`.
        notices: sentences about the session.
        exited: status of the command, once it has ended by itself.
        text: all output so far.
    """

    def __init__(self, websocket: WebSocketConnection) -> None:
        self._websocket = websocket
        self.hello: dict[str, Any] = {}
        self.errors: list[dict[str, Any]] = []
        self.notices: list[str] = []
        self.exited: int | None = None
        self.text = bytearray()
        self.offset = 0
        self._replay = 0
        self._acknowledged = 0

    async def tell(self, message: dict[str, Any]) -> None:
        """Send a control message."""
        await self._send(json.dumps(message))

    async def type(self, data: bytes) -> None:
        """Send input."""
        await self._send(data)

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._websocket.send_message(message)
        except ConnectionClosed as closed:
            raise _over(closed) from None

    async def read(self) -> bytes:
        """Return the next piece of output.

        Raises:
            SessionOverError: the server has ended the connection.
        """
        while True:
            try:
                message = await self._websocket.get_message()
            except ConnectionClosed as closed:
                raise _over(closed) from None
            if isinstance(message, bytes):
                self.text += message
                del self.text[:-100_000]
                await self._count(len(message))
                return message
            control = json.loads(message)
            if control["type"] == "hello":
                self.hello = control
                self.offset = control["offset"]
                self._replay = control["replay"]
            elif control["type"] == "gap":
                self.offset = control["to"]
            elif control["type"] == "error":
                self.errors.append(control)
            elif control["type"] == "notice":
                self.notices.append(control["message"])
            elif control["type"] == "exit":
                self.exited = control["code"]

    async def _count(self, size: int) -> None:
        replayed = min(size, self._replay)
        self._replay -= replayed
        self.offset += size - replayed
        if self.offset - self._acknowledged >= ACKNOWLEDGE_EVERY:
            self._acknowledged = self.offset
            await self.tell({"type": "ack", "offset": self.offset})

    async def read_until(self, mark: bytes) -> bytes:
        """Return the output up to the piece in which `mark` ends."""
        seen = b""
        while mark not in seen:
            seen += await self.read()
        return seen

    async def read_to_end(self) -> SessionOverError:
        """Read until the connection is over; return how it ended."""
        try:
            while True:
                await self.read()
        except SessionOverError as over:
            return over

    async def echo(self, word: str) -> None:
        """Have the shell print `word`, which is not what is typed."""
        half = len(word) // 2
        await self.type(f"echo {word[:half]}''{word[half:]}\r".encode())
        await self.read_until(word.encode())


def _over(closed: ConnectionClosed) -> SessionOverError:
    reason = closed.reason
    return SessionOverError(reason.code if reason else None, reason.reason if reason else None)


@asynccontextmanager
async def visit(
    url: str,
    *,
    session_id: str | None = None,
    offset: int | None = None,
    credentials: Mapping[str, Any] = MappingProxyType({"token": TOKEN}),
) -> AsyncIterator[Visitor]:
    """Connect and authenticate; leaving cuts the connection without a word, as a closed lid does.

    Raises:
        SessionOverError: nobody listens there, or not any more.
    """
    host, port = url.removeprefix("ws://").split("/")[0].split(":")
    message: dict[str, Any] = {"type": "auth", **credentials, "cols": 80, "rows": 24}
    if session_id is not None:
        message["sessionId"] = session_id
    if offset is not None:
        message["offset"] = offset
    try:
        stream = await trio.open_tcp_stream(host, int(port))
    except OSError as error:
        raise SessionOverError(None, repr(error)) from error
    over: SessionOverError | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                websocket = await wrap_client_stream(
                    nursery, stream, host, "/ws", subprotocols=["terminal-supervisor.v1"]
                )
                visitor = Visitor(websocket)
                await visitor.tell(message)
                yield visitor
            except (HandshakeError, OSError, trio.BrokenResourceError) as error:
                over = SessionOverError(None, repr(error))
            except SessionOverError as error:  # kept out of the nursery, which would wrap it
                over = error
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
    if over is not None:
        raise over
