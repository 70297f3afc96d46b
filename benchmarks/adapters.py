"""The protocols, one adapter each: how a client of that server connects, types, reads and acknowledges.

Adapters do no more than the server's own client must, and acknowledge as early as it may.
"""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import attrs
import trio

from benchmarks import floors
from benchmarks.client import Access, Client, RefusedError
from benchmarks.websocket import BINARY, TEXT, ConnectionEndedError, WebSocket, open_websocket

ACKNOWLEDGE_EVERY = 64 * 1024  # bytes; a quarter of the window of terminal-supervisor.v1
WETTY_ACKNOWLEDGE_EVERY = 256 * 1024  # as wetty's own client
ABLY_CONTROL = b"\0\0ABLY_CTRL:"
OPENER = b'{"stream":true'

Opener = Callable[[Access, str], AbstractAsyncContextManager[Client]]


class _WebSocketClient:
    """What the adapters share: the connection, and what its end means."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.ticket = ""
        self.close_code = 0

    async def _message(self) -> tuple[int, bytes]:
        """Return the next message, `(0, b"")` at the end."""
        try:
            return await self.websocket.receive()
        except ConnectionEndedError as end:
            self.close_code = end.code
            return 0, b""

    async def leave(self) -> None:
        await trio.lowlevel.checkpoint()  # cutting the connection is all that these protocols have


# ------------------------------------------------------------------ ours


class V1Client(_WebSocketClient):
    """terminal-supervisor.v1 (docs/protocol-v1.md)."""

    def __init__(self, websocket: WebSocket) -> None:
        super().__init__(websocket)
        self.session_id = ""
        self.received = 0
        self._acknowledged = 0

    @property
    def ticket(self) -> str:
        return f"{self.session_id}@{self.received}"

    @ticket.setter
    def ticket(self, _: str) -> None: ...

    async def type(self, data: bytes) -> None:
        await self.websocket.send(data)

    async def read(self) -> bytes:
        while True:
            kind, message = await self._message()
            if kind == TEXT:
                control = json.loads(message)
                if control["type"] == "hello":
                    self.session_id = control["sessionId"]
                    self.received = self._acknowledged = control["offset"]
                elif control["type"] == "error" and not self.session_id:
                    raise RefusedError(control["code"], control["message"])
                continue
            self.received += len(message)
            if self.received - self._acknowledged >= ACKNOWLEDGE_EVERY:
                self._acknowledged = self.received
                with suppress(trio.BrokenResourceError):
                    await self.websocket.send(b'{"type":"ack","offset":%d}' % self.received, TEXT)
            return message

    async def leave(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.websocket.send(b'{"type":"leave"}', TEXT)
            while (await self._message())[0]:
                pass


@asynccontextmanager
async def open_v1(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect and authenticate; `hello` comes with the first output."""
    auth: dict[str, Any] = {"type": "auth", "cols": 80, "rows": 24}
    if access.secret:
        auth |= _signed(access)
    else:
        auth["token"] = access.token
    if ticket:
        session_id, _, offset = ticket.partition("@")
        auth |= {"sessionId": session_id, "offset": int(offset)}
    source = access.extra.get("source")
    subprotocols = ["terminal-supervisor.v1"]
    async with open_websocket(access.url, subprotocols=subprotocols, source=source) as websocket:
        await websocket.send(json.dumps(auth).encode(), TEXT)
        yield V1Client(websocket)


class AblyClient(_WebSocketClient):
    """The existing React client's protocol. It acknowledges nothing."""

    async def type(self, data: bytes) -> None:
        await self.websocket.send(data, TEXT)

    async def read(self) -> bytes:
        while True:
            kind, message = await self._message()
            if not kind:
                return b""
            control = message.removeprefix(ABLY_CONTROL)
            if control is not message or (not self.ticket and message.startswith(b'{"type":"')):
                self._control(json.loads(control))
            elif not message.startswith(OPENER):
                return message

    def _control(self, control: dict[str, Any]) -> None:
        if control["type"] == "hello":
            self.ticket = control["sessionId"]
        elif control.get("payload") in {"error", "disconnected"} and not self.ticket:
            raise RefusedError(int(control.get("code") or 0), str(control.get("reason")))

    async def leave(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.websocket.send((1000).to_bytes(2, "big") + b"user-closed-primary", 8)
            while (await self._message())[0]:
                pass


def _signed(access: Access) -> dict[str, Any]:
    config = json.dumps({"apiKey": access.token or "bench.key:secret", "timestamp": int(time.time() * 1000)})
    signature = hmac.new(access.secret.encode(), config.encode(), hashlib.sha256).hexdigest()
    return {"config": config, "signature": signature}


@asynccontextmanager
async def open_ably(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect, and authenticate with a signed config."""
    auth = _signed(access) | {"environmentVariables": {"PS1": "$ "}}
    async with _ably(access, auth, ticket) as client:
        yield client


@asynccontextmanager
async def open_ably_legacy(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect, and authenticate with unsigned credentials, as older clients do."""
    auth: dict[str, Any] = {"apiKey": "bench.key:secret", "environmentVariables": {"PS1": "$ "}}
    async with _ably(access, auth, ticket) as client:
        yield client


@asynccontextmanager
async def _ably(access: Access, auth: dict[str, Any], ticket: str) -> AsyncGenerator[Client]:
    if ticket:
        auth["sessionId"] = ticket
    url = f"{access.url}?token={access.token}" if access.token and not access.secret else access.url
    async with open_websocket(url) as websocket:
        await websocket.send(json.dumps(auth).encode(), TEXT)
        yield AblyClient(websocket)


# ------------------------------------------------------------------ others


class TtydClient(_WebSocketClient):
    """ttyd 1.7: one byte of command before each payload; the client pauses and resumes instead of
    acknowledging, which a client that keeps up never does.
    """

    async def type(self, data: bytes) -> None:
        await self.websocket.send(b"0" + data)

    async def read(self) -> bytes:
        while True:
            kind, message = await self._message()
            if not kind:
                return b""
            if message[:1] == b"0":
                return message[1:]


@asynccontextmanager
async def open_ttyd(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect with subprotocol `tty`; the first message is a JSON object with token and window size."""
    async with open_websocket(access.url, subprotocols=["tty"]) as websocket:
        hello = {"AuthToken": access.token, "columns": 80, "rows": 24}
        await websocket.send(json.dumps(hello).encode())
        yield TtydClient(websocket)


class TerminadoClient(_WebSocketClient):
    """terminado 0.18: JSON arrays in text frames, no acknowledgement."""

    async def type(self, data: bytes) -> None:
        await self.websocket.send(json.dumps(["stdin", data.decode()]).encode(), TEXT)

    async def read(self) -> bytes:
        while True:
            kind, message = await self._message()
            if not kind:
                return b""
            what, *rest = json.loads(message)
            if what == "stdout":
                return str(rest[0]).encode()
            if what == "disconnect":
                return b""


@asynccontextmanager
async def open_terminado(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect to a terminal of its own."""
    async with open_websocket(access.url, origin=_origin(access.url)) as websocket:
        await websocket.send(json.dumps(["set_size", 24, 80]).encode(), TEXT)
        yield TerminadoClient(websocket)


class WettyClient(_WebSocketClient):
    """wetty 3: socket.io 4 over Engine.IO 4, text packets; `commit` acknowledges characters."""

    def __init__(self, websocket: WebSocket) -> None:
        super().__init__(websocket)
        self._uncommitted = 0

    async def type(self, data: bytes) -> None:
        await self.emit("input", data.decode())

    async def emit(self, event: str, value: Any) -> None:
        await self.websocket.send(b"42" + json.dumps([event, value]).encode(), TEXT)

    async def read(self) -> bytes:
        while True:
            kind, packet = await self._message()
            if not kind:
                return b""
            if packet == b"2":  # Engine.IO ping
                await self.websocket.send(b"3", TEXT)
            elif packet.startswith(b"42"):
                event, *rest = json.loads(packet[2:])
                if event == "logout":
                    return b""
                if event == "data":
                    text = str(rest[0])
                    self._uncommitted += len(text)
                    if self._uncommitted >= WETTY_ACKNOWLEDGE_EVERY:
                        await self.emit("commit", self._uncommitted)
                        self._uncommitted = 0
                    return text.encode()


@asynccontextmanager
async def open_wetty(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect by WebSocket at once, without the long polling that browsers begin with."""
    url = f"{access.url}/socket.io/?EIO=4&transport=websocket"
    async with open_websocket(url, origin=_origin(access.url)) as websocket:
        kind, packet = await websocket.receive()
        if kind != TEXT or not packet.startswith(b"0"):
            raise RefusedError(0, f"no Engine.IO handshake but {packet[:40]!r}")
        await websocket.send(b"40", TEXT)
        kind, packet = await websocket.receive()
        if not packet.startswith(b"40"):
            raise RefusedError(0, f"no socket.io connection but {packet[:40]!r}")
        client = WettyClient(websocket)
        await client.emit("resize", {"cols": 80, "rows": 24})
        yield client


class PlainClient(_WebSocketClient):
    """xterm.js' attach add-on: what is typed and what is shown, in frames of either kind."""

    async def type(self, data: bytes) -> None:
        await self.websocket.send(data, BINARY)

    async def read(self) -> bytes:
        while True:
            kind, message = await self._message()
            if message or not kind:
                return message


@asynccontextmanager
async def open_plain(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Connect; there is nothing to say."""
    async with open_websocket(access.url) as websocket:
        yield PlainClient(websocket)


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme.replace('ws', 'http')}://{rest.partition('/')[0]}"


# ------------------------------------------------------------------ all of them


@attrs.frozen
class Adapter:
    """A protocol: its name's meaning, how to open a session, whether sessions can be come back to, and what
    whoever reads figures of it must know."""

    about: str
    open: Opener
    resumes: bool = False
    caveat: str = ""


ADAPTERS: dict[str, Adapter] = {
    "v1": Adapter("terminal-supervisor.v1: binary frames, acknowledgements", open_v1, resumes=True),
    "ably": Adapter("the React client's protocol, signed config", open_ably, resumes=True),
    "ably-legacy": Adapter("the same, unsigned credentials", open_ably_legacy, resumes=True),
    "ttyd": Adapter(
        "ttyd 1.7 (tested against its documented protocol only)",
        open_ttyd,
        caveat="the adapter was tested against ttyd's documented protocol only, not against ttyd",
    ),
    "terminado": Adapter("terminado 0.18, as in Jupyter", open_terminado),
    "wetty": Adapter("wetty 3: socket.io", open_wetty),
    "plain": Adapter("xterm.js' attach add-on: bytes both ways", open_plain),
    "pty": Adapter("floor: a PTY of this process", floors.open_pty),
    "engine": Adapter("floor: the engine's attach, create to prompt", floors.open_engine),
}


@asynccontextmanager
async def connect(access: Access, ticket: str = "") -> AsyncGenerator[Client]:
    """Open a session of its own, or come back to that of `ticket`; it is cut when the block is left."""
    async with ADAPTERS[access.adapter].open(access, ticket) as client:
        yield client


@asynccontextmanager
async def session(access: Access) -> AsyncGenerator[Client]:
    """Open a session that ends with the block: told to, where the protocol can."""
    async with connect(access) as client:
        try:
            yield client
        finally:
            with trio.move_on_after(5, shield=True):
                await client.leave()
