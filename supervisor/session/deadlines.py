"""What ends a session by itself: nobody types, nobody watches, or it has lasted long enough."""

import math
from collections.abc import Callable, Iterator
from typing import Final

import trio

from supervisor.alarms import Alarm, Alarms
from supervisor.protocol.closing import EndReason
from supervisor.protocol.v1 import TimeoutKind
from supervisor.session.attachment import Event, TimeoutWarning, TimeoutWarningCleared
from supervisor.session.clocks import Countdown
from supervisor.settings import Settings

FIRST_VIEWER_GRACE: Final = 10.0
"""Seconds for the viewer that asked for the session to attach."""


class Deadlines:
    """The clocks of one session. They count from the beginning, and ring between `start` and `stop`.

    Args:
        settings: those that hold for the session.
        tell: tells everybody who watches.

    Attributes:
        idle, duration: the clocks that warn first.
    """

    def __init__(self, settings: Settings, tell: Callable[[Event], None]) -> None:
        now = trio.current_time()
        self.idle = Countdown(settings.idle_timeout, settings.timeout_warning, now)
        self.duration = Countdown(settings.max_duration, settings.timeout_warning, now)
        self._grace = settings.resume_grace
        self._abandoned_at = now + max(self._grace, FIRST_VIEWER_GRACE)
        self._tell = tell
        self._alarm: Alarm | None = None

    def start(self, alarms: Alarms, end: Callable[[EndReason], None]) -> None:
        """Warn, and call `end`, when it is time; rings in `alarms`."""
        self._alarm = alarms.new(lambda: self._look(end))
        self._set_alarm()

    def stop(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.stop()
            self._alarm = None

    def key_pressed(self) -> None:
        """Postpone the idle timeout."""
        if self.idle.restart(trio.current_time()):
            self._tell(TimeoutWarningCleared("idle"))

    def set_watched(self, watched: bool) -> None:
        """Note whether anybody watches."""
        if watched:
            self._abandoned_at = math.inf
        else:
            self._abandoned_at = trio.current_time() + self._grace
            self._set_alarm()

    def warnings(self) -> Iterator[TimeoutWarning]:
        """Return the warnings that were given and hold, for whoever comes now."""
        for kind, clock in self._clocks().items():
            if clock.warned:
                yield TimeoutWarning(kind, clock.deadline - trio.current_time())

    def _clocks(self) -> dict[TimeoutKind, Countdown]:
        return {"idle": self.idle, "maxDuration": self.duration}

    def _set_alarm(self) -> None:
        """Look when the first of them is due; what postpones one need not say so."""
        if self._alarm is not None:
            self._alarm.set(min(self._abandoned_at, self.idle.due, self.duration.due))

    def _look(self, end: Callable[[EndReason], None]) -> None:
        now = trio.current_time()
        if now >= self._abandoned_at:
            end(EndReason.ABANDONED)
            return
        for kind, clock in self._clocks().items():
            match clock.check(now):
                case "over":
                    end(EndReason.IDLE if kind == "idle" else EndReason.MAX_DURATION)
                    return
                case "warn":
                    self._tell(TimeoutWarning(kind, clock.deadline - now))
                case None:
                    pass
        self._set_alarm()
