"""Where the admin listener is: `ADMIN_LISTEN`, for those who listen and for those who ask."""

import ipaddress
from pathlib import Path
from typing import Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.reaping.places import OPERATORS, open_place
from supervisor.reaping.sockets import remove_dead_sockets
from supervisor.settings import Settings

AUTO: Final = "auto"
NONE: Final = "none"


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
    directory = open_place(OPERATORS)
    remove_dead_sockets(directory)
    return directory
