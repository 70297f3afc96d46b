"""What the parts of egress report: what was denied, and which connections were let through."""

import collections
from typing import Final, final

import attrs
import trio

EVENTS_AT_ONCE: Final = 20
EVENTS_PER_SECOND: Final = 5.0
"""For each session; what exceeds it is counted and told with the next event."""
_MOST_SOURCES: Final = 65536


@attrs.frozen
class EgressEvent:
    """A packet, a name or a connection that was denied; or a connection that was let through.

    Attributes:
        source: address that it came from.
        destination: whom it was for; empty where only a name is known.
        protocol: `tcp`, `udp`, `icmp`, ... or a number; `dns` and `tls` for what those were asked.
        port: destination port; 0 where there is none.
        reason: why it was denied, in words; empty when it was not.
        name: that was asked for, where there was one.
        untold: events of the same session since the last one that were not told.
        hardware: address of the container's device, where its `source` is of its own choice (IPv6).
    """

    source: str
    destination: str
    protocol: str
    port: int
    reason: str = ""
    name: str = ""
    untold: int = 0
    hardware: str = ""

    @property
    def sender(self) -> str:
        """The address by which the container is known."""
        return self.hardware or self.source

    @property
    def denied(self) -> bool:
        """Whether it was."""
        return bool(self.reason)


@final
class Throttle:
    """Lets each session have a few events at once, and a few a second. Forgets the sessions that are longest
    silent.
    """

    def __init__(self) -> None:
        self._sources: collections.OrderedDict[str, tuple[float, float, int]] = collections.OrderedDict()

    def passed(self, event: EgressEvent) -> EgressEvent | None:
        """Return the event as it is to be told, or None."""
        now = trio.current_time()
        left, then, untold = self._sources.pop(event.sender, (float(EVENTS_AT_ONCE), now, 0))
        left = min(EVENTS_AT_ONCE, left + (now - then) * EVENTS_PER_SECOND)
        told = left >= 1
        self._sources[event.sender] = (left - 1, now, 0) if told else (left, now, untold + 1)
        if len(self._sources) > _MOST_SOURCES:
            self._sources.popitem(last=False)
        return attrs.evolve(event, untold=untold) if told else None
