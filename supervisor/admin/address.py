"""Where the admin listener is: `ADMIN_LISTEN`, for those who listen and for those who ask."""

import errno
import ipaddress
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.sandbox.lifeline import require_private
from supervisor.settings import Settings

AUTO: Final = "auto"
NONE: Final = "none"
STALE_AFTER: Final = 10.0
"""Seconds between the making of a socket and the first look whether anybody listens: its maker may be about
to."""


@attrs.frozen
class AdminAddress:
    """A unix socket (`path`), or a TCP port on loopback (`host`, `port`)."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def admin_address(settings: Settings, port: int | None = None) -> AdminAddress | None:
    """Return where the admin listener of `settings` is, None when there shall be none.

    Args:
        settings: `admin_listen` and, for `auto`, the port that names the socket.
        port: that the gateway really listens on, when `PORT` is 0.

    Raises:
        ConfigurationError: it is none of the forms, not loopback, or a TCP port without a token.
    """
    text = settings.admin_listen
    if text == NONE:
        return None
    if text == AUTO:
        return AdminAddress(admin_directory() / f"{port or settings.port}.sock")
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise ConfigurationError(f"ADMIN_LISTEN={text}: the path must be absolute")
        return AdminAddress(path)
    host, _, number = text.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
        parsed = int(number)
    except ValueError:
        raise ConfigurationError(
            f"ADMIN_LISTEN={text}: must be auto, none, unix:/path or 127.0.0.1:port"
        ) from None
    if not loopback or not 0 <= parsed <= 65535:
        raise ConfigurationError(f"ADMIN_LISTEN={text}: must be a port (0 to 65535) of a loopback address")
    if not settings.admin_token:
        raise ConfigurationError(
            f"ADMIN_LISTEN={text}: all users of this host can reach a port; set ADMIN_TOKEN, or use unix:"
        )
    return AdminAddress(host=host, port=parsed)


def admin_directory() -> Path:
    """Return the directory of the sockets that `auto` means, made when missing, cleared of the sockets of
    supervisors that were killed: this user's alone.

    Raises:
        ConfigurationError: it cannot be made, or somebody else could reach into it.
    """
    user, runtime = os.geteuid(), os.environ.get("XDG_RUNTIME_DIR", "")
    if user == 0:
        directory = Path("/run/terminal-supervisor/admin")
    elif runtime:
        directory = Path(runtime) / "terminal-supervisor" / "admin"
    else:
        directory = Path(f"/tmp/terminal-supervisor-admin-{user}")  # noqa: S108 - refused below when not ours alone
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"ADMIN_LISTEN=auto: cannot make {directory}: {error}") from error
    require_private(directory)
    remove_dead_sockets(directory)
    return directory


def remove_dead_sockets(directory: Path) -> None:
    """Remove the sockets in `directory` at which nobody listens, and nobody is about to."""
    for path in directory.iterdir():
        with suppress(OSError), socket.socket(socket.AF_UNIX) as visitor:
            found = path.lstat()
            if not stat.S_ISSOCK(found.st_mode) or found.st_mtime > time.time() - STALE_AFTER:
                continue
            visitor.setblocking(False)
            refused = visitor.connect_ex(os.fspath(path)) == errno.ECONNREFUSED
            if refused and path.lstat().st_ino == found.st_ino:  # else a successor's has taken its place
                path.unlink()
