"""A stand-in for the server that misbehaves on purpose.

It serves the page's files, and lets a test script every WebSocket. The real server cannot be asked to split a
frame inside a character, to lose output, to close with a code of one's choice or to vanish without a word. A
script is a function that is called with each connection in a thread of its own; the connection speaks
terminal-supervisor.v1 as far as the script makes it.
"""

import json
import mimetypes
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Request,
    TextMessage,
)

PAGE = Path(__file__).parents[2] / "supervisor" / "gateway" / "page"
PROTOCOL = "terminal-supervisor.v1"
TIMEOUT = 20.0  # seconds for anything that a test waits for
mimetypes.add_type("text/javascript", ".mjs")
mimetypes.add_type("text/javascript", ".js")


class GoneError(Exception):
    """The page has closed the connection."""


class Peer:
    """The server's end of one WebSocket."""

    def __init__(self, sock: socket.socket, head: bytes) -> None:
        self._socket = sock
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._protocol.receive_data(head)
        self._events: Iterator[Event] = self._protocol.events()
        assert isinstance(next(self._events), Request)
        self._send(AcceptConnection(subprotocol=PROTOCOL))
        self._parts: list[Any] = []
        self.input = bytearray()
        self.messages: list[dict[str, Any]] = []

    def _send(self, event: Event) -> None:
        self._socket.sendall(self._protocol.send(event))

    def _receive(self) -> str | bytes:
        while True:
            for event in self._events:
                if isinstance(event, Message):
                    self._parts.append(event.data)
                    if event.message_finished:
                        parts, self._parts = self._parts, []
                        return ("" if isinstance(event, TextMessage) else b"").join(parts)
                elif isinstance(event, Ping):
                    self._send(event.response())
                elif isinstance(event, CloseConnection):
                    raise GoneError
            data = self._socket.recv(65536)
            if not data:
                raise GoneError
            self._protocol.receive_data(data)
            self._events = self._protocol.events()

    def hear(self) -> dict[str, Any] | bytes:
        """Return the next message; input is also collected in `input`, the others in `messages`."""
        message = self._receive()
        if isinstance(message, bytes):
            self.input += message
            return message
        value: dict[str, Any] = json.loads(message)
        self.messages.append(value)
        return value

    def expect(self, kind: str) -> dict[str, Any]:
        """Return the next message of type `kind`, collecting what comes before it."""
        while True:
            message = self.hear()
            if isinstance(message, dict) and message["type"] == kind:
                return message

    def hear_until_gone(self) -> None:
        """Collect messages until the page closes."""
        with suppress(GoneError, OSError):
            while True:
                self.hear()

    def hello(self, session: str = "s1", **fields: Any) -> None:
        """Send a hello with harmless values, `fields` replacing them."""
        values: dict[str, Any] = {
            "type": "hello",
            "sessionId": session,
            "resumed": False,
            "role": "writer",
            "offset": 0,
            "replay": 0,
            "window": 262144,
            "scrollback": 1048576,
            "isolated": True,
            "notice": None,
            "idleTimeoutMs": 600000,
            "maxDurationMs": 1800000,
            "endsInMs": 1800000,
        }
        self.tell(values | fields)

    def tell(self, message: dict[str, Any]) -> None:
        """Send a text frame."""
        self._send(TextMessage(json.dumps(message)))

    def output(self, data: bytes) -> None:
        """Send a binary frame."""
        self._send(BytesMessage(data))

    def close(self, code: int, reason: str, message: str = "") -> None:
        """Say why (when `message` is given) and close."""
        if message:
            self.tell({"type": "error", "code": code, "reason": reason, "message": message})
        self._send(CloseConnection(code, reason))
        self.hear_until_gone()

    def vanish(self) -> None:
        """Cut the connection as a broken network would."""
        self._socket.shutdown(socket.SHUT_RDWR)


Script = Callable[[Peer], None]


class Standin:
    """Serves on a free port; `script` is called with every WebSocket, `close` raises what went wrong."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self.script: Script = lambda peer: None
        self.answers = True
        self.peers: queue.Queue[Peer] = queue.Queue()
        self._errors: list[BaseException] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if not self.answers:
                sock.close()
                continue
            sock.settimeout(TIMEOUT)
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            path = head.split(b" ", 2)[1].decode().split("?")[0]
            if path == "/ws":
                peer = Peer(sock, head)
                self.peers.put(peer)
                self.script(peer)
            else:
                sock.sendall(self._file(path))
        except (GoneError, OSError):
            return
        except BaseException as error:
            self._errors.append(error)
        finally:
            sock.close()

    def _file(self, path: str) -> bytes:
        file = PAGE / ("index.html" if path == "/" else path.removeprefix("/assets/"))
        if not file.is_file():
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        body = file.read_bytes()
        policy = (
            (PAGE / "csp.txt").read_text().strip().replace("{ws}", self.url.replace("http", "ws").rstrip("/"))
        )
        return (
            f"HTTP/1.1 200 OK\r\nContent-Type: {mimetypes.guess_type(file.name)[0]}\r\n"
            f"Content-Security-Policy: {policy}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        ).encode() + body

    def next_peer(self) -> Peer:
        """Return the next connection that the page opens."""
        return self.peers.get(timeout=TIMEOUT)

    def close(self) -> None:
        """Stop, and raise what went wrong in a script."""
        # A blocked accept or read ends only when its socket is shut down; close alone leaves it waiting.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT)
        if self._errors:
            raise self._errors[0]


@contextmanager
def standin() -> Iterator[Standin]:
    """Run a stand-in while the block runs."""
    server = Standin()
    try:
        yield server
    finally:
        server.close()
