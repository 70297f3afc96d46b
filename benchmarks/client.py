"""What every scenario sees of a terminal, whoever serves it, and how access to it is described.

`Access` is plain data, so that it can be handed to another process that makes load.
"""

import json
from collections.abc import Sequence
from typing import Any, Protocol

import attrs

PROMPT = b"$ "


class RefusedError(Exception):
    """The server does not let this client in, and said so; `code` is its close code or HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class SessionEndedError(Exception):
    """The session ended where it should not."""


@attrs.frozen
class Access:
    """How to reach a server: everything that an adapter needs.

    Attributes:
        adapter: name of the protocol, a key of `adapters.ADAPTERS`.
        url: address of its WebSocket; for the floors what they are instead.
        token: reusable token or credential.
        secret: key that signs configs (protocol `ably`).
        extra: what only one adapter understands.
    """

    adapter: str
    url: str
    token: str = attrs.field(default="", repr=False)
    secret: str = attrs.field(default="", repr=False)
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    def to_json(self) -> str:
        """Return it as text for another process."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Access":
        """The reverse of `to_json`."""
        return cls(**json.loads(text))


class Client(Protocol):
    """One terminal, seen from its user's side."""

    async def type(self, data: bytes) -> None:
        """Send input."""
        ...

    async def read(self) -> bytes:
        """Return the next piece of output, `b""` when the session is over. Acknowledges what the protocol
        has acknowledged."""
        ...

    async def leave(self) -> None:
        """Say that the session is not wanted any more, where the protocol can."""
        ...

    @property
    def close_code(self) -> int:
        """The code that the server closed the connection with; 0 where it did not, or has none."""
        ...

    @property
    def ticket(self) -> str:
        """What a later connection presents to come back to this session; empty where there is no resume."""
        ...


async def read_through(client: Client, mark: bytes, seen: bytes = b"") -> tuple[bytes, bytes]:
    """Read until `mark` has come, of which `seen` has come already; return what is before and after it.

    Raises:
        SessionEndedError: the session ended before.
    """
    whole, position = bytearray(seen), 0
    while (found := whole.find(mark, position)) < 0:
        position = max(0, len(whole) - len(mark) + 1)
        piece = await client.read()
        if not piece:
            raise SessionEndedError(f"the session ended before {mark!r}; its last words: {whole[-200:]!r}")
        whole += piece
    return bytes(whole[:found]), bytes(whole[found + len(mark) :])


async def read_until(client: Client, mark: bytes) -> bytes:
    """Read until `mark` has come; return what came after it."""
    return (await read_through(client, mark))[1]


async def run_raw(
    client: Client, command: str, *, prepare: Sequence[str] = (), mode: str = "raw -echo"
) -> bytes:
    """Have the shell run `command` with the terminal in `mode` (stty(1)); return the output that came with
    the mark after which it begins.
    """
    steps = [*prepare, f"stty {mode}", "printf '<%s>' ready", command]
    await client.type("; ".join(steps).encode() + b"\r")
    return await read_until(client, b"<ready>")
