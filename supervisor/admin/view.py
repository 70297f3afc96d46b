"""What the operator's side may look at and do: one value, made where the supervisor is put together."""

import hashlib
import time
from collections.abc import Iterator

import attrs

from supervisor.gateway.server import Gateway
from supervisor.protocol.closing import EndReason
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.docker import DockerProvider, Sandbox
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings


def session_digest(session_id: str) -> str:
    """Return what operators call a session: 64 bits of its id's SHA-256. The id itself is half of what a
    resume takes, so it is shown nowhere.
    """
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


@attrs.frozen
class View:
    """A running supervisor, as its operator sees it.

    Attributes:
        started_at: seconds since the epoch.
    """

    settings: Settings
    provider: SandboxProvider
    registry: SessionRegistry
    gateway: Gateway
    started_at: float = attrs.field(factory=time.time)

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

    def sandbox_of(self, session: Session) -> Sandbox | None:
        """Return the container of a session that has one now."""
        return self.docker.occupied.get(session.id) if self.docker else None

    def find(self, digest: str) -> Session | None:
        """Return the live session with that digest (`session_digest`)."""
        return next((each for each in self.registry if session_digest(each.id) == digest), None)

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
            sandbox = self.sandbox_of(session)
            yield {
                "id": session_digest(session.id),
                "label": session.label,
                "state": numbers.state.name.lower(),
                "age_seconds": round(numbers.age, 3),
                "idle_seconds": round(numbers.idle, 3),
                "writers": numbers.writers,
                "viewers": numbers.viewers,
                "input_bytes": numbers.input_bytes,
                "output_bytes": numbers.output_bytes,
                "scrollback_bytes": session.scrollback.end - session.scrollback.start,
                "container": sandbox.name if sandbox else None,
            }

    def statistics(self) -> dict[str, object]:
        """Return the numbers of the whole supervisor."""
        sessions = [session.statistics() for session in self.registry]
        return {
            "provider": self.provider.name,
            "isolated": self.provider.isolated,
            "security": self.provider.security.as_json(),
            "uptime_seconds": round(time.time() - self.started_at, 3),
            "sessions": {
                "open": len(sessions),
                "limit": self.settings.max_sessions,
                "viewers": sum(each.viewers + each.writers for each in sessions),
            },
            "connections": {"open": self.gateway.connections, "limit": self.settings.max_connections},
            "pool": attrs.asdict(self.pool.statistics()) if self.pool else None,
            "cleanup": attrs.asdict(self.docker.containers.pending.statistics()) if self.docker else None,
            "containers": dict(self.reconciler.states) if self.reconciler else None,
        }
