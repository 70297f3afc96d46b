"""How often somebody may do something: many counters, in a memory that is bounded whoever comes.

Each key (an address, a session) has one number, the time at which it would have paid for all that it did (the
generic cell rate algorithm: a token bucket without the bucket). Whoever goes beyond the limit is blocked for
a while, and for twice as long each time that happens again soon. Attempts during a block do not make it
longer: the browsers that retry by themselves would otherwise never come back.

The table has a fixed number of entries. A flood from made-up addresses pushes out the entries that say least:
first those that are not blocked, from the one unused for longest; blocked ones only when nothing else is
left. Time is given by the caller (`trio.current_time()`), and one that goes back is treated as standing
still.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, TypeAlias

MAX_BLOCK: Final = 3600.0
"""Seconds of the longest block."""

_ROUNDING: Final = 1e-9

Remembered: TypeAlias = tuple[str, float, float, int, int]
"""An entry in JSON's terms: its key in hex, the seconds until it has paid, and until its block is over
(either may be negative), its blocks in a row, its refusals."""


class _Entry:
    __slots__ = ("blocked_until", "paid_at", "refusals", "strikes")

    def __init__(self) -> None:
        self.paid_at = 0.0
        self.blocked_until = 0.0
        self.strikes = 0
        self.refusals = 0


class RateTable:
    """Allows each key `limit` events at once, and as many per `window` seconds on average.

    Whoever keeps to `limit` events in every span of `window` seconds is never refused; nobody gets more than
    twice that in any.

    Args:
        limit: events.
        window: seconds.
        block: seconds of the first block.
        entries: keys that are remembered.
    """

    def __init__(self, limit: int, window: float, block: float, entries: int) -> None:
        if limit < 1 or window <= 0 or entries < 1:
            raise ValueError("limit, window and entries must be positive")
        self.limit = limit
        self._cost = window / limit
        self._tolerance = window - self._cost + window * _ROUNDING
        self._block = block
        self._calm = max(window, block)
        self._size = entries
        self._free: OrderedDict[bytes, _Entry] = OrderedDict()
        self._blocked: OrderedDict[bytes, _Entry] = OrderedDict()
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._free) + len(self._blocked)

    def __repr__(self) -> str:
        return f"<RateTable {len(self)} of {self._size}, {len(self._blocked)} blocked>"

    def charge(self, key: bytes, now: float) -> float:
        """Count one event; return 0.0 when it is allowed, else the seconds for which the key is blocked."""
        entry = self._blocked.get(key)
        if entry is not None:
            if now < entry.blocked_until:
                entry.refusals += 1
                return entry.blocked_until - now
            del self._blocked[key]
            self._free[key] = entry
        else:
            entry = self._free.get(key)
            if entry is None:
                entry = self._new(key)
            else:
                self._free.move_to_end(key)
        if max(entry.paid_at - now, 0.0) <= self._tolerance:
            entry.paid_at = max(entry.paid_at, now) + self._cost
            return 0.0
        return self._refuse(key, entry, now)

    def _refuse(self, key: bytes, entry: _Entry, now: float) -> float:
        if now - entry.blocked_until > self._calm:
            entry.strikes = 0
        seconds = min(self._block * (1 << min(entry.strikes, 32)), MAX_BLOCK)
        entry.strikes += 1
        entry.refusals = 1
        entry.blocked_until = now + seconds
        del self._free[key]
        self._blocked[key] = entry
        return seconds

    def blocked(self, key: bytes, now: float) -> float:
        """Return the seconds for which `key` is blocked still; counts nothing."""
        entry = self._blocked.get(key)
        return 0.0 if entry is None else max(entry.blocked_until - now, 0.0)

    def refusals(self, key: bytes) -> int:
        """Return how often `key` has been refused in its present or last block."""
        entry = self._blocked.get(key)
        return 0 if entry is None else entry.refusals

    def memory(self, now: float) -> list[Remembered]:
        """Return what it knows, for the table of another process."""
        return [
            (key.hex(), entry.paid_at - now, entry.blocked_until - now, entry.strikes, entry.refusals)
            for table in (self._free, self._blocked)
            for key, entry in table.items()
        ]

    def remember(self, memory: Iterable[Remembered], now: float) -> None:
        """Go on with what another table knew at `now`; this one knows nothing of these keys yet."""
        for key, paid_in, blocked_for, strikes, refusals in memory:
            digest = bytes.fromhex(key)
            entry = self._new(digest)
            entry.paid_at, entry.blocked_until = now + paid_in, now + blocked_for
            entry.strikes, entry.refusals = strikes, refusals
            if blocked_for > 0:
                self._blocked[digest] = self._free.pop(digest)

    def _new(self, key: bytes) -> _Entry:
        if len(self) >= self._size:
            (self._free or self._blocked).popitem(last=False)
            self.evicted += 1
        entry = self._free[key] = _Entry()
        return entry


class Pace:
    """One rate for all: allows `limit` events per second on average and as many at once, and blocks
    nobody.
    """

    def __init__(self, limit: float) -> None:
        if limit <= 0:
            raise ValueError("the limit must be positive")
        self._cost = 1 / limit
        self._paid_at = 0.0

    def allows(self, now: float) -> bool:
        """Count one event and return whether it is allowed; one that is not is not counted."""
        if max(self._paid_at - now, 0.0) > 1.0 - self._cost + _ROUNDING:
            return False
        self._paid_at = max(self._paid_at, now) + self._cost
        return True
