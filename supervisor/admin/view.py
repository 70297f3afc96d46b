"""What the operator's side may look at and do: one value, made where the supervisor is put together."""

import time
from collections.abc import Iterator

import attrs

from supervisor.gateway.server import Gateway
from supervisor.protocol.closing import EndReason
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.session.monitor import ResourceMonitor, Watched
from supervisor.session.record import recording_facts
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings


@attrs.frozen
class View:
    """A running supervisor, as its operator sees it.

    Attributes:
        started_at: when, by CLOCK_MONOTONIC.
    """

    settings: Settings
    provider: SandboxProvider
    registry: SessionRegistry
    gateway: Gateway
    monitor: ResourceMonitor
    started_at: float = attrs.field(factory=time.monotonic)

    @property
    def pool(self) -> WarmPool | None:
        """The warm pool, where there is one."""
        return self.provider if isinstance(self.provider, WarmPool) else None

    @property
    def docker(self) -> DockerProvider | None:
        """The provider of containers, where sessions run in containers."""
        inner = self.pool.provider if self.pool else self.provider
        return inner if isinstance(inner, DockerProvider) else None

    @property
    def reconciler(self) -> Reconciler | None:
        """What looks for left-over containers, where sessions run in containers."""
        return self.docker.reconciler if self.docker else None

    def find(self, digest: str) -> Session | None:
        """Return the live session that operators call `digest`."""
        return next((each for each in self.registry if each.label == digest), None)

    def end(self, digest: str) -> bool:
        """End a session on behalf of the operator; return whether there is one."""
        session = self.find(digest)
        if session is not None:
            session.end(EndReason.ENDED)
        return session is not None

    def sessions(self) -> Iterator[dict[str, object]]:
        """Return what is to be told about each session."""
        for session in self.registry:
            numbers = session.statistics()
            yield {
                "id": session.label,
                "kind": session.visitor.standing,
                "state": numbers.state.name.lower(),
                "age_seconds": round(numbers.age, 3),
                "idle_seconds": round(numbers.idle, 3),
                "writers": numbers.writers,
                "viewers": numbers.viewers,
                "input_bytes": numbers.input_bytes,
                "output_bytes": numbers.output_bytes,
                "commands": numbers.commands,
                "scrollback_bytes": session.scrollback.end - session.scrollback.start,
                "usage": _usage(self.monitor.watched.get(session.id)),
                "container": session.facts.container or None,
                "recording": recording_facts(session).get("recording"),
            }

    def statistics(self) -> dict[str, object]:
        """Return the numbers of the whole supervisor."""
        sessions = [session.statistics() for session in self.registry]
        return {
            "provider": self.provider.name,
            "isolated": self.provider.isolated,
            "security": self.provider.security.as_json(),
            "uptime_seconds": round(time.monotonic() - self.started_at, 3),
            "sessions": {
                "open": len(sessions),
                "limit": self.settings.max_sessions,
                "viewers": sum(each.viewers + each.writers for each in sessions),
            },
            "connections": {"open": self.gateway.connections, "limit": self.settings.max_connections},
            "pool": {**attrs.asdict(self.pool.statistics()), **_pool_usage(self.pool)} if self.pool else None,
            "cleanup": attrs.asdict(self.docker.containers.pending.statistics()) if self.docker else None,
            "containers": dict(self.reconciler.states) if self.reconciler else None,
        }


def _pool_usage(pool: WarmPool) -> dict[str, object]:
    usages = pool.usages()
    return {
        "memory_bytes": sum(usage.memory for usage in usages),
        "memory_limit_bytes": sum(usage.memory_limit for usage in usages),
        "cpu_seconds": round(sum(usage.cpu_seconds for usage in usages), 3),
    }


def _usage(watched: Watched | None) -> dict[str, object] | None:
    if watched is None:
        return None
    usage = watched.usage
    return {
        "memory_bytes": usage.memory,
        "peak_memory_bytes": usage.peak_memory,
        "cpu_percent": round(watched.cpu_percent, 1),
        "cpu_seconds": round(usage.cpu_seconds, 3),
        "pids": usage.pids,
        "received_bytes": usage.received,
        "sent_bytes": usage.sent,
        "oom_kills": usage.oom_kills,
        "pids_denied": usage.pids_denied,
        "strikes": watched.strikes,
        "throttled": watched.throttled,
    }
