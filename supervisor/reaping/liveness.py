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

    Args:
        instance: whose name.
        inherited: descriptor that holds it already, from the process that held it before; owned from now on.

    Raises:
        OSError: the instance is alive already, `EADDRINUSE`.
    """

    def __init__(self, instance: str, inherited: int | None = None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=inherited)
        if inherited is not None:
            return
        try:
            self._socket.bind(_address(instance))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that holds the name: another process that has it holds the name as well."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the name back, unless another process holds it as well."""
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
