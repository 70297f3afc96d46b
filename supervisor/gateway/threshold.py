"""Refusals before anything is read: who does not get past the threshold, and what they are told.

A flood must cost less than those who are inside notice. So a connection is refused by what is known of it
already, and few at a time are told so with patience; the others are told in passing, without a wait and
without a task of their own.
"""

import socket
from http import HTTPStatus
from typing import Final, final

import trio

from supervisor.admission.address import Client
from supervisor.admission.door import Refusal
from supervisor.admission.limiter import Pace
from supervisor.gateway.house import House
from supervisor.gateway.http import HttpError, response
from supervisor.gateway.stream import linger, tell_in_passing
from supervisor.observability import metrics

BUSY: Final = Refusal("flood", 10.0)
TURN_AWAY_TIMEOUT: Final = 2.0
"""Seconds to say so, a TLS handshake included."""
TURNED_AWAY_PER_SECOND: Final = 20
"""Connections that are told so with patience; more are told in passing."""
MAX_TURNED_AWAY: Final = 16
"""Of them at the same time."""


@final
class Threshold:
    """Decides on connections before they are read, and turns away those that are refused.

    Args:
        house: whose.
        tls: whether an answer takes a handshake first; then who is turned away in passing is told nothing.
    """

    def __init__(self, house: House, *, tls: bool) -> None:
        self._house = house
        self._tls = tls
        self._turned_away = 0
        self._patience = Pace(TURNED_AWAY_PER_SECOND)

    def knock(self, peer: Client, connections: int, *, announced: bool) -> Refusal | None:
        """Return why a connection is refused by what is known of it before anything is read.

        Args:
            peer: who is at the other end.
            connections: how many there are.
            announced: whether a PROXY header says later who is behind `peer`.
        """
        if connections >= self._house.settings.max_connections:
            return BUSY
        return self._house.door.knock(peer) if peer.direct and not announced else None

    def has_time(self) -> bool:
        """Whether one more may be turned away with patience."""
        return self._patience.allows(trio.current_time())

    async def turn_away(self, stream: trio.abc.Stream, refusal: Refusal) -> None:
        """Refuse without having read anything."""
        _count(refusal)
        if self._turned_away >= MAX_TURNED_AWAY:
            return
        self._turned_away += 1
        try:
            with trio.move_on_after(TURN_AWAY_TIMEOUT):
                await stream.send_all(_answer(refusal))
                await linger(stream)
        finally:
            self._turned_away -= 1

    def turn_away_in_passing(self, accepted: socket.socket, refusal: Refusal) -> None:
        """Refuse without a wait, and without a task."""
        _count(refusal)
        with accepted:
            if not self._tls:
                accepted.setblocking(False)
                tell_in_passing(accepted.fileno(), _answer(refusal))


def too_many(refusal: Refusal) -> HttpError:
    """Return what is answered to a request that is refused."""
    status = HTTPStatus.SERVICE_UNAVAILABLE if refusal.overloaded else HTTPStatus.TOO_MANY_REQUESTS
    text = "Too many connections." if refusal.overloaded else "Too many attempts from your address."
    return HttpError(status, text, [("Retry-After", str(refusal.retry_after))])


def _answer(refusal: Refusal) -> bytes:
    """Return the whole answer to somebody who is not even read."""
    error = too_many(refusal)
    return response(error.status, f"{error}\n".encode(), headers=error.headers)


def _count(refusal: Refusal) -> None:
    metrics.http_refusals.labels(str(too_many(refusal).status.value)).inc()
