"""Where the two processes meet: a socket in the running server's own directory, which nobody else can reach.

The directory has mode 0700 and goes with its instance, however that ends; so there is no name that outlives
its server. The port is in the socket's name, for that is what tells the servers of one host from one another.
"""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from supervisor.handover.channel import Channel, HandoverError
from supervisor.reaping.directories import PREFIX
from supervisor.reaping.estate import Estate

_BACKLOG = 4


def _name(port: int) -> str:
    return f"handover-{port}"


@contextmanager
def meeting_point(estate: Estate, port: int, inherited: socket.socket | None) -> Generator[socket.socket]:
    """Listen for whoever wants to take over the server at `port`; `inherited` listens there already, and is
    owned."""
    path = estate.directory / _name(port)
    with inherited or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listener:
        if inherited is None:
            listener.bind(os.fspath(path))
            listener.listen(_BACKLOG)
        try:
            yield listener
        finally:
            if not estate.shared:
                path.unlink(missing_ok=True)


def meet(parent: Path, port: int) -> Channel:
    """Return the conversation with the server at `port`.

    Args:
        parent: of all instances' directories.
        port: where that server listens.

    Raises:
        HandoverError: there is none, or there are several.
    """
    found: list[socket.socket] = []
    for path in sorted(parent.glob(f"{PREFIX}*/{_name(port)}")):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            connection.close()  # its server has died, or belongs to another network namespace and is stopped
        else:
            found.append(connection)
    if len(found) == 1:
        channel = Channel(found[0])
        try:
            channel.require_same_user()
        except BaseException:
            channel.close()
            raise
        return channel
    for connection in found:
        connection.close()
    if found:
        raise HandoverError(
            f"{len(found)} servers of this user listen at port {port}, at different addresses"
        )
    raise HandoverError(
        f"no server of this user listens at port {port}: start one without --takeover, or say with --port "
        "where it is"
    )
