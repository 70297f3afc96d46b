"""The measures of hardening by name, and what a supervisor knows about each of them.

A measure is required unless an opt-out names it (`HARDENING_WITHOUT`), is applied when the engine or the gate
was asked for it and took it, and is verified when something other than the asking has shown that it holds. A
leaf: settings, sandbox, gateway and observability all speak of measures.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs


class Measure(StrEnum):
    """A measure of hardening, by the name that settings, logs, pages and metrics use."""

    SECCOMP = "seccomp"
    APPARMOR = "apparmor"
    USERNS = "userns"
    LANDLOCK = "landlock"
    SESSION_UID = "session-uid"
    EGRESS = "egress"
    ISOLATION = "isolation"
    CAPABILITIES = "capabilities"
    NO_NEW_PRIVILEGES = "no-new-privileges"
    READ_ONLY = "read-only"
    TMPFS = "tmpfs"
    LIMITS = "limits"
    NAMESPACES = "namespaces"

    @property
    def sentence(self) -> str:
        """What it does, for people."""
        return _SENTENCES[self]


_SENTENCES: Final = {
    Measure.SECCOMP: "system calls on an allow list",
    Measure.APPARMOR: "files and programs on an allow list, by profile",
    Measure.USERNS: "a container's users are others on the host",
    Measure.LANDLOCK: "a session gives up for itself what it does not need",
    Measure.SESSION_UID: "each session a user id of its own",
    Measure.EGRESS: "packets only to listed names and ports",
    Measure.ISOLATION: "sessions cannot reach one another",
    Measure.CAPABILITIES: "no capability in any set",
    Measure.NO_NEW_PRIVILEGES: "no program gives rights",
    Measure.READ_ONLY: "read-only root file system",
    Measure.TMPFS: "what can be written is small and never executed",
    Measure.LIMITS: "memory, CPU, processes, files",
    Measure.NAMESPACES: "processes, network, mounts, IPC, names of its own",
}

OPTIONAL: Final = (
    Measure.SECCOMP,
    Measure.APPARMOR,
    Measure.USERNS,
    Measure.LANDLOCK,
    Measure.SESSION_UID,
    Measure.EGRESS,
    Measure.ISOLATION,
)
"""What depends on the host and may be gone without, by name. Every engine can do the others, so there is no
way to switch them off."""


def parse_opt_outs(names: Iterable[str]) -> frozenset[Measure]:
    """Return the measures that `names` go without.

    Raises:
        ValueError: a name is unknown, or that of a measure that cannot be gone without.
    """
    known = {str(measure): measure for measure in OPTIONAL}
    wrong = sorted(set(names) - known.keys())
    if wrong:
        raise ValueError(
            f"no measure that can be gone without: {', '.join(wrong)}; there are {', '.join(known)}"
        )
    return frozenset(known[name] for name in names)


NETWORK: Final = (Measure.EGRESS, Measure.ISOLATION)
"""What makes the sessions' network one for sessions."""


@attrs.frozen
class MeasureStatus:
    """One measure, as it stands.

    Attributes:
        measure: which.
        required: no opt-out names it.
        applied: asked for, and taken.
        verified: by what it was seen to hold (`engine`, `inside`, `host`, `packets`, ...), in this order;
            empty: nothing has shown it.
        how: what was asked for and what was seen; or why it is not applied, and how to get it.
        covered: the runtime brings a kernel of its own, on which it has no use; `how` says what stands in its
            place, and `verified` by what that was seen.
    """

    measure: Measure
    required: bool
    applied: bool
    verified: tuple[str, ...]
    how: str
    covered: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is in force, as far as anybody knows."""
        return self.applied and bool(self.verified)

    @property
    def fails(self) -> bool:
        """Whether it is required, and neither in force nor is anything that was seen in its place."""
        return self.required and not self.holds and not (self.covered and self.verified)


@attrs.frozen
class SecurityStatus:
    """What hardening the sessions of this process have.

    Attributes:
        initialized: all that is required was verified before the first session.
        measures: one status for each, as it is now, in the order of `Measure`; empty for a provider without
            isolation.
        without: names that the operator opted out of.
        seccomp_digest: SHA-256 of the seccomp profile, hexadecimal; empty without one.
        notes: what an operator should know besides.
        obstacles: what keeps sessions from starting here, whatever is gone without.
    """

    initialized: bool
    measures: tuple[MeasureStatus, ...] = ()
    without: tuple[str, ...] = ()
    seccomp_digest: str = ""
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()

    def holds(self, measure: Measure) -> bool:
        """Whether `measure` is in force."""
        return any(status.holds for status in self.measures if status.measure is measure)

    @property
    def failing(self) -> tuple[MeasureStatus, ...]:
        """What is required, and neither holds nor is covered."""
        return tuple(status for status in self.measures if status.fails)

    @property
    def network_ready(self) -> bool:
        """Whether those measures of the network that are required hold now; never without isolation, nor
        before the first proof.
        """
        failing = {status.measure for status in self.failing}
        return self.initialized and bool(self.measures) and failing.isdisjoint(NETWORK)

    def with_lost(self, lost: Mapping[Measure, str]) -> "SecurityStatus":
        """Return how things stand once nothing shows any more that the measures in `lost` hold.

        Args:
            lost: why, by measure; what is gone without cannot be lost.
        """
        if not lost:
            return self
        measures = tuple(
            attrs.evolve(status, verified=(), how=lost[status.measure])
            if status.verified and status.measure in lost
            else status
            for status in self.measures
        )
        return attrs.evolve(self, measures=measures)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is published: `/stats`, `check --json`."""
        return {
            "initialized": self.initialized,
            "seccompEnabled": self.holds(Measure.SECCOMP),
            "appArmorEnabled": self.holds(Measure.APPARMOR),
            "networkReady": self.network_ready,
            "without": list(self.without),
            "seccompDigest": self.seccomp_digest,
            "measures": {
                str(status.measure): {
                    "required": status.required,
                    "applied": status.applied,
                    "covered": status.covered,
                    "verified": list(status.verified),
                    "how": status.how,
                }
                for status in self.measures
            },
            "notes": list(self.notes),
            "obstacles": list(self.obstacles),
        }


NO_SECURITY: Final = SecurityStatus(initialized=False)
"""Of a provider without isolation."""
