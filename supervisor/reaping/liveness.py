"""Whether another supervisor on this host is alive.

A supervisor holds an abstract unix socket whose name is its instance id, for as long as it lives; the kernel
takes the name back the moment it dies, however it dies. Nothing is left on disk, and users need no common
directory. Abstract names belong to a network namespace (unix(7)), so a claim about an instance is only
possible from within its own; containers carry that namespace as a label.
"""

import errno
import socket
from types import TracebackType
from typing import Self


def _address(instance: str) -> bytes:
    return b"\0terminal-supervisor/" + instance.encode()


class Liveness:
    """The name of a living instance, held until closed. Close-on-exec: no child keeps a dead supervisor
    alive.

    Raises:
        OSError: the instance is alive already, `EADDRINUSE`.
    """

    def __init__(self, instance: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(_address(instance))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_alive(instance: str) -> bool:
    """Whether a process in this network namespace holds `instance`."""
    try:
        Liveness(instance).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise
    return False
