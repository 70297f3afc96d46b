"""What is typed into a session, on its way to the terminal.

A key goes straight through. What the terminal does not take at once, or what exceeds the rate, waits here,
and a task types it, which is there only while something waits. Bounded: beyond a burst, whoever types waits,
too. It belongs to the session, not to one terminal's plug, so nothing is lost when that is pulled. It can be
held for a while: then what is typed waits, but for Ctrl-C, which is typed at once and makes forget what waits
before it, as a terminal does (termios(3), NOFLSH).
"""

import math
from collections.abc import Callable
from typing import Final

import trio

from supervisor.observability import metrics
from supervisor.sandbox.terminal import Terminal
from supervisor.session.limiter import TokenBucket

LATE_ECHO: Final = 1.0
"""Seconds after which output is no answer to a key any more."""
PIECE: Final = 4096
"""Bytes typed at once: what a PTY takes without waiting."""
INTERRUPT: Final = b"\x03"


class Keyboard:
    """A queue of bytes before a terminal.

    Args:
        rate: bytes per second that are typed on average.
        burst: bytes that are typed at once, and that may wait here.

    Attributes:
        waiting: what has not been typed.
        typed: bytes that the terminal has taken.
        held_until: when what waits may be typed.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._burst = burst
        self.waiting = bytearray()
        self.typed = 0
        self.held_until = -math.inf
        self._typed_at = 0.0  # when the input was taken whose echo is still to come; 0.0 when none is
        self._limiter = TokenBucket(rate, burst, trio.current_time())
        self._plugged: tuple[Terminal, trio.Nursery] | None = None
        self._pumping = False
        self._interrupted = False
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

    def plug(self, terminal: Terminal, nursery: trio.Nursery) -> None:
        """Type into `terminal`, in a task of `nursery` where that takes one, until `unplug`."""
        self._plugged = terminal, nursery
        self._start_pump()

    def unplug(self) -> None:
        """Keep what is typed from now on."""
        self._plugged = None

    def put(self, data: bytes) -> None:
        """Type `data`, or queue it behind what waits."""
        now = trio.current_time()
        may_pass = not self.waiting and now >= self.held_until and self._limiter.spare(now) >= len(data)
        if self._plugged and may_pass:
            try:
                count = self._plugged[0].send_now(data)
            except trio.BrokenResourceError:
                return  # the command has gone: that is for others to notice
            self._limiter.charge(count, now)
            self._note_taken(count)
            data = data[count:]
        if data:
            self.waiting += data
            self._interrupted |= INTERRUPT in data
            self._arrived.unpark()
            self._start_pump()

    def is_answered(self) -> None:
        """Note that there is output: the echo of what was typed, if that is not long ago."""
        if typed_at := self._typed_at:
            echoed = trio.current_time() - typed_at
            self._typed_at = 0.0
            if echoed < LATE_ECHO:
                metrics.echo.observe(echoed)

    def _note_taken(self, count: int) -> None:
        self.typed += count
        self._typed_at = self._typed_at or trio.current_time()

    def _start_pump(self) -> None:
        if self._plugged and self.waiting and not self._pumping:
            terminal, nursery = self._plugged
            self._pumping = True
            nursery.start_soon(self._pump, terminal)

    async def _pump(self, terminal: Terminal) -> None:
        """Type until nothing waits. Cancelled, it has lost nothing."""
        try:
            while self.waiting:
                count = await terminal.send_some(await self._next_piece())
                del self.waiting[:count]
                self._note_taken(count)
                self._taken.unpark_all()
                if delay := self._limiter.charge(count, trio.current_time()):
                    await trio.sleep(delay)
        except trio.BrokenResourceError:
            self.waiting.clear()  # the command has gone: that is for others to notice
        finally:
            self._pumping = False
            self._taken.unpark_all()

    async def _next_piece(self) -> bytes:
        """Wait until something may be typed, and return it; it still stands at the front of `waiting`."""
        while trio.current_time() < self.held_until:
            if self._interrupted:
                if (at := self.waiting.rfind(INTERRUPT)) >= 0:
                    del self.waiting[:at]
                    return INTERRUPT
                self._interrupted = False
            with trio.move_on_at(self.held_until):
                await self._arrived.park()
        return bytes(self.waiting[:PIECE])
