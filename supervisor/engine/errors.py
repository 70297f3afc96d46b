"""What can go wrong between a program and its engine, as few classes by what to do about it.

`DockerError` is the root, as in aiodocker: `status` is the HTTP status of the engine's answer, 900 when there
    is no answer
because no connection could be made or kept, 0 when the trouble is not an HTTP answer at all.
"""

from collections.abc import Mapping
from typing import Any

NO_CONNECTION = 900
"""The status that stands for "the engine could not be asked" (aiodocker's number)."""


class DockerError(Exception):
    """The engine refused a request, or could not be asked.

    Attributes:
        status: HTTP status of the answer; 900 and 0 as the module says.
        message: the engine's own sentence where it gave one.
    """

    def __init__(self, status: int, message: str, *args: Any) -> None:
        super().__init__(message, *args)
        self.status = status
        self.message = message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status}, {self.message!r})"

    def __str__(self) -> str:
        return f"[{self.status}] {self.message}"


class DockerConnectionError(DockerError):
    """No connection to the engine, or it broke, or what came over it is not HTTP. Whether the request was
    obeyed is unknown.
    """

    def __init__(self, message: str) -> None:
        super().__init__(NO_CONNECTION, message)


class DockerUnreachableError(DockerConnectionError):
    """No connection to the engine could be made: it has heard nothing of the request."""


class DockerTimeoutError(DockerError, TimeoutError):
    """The call's deadline passed. Whether the engine obeys (or obeyed) the request is unknown."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)


class DockerContainerError(DockerError):
    """A container could be created but not started.

    Attributes:
        container_id: id of that container.
    """

    def __init__(self, status: int, message: str, container_id: str, *args: Any) -> None:
        super().__init__(status, message, *args)
        self.container_id = container_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status}, {self.message!r}, {self.container_id!r})"

    def __str__(self) -> str:
        return f"[{self.status}] {self.message} (container: {self.container_id})"


class DockerStreamError(DockerError):
    """A pull, push, build or import failed after the engine had answered 200: one of its progress lines says
    so.

    Attributes:
        error_detail: the line's `errorDetail`, {} without one.
    """

    def __init__(
        self, message: str, *, error_detail: Mapping[str, Any] | None = None, status: int = 0
    ) -> None:
        super().__init__(status, message)
        self.error_detail: dict[str, Any] = dict(error_detail or {})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, error_detail={self.error_detail!r})"


class DockerContextError(DockerError):
    """A Docker context (`~/.docker/contexts`) cannot be used.

    Attributes:
        context_name: its name, None when not even that is known.
    """

    def __init__(self, message: str, context_name: str | None = None) -> None:
        super().__init__(0, message)
        self.context_name = context_name

    def __repr__(self) -> str:
        context = f", context={self.context_name!r}" if self.context_name else ""
        return f"{type(self).__name__}({self.message!r}{context})"

    def __str__(self) -> str:
        return f"{self.message} (context: {self.context_name})" if self.context_name else self.message


class DockerContextInvalidError(DockerContextError):
    """The context's files are missing, or not what they must be."""


class DockerContextTLSError(DockerContextError):
    """The context's certificates or key cannot be read or used."""
