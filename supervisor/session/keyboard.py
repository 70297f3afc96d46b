"""What has been typed into a session and not been taken by its terminal yet.

Bounded: beyond a burst, whoever types waits. It belongs to the session, not to one terminal's pump, so
nothing
is lost when a pump is stopped.
"""

from collections.abc import Callable
from typing import Final

import trio

from supervisor.sandbox.terminal import Terminal
from supervisor.session.limiter import TokenBucket

PIECE: Final = 4096
"""Bytes typed at once: what a PTY takes without waiting."""


class Keyboard:
    """A queue of bytes, and the pump that types them.

    Args:
        rate: bytes per second that are typed on average.
        burst: bytes that are typed at once, and that may wait here.

    Attributes:
        waiting: what has not been typed.
        typed: bytes that the terminal has taken.
        typed_at: when the input was taken whose echo is still to come; 0.0 when none is.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self.waiting = bytearray()
        self.typed = 0
        self.typed_at = 0.0
        self._arrived = trio.lowlevel.ParkingLot()
        self._taken = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        """Whether whoever types now has to wait."""
        return len(self.waiting) >= self._burst

    def take_notice(self) -> None:
        """Let all who wait look again whether they still want to."""
        self._taken.unpark_all()

    async def wait_room(self, is_wanted: Callable[[], bool]) -> None:
        """Wait while the queue is full and `is_wanted`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.is_full and is_wanted():
            await self._taken.park()

    def put(self, data: bytes) -> None:
        """Queue `data`."""
        self.waiting += data
        self._arrived.unpark()

    async def pump(self, terminal: Terminal) -> None:
        """Type, for ever. When the command has gone, that is for others to notice."""
        limiter = TokenBucket(self._rate, self._burst, trio.current_time())
        try:
            while True:
                while not self.waiting:
                    await self._arrived.park()
                piece = bytes(self.waiting[:PIECE])
                if delay := limiter.charge(len(piece), trio.current_time()):
                    await trio.sleep(delay)
                sent = 0
                while sent < len(piece):
                    count = await terminal.send_some(piece[sent:])
                    del self.waiting[:count]
                    sent += count
                    self.typed += count
                self._taken.unpark_all()
                self.typed_at = self.typed_at or trio.current_time()
        except trio.BrokenResourceError:
            self.waiting.clear()
            await trio.sleep_forever()
        finally:
            self._taken.unpark_all()
