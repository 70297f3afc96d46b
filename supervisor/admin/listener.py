"""The admin listener: Hypercorn on Trio, on a unix socket of this user or a loopback port.

Operators are few, and their requests pass through a server that many others use, too; the public port, which
must bear strangers, is another program (`supervisor.gateway`) and has none of this.
"""

import logging
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

import hypercorn.trio
import trio
from hypercorn.config import Config

from supervisor.admin.address import AdminAddress, admin_address
from supervisor.admin.app import AdminApp
from supervisor.admin.view import View
from supervisor.errors import ConfigurationError
from supervisor.observability.log import get_logger

log = get_logger(__name__)

_hypercorn = cast("Callable[..., Awaitable[None]]", hypercorn.trio.serve)  # pyright: ignore[reportUnknownMemberType]

BACKLOG: Final = 64
GRACE: Final = 1.0
"""Seconds that a request may go on for once the supervisor stops."""


@asynccontextmanager
async def administered(view: View) -> AsyncGenerator[AdminAddress | None]:
    """Serve the operator while the block runs; yields where, or None where `ADMIN_LISTEN` is `none`.

    Raises:
        ConfigurationError: that cannot be listened on.
    """
    address = admin_address(view.settings, view.gateway.house.port)
    if address is None:
        yield None
        return
    listener, inode = _listen(address)
    descriptor = listener.fileno()
    if address.path is None:
        address = AdminAddress(host=address.host, port=listener.getsockname()[1])
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.graceful_timeout = GRACE
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")  # whose warnings reach our own log
    config.keep_alive_timeout = 75.0
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(_hypercorn, AdminApp(view), config, mode="asgi"))
        os.set_inheritable(
            descriptor, False
        )  # Hypercorn would hand it to children, and ours must inherit nothing
        log.info("admin listener", address=str(address))
        try:
            yield address
        finally:
            if address.path is not None:
                _unlink(address.path, inode)
            nursery.cancel_scope.cancel()


def _listen(address: AdminAddress) -> tuple[socket.socket, int]:
    """Return a bound socket, and the inode of its name if it has one.

    A unix socket takes the place of whatever socket had its name: the newest supervisor of a port is the one
    that is meant.
    """
    try:
        if address.path is None:
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address.host, address.port))
            return listener, 0
        if address.path.exists() and not address.path.is_socket():
            raise ConfigurationError(f"ADMIN_LISTEN={address}: there is a file that is no socket")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh = address.path.with_name(f".{address.path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        before = os.umask(0o177)  # nobody else at any moment
        try:
            listener.bind(os.fspath(fresh))
        finally:
            os.umask(before)
        inode = fresh.stat().st_ino
        listener.listen(BACKLOG)  # nobody meets a name that does not answer
        fresh.rename(address.path)
    except OSError as error:
        raise ConfigurationError(f"ADMIN_LISTEN={address}: cannot listen there: {error}") from error
    return listener, inode


def _unlink(path: Path, inode: int) -> None:
    """Remove the socket's name, unless it is a successor's."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
