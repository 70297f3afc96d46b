"""The door: who may connect, how often, and how they are told that they may not.

Refusals are as cheap as they can be. The first ones are told in the client's own words: a browser shows
nothing of an HTTP refusal of a WebSocket, and tries again blindly. Whoever goes on regardless gets a short
HTTP answer, or where there is a flood nothing but the end of the connection, before anything of the request
is read. Addresses from which somebody has authenticated are let in during a flood as long as they keep to
their own limits.

Everything here is bounded: the tables have a fixed number of entries, connections that have not authenticated
have a number of their own, of which the oldest gives way.
"""

import math
from collections import Counter, OrderedDict
from types import TracebackType
from typing import Any, Final, Literal

import attrs
import trio

from supervisor.admission.address import AddressBook, Client
from supervisor.admission.limiter import Pace, RateTable
from supervisor.errors import SessionRefusedError
from supervisor.observability.audit import audit_limited
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.session.snapshot import from_monotonic, to_monotonic
from supervisor.settings import Settings

log = get_logger(__name__)

TOLD_PER_SECOND: Final = 20
"""Refusals that are told over a WebSocket, all addresses together; the rest get a plain HTTP answer."""
TOLD_PER_BLOCK: Final = 10
"""Those of one address, in one block."""
LOGGED_PER_SECOND: Final = 1

Reason = Literal["connection_rate", "request_rate", "failed_authentications", "concurrent", "flood"]


@attrs.frozen
class Refusal:
    """Why a connection is not served, and for how long.

    Attributes:
        reason: metric label.
        seconds: after which another attempt makes sense.
        told: whether it is worth a WebSocket that says so; else a plain HTTP answer does.
    """

    reason: Reason
    seconds: float
    told: bool = False

    @property
    def retry_after(self) -> int:
        """Whole seconds, for the header of that name."""
        return max(1, math.ceil(self.seconds))

    @property
    def overloaded(self) -> bool:
        """Whether the server is at its limits (503), rather than the client (429)."""
        return self.reason == "flood"

    def error(self) -> SessionRefusedError:
        """Return what the client is told over a WebSocket."""
        return SessionRefusedError(
            EndReason.RATE_LIMIT.value, f"Too many attempts. Please wait {self.retry_after} seconds."
        )


@attrs.frozen
class DoorStatistics:
    """A snapshot for metrics.

    Attributes:
        refusals: number so far by reason. entries: of the limiters, by table. evicted: entries that had to
            make room so far. pending: connections that have not authenticated. addresses: with connections
            now. spoofed: requests that claimed an address without the right.
    """

    refusals: dict[str, int]
    entries: dict[str, int]
    evicted: int
    pending: int
    addresses: int
    spoofed: int


class Door:
    """All limits by address, and those of resumes.

    Attributes:
        addresses: tells clients apart.
        refusals: counts by reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._throttles = settings.throttling
        window, block, entries = settings.throttle_window, settings.throttle_block, settings.limiter_entries
        self.addresses = AddressBook(settings)
        self.refusals: Counter[str] = Counter()
        self._connections = RateTable(settings.max_connections_per_address, window, block, entries)
        self._requests = RateTable(settings.max_requests_per_address, window, block, entries)
        self._failures = RateTable(settings.max_failures_per_address, 60.0, block, entries)
        self._resumes = RateTable(settings.max_resumes_per_session, 60.0, settings.resume_block, entries)
        self._arrivals = Pace(settings.max_new_connections)
        self._telling = Pace(TOLD_PER_SECOND)
        self._logging = Pace(LOGGED_PER_SECOND)
        self._present: dict[bytes, int] = {}
        self._pending: OrderedDict[Presence, None] = OrderedDict()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Door {len(self._pending)} pending from {len(self._present)} addresses>"

    def statistics(self) -> DoorStatistics:
        """Return a snapshot."""
        return DoorStatistics(
            refusals=dict(self.refusals),
            entries={name: len(table) for name, table in self._tables.items()},
            evicted=sum(table.evicted for table in self._tables.values()),
            pending=len(self._pending),
            addresses=len(self._present),
            spoofed=self.addresses.spoofed,
        )

    @property
    def _tables(self) -> dict[str, RateTable]:
        return {
            "connections": self._connections,
            "requests": self._requests,
            "failures": self._failures,
            "resumes": self._resumes,
        }

    def memory(self) -> dict[str, Any]:
        """Return whom it knows and whom it keeps out, in JSON's terms, for the door of another process of
        this host."""
        now = trio.current_time()
        return {
            "at": to_monotonic(now),
            "tables": {name: table.memory(now) for name, table in self._tables.items()},
            "known": [key.hex() for key in self._known],
        }

    def remember(self, memory: dict[str, Any]) -> None:
        """Go on with the `memory` of a door that nobody asks any more."""
        then = from_monotonic(memory["at"])
        for name, table in self._tables.items():
            table.remember(memory["tables"][name], then)
        self._known.update((bytes.fromhex(key), None) for key in memory["known"])

    # ------------------------------------------------------------------ asked by the gateway, in this order

    def knock(self, client: Client) -> Refusal | None:
        """Whether a connection from `client` is refused before anything of it is read."""
        if client.exempt:
            return None
        now = trio.current_time()
        if seconds := self._failures.blocked(client.key, now):
            return self._refused(client, Refusal("failed_authentications", seconds))
        if not self._throttles:
            return None
        if self._present.get(client.key, 0) >= self._settings.max_connections_at_once_per_address:
            return self._refused(client, Refusal("concurrent", 10.0))
        seconds = self._connections.blocked(client.key, now)
        if seconds and not self._worth_telling(client):
            return self._refused(client, Refusal("connection_rate", seconds))
        if client.key not in self._known and not self._arrivals.allows(now):
            return self._refused(client, Refusal("flood", 10.0))
        return None

    def request(self, client: Client) -> Refusal | None:
        """Whether a request for a page is refused; counts it."""
        if client.exempt or not self._throttles:
            return None
        seconds = self._requests.charge(client.key, trio.current_time())
        return self._refused(client, Refusal("request_rate", seconds)) if seconds else None

    def upgrade(self, client: Client) -> Refusal | None:
        """Whether a request for a WebSocket is refused; counts it."""
        if client.exempt or not self._throttles:
            return None
        now = trio.current_time()
        seconds = self._connections.charge(client.key, now)
        if not seconds:
            return None
        told = self._worth_telling(client) and self._telling.allows(now)
        return self._refused(client, Refusal("connection_rate", seconds, told))

    def _worth_telling(self, client: Client) -> bool:
        # Whoever may bypass the limits has to be heard before that is known.
        return self._settings.allow_bypass or self._connections.refusals(client.key) <= TOLD_PER_BLOCK

    def resume(self, client: Client, session_id: str) -> None:
        """Count an attempt to resume a session by somebody who may.

        Raises:
            SessionRefusedError: there were too many (`rate_limit`).
        """
        if client.exempt:
            return
        if seconds := self._resumes.charge(session_id.encode(), trio.current_time()):
            self.refusals["resume_rate"] += 1
            raise SessionRefusedError(
                EndReason.RATE_LIMIT.value,
                f"This session was resumed too often. Please wait {math.ceil(seconds)} seconds.",
            )

    def failed(self, client: Client) -> None:
        """Count a failed authentication."""
        now = trio.current_time()
        audit_limited("authentication failed", "warning", str(client), now, client=str(client))
        if not client.exempt and self._failures.charge(client.key, now):
            self._refused(client, Refusal("failed_authentications", 0.0))

    def _refused(self, client: Client, refusal: Refusal) -> Refusal:
        self.refusals[refusal.reason] += 1
        now = trio.current_time()
        audit_limited("connections refused", "warning", refusal.reason, now, reason=refusal.reason)
        if self._logging.allows(now):
            log.warning("connections are refused", reason=refusal.reason, client=str(client))
        return refusal

    # ------------------------------------------------------------------ who is there

    def presence(self, client: Client) -> "Presence":
        """Return the place of a new connection; to be entered."""
        return Presence(self, client)

    def enter(self, presence: "Presence") -> None:
        """Take note of a connection that has not authenticated; the oldest such gives way to it."""
        if presence.client.exempt:
            return
        if len(self._pending) >= self._settings.max_pending_connections:
            oldest, _ = self._pending.popitem(last=False)
            oldest.scope.cancel()
            self.refusals["pending"] += 1
        self._pending[presence] = None

    def settle(self, presence: "Presence") -> None:
        """Take note that it does not have to give way any more, or is gone."""
        self._pending.pop(presence, None)

    def know(self, client: Client) -> None:
        """Remember an address from which somebody has authenticated."""
        if client.key:
            self._known[client.key] = None
            self._known.move_to_end(client.key)
            if len(self._known) > self._settings.limiter_entries:
                self._known.popitem(last=False)

    def count(self, key: bytes, change: Literal[1, -1]) -> None:
        """Add to the connections of an address."""
        number = self._present.get(key, 0) + change
        if number:
            self._present[key] = number
        else:
            self._present.pop(key, None)


class Presence:
    """One connection, from its acceptance to its end. Entered by the task that serves it, which is cancelled
    when the connection has to give way.

    Attributes:
        client: who it is from, as far as is known yet.
        scope: of the task.
    """

    def __init__(self, door: Door, client: Client) -> None:
        self.client = client
        self.scope = trio.CancelScope()
        self._door = door
        self._counted = b""

    def __enter__(self) -> "Presence":
        self.scope.__enter__()
        self._door.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._door.settle(self)
        if self._counted:
            self._door.count(self._counted, -1)
        return bool(self.scope.__exit__(kind, error, traceback))

    def admit(self, client: Client) -> Refusal | None:
        """Learn who the client is, which counts its connection; return why it may not go on, if so."""
        self.client = client
        if client.key == self._counted:
            return None
        if refusal := self._door.knock(client):
            return refusal
        self.come(client)
        return None

    def come(self, client: Client) -> None:
        """Learn who the client is, who has knocked already, and count its connection."""
        self.client = client
        if self._counted:
            self._door.count(self._counted, -1)
        self._counted = client.key
        if client.key:
            self._door.count(client.key, 1)
        if client.exempt:
            self._door.settle(self)

    def authenticated(self) -> None:
        """Note that the client is who it says: it need not give way any more."""
        self._door.settle(self)
        self._door.know(self.client)

    def failed(self) -> None:
        """Note that it is not."""
        self._door.failed(self.client)
