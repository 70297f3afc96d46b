"""A hardened terminal in the browser: one container per visitor, gone when the visitor is.

To serve inside one's own Trio program:

    async with open_provider(settings) as provider, running(settings, provider, admit=admit) as supervisor:
        ...

The names below are the interface for that; they are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.errors import ConfigurationError, SandboxError, SessionRefusedError, SupervisorError
    from supervisor.gateway.house import AdmissionHook, Applicant
    from supervisor.sandbox.providers import open_provider
    from supervisor.serve import Supervisor, running
    from supervisor.session.registry import SessionWatcher
    from supervisor.session.session import Session
    from supervisor.settings import Settings
    from supervisor.settings.load import load_settings

__version__ = "0.1.0"

__all__ = [
    "AdmissionHook",
    "Applicant",
    "ConfigurationError",
    "SandboxError",
    "Session",
    "SessionRefusedError",
    "SessionWatcher",
    "Settings",
    "Supervisor",
    "SupervisorError",
    "__version__",
    "load_settings",
    "open_provider",
    "running",
]

_HOMES = {
    "supervisor.errors": ("ConfigurationError", "SandboxError", "SessionRefusedError", "SupervisorError"),
    "supervisor.gateway.house": ("AdmissionHook", "Applicant"),
    "supervisor.sandbox.providers": ("open_provider",),
    "supervisor.serve": ("Supervisor", "running"),
    "supervisor.session.registry": ("SessionWatcher",),
    "supervisor.session.session": ("Session",),
    "supervisor.settings": ("Settings",),
    "supervisor.settings.load": ("load_settings",),
}


def __getattr__(name: str) -> Any:
    # Not at import: parts of this package run where little else may be loaded.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
