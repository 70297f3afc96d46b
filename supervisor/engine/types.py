"""Shapes of what goes to the engine and comes from it."""

import enum
from collections.abc import AsyncIterable
from typing import Any, Final, Protocol, TypedDict, runtime_checkable


class Sentinel(enum.Enum):
    """The one value that means "not given" where None has a meaning of its own (no deadline)."""

    TOKEN = enum.auto()


SENTINEL: Final = Sentinel.TOKEN

Timeout = float | None | Sentinel
"""Seconds that a call may take in all; None: no bound; SENTINEL: what the client or the call has as its
default.
"""

JSON = dict[str, Any]
"""A JSON object whose fields depend on engine and version."""


@runtime_checkable
class SupportsRead(Protocol):
    """A file opened for reading bytes."""

    def read(self, length: int = ..., /) -> bytes:
        """Return up to `length` bytes, b"" at the end."""
        ...


Body = bytes | bytearray | memoryview | SupportsRead | AsyncIterable[bytes]
"""What can be uploaded: bytes, a file (read in a thread, piece by piece) or an async iterable of bytes."""


class PortInfo(TypedDict):
    """Where a container's port is published on the host."""

    HostIp: str
    HostPort: str
