"""A connection's heartbeat: a proxy must not take a quiet connection for a dead one, and we must not take a
dead one for quiet.

Every so often a silent peer gets a frame of two bytes. Most are pongs that nobody asked for, which need no
answer (RFC 6455, section 5.5.3) and cost next to nothing; one in a few is a ping, whose answer shows that the
peer is there. Browsers answer also when their page is frozen.
"""

import math
from collections.abc import Callable
from typing import Final, Protocol, final

import trio

from supervisor.alarms import Alarms
from supervisor.settings import Settings

PING: Final = b"\x89\x00"
PONG: Final = b"\x8a\x00"
ASK_EVERY: Final = 4
"""Of so many frames in a silence one is a ping, the last."""
ANSWER_TIME: Final = 0.5
"""Seconds in which a ping is usually answered."""
TICK: Final = 0.1
"""Seconds: frames are sent at multiples of it, so that those of many connections make one turn."""


class Peer(Protocol):
    """What the heartbeat uses of a connection. See `websocket.WebSocket`.

    Attributes:
        heard: when something came from the peer.
        reading: whether somebody waits for what comes.
    """

    heard: float
    reading: bool

    def send_in_passing(self, frame: bytes) -> bool:
        """Send a control frame, and return true; or false, while other frames are on their way."""
        ...


@final
class Heartbeat:
    """Beats from now on until it is stopped.

    Args:
        peer: the connection.
        settings: `ping_interval` and `ping_timeout`.
        alarms: where its times are kept.
        give_up: called, once, when the peer has not answered for the timeout.
    """

    def __init__(self, peer: Peer, settings: Settings, alarms: Alarms, give_up: Callable[[], None]) -> None:
        self._peer = peer
        self._interval = settings.ping_interval
        self._timeout = settings.ping_timeout
        self._give_up = give_up
        self._beats = 0  # since the peer was heard
        self._asked = math.inf
        self._alarm = alarms.new(self._beat)
        self._set(peer.heard + self._interval)

    def __repr__(self) -> str:
        return f"<Heartbeat {self._beats} beats in silence>"

    def stop(self) -> None:
        """Beat no more."""
        self._alarm.stop()

    def _set(self, due: float) -> None:
        self._alarm.set(math.ceil(due / TICK) * TICK)

    def _beat(self) -> None:
        now, peer = trio.current_time(), self._peer
        if peer.heard >= self._asked:
            self._asked, self._beats = math.inf, 0
        elif self._asked < math.inf:
            self._await_answer(now)
            return
        elif now < peer.heard + self._interval:
            self._beats = 0
            self._set(peer.heard + self._interval)
            return
        asks = self._beats + 1 >= ASK_EVERY
        sent = peer.send_in_passing(PING if asks else PONG)
        self._beats += sent
        if not (sent and asks):
            self._set(now + self._interval)
            return
        self._asked = now
        # An answer wakes nobody: it is looked for when the next frame is due.
        self._set(now + min(self._interval + ANSWER_TIME, self._timeout))

    def _await_answer(self, now: float) -> None:
        if not self._peer.reading:  # while the input waits for its program the silence is ours
            self._asked = now
        if now < self._asked + self._timeout:
            self._set(self._asked + self._timeout)
        else:
            self._give_up()
