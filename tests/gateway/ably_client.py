"""What the existing React client does with what it is sent, its oddities included, and what it sends.

Rebuilt from its described behaviour. `AblyTerminal` is one pane without a network: frames in, screen and
answers out. `connect` gives it one. The screen is the text that the client would write to its terminal.
"""

import json
import re
from typing import Any, Literal

import trio

from gateway.harness import ClosedError, Stage, Wire

PREFIX = "\0\0ABLY_CTRL:"
MARKER = "ABLY_CTRL:"
HOLD_BACK = 200  # characters
PROMPTS = ("$ ", "> ", "ably> ")
GIVES_UP = {4000, 4001, 4002, 4003, 4004, 4008, 4009, 1013}

_ATTACH_HANDSHAKE = re.compile(r'\{(?=[^{}]*"stream"\s*:\s*true)(?=[^{}]*"hijack"\s*:\s*true)[^{}]*\}')
_COSMETIC = re.compile(r"\x1b\[[0-9;?]*[mGKHF]")


class AblyTerminal:
    """One pane: `primary` obeys a marker anywhere in its output, `secondary` only at the start of a frame.

    Attributes:
        screen: text written to the terminal, from the last reset on.
        control: control messages obeyed, in order.
        spoofed: those of them that came within output.
        answers: what the terminal emulator has typed by itself.
    """

    def __init__(
        self,
        pane: Literal["primary", "secondary"] = "primary",
        *,
        size: tuple[int, int] = (132, 43),
        legacy: bool = False,
    ) -> None:
        self.pane = pane
        self.cols, self.rows = size
        self.legacy = legacy
        self.session_id: str | None = None
        self.active = False
        self.screen = ""
        self.control: list[dict[str, Any]] = []
        self.spoofed: list[dict[str, Any]] = []
        self.answers: list[str] = []
        self.shown: list[str] = []
        self.opened()

    def opened(self) -> None:
        """A new socket: hold back again."""
        self._held: str | None = ""

    def auth(self, credentials: dict[str, Any]) -> str:
        message: dict[str, Any] = {
            "environmentVariables": {"ABLY_WEB_CLI_MODE": "true", "PS1": "ably> "},
            **credentials,
        }
        if self.session_id is not None:
            message["sessionId"] = self.session_id
        return json.dumps(message)

    def frame(self, data: str | bytes) -> None:
        """Take one frame, decoded by itself."""
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        if text.startswith(PREFIX):
            self._obey(json.loads(text[len(PREFIX) :]))
            return
        if self.legacy and text.startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            if isinstance(value, dict) and value.get("type") in {"hello", "status"}:
                self._obey(value)
                return
        self._output(text)

    def _obey(self, message: dict[str, Any]) -> None:
        self.control.append(message)
        if message["type"] == "hello":
            self.session_id = message["sessionId"]
        elif message["type"] == "status":
            if message["payload"] == "error":
                self.shown.append(f"--- Error: {message['reason']} ---")
                self.session_id = None
            elif message["payload"] == "disconnected":
                self.shown.append(f"{message['reason']} ({message.get('code', 'undefined')})")
                self.session_id = None

    def _output(self, text: str) -> None:
        if self._held is not None:
            self._held += text
            found = _ATTACH_HANDSHAKE.search(self._held)
            if found is None and MARKER not in self._held and len(self._held) <= HOLD_BACK:
                return
            text, self._held = self._held, None
            if found is not None:
                text = text[: found.start()] + text[found.end() :]
        if self.pane == "primary" and (position := text.find(MARKER)) >= 0:
            try:
                message, _ = json.JSONDecoder().raw_decode(text[position + len(MARKER) :])
            except ValueError:
                message = None
            if isinstance(message, dict):
                self.spoofed.append(message)
        self._write(text)

    def _write(self, text: str) -> None:
        if "\x1bc" in text:
            self.screen, text = "", text.rpartition("\x1bc")[2]
        self.screen += text
        for _ in range(text.count("\x1b[6n")):
            # The cursor stops at the edge of the window.
            self.answers.append(f"\x1b[{self.rows};{self.cols}R")
        if _COSMETIC.sub("", self.plain).endswith(PROMPTS):
            self.active = True

    @property
    def plain(self) -> str:
        """The screen without the question for its size."""
        return self.screen.replace("\x1b7\x1b[999;999H\x1b[6n\x1b8", "")

    def status(self) -> list[str]:
        """What has been obeyed, by name."""
        return [
            message["payload"] if message["type"] == "status" else message["type"] for message in self.control
        ]

    @staticmethod
    def treatment(code: int, reason: str) -> Literal["gives up", "reconnects"]:
        timed_out = code == 1000 and re.search(r"inactiv|timed out", reason, re.IGNORECASE)
        return "gives up" if code in GIVES_UP or timed_out else "reconnects"


class Connected:
    """A pane on a connection."""

    def __init__(self, pane: AblyTerminal, wire: Wire) -> None:
        self.pane = pane
        self.wire = wire

    async def next(self) -> str:
        """Take a frame, and type what the terminal answers."""
        message = await self.wire.receive()
        assert isinstance(message, str), "mixed kinds of frames are re-ordered by the client"
        self.pane.frame(message)
        answers, self.pane.answers = self.pane.answers, []
        for answer in answers:
            await self.wire.send(answer)
        return message

    async def until(self, text: str) -> str:
        """Take frames until the screen ends like that; returns the screen."""
        while not self.pane.plain.endswith(text):
            await self.next()
        return self.pane.plain

    async def until_hello(self) -> None:
        before = len(self.pane.control)
        while all(message["type"] != "hello" for message in self.pane.control[before:]):
            await self.next()

    async def closed(self) -> tuple[int, str, str]:
        """Return code, reason and what the client does about it."""
        try:
            while True:
                await self.next()
        except ClosedError as closed:
            return closed.code, closed.reason, self.pane.treatment(closed.code, closed.reason)

    async def type(self, text: str) -> None:
        await self.wire.send(text)


async def connect(
    s: Stage, pane: AblyTerminal, credentials: dict[str, Any], target: str = "/", peer: str | None = None
) -> Connected:
    """Open a socket and send what the client sends on open: one frame, waiting for nothing."""
    wire = s.connect(peer=peer)
    await wire.upgrade(target=target)
    pane.opened()
    await wire.send(pane.auth(credentials))
    return Connected(pane, wire)


async def run(connected: Connected) -> None:
    """Take frames for ever."""
    try:
        while True:
            await connected.next()
    except (ClosedError, trio.BrokenResourceError, trio.ClosedResourceError):
        return
