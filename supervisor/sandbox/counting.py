"""Whether a session's commands are counted: the restricted shell says what it starts, over a lifeline.

Any other program gets neither the descriptor nor the variable that names it (docs/gate.md): it would not know
what to do with them, and hand them on to all that it starts.
"""

from pathlib import PurePosixPath
from typing import Final

from supervisor.observability.log import get_logger
from supervisor.settings import Settings

_log = get_logger("sandbox")

SHELL: Final = "restricted-shell"


def why_uncounted(provider: str, transport: str, command: tuple[str, ...]) -> str:
    """Return why nobody can count what a session's `command` starts; empty where it is counted.

    Args:
        provider, transport: by their names in the settings.
        command: argument vector of the session's first program.
    """
    if provider == "local":
        return "provider local has no restricted shell"
    if transport != "lifeline":
        return f"on SANDBOX_TRANSPORT={transport} the shell has no way to say what it starts"
    if PurePosixPath(command[0]).name != SHELL:
        return f"only the restricted shell says what it starts, and sessions run {command[0]}"
    return ""


def warn_if_uncounted(settings: Settings, command: tuple[str, ...]) -> None:
    """Tell operators of a limit that cannot hold for sessions that run `command`."""
    why = why_uncounted(settings.provider, settings.transport, command)
    if settings.command_rate and why:
        _log.warning("MAX_COMMANDS_PER_MINUTE has no effect: commands are not counted", why=why)
