"""What the kernel tells over netlink(7) sockets to whoever listens, as far as all such sockets are alike.

It is told once. Who does not read fast enough loses what did not fit into the socket's buffer, hears of that
by ENOBUFS, and goes on: here a record more or less does not matter.
"""

import errno
import socket

import trio

LARGEST_MESSAGE = 65536


def open_netlink(protocol: int, groups: int = 0) -> socket.socket:
    """Return a socket of a protocol of netlink's, that blocks.

    Args:
        protocol: its number (`NETLINK_…` in linux/netlink.h).
        groups: multicast groups to hear, as bits.

    Raises:
        OSError: the kernel has no such protocol, or this process may not listen to these groups.
    """
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        made.bind((0, groups))
    except BaseException:
        made.close()
        raise
    return made


async def next_datagram(listening: trio.socket.SocketType) -> bytes:
    """Return the next one that was not lost."""
    while True:
        try:
            return await listening.recv(LARGEST_MESSAGE)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
