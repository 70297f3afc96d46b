"""How many sessions there may be: altogether, of each kind of visitor, of one visitor, from one address.

The count is that of the sessions that exist, so nothing has to be given back. Where the operator allows it,
visitors wait in a line when all sessions are in use; whoever has waited longest and fits is next.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs
import trio

from supervisor.errors import SessionRefusedError
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.session.visitor import Visitor
from supervisor.settings import Settings

log = get_logger(__name__)

ALERT_AT: Final = 0.8
"""Part of a capacity at which the operator is told, once each time that it comes to that."""
CALM_BELOW: Final = 0.7


class Alarm:
    """Tells once when a number comes near its limit, and again only after it has gone down.

    Attributes:
        raised: whether it is near now.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.raised = False

    def __repr__(self) -> str:
        return f"<Alarm {self.name}{' raised' if self.raised else ''}>"

    def level(self, number: int) -> None:
        """Take note of the present number."""
        if not self.raised and number >= ALERT_AT * self.limit > 0:
            self.raised = True
            log.warning("nearly full", what=self.name, number=number, limit=self.limit)
        elif self.raised and number < CALM_BELOW * self.limit:
            self.raised = False
            log.info("no longer nearly full", what=self.name, number=number, limit=self.limit)


@attrs.frozen(eq=False)
class _Ticket:
    owner: bytes
    visitor: Visitor
    called: trio.Event = attrs.field(factory=trio.Event)


class Capacity:
    """Decides whether one more session may be.

    Attributes:
        refusals: number so far by reason.
        alarms: by kind of capacity.
    """

    def __init__(self, settings: Settings, registry: SessionRegistry) -> None:
        self._settings = settings
        self._registry = registry
        self._line: list[_Ticket] = []
        self._called: list[_Ticket] = []  # have been told to come in and are on their way
        self._limits = {
            "sessions": settings.max_sessions,
            "anonymous": settings.max_anonymous_sessions,
            "authenticated": settings.max_authenticated_sessions,
        }
        self.refusals: Counter[str] = Counter()
        self.alarms = {name: Alarm(name, limit) for name, limit in self._limits.items()}
        registry.watchers.append(self)

    def __repr__(self) -> str:
        return f"<Capacity {len(self._registry)} sessions, {len(self._line)} waiting>"

    @property
    def waiting(self) -> int:
        """Visitors in the line."""
        return len(self._line)

    async def admit(self, owner: bytes, visitor: Visitor) -> None:
        """Return when there is room for one more session, which the caller has to create without waiting.

        Raises:
            SessionRefusedError: there is none (`capacity`), also none after the wait in line, if there is
                one.
        """
        problem = self._problem(owner, visitor)
        if problem is None and not self._line:
            return
        if len(self._line) >= self._settings.waiting_line:
            raise self._refusal(problem or "sessions")
        ticket = _Ticket(owner, visitor)
        self._line.append(ticket)
        try:
            self._call()
            with trio.move_on_after(self._settings.waiting_timeout):
                await ticket.called.wait()
            if not ticket.called.is_set():
                raise self._refusal(self._problem(owner, visitor) or "sessions")
        except BaseException:
            (self._called if ticket.called.is_set() else self._line).remove(ticket)
            self._call()
            raise
        self._called.remove(ticket)

    def _refusal(self, problem: str) -> SessionRefusedError:
        self.refusals[problem] += 1
        text = {
            "credential": "These credentials have too many terminals already.",
            "address": "There are too many terminals from your address already.",
        }
        return SessionRefusedError(
            EndReason.CAPACITY.value, text.get(problem, "All terminals are in use. Please try again later.")
        )

    def _problem(self, owner: bytes, visitor: Visitor) -> str | None:
        """Return the limit at which this visitor is, or None."""
        settings = self._settings
        present = [(session.owner, session.visitor) for session in self._registry]
        present += [(ticket.owner, ticket.visitor) for ticket in self._called]
        if len(present) >= settings.max_sessions:
            return "sessions"
        if visitor.standing != "local":
            kinds = Counter(each.standing for _, each in present)
            if kinds[visitor.standing] >= self._limits[visitor.standing]:
                return visitor.standing
        same_owner = sum(each == owner for each, _ in present)
        if visitor.standing == "authenticated" and same_owner >= settings.max_sessions_per_credential:
            return "credential"
        same_address = sum(each.key == visitor.key for _, each in present)
        if visitor.key and same_address >= settings.max_sessions_per_address:
            return "address"
        return None

    def _call(self) -> None:
        """Tell those in the line who fit by now, the first one first."""
        for ticket in list(self._line):
            if self._problem(ticket.owner, ticket.visitor) is None:
                self._line.remove(ticket)
                self._called.append(ticket)
                ticket.called.set()

    # ------------------------------------------------------------------ told by the registry

    def session_added(self, session: Session) -> None:
        """See `SessionWatcher`."""
        self._look(session.visitor for session in self._registry)

    def session_started(self, session: Session) -> None:
        """See `SessionWatcher`."""

    def session_removed(self, session: Session) -> None:
        """See `SessionWatcher`."""
        self._look(session.visitor for session in self._registry)
        self._call()

    def _look(self, visitors: Iterable[Visitor]) -> None:
        kinds = Counter(visitor.standing for visitor in visitors)
        self.alarms["sessions"].level(kinds.total())
        self.alarms["anonymous"].level(kinds["anonymous"])
        self.alarms["authenticated"].level(kinds["authenticated"])
