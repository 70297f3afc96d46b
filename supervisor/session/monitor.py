"""Resource monitor: what each session's container uses, and what becomes of one that uses too much.

The container's limits hold anyhow; this is about telling. A process ended for memory, and processes that
could not be started, look like bugs to a user who is not told of the limit: so the user is told. An operator
gets alerts, numbers per session, and sessions that hit their limits again and again warned, slowed down, and
ended, each after a number of *strikes* (a setting; 0: never). An interval with a violation is a strike, one
without takes a strike back. Who was slowed down and keeps within the limits for a while is no longer. Nothing
is ever paused: a frozen container cannot see its lifeline close.

Cost: a tenth of a millisecond for a session and interval, spread over the interval; a few sessions at a time,
since to wake up costs as much as to look. `python -m benchmarks.monitoring` measures it.
"""

from typing import Final, Protocol, final

import attrs
import trio

from supervisor.errors import SandboxError
from supervisor.observability import metrics
from supervisor.observability.audit import audit, audit_limited
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.budget import Budget
from supervisor.sandbox.usage import Usage
from supervisor.session.record import Records
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings

log = get_logger(__name__)

TURN: Final = 0.1
"""Seconds between two turns of looking, at the least: with many sessions several are looked at in each."""
THROTTLED_TO: Final = 0.1
"""Part of its CPU limit that a session keeps when it is slowed down."""

_TOLD: Final = {
    "oom": "A program was ended because the session's memory ({memory} MB) is used up.",
    "pids": "A program could not be started: the session may have {pids} processes.",
}


class MeasuringProvider(Protocol):
    """A provider whose sandboxes can be measured. See `docker.DockerProvider`."""

    def usage(self, session_id: str) -> Usage | None:
        """Return what the sandbox of a session uses; None where that is unknown."""
        ...

    def usage_of_all(self) -> tuple[Usage, Budget] | None:
        """Return what all sandboxes use together, and what they may; None where that is unknown."""
        ...

    async def throttle(self, session_id: str, part: float) -> None:
        """Leave a session so much of its CPU limit (1: all of it); SandboxError when that cannot be done."""
        ...


@attrs.define
class Watched:
    """What the monitor knows of a session.

    Attributes:
        usage: at the last look.
        at: when that was.
        cpu_percent: of one CPU, between the last two looks.
        strikes: see above.
        calm: looks in a row without a violation.
        alerts: kinds of resources near their limits.
        throttled: whether it has been slowed down.
    """

    usage: Usage
    at: float
    cpu_percent: float = 0.0
    strikes: int = 0
    calm: int = 0
    alerts: frozenset[str] = frozenset()
    throttled: bool = False


@final
class ResourceMonitor:
    """Looks at all sessions once in each interval.

    Attributes:
        watched: by session id; sessions without a measurable sandbox are not in it.
    """

    def __init__(
        self,
        settings: Settings,
        registry: SessionRegistry,
        provider: MeasuringProvider | None,
        records: Records,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._provider = provider
        self._records = records
        self.watched: dict[str, Watched] = {}
        self._alerts_of_all = frozenset[str]()

    async def run(self) -> None:
        """Look, for ever; what goes wrong with one session is logged and is no other's business."""
        interval = self._settings.monitor_interval
        while True:
            self._look_at_all()
            sessions = list(self._registry)
            if self.watched:
                known = {session.id for session in sessions}
                self.watched = {each: state for each, state in self.watched.items() if each in known}
            began = trio.current_time()
            turns = max(1, min(len(sessions), int(interval / TURN)))
            for turn in range(turns):
                await trio.sleep_until(began + interval * (turn + 1) / turns)
                for session in sessions[turn::turns]:
                    if session.was_ready and session.ended is None:
                        await self.look(session)
                        if session.id in self.watched:  # it took a while: let keys come in between
                            await trio.lowlevel.checkpoint()
            self._records.stamp()

    def _look_at_all(self) -> None:
        """Tell operators, once, when all sessions together come near what they may use."""
        known = self._provider.usage_of_all() if self._provider else None
        if known is None:
            return
        usage, budget = known
        near = near_limits(usage, self._settings.alert_percent, budget)
        for kind in near - self._alerts_of_all:
            metrics.resource_alerts.labels(f"{kind} of all").inc()
            log.warning("all sessions together are near a limit", resource=kind)
        self._alerts_of_all = near

    async def look(self, session: Session) -> None:
        """Look at one session, tell what is to be told, and do what is to be done."""
        usage = self._provider.usage(session.id) if self._provider else None
        self._records.note(session)
        if usage is None:
            return
        session.facts.peak_memory = max(usage.peak_memory, session.facts.peak_memory or 0)
        now = trio.current_time()
        before = self.watched.get(session.id)
        if before is None:
            zero = attrs.evolve(usage, oom_kills=0, pids_denied=0)
            # Slowed down already, when another process did that and handed the session over.
            throttled = 0 < usage.cpus < 0.99 * session.settings.cpu_limit
            before = self.watched[session.id] = Watched(zero, now, throttled=throttled)
        violations = violated(before.usage, usage)
        if now > before.at:
            before.cpu_percent = 100 * (usage.cpu_seconds - before.usage.cpu_seconds) / (now - before.at)
        before.usage, before.at = usage, now
        self._alert(session, before)
        for kind in violations:
            metrics.resource_violations.labels(kind).inc()
            audit_limited(f"limit hit: {kind}", "warning", session.label, now, session=session.label)
            text = _TOLD[kind].format(
                memory=session.settings.memory_limit >> 20, pids=session.settings.pids_limit
            )
            session.tell_notice(text)
        before.strikes = before.strikes + 1 if violations else max(0, before.strikes - 1)
        before.calm = 0 if violations else before.calm + 1
        if violations:
            await self._act(session, before)
        elif before.throttled and reached(before.calm, self._settings.lift_after):
            await self._lift(session, before)

    def _alert(self, session: Session, state: Watched) -> None:
        limits = session.settings
        budget = Budget(state.usage.memory_limit, limits.cpu_limit, limits.pids_limit)
        near = near_limits(state.usage, self._settings.alert_percent, budget, state.cpu_percent)
        for kind in near - state.alerts:
            metrics.resource_alerts.labels(kind).inc()
            log.warning("near a limit", session=session.label, resource=kind)
        state.alerts = near

    async def _act(self, session: Session, state: Watched) -> None:
        settings = self._settings
        if reached(state.strikes, settings.end_after):
            audit("session ended for its use of resources", "warning", session=session.label)
            session.end(EndReason.RESOURCES)
        elif reached(state.strikes, settings.throttle_after) and not state.throttled and self._provider:
            if await self._throttle(session, THROTTLED_TO):
                state.throttled = True
                audit("session slowed down", "warning", session=session.label)
                session.tell_notice("This session hits its limits again and again, and has been slowed down.")
        elif state.strikes == settings.warn_after:
            session.tell_notice("If it goes on like this, the session will be slowed down and then ended.")

    async def _lift(self, session: Session, state: Watched) -> None:
        if await self._throttle(session, 1):
            state.throttled = False
            audit("session no longer slowed down", "info", session=session.label)
            session.tell_notice("This session keeps within its limits, and is no longer slowed down.")

    async def _throttle(self, session: Session, part: float) -> bool:
        assert self._provider is not None
        try:
            await self._provider.throttle(session.id, part)
        except SandboxError as error:
            log.warning(
                "a session's CPU limit could not be changed", session=session.label, problem=str(error)
            )
            return False
        return True


def reached(strikes: int, threshold: int) -> bool:
    """Return whether there are so many strikes; a threshold of 0 is never reached."""
    return 0 < threshold <= strikes


def violated(before: Usage, now: Usage) -> list[str]:
    """Return the limits that were hit between two readings."""
    hit: list[str] = []
    if now.oom_kills > before.oom_kills:
        hit.append("oom")
    if now.pids_denied > before.pids_denied:
        hit.append("pids")
    return hit


def near_limits(usage: Usage, percent: float, budget: Budget, cpu_percent: float = 0) -> frozenset[str]:
    """Return the resources of which `percent` or more of the limit is in use."""
    parts = {
        "memory": usage.memory / budget.memory if budget.memory else 0,
        "cpu": cpu_percent / (100 * budget.cpus) if budget.cpus else 0,
        "pids": usage.pids / budget.pids if budget.pids else 0,
    }
    return frozenset(kind for kind, part in parts.items() if 100 * part >= percent)
