"""Errors by whose fault they are, and so by what to do about them.

Few classes, each with a sentence that may be shown to the person who caused it. `supervisor.protocol.closing`
has the one table that maps them to WebSocket close codes and metric labels. Errors of the engine client live
in `supervisor.engine`.
"""

from collections.abc import Iterable


class SupervisorError(Exception):
    """Base of all errors that this package raises on purpose."""


class ConfigurationError(SupervisorError):
    """The operator's fault: a setting, a file or this host is not as it must be. The text says what to do."""


class MeasureError(ConfigurationError):
    """A measure of hardening was tried here and does not hold. `measures` names those that are known to be
    to blame; empty: it cannot be told from what failed.
    """

    def __init__(self, message: str, measures: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.measures = frozenset(measures)


class PeerError(SupervisorError):
    """The client's fault: what it sent breaks the protocol or a limit. The connection ends, its session may
    go on."""


class SessionRefusedError(SupervisorError):
    """The client may not have a session (now). `reason` names the row of the closing table that says so to
    the client."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class SandboxError(SupervisorError):
    """Our side's fault: a sandbox could not be started, or broke. What is left of it is being cleaned up."""


class HardeningError(SandboxError):
    """A sandbox is not what the policy asks for. It has been ended; nobody gets a prompt in it. `measures`
    are as those of `MeasureError`.
    """

    def __init__(self, message: str, measures: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.measures = frozenset(measures)
