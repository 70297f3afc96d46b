"""The stream that the WebSocket library reads: the request head again, then the wire, within an allowance.

Two things the library leaves to its caller are done here. It loses bytes that arrive between the request and
its own answer, so nothing is handed on before `release`. And it bounds a message by characters, whole, and
only once it is complete, so this stream
counts bytes and stops at the allowance that the reader last granted: before authentication a small one,
afterwards a message's worth, renewed with every message. Endless fragments, empty ones too, end there.
"""

import trio


class MeteredStream(trio.abc.Stream):
    """Wraps `stream`, of which `head` and then `rest` have been read already.

    Attributes:
        exceeded: set when the peer sent more than it was allowed; nothing more is read then.

    Resource handling: `aclose` closes the wrapped stream.
    """

    def __init__(self, stream: trio.abc.Stream, head: bytes, rest: bytes, allowance: int) -> None:
        self._stream = stream
        self._head = head
        self._rest = rest
        self._allowance = allowance
        self._released = trio.Event()
        self.exceeded = trio.Event()

    def release(self) -> None:
        """The upgrade has been answered: hand on what follows the head."""
        self._released.set()

    def allow(self, allowance: int) -> None:
        """Let the peer send `allowance` bytes from now on before the next call."""
        self._allowance = allowance

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the head, then what follows; waits for ever once the allowance is used up."""
        if self._head:
            await trio.lowlevel.checkpoint()
            head, self._head = self._head, b""
            return head
        await self._released.wait()
        if self._rest:
            await trio.lowlevel.checkpoint()
            data, self._rest = self._rest, b""
        else:
            data = bytes(await self._stream.receive_some(max_bytes))
        self._allowance -= len(data)
        if self._allowance < 0:
            self.exceeded.set()
            await trio.sleep_forever()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` on the wrapped stream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As on the wrapped stream."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the wrapped stream."""
        await self._stream.aclose()
