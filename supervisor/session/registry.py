"""All sessions of this supervisor: who may have one, who may come back to one."""

import hmac
from collections.abc import Callable, Iterator
from typing import Protocol

import attrs
import trio

from supervisor.alarms import Alarms
from supervisor.errors import SandboxError, SessionRefusedError
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider
from supervisor.session.recorder import Recorder
from supervisor.session.recording import HandedRecording
from supervisor.session.session import Session
from supervisor.session.visitor import Visitor
from supervisor.settings import Settings

log = get_logger(__name__)


class SessionWatcher(Protocol):
    """Somebody who is told what becomes of sessions. It may neither wait nor raise."""

    def session_added(self, session: Session) -> None:
        """Hear of one that begins; it has no terminal yet."""
        ...

    def session_started(self, session: Session) -> None:
        """Hear of one whose user has a terminal now."""
        ...

    def session_removed(self, session: Session) -> None:
        """Hear of one that is over; `session.was_ready` tells whether it ever started."""
        ...


@attrs.frozen
class _Announced:
    """A `trio.TaskStatus` that tells somebody else first."""

    status: trio.TaskStatus[None]
    announce: Callable[[], None]

    def started(self, value: None = None) -> None:
        self.announce()
        self.status.started(value)


class SessionRegistry:
    """Creates sessions in a nursery of its own and finds them again.

    Resource handling: a session lives in `nursery`; cancelling it ends all sessions, each giving its sandbox
        back.

    Attributes:
        recorder: of all sessions.
        watchers: told of each session, in order.
        alarms: for the sessions' clocks, and whoever does not outlive them.
        past_output_bytes, past_input_bytes, past_commands: of sessions that have gone.
    """

    def __init__(
        self,
        settings: Settings,
        provider: SandboxProvider,
        nursery: trio.Nursery,
        recorder: Recorder | None = None,
    ) -> None:
        self.settings = settings
        self.provider = provider
        self.recorder = recorder or Recorder(settings)
        self._nursery = nursery
        self._sessions: dict[str, Session] = {}
        self._closing = False
        self.alarms = Alarms(nursery)
        self.past_output_bytes = 0
        self.past_input_bytes = 0
        self.past_commands = 0
        self.watchers: list[SessionWatcher] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __repr__(self) -> str:
        return f"<SessionRegistry {len(self)} of at most {self.settings.max_sessions} sessions>"

    async def create(
        self,
        owner: bytes,
        request: LeaseRequest,
        visitor: Visitor = Visitor(),  # noqa: B008 - frozen
        settings: Settings | None = None,
    ) -> Session:
        """Start a session for `owner`; returns when its terminal is there. It is counted from the call on.

        Args:
            owner: digest of its credentials.
            request: what it runs.
            visitor: whose it is.
            settings: that hold for it, where they are not those of all.

        Resource handling: cancelled meanwhile, the half-started session is taken down again.

        Raises:
            SessionRefusedError: the house is full (`capacity`) or closing (`shutdown`), or the session was
                ended meanwhile.
            SandboxError: the sandbox could not be started.
        """
        if self._closing:
            raise SessionRefusedError(EndReason.SHUTDOWN.value, "The server is shutting down.")
        if len(self._sessions) >= self.settings.max_sessions:
            raise SessionRefusedError(
                EndReason.CAPACITY.value, "All terminals are in use. Please try again later."
            )
        session = Session(owner, request, settings or self.settings, visitor)
        self._add(session)
        await self._nursery.start(self._keep, session)
        return session

    async def _keep(self, session: Session, *, task_status: trio.TaskStatus[None]) -> None:
        def announce() -> None:
            for watcher in self.watchers:
                watcher.session_started(session)

        try:
            await session.run(
                self.provider, self.alarms, self.recorder, task_status=_Announced(task_status, announce)
            )
        finally:
            self._remove(session)

    def _add(self, session: Session) -> None:
        self._sessions[session.id] = session
        for watcher in self.watchers:
            watcher.session_added(session)

    def _remove(self, session: Session) -> None:
        del self._sessions[session.id]
        self.past_output_bytes += session.scrollback.end
        self.past_input_bytes += session.input_bytes
        self.past_commands += session.statistics().commands or 0
        for watcher in self.watchers:
            watcher.session_removed(session)

    def find(self, session_id: str, owner: bytes) -> Session | None:
        """Return the live session of that id, or None when there is none.

        Raises:
            SessionRefusedError: it belongs to other credentials. Its text is that of bad credentials, so that
                it does not tell that the session exists.
        """
        session = self._sessions.get(session_id)
        if session is None or session.ended is not None:
            return None
        if not hmac.compare_digest(session.owner, owner):
            raise SessionRefusedError(EndReason.CREDENTIALS.value, "These credentials are not accepted.")
        return session

    # ------------------------------------------------------------------ another process

    async def freeze(self) -> list[Session]:
        """Stop all sessions where they are, until `thaw`; return those that another process can go on with.

        Nobody may create or resume one meanwhile.
        """
        frozen: dict[Session, bool] = {}

        async def freeze(session: Session) -> None:
            frozen[session] = await session.freeze()

        async with trio.open_nursery() as nursery:
            for session in self:
                nursery.start_soon(freeze, session)
        return [session for session, can_go_on in frozen.items() if can_go_on]

    def thaw(self) -> None:
        """Let them go on."""
        for session in self:
            session.thaw()

    def adopt(
        self, session: Session, provider: SandboxProvider, recording: HandedRecording | None = None
    ) -> None:
        """Go on with a restored session, whose terminal `provider` leases, and with its recording. It starts
        at once, in whatever way it ends."""
        self._add(session)
        session.thaw()
        self._nursery.start_soon(self._keep_adopted, session, provider, recording)

    async def _keep_adopted(
        self, session: Session, provider: SandboxProvider, recording: HandedRecording | None
    ) -> None:
        try:
            await session.run(provider, self.alarms, self.recorder, recording)
        except (SandboxError, SessionRefusedError) as error:
            log.warning("a session that was handed over is lost", session=session.label, problem=str(error))
        except Exception as error:  # of one session, and no other's business
            log.error("a session that was handed over failed", session=session.label, exc_info=error)
        finally:
            if recording is not None:
                recording.close()
            self._remove(session)

    def close(self, reason: EndReason) -> None:
        """Refuse new sessions from now on and end those that are there."""
        self._closing = True
        for session in self:
            session.end(reason)
