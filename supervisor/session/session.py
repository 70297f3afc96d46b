"""A session: one scope that owns a sandbox, its pumps and its clocks, whoever watches.

`Session.run` is that scope. Leaving it, by any path, takes the terminal's lease with it. Output goes PTY →
scrollback → each viewer's own pace; input goes viewers → limiter → PTY. A session outlives its connections,
which is what makes resume work; it never outlives its maximum duration. It can also outlive its process:
frozen, it is a snapshot that another process goes on with (`supervisor.handover`).

Pacing: the program is held back by the *fastest* viewer, so that a slow one delays nobody; when nobody
watches, it runs freely into the scrollback.
"""

import secrets
import time
from collections.abc import Callable

import attrs
import trio

from supervisor.alarms import Alarms
from supervisor.errors import SessionRefusedError
from supervisor.observability import metrics
from supervisor.observability.audit import audit_limited
from supervisor.observability.log import get_logger
from supervisor.observability.redaction import session_digest
from supervisor.protocol.closing import EndReason, reason_for
from supervisor.protocol.v1 import Role
from supervisor.sandbox.terminal import (
    ExitStatus,
    LeaseRequest,
    SandboxFacts,
    SandboxProvider,
    Terminal,
    is_sandbox_fault,
)
from supervisor.session.attachment import Attachment, Ended, Notice
from supervisor.session.audience import Audience
from supervisor.session.deadlines import Deadlines
from supervisor.session.keyboard import Keyboard
from supervisor.session.limiter import TokenBucket
from supervisor.session.pace import CommandPace
from supervisor.session.recorder import Recorder
from supervisor.session.recording import HandedRecording, Recording
from supervisor.session.scrollback import Scrollback
from supervisor.session.snapshot import SessionSnapshot, from_monotonic, to_monotonic
from supervisor.session.state import SessionState, SessionStatistics
from supervisor.session.visitor import Visitor
from supervisor.session.window import Window
from supervisor.settings import Settings

log = get_logger(__name__)

READ_SIZE = 128 * 1024  # bytes taken from the terminal at once: half of what a client has in flight at least
LIFETIME_MARGIN = 60.0  # seconds that a sandbox's own deadline lies behind ours: it counts when we hang


class Session:
    """One user's terminal.

    Attributes:
        id: unguessable public name (192 random bits).
        owner: digest of the credentials that may resume it.
        scrollback: its output, still readable after the end for viewers that have to catch up.
        ended: why it ended, once it has.
        terminal: what it runs in, once it is READY.
        recording: of what happens in it; None where none is wanted.
        visitor: whose it is.
        was_ready: whether its user ever had a terminal.
        began: when it was made, by the clock on the wall as that was then (seconds since the epoch).
        messages: at what rate its viewers may send messages.
        deadlines: what ends it by itself.
    """

    def __init__(
        self,
        owner: bytes,
        request: LeaseRequest,
        settings: Settings,
        visitor: Visitor = Visitor(),  # noqa: B008 - frozen
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.owner = owner
        self.visitor = visitor
        self.was_ready = False
        self.settings = settings
        self.scrollback = Scrollback(settings.scrollback)
        self.state = SessionState.CREATED
        self.ended: Ended | None = None
        self.terminal: Terminal | None = None
        self.recording: Recording | None = None
        self._keyboard = Keyboard(settings.input_rate, settings.input_burst)
        self._pace = CommandPace(settings.command_rate, self._keyboard, self._keys_wait)
        self._request = attrs.evolve(
            request,
            session_id=self.id,
            note_commands=self._pace.note,
            lifetime=settings.max_duration + settings.hangup_grace + LIFETIME_MARGIN,
            hangup_grace=settings.hangup_grace,
        )
        self._window = Window(request.cols, request.rows, applied=True)
        self._audience = Audience()
        self._room = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._born = trio.current_time()
        self.began = time.time()
        self._last_key = self._born
        self.messages = TokenBucket(settings.message_rate, settings.message_burst, self._born)
        self.deadlines = Deadlines(settings, self._audience.tell)
        self._pumps = trio.CancelScope()
        self._frozen = False
        self._pumps_stopped = trio.Event()
        self._thawed = trio.Event()
        self._parting = False

    def __repr__(self) -> str:
        return f"<Session {self.label} {self.state.name} {self.scrollback!r} {len(self._audience)} attached>"

    @property
    def label(self) -> str:
        """What logs and operators call it; of no use as an id."""
        return session_digest(self.id)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows that its window has, or is about to have."""
        return self._window.size

    @property
    def facts(self) -> SandboxFacts:
        """What is known of its sandbox."""
        return self._request.facts

    def statistics(self) -> SessionStatistics:
        """Return a snapshot of what it is doing."""
        now = trio.current_time()
        attendance = self._audience.attendance
        return SessionStatistics(
            state=self.state,
            age=now - self._born,
            idle=now - self._last_key,
            writers=attendance.writers,
            viewers=attendance.viewers,
            output_bytes=self.scrollback.end,
            input_bytes=self.input_bytes,
            commands=self._pace.started if self.facts.counted else None,
        )

    @property
    def standing(self) -> tuple[object, ...]:
        """All of its record that may change but for its age: equal while nothing happens."""
        facts, recording = self._request.facts, self.recording
        return (
            self.scrollback.end,
            self.input_bytes,
            self._pace.started,
            facts.container,
            facts.peak_memory,
            recording and (recording.path, recording.problem),
        )

    # ------------------------------------------------------------------ its life

    async def run(
        self,
        provider: SandboxProvider,
        alarms: Alarms,
        recorder: Recorder,
        recording: HandedRecording | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Live from the lease of a sandbox to its return; `task_status.started()` once the user can type. The
        clocks ring in `alarms`; `recording` is what another process has recorded of it.

        Error handling: before `started`, errors go to the caller (`SandboxError`, and `SessionRefusedError`
        when `end` was called meanwhile); after it, they end this session and are logged, never raised.
        """
        try:
            with self._scope:
                self._advance(SessionState.STARTING)
                async with (
                    recorder.record(self, recording) as self.recording,
                    provider.lease(self._request) as terminal,
                ):
                    self.terminal = terminal
                    tapped = await self.recording.begin(terminal) if self.recording else terminal
                    self._advance(SessionState.READY)
                    self.was_ready = True
                    task_status.started()
                    await self._serve(tapped, alarms)
                    self._advance(SessionState.ENDING)
            if self.state < SessionState.READY:
                reason = self.ended.reason if self.ended else EndReason.ENDED
                raise SessionRefusedError(reason.value, "The session was ended while it was being started.")
        except Exception as error:
            if self.state < SessionState.READY:
                self._set_ended(Ended(reason_for(error)))
                metrics.session_start_failures.labels(reason_for(error).value).inc()
                raise
            reason = EndReason.ENDED if is_sandbox_fault(error) else EndReason.INTERNAL
            log.warning("session broke", session=self.label, reason=reason.value, exc_info=error)
            self._set_ended(Ended(reason))
        finally:
            self.state = SessionState.CLOSED
            self._set_ended(Ended(EndReason.ENDED))
            self._pumps_stopped.set()
            self._request = attrs.evolve(self._request, environment={})  # it holds credentials

    def end(self, reason: EndReason) -> None:
        """End the session now; the first reason given is the one that counts."""
        self._set_ended(Ended(reason))
        self._scope.cancel()

    def _set_ended(self, ended: Ended) -> None:
        if self.ended is None:
            self.ended = ended
            self._audience.end(ended)
            self._keyboard.take_notice()

    def _advance(self, state: SessionState) -> None:
        self.state = self.state.forward(state)

    async def _serve(self, terminal: Terminal, alarms: Alarms) -> None:
        status: ExitStatus | None = None
        while status is None:
            if self._frozen:
                self._pumps_stopped.set()
                await self._thawed.wait()
            status = await self._pump(terminal, alarms)
        self._set_ended(Ended(EndReason.USER_EXIT, status))

    async def _pump(self, terminal: Terminal, alarms: Alarms) -> ExitStatus | None:
        """Move bytes until the command has ended. None: it was stopped; it has lost nothing: what was not
        typed is still queued."""
        status: ExitStatus | None = None
        async with trio.open_nursery() as nursery:
            self._pumps = nursery.cancel_scope
            try:
                self._keyboard.plug(terminal, nursery)
                self._window.plug(terminal, nursery)
                self.deadlines.start(alarms, self.end)
                if self.facts.counted:  # else there is nothing to hear, and a task takes 5 KB
                    nursery.start_soon(terminal.listen)
                await self._pump_output(terminal)
                status = await terminal.wait_closed()
            finally:
                self._keyboard.unplug()
                self._window.unplug()
                self.deadlines.stop()
            nursery.cancel_scope.cancel()
        return status

    # ------------------------------------------------------------------ another process

    def part(self) -> None:
        """Let all viewers go, to come back in a moment; what they typed before they heard of it is queued,
        however much it is.
        """
        self._parting = True
        self._keyboard.take_notice()
        self._audience.end(Ended(EndReason.HANDOVER))

    async def freeze(self) -> bool:
        """Stop reading, typing and counting time, until `thaw`; return whether there is something that
        another process can go on with.
        """
        self._frozen, self._thawed, self._pumps_stopped = True, trio.Event(), trio.Event()
        self._pumps.cancel()
        if self.state is SessionState.READY:
            await self._pumps_stopped.wait()
            if self.recording:
                await self.recording.settle()
        return self.state is SessionState.READY and self.ended is None

    def thaw(self) -> None:
        """Go on."""
        self._frozen = self._parting = False
        self._thawed.set()

    def snapshot(self) -> SessionSnapshot:
        """Return all that it is but its terminal. It must be frozen."""
        scrollback = self.scrollback
        return SessionSnapshot(
            id=self.id,
            owner=self.owner,
            cols=self.size[0],
            rows=self.size[1],
            born=to_monotonic(self._born),
            last_key=to_monotonic(self._last_key),
            idle_deadline=to_monotonic(self.deadlines.idle.deadline),
            duration_deadline=to_monotonic(self.deadlines.duration.deadline),
            input=bytes(self._keyboard.waiting),
            input_bytes=self.input_bytes,
            output_start=scrollback.start,
            output=scrollback.read(scrollback.start, scrollback.capacity),
            standing=self.visitor.standing,
            address_key=self.visitor.key,
            profile=self.visitor.profile,
            commands=self._pace.started if self.facts.counted else None,
            commands_even_at=None if self._pace.even_at is None else to_monotonic(self._pace.even_at),
            began=self.began,
        )

    @classmethod
    def restore(cls, snapshot: SessionSnapshot, settings: Settings) -> "Session":
        """Return the session of `snapshot`, frozen. What was promised about its end holds; the rest is as
        `settings` say.
        """
        request = LeaseRequest(snapshot.id, cols=snapshot.cols, rows=snapshot.rows)
        visitor = Visitor(snapshot.standing, snapshot.address_key, snapshot.profile)
        session = cls(snapshot.owner, request, settings, visitor)
        session.was_ready = True
        session.id = snapshot.id
        session._request = attrs.evolve(session._request, session_id=snapshot.id)
        session._born = from_monotonic(snapshot.born)
        age = trio.current_time() - session._born
        session.began = time.time() - age if snapshot.began is None else snapshot.began
        session._last_key = from_monotonic(snapshot.last_key)
        session.deadlines.idle.deadline = from_monotonic(snapshot.idle_deadline)
        session.deadlines.duration.deadline = from_monotonic(snapshot.duration_deadline)
        session._keyboard.put(snapshot.input)
        session._keyboard.typed = snapshot.input_bytes
        session.facts.counted = snapshot.commands is not None
        even_at = snapshot.commands_even_at
        session._pace.go_on(snapshot.commands or 0, None if even_at is None else from_monotonic(even_at))
        session.scrollback = Scrollback(settings.scrollback, snapshot.output_start)
        session.scrollback.append(snapshot.output)
        # The size may have been asked for and not been set.
        session._window = Window(snapshot.cols, snapshot.rows, applied=False)
        session._frozen = True
        return session

    # ------------------------------------------------------------------ output

    async def _pump_output(self, terminal: Terminal) -> None:
        rate = self.settings.output_rate
        shaper = TokenBucket(rate, max(rate, READ_SIZE), trio.current_time()) if rate else None
        while True:
            while self._all_viewers_lag():
                await self._room.park()
            data = await terminal.receive_some(READ_SIZE)
            if not data:
                return
            self.scrollback.append(data)
            self._keyboard.is_answered()
            self._audience.output_came()
            if shaper and (delay := shaper.charge(len(data), trio.current_time())):
                await trio.sleep(delay)

    def _all_viewers_lag(self) -> bool:
        # While the input is full nobody is heard, so acknowledgements cannot come either, and a program that
        # echoes what it is sent would wait for ever.
        return self._audience.lags and not self.input_is_full

    def room_may_have_come(self) -> None:
        """Let the output pump look again whether it may go on."""
        self._room.unpark_all()

    # ------------------------------------------------------------------ viewers

    def attach(self, *, offset: int, window: int, role: Role, acknowledges: bool) -> Attachment:
        """Add a viewer that has everything before `offset`. The caller must `detach` it, whatever happens."""
        attachment = Attachment(self, offset, window, role, acknowledges)
        if self.ended is not None:
            attachment.end(self.ended)
        self._audience.add(attachment)
        self._attendance_has_changed()
        for warning in self.deadlines.warnings():
            attachment.tell(warning)
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """Remove a viewer; no effect when it is gone already."""
        if self._audience.remove(attachment):
            self._attendance_has_changed()
            self.room_may_have_come()

    def replace(self, wanted: Callable[[Attachment], bool]) -> None:
        """Let those viewers go for which `wanted` is true: their user has moved on to a newer connection."""
        for attachment in self._audience.matching(wanted):
            attachment.end(Ended(EndReason.REPLACED))
            self.detach(attachment)

    def _attendance_has_changed(self) -> None:
        self.deadlines.set_watched(len(self._audience) > 0)
        self._audience.tell(self._audience.attendance)

    def tell_notice(self, text: str) -> None:
        """Tell everybody in the session a sentence about it."""
        self._audience.tell(Notice(text))

    # ------------------------------------------------------------------ input and window

    @property
    def input_bytes(self) -> int:
        """How much the command has taken."""
        return self._keyboard.typed

    @property
    def input_is_full(self) -> bool:
        """Whether whoever types now has to wait."""
        return self._keyboard.is_full

    async def type(self, data: bytes, *, is_activity: bool) -> None:
        """Queue `data` for the terminal; waits while more than a burst is queued already.

        Args:
            data: bytes exactly as the program shall read them.
            is_activity: whether a person typed it, which postpones the idle timeout.
        """
        if is_activity:
            self._last_key = trio.current_time()
            self.deadlines.key_pressed()
        await self._keyboard.wait_room(self._still_listens)
        if self.ended is None:
            self._keyboard.put(data)

    def _keys_wait(self) -> None:
        metrics.keys_held.inc()
        audit_limited("limit hit: commands", "warning", self.label, trio.current_time(), session=self.label)
        self.tell_notice(
            f"This session may start {self.settings.command_rate} commands a minute, and has started more: "
            "what is typed waits. Ctrl-C makes it forgotten."
        )

    def _still_listens(self) -> bool:
        self.room_may_have_come()  # the output pump waits for acknowledgements, which cannot come now
        return self.ended is None and not self._parting

    def resize(self, cols: int, rows: int) -> None:
        """Ask for a window size."""
        self._window.resize(cols, rows)

    def redraw(self) -> None:
        """Have a program that fills the screen draw it again, for a client whose screen is not what the
        program thinks."""
        self._window.redraw()
