"""A viewer's place in a session's output: an offset, a window, and the notices that are meant for it.

Viewers pull. An attachment owns no buffer: output is read from the session's scrollback at the viewer's own
offset, so a frozen viewer costs what one frame costs, and a slow one can fall behind without anybody else
noticing. What is told to a viewer besides output (warnings, answers, the end) is a short queue of events.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from supervisor.errors import PeerError, SessionRefusedError
from supervisor.protocol.closing import EndReason
from supervisor.protocol.v1 import Role, TimeoutKind, Window
from supervisor.sandbox.terminal import ExitStatus

if TYPE_CHECKING:
    from supervisor.session.session import Session

MAX_EVENTS = (
    64  # events that may wait for a viewer; a client that provokes more than it reads is breaking the rules
)
LITTLE = 1024  # bytes of output that may go out at once: an echo, a line or two


@attrs.frozen
class Output:
    """The next bytes of the stream; `offset` is that of the first one."""

    offset: int
    data: bytes


@attrs.frozen
class Gap:
    """The bytes from `start` up to `end` have left the scrollback before this viewer took them."""

    start: int
    end: int


@attrs.frozen
class Notice:
    """A sentence about the session, for whoever is in it."""

    text: str


@attrs.frozen
class TimeoutWarning:
    """The session will end in `seconds` for the reason that `kind` names."""

    kind: TimeoutKind
    seconds: float


@attrs.frozen
class TimeoutWarningCleared:
    """The user typed in time."""

    kind: TimeoutKind


@attrs.frozen
class Attendance:
    """How many viewers are attached now."""

    writers: int
    viewers: int


@attrs.frozen
class Answer:
    """The connection's own answer to its client, in order with the rest: a text frame."""

    text: str


@attrs.frozen
class Ended:
    """Nothing follows. `status` is set when the command ended by itself."""

    reason: EndReason
    status: ExitStatus | None = None


Event: TypeAlias = (
    Output | Gap | Notice | TimeoutWarning | TimeoutWarningCleared | Attendance | Answer | Ended
)


class Attachment:
    """One viewer of one session; made by `Session.attach`.

    One task calls `next_event`; the others may be called from any task.

    Attributes:
        window: what has been sent and acknowledged; without acknowledgements, asking for the next piece
            acknowledges the last.
        send_at_once: sends a little output, if that takes no wait, and returns whether it did; None where
            that cannot be done.
    """

    def __init__(self, session: "Session", offset: int, window: int, role: Role, acknowledges: bool) -> None:
        self.session = session
        self.role = role
        self.window = Window(window, offset)
        self.acknowledges = acknowledges
        self.send_at_once: Callable[[bytes], bool] | None = None
        self._events: list[Event] = []  # a deque costs 600 bytes although it is nearly always empty
        self._wake = trio.lowlevel.ParkingLot()
        self._end: Ended | None = None
        self._stalled_at: float | None = None

    def __repr__(self) -> str:
        return f"<Attachment {self.role} {self.window!r} {len(self._events)} events>"

    @property
    def was_replaced(self) -> bool:
        """Whether its user has moved on to another connection."""
        return self._end is not None and self._end.reason is EndReason.REPLACED

    @property
    def is_behind(self) -> bool:
        """Whether the client has a whole window of output still to show."""
        waiting = self.session.scrollback.end - self.window.sent
        return waiting + self.window.unacknowledged >= self.window.size

    def acknowledge(self, offset: int) -> None:
        """Note that the client has shown everything before `offset`; offsets that go back change nothing.

        Raises:
            PeerError: the client acknowledges what it has not been sent.
        """
        if self.window.on_ack(offset):
            self._stalled_at = None
            self.wake()
            self.session.room_may_have_come()

    def post(self, event: Event) -> None:
        """Queue an event for this viewer, before further output.

        Raises:
            PeerError: too many events wait already.
        """
        if len(self._events) >= MAX_EVENTS:
            raise PeerError("provokes more answers than it reads")
        self._events.append(event)
        self.wake()

    def tell(self, event: Event) -> None:
        """Queue the session's own news, in place of older news of the same matter."""
        self._events = [queued for queued in self._events if _matter(queued) != _matter(event)]
        self._events.append(event)
        self.wake()

    def end(self, ended: Ended) -> None:
        """Let this viewer go: `Ended` comes after the events and, if the command ended by itself, after all
        output. First call wins."""
        if self._end is None:
            self._end = ended
            self.wake()

    def wake(self) -> None:
        """Let `next_event` look again."""
        self._wake.unpark_all()

    def output_came(self) -> None:
        """Send it at once, where it is little and nothing is to be told before it, which spares an echo a
        turn of the event loop; else let `next_event` look again.
        """
        waits = len(self._wake) > 0 and not self._events and self._end is None
        size = self.session.scrollback.end - self.window.sent
        if waits and self.send_at_once and size <= min(LITTLE, self.window.allowance):
            event = self._next_output(LITTLE)
            if event is not None and not (isinstance(event, Output) and self.send_at_once(event.data)):
                self._events.append(event)
            elif self.window.allowance:
                return
        self.wake()  # also where the window has been filled: from now on a stall counts

    async def next_event(self, max_bytes: int) -> Event:
        """Return the next thing to tell the client; waits for one. After `Ended` it may not be called again.

        Raises:
            SessionRefusedError: output waits, and the client has acknowledged nothing for the stall timeout
                (`slow_consumer`).
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if event := self._next_now(max_bytes):
            await trio.lowlevel.cancel_shielded_checkpoint()  # a flood delays nobody
            return event
        while event is None:
            await self._woken()
            event = self._next_now(max_bytes)
        return event

    async def _woken(self) -> None:
        if (deadline := self._stall_deadline()) == math.inf:
            await self._wake.park()
            return
        with trio.CancelScope(deadline=deadline) as stall:
            await self._wake.park()
        if not stall.cancelled_caught:
            return
        if not self.session.input_is_full:
            raise SessionRefusedError(EndReason.SLOW_CONSUMER.value, "The output was not taken in time.")
        # Nothing more is heard from the client meanwhile, so it cannot be blamed.
        self._stalled_at = None

    def _next_now(self, max_bytes: int) -> Event | None:
        if self._events:
            return self._events.pop(0)
        if self._end is not None and self._end.status is None:
            return self._end
        if event := self._next_output(max_bytes):
            return event
        return (
            self._end if self._end is not None and self.window.sent == self.session.scrollback.end else None
        )

    def _stall_deadline(self) -> float:
        """When a client that holds up its own output is given up; never, while it does not."""
        if self.window.allowance > 0:
            return math.inf
        if self._stalled_at is None:
            self._stalled_at = trio.current_time()
        return self._stalled_at + self.session.settings.stall_timeout

    def _next_output(self, max_bytes: int) -> Output | Gap | None:
        scrollback, window = self.session.scrollback, self.window
        if not self.acknowledges and window.on_ack(window.sent):
            # The client took what it was sent, or the caller would not ask for more.
            self.session.room_may_have_come()
        if not window.allowance:
            return None  # what is lost until there is room again is one gap
        if window.sent < scrollback.start:
            gap = Gap(window.sent, scrollback.start)
            window.on_gap(gap.end)
            return gap
        data = scrollback.read(window.sent, min(max_bytes, window.allowance))
        if not data:
            return None
        event = Output(window.sent, data)
        window.on_sent(len(data))
        return event


def _matter(event: Event) -> tuple[type[Event], str | None]:
    if isinstance(event, Notice):
        return Notice, event.text
    return type(event), event.kind if isinstance(event, TimeoutWarning | TimeoutWarningCleared) else None
