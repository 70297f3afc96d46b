"""A token bucket that tells how long to wait, and never sleeps itself."""


class TokenBucket:
    """Allows `rate` units per second on average and `burst` units at once.

    `charge` always succeeds and returns the delay after which the charge is paid; a charge larger than the
    burst is paid by waiting longer, so that one large paste passes whole. Time is given by the caller
    (`trio.current_time()`).
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst must be positive")
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:.0f} of {self.burst:g}, {self.rate:g}/s>"

    @property
    def even_at(self) -> float:
        """When its balance is, was, or will be zero: with rate and burst, that says all of its state."""
        return self._at - self._tokens / self.rate

    def go_on(self, even_at: float, now: float) -> None:
        """Take the state of another one, whose balance is zero at `even_at`."""
        self._at = now
        self._tokens = min(self.burst, (now - even_at) * self.rate)

    def charge(self, amount: float, now: float) -> float:
        """Take `amount` units at time `now`; return the seconds to wait before going on (0 when there was
        enough)."""
        self._tokens = self.spare(now) - amount
        return max(0.0, -self._tokens / self.rate)

    def spare(self, now: float) -> float:
        """Return how many units can be taken at time `now` without waiting; negative while some are owed."""
        elapsed = max(0.0, now - self._at)
        self._at = max(self._at, now)
        self._tokens = min(self.burst, self._tokens + elapsed * self.rate)
        return self._tokens
