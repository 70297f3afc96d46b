"""Where supervisors keep what is on this host besides containers: directories that are one user's alone, so
that what is in them can be believed, and removed.
"""

import os
import stat
from pathlib import Path
from typing import Final

from supervisor.errors import ConfigurationError

LIFELINES: Final = "lifeline"
"""Of the directories of instances (`supervisor.reaping.directories`)."""
OPERATORS: Final = "admin"
"""Of the sockets of operators' listeners."""


def place(name: str) -> Path:
    """Return this user's directory `name`, which need not be there: in `/run/terminal-supervisor` for root,
    else in `XDG_RUNTIME_DIR`, else in /tmp, with the user's id.
    """
    user, runtime = os.geteuid(), os.environ.get("XDG_RUNTIME_DIR", "")
    if user == 0:
        return Path("/run/terminal-supervisor") / name
    if runtime:
        return Path(runtime) / "terminal-supervisor" / name
    # Whoever is refused one of these names by somebody else's file is told so: see `require_private`.
    mark = "" if name == LIFELINES else f"{name}-"
    return Path(f"/tmp/terminal-supervisor-{mark}{user}")  # noqa: S108


def open_place(name: str) -> Path:
    """Return this user's directory `name`, made when missing, mode 0700.

    Raises:
        ConfigurationError: it cannot be made, or somebody else could reach into it.
    """
    directory = place(name)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the directory {directory}: {error}") from error
    require_private(directory)
    return directory


def private(name: str) -> list[Path]:
    """Return this user's directory `name` if it is there and nobody else could have put anything into it."""
    try:
        require_private(directory := place(name))
    except ConfigurationError:
        return []
    return [directory]


def require_private(directory: Path) -> None:
    """Check that `directory` is one (no link), belongs to this process's user and is closed to all others.

    Raises:
        ConfigurationError: it is not so; the text says what to do.
    """
    try:
        status = directory.lstat()
    except OSError as error:
        raise ConfigurationError(f"no directory that is this user's alone: {error}") from error
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o077:
        raise ConfigurationError(
            f"{directory} must be a directory of user {os.geteuid()} with mode 0700, and is "
            f"{stat.filemode(status.st_mode)} of user {status.st_uid}: remove it, or correct owner and mode"
        )
