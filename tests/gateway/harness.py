"""A gateway without sockets, and clients that see every byte of it.

`stage` opens a gateway over memory streams and terminals; afterwards nothing may be left of any session, task
or error. `Wire` is the client's end of one connection: raw bytes out, and everything that comes in is parsed
by wsproto, which accepts no frame that is not whole. `V1Client` speaks terminal-supervisor.v1 on top of it.
Under `autojump_clock` a deadlock ends in `TooSlowError` at once.
"""

import base64
import hashlib
import hmac
import json
import os
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import h11
import structlog.testing
import trio
import trio.testing
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from supervisor.admission.token import OneTimeTokens
from supervisor.gateway.house import House
from supervisor.gateway.pages import Pages
from supervisor.gateway.server import Gateway
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.session.recorder import Recorder
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

TOKEN = "reusable-token-0123456789"
SECRET = "a-signing-secret-of-tests"
HOST = "localhost:8080"
PATIENCE = 100_000.0  # virtual seconds
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10

Pair = Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    """Return one frame as a client sends it, or as it must not."""
    head = bytes([fin << 7 | rsv << 4 | opcode])
    if len(payload) < 126:
        head += bytes([mask << 7 | len(payload)])
    elif len(payload) < 65536:
        head += bytes([mask << 7 | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mask << 7 | 127]) + struct.pack("!Q", len(payload))
    if not mask:
        return head + payload
    key = os.urandom(4)
    pattern = (key * (len(payload) // 4 + 1))[: len(payload)]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return head + key + masked.to_bytes(len(payload), "big")


class ClosedError(Exception):
    """The server closed the connection; 1006 without a close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Wire:
    """The client's end of one connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.answers_close = True  # as every client does that is not told otherwise
        self.read_size = 65536
        self.read_delay = 0.0
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.head = b""
        self._protocol = Connection(ConnectionType.CLIENT)
        self._events: Iterator[Event] = iter(())
        self._parts: list[Any] = []

    async def upgrade(
        self,
        subprotocol: str | None = None,
        target: str = f"/?token={TOKEN}",
        headers: str = "",
        together: bytes = b"",
        host: str = HOST,
    ) -> None:
        """Become a WebSocket; `together` goes out with the request."""
        offer = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            f"{offer}{headers}\r\n"
        )
        await self.stream.send_all(request.encode() + together)
        while b"\r\n\r\n" not in self.head:
            data = await self.stream.receive_some()
            assert data, "the connection was closed during the upgrade"
            self.head += data
        self.head, _, rest = self.head.partition(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        self._protocol.receive_data(rest)
        self._events = self._protocol.events()

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send(self, message: str | bytes) -> None:
        opcode = TEXT if isinstance(message, str) else BINARY
        await self.send_raw(frame(opcode, message.encode() if isinstance(message, str) else message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.answers_close = False  # the server answers
        await self.send_raw(frame(CLOSE, struct.pack("!H", code) + reason.encode()))

    async def receive(self) -> str | bytes:
        while True:
            for event in self._events:
                match event:
                    case TextMessage() | BytesMessage():
                        self._parts.append(event.data)
                        if event.message_finished:
                            parts, self._parts = self._parts, []
                            return (b"" if isinstance(event, BytesMessage) else "").join(parts)
                    case Ping(payload):
                        self.pings.append(bytes(payload))
                        await self.send_raw(frame(PONG, bytes(payload)))
                    case Pong(payload):
                        self.pongs.append(bytes(payload))
                    case CloseConnection(code, reason):
                        assert self._protocol.state is not ConnectionState.OPEN, f"bad frame: {reason}"
                        if self.answers_close:
                            with suppress(trio.BrokenResourceError):
                                await self.close(int(code))
                        raise ClosedError(int(code), reason or "")
            await trio.sleep(self.read_delay)
            try:
                data = await self.stream.receive_some(self.read_size)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise ClosedError(1006, "")
            self._protocol.receive_data(bytes(data))
            self._events = self._protocol.events()

    async def closed(self) -> tuple[int, str, list[str | bytes]]:
        """Read to the end; return how it closed and the messages before."""
        messages: list[str | bytes] = []
        while True:
            try:
                messages.append(await self.receive())
            except ClosedError as closed:
                return closed.code, closed.reason, messages

    async def gone(self) -> None:
        """Wait until the server has closed the stream, after the close handshake."""
        while await self.stream.receive_some(65536):
            pass


class V1Client:
    """A client of terminal-supervisor.v1 that acknowledges what it takes, unless told not to."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.hello: dict[str, Any] = {}
        self.acknowledges = True
        self.history = b""
        self.output = bytearray()
        self.start = 0
        self.messages: list[dict[str, Any]] = []
        self._replay = 0

    @property
    def offset(self) -> int:
        return self.start + len(self.output)

    async def tell(self, kind: str, **fields: Any) -> None:
        await self.wire.send(json.dumps({"type": kind, **fields}))

    async def auth(self, **fields: Any) -> dict[str, Any]:
        await self.tell("auth", **fields)
        self.hello = await self.expect("hello")
        self.start, self._replay = self.hello["offset"], self.hello["replay"]
        return self.hello

    async def next(self) -> dict[str, Any] | bytes:
        message = await self.wire.receive()
        if isinstance(message, str):
            value: dict[str, Any] = json.loads(message)
            self.messages.append(value)
            if value["type"] == "gap":
                self.start += value["to"] - value["from"]
            return value
        history, live = message[: self._replay], message[self._replay :]
        self._replay -= len(history)
        self.history += history
        self.output += live
        if live and self.acknowledges:
            await self.tell("ack", offset=self.offset)
        return message

    async def expect(self, kind: str) -> dict[str, Any]:
        """Return the next message of that type, taking what comes before it."""
        while True:
            message = await self.next()
            if isinstance(message, dict) and message["type"] == kind:
                return message

    async def expect_history(self) -> bytes:
        while self._replay:
            await self.next()
        return self.history

    async def expect_output(self, size: int) -> bytes:
        """Return all output so far, once there are `size` bytes of it."""
        while len(self.output) < size:
            await self.next()
        return bytes(self.output)

    async def closed(self) -> tuple[int, str]:
        try:
            while True:
                await self.next()
        except ClosedError as closed:
            return closed.code, closed.reason


@attrs.frozen
class Stage:
    """A running gateway."""

    gateway: Gateway
    registry: SessionRegistry
    provider: MemoryProvider
    tokens: OneTimeTokens
    nursery: trio.Nursery
    logs: list[Any]

    @property
    def house(self) -> House:
        return self.gateway.house

    @property
    def settings(self) -> Settings:
        return self.gateway.settings

    @property
    def terminal(self) -> MemoryTerminal:
        """The newest."""
        return self.provider.terminals[-1]

    @property
    def session(self) -> Session:
        """The only one."""
        (session,) = self.registry
        return session

    def connect(self, pair: Pair = trio.testing.memory_stream_pair, peer: str | None = None) -> Wire:
        """Return a connection; from nowhere, which no limit counts, unless `peer` is an address."""
        ours, theirs = pair()
        client = self.house.door.addresses.client(peer)
        self.nursery.start_soon(self.gateway.serve, theirs, None, client)
        return Wire(ours)

    async def v1(
        self, *, pair: Pair = trio.testing.memory_stream_pair, peer: str | None = None, **auth: Any
    ) -> V1Client:
        """Return a client that has got its hello."""
        wire = self.connect(pair, peer)
        await wire.upgrade(SUBPROTOCOL)
        client = V1Client(wire)
        await client.auth(**auth)
        return client

    async def settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def stage(
    settings: Settings | None = None,
    provider: MemoryProvider | None = None,
    *,
    errors: bool = False,
    recorder: Recorder | None = None,
) -> AsyncGenerator[Stage]:
    """Open a gateway; at the end everything is cancelled, and nothing may be left.

    `errors` allows logged errors.
    """
    settings = settings or Settings(access_token=TOKEN)
    provider = provider or MemoryProvider()
    with structlog.testing.capture_logs() as logs, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as sessions:
            registry = SessionRegistry(settings, provider, sessions, recorder)
            tokens = OneTimeTokens(settings.access_token)
            gateway = Gateway(House(settings, provider, registry, tokens), pages())
            async with trio.open_nursery() as connections:
                yield Stage(gateway, registry, provider, tokens, connections, logs)
                connections.cancel_scope.cancel()
            for session in registry:
                assert not session.statistics().writers + session.statistics().viewers, (
                    "an attachment is left"
                )
            sessions.cancel_scope.cancel()
    assert provider.leased == 0
    assert len(registry) == 0
    if not errors:
        assert [entry for entry in logs if entry["log_level"] == "error"] == []


_pages: list[Pages] = []


def pages() -> Pages:
    """The page's files; set-up's part of them is replaced where set-up has not run."""
    if not _pages:
        root = Path(__file__).parents[2] / "supervisor/gateway/page"
        _pages.append(Pages(root))
    return _pages[0]


async def ask(s: Stage, raw: str | bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Send a request on a connection of its own, and return the answer."""
    wire = s.connect()
    await wire.send_raw(raw.encode() if isinstance(raw, str) else raw)
    return await answer(wire.stream, method)


def get(target: str = "/", headers: str = "", *, host: str = HOST, method: str = "GET") -> str:
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n"


async def answer(
    stream: trio.abc.ReceiveStream, method: str = "GET", parser: h11.Connection | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Read one response, as strictly as h11 does."""
    parser = parser or h11.Connection(h11.CLIENT)
    if parser.our_state is h11.DONE:
        parser.start_next_cycle()
    headers_sent = [("Host", "x"), ("Upgrade", "websocket"), ("Connection", "upgrade")]
    parser.send(h11.Request(method=method, target="/", headers=headers_sent))
    parser.send(h11.EndOfMessage())
    status, headers, body = 0, {}, b""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(bytes(await stream.receive_some()))
        elif isinstance(event, (h11.Response, h11.InformationalResponse)):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
            if status == 101:
                return status, headers, body
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            assert isinstance(event, h11.EndOfMessage), event
            return status, headers, body


def signed(
    api_key: str = "app.key:secret", *, secret: str = SECRET, age: float = 0, **fields: Any
) -> dict[str, Any]:
    """Return what an embedding page's server hands to its page."""
    values = {"apiKey": api_key, "timestamp": int((time.time() - age) * 1000), **fields}
    config = json.dumps(values)
    return {
        "config": config,
        "signature": hmac.new(secret.encode(), config.encode(), hashlib.sha256).hexdigest(),
    }


def jwt(payload: dict[str, Any], algorithm: str = "HS256") -> str:
    parts = [json.dumps({"alg": algorithm}).encode(), json.dumps(payload).encode(), b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
