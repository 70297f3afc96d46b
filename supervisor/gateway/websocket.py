"""One WebSocket as the viewers use it: whole messages in, one writer out, a heartbeat, and an end that cannot
hang.

trio-websocket does the framing. What it leaves open is closed here: a send that stalls ends the connection (a
cancelled send leaves half a frame behind, after which nothing may follow); the close handshake has a
deadline; silence is probed with protocol pings, which browsers answer even when their page is frozen.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from supervisor.errors import PeerError, SessionRefusedError
from supervisor.gateway.stream import MeteredStream
from supervisor.protocol.closing import EndReason
from supervisor.settings import Settings

CLOSE_TIMEOUT = 2.0  # seconds for the peer to answer our close frame
FRAME_OVERHEAD = 64 * 1024  # bytes that pings, fragments and headers may add to one message


class WebSocket:
    """An accepted WebSocket. `receive` is for one task, `send` for one task; they may be two.

    Attributes:
        subprotocol: what was agreed on, or None.
    """

    def __init__(self, connection: WebSocketConnection, stream: MeteredStream, settings: Settings) -> None:
        self._connection = connection
        self._stream = stream
        self._settings = settings
        self._limit = settings.max_auth_message_size
        self._heard = trio.current_time()
        self._reading = False
        self.subprotocol = connection.subprotocol

    @property
    def close_code(self) -> int | None:
        """The code with which the connection was closed, by either side, or None while it is open."""
        return self._connection.closed.code if self._connection.closed else None

    def authenticated(self) -> None:
        """Accept messages of the full size from now on."""
        self._limit = self._settings.max_message_size
        self._stream.allow(self._limit + FRAME_OVERHEAD)

    async def receive(self) -> str | bytes:
        """Return the next message.

        Raises:
            trio_websocket.ConnectionClosed: there is none any more.
            SessionRefusedError: it is larger than allowed (`too_large`).
        """
        self._reading = True
        try:
            message = await self._connection.get_message()
        finally:
            self._reading = False
        self._heard = trio.current_time()
        self._stream.allow(self._limit + FRAME_OVERHEAD)
        size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        if size > self._limit:
            raise _too_large(self._limit)
        return message

    async def send(self, message: str | bytes) -> None:
        """Send one message; waits for the peer to take it.

        Raises:
            trio_websocket.ConnectionClosed: the peer is gone.
            SessionRefusedError: it took nothing for the stall timeout (`slow_consumer`); the connection is
                dead then.
        """
        with trio.move_on_after(self._settings.stall_timeout) as scope:
            await self._connection.send_message(message)
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self._stream)
            raise SessionRefusedError(
                EndReason.SLOW_CONSUMER.value, "The connection is too slow for the output."
            )

    async def watch(self) -> None:
        """Keep the connection honest until cancelled: probe silence, and stop who sends more than is allowed.

        Raises:
            PeerError: the peer does not answer.
            SessionRefusedError: it sends too much (`too_large`).
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._heartbeat)
            await self._stream.exceeded.wait()
            raise _too_large(self._limit)

    async def _heartbeat(self) -> None:
        number = 0
        while True:
            quiet_at = self._heard + self._settings.ping_interval
            if quiet_at > trio.current_time():
                await trio.sleep_until(quiet_at)
                continue
            number += 1
            with trio.move_on_after(self._settings.ping_timeout) as scope:
                await self._connection.ping(b"%d" % number)
            # While we do not read (the input queue is full) the silence is ours, not the peer's.
            if scope.cancelled_caught and self._reading and self._heard < quiet_at:
                await trio.aclose_forcefully(self._stream)
                raise PeerError("does not answer")
            self._heard = trio.current_time()

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye and close; never takes longer than a moment, whatever the peer does."""
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._connection.aclose(code, reason)
        await trio.aclose_forcefully(self._stream)


def _too_large(limit: int) -> SessionRefusedError:
    return SessionRefusedError(EndReason.TOO_LARGE.value, f"A message may have at most {limit} bytes.")


@asynccontextmanager
async def accept_websocket(
    stream: MeteredStream, settings: Settings, subprotocol: str | None
) -> AsyncIterator[WebSocket]:
    """Answer the upgrade request that `stream` begins with; the WebSocket is gone when the block is left.

    Raises:
        trio_websocket.ConnectionClosed, trio.BrokenResourceError: the peer went away meanwhile.
    """
    try:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(
                nursery,
                stream,
                max_message_size=settings.max_message_size,
                message_queue_size=1,
                receive_buffer_size=64 * 1024,
            )
            connection = await request.accept(subprotocol=subprotocol)
            stream.release()
            yield WebSocket(connection, stream, settings)
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)


__all__ = ["ConnectionClosed", "WebSocket", "accept_websocket"]
