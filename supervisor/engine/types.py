"""Shapes of what goes to the engine and comes from it."""

import enum
from collections.abc import AsyncIterable
from typing import Any, Final, NotRequired, Protocol, Required, TypedDict, runtime_checkable


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


class Version(TypedDict):
    """`GET /version`."""

    Version: str
    ApiVersion: str
    MinAPIVersion: str
    GitCommit: str
    GoVersion: str
    Os: str
    Arch: str
    KernelVersion: NotRequired[str]
    BuildTime: NotRequired[str]
    Experimental: NotRequired[bool]
    Platform: NotRequired[JSON]
    Components: NotRequired[list[JSON]]


class AuthResult(TypedDict):
    """`POST /auth`."""

    Status: str
    IdentityToken: NotRequired[str]


class WaitError(TypedDict):
    """Why waiting failed."""

    Message: str


class WaitResult(TypedDict):
    """`POST /containers/{id}/wait`: how a container ended."""

    StatusCode: int
    Error: NotRequired[WaitError | None]


class TopResult(TypedDict):
    """`GET /containers/{id}/top`: the columns and rows of `ps`."""

    Titles: list[str]
    Processes: list[list[str]]


class IdResult(TypedDict):
    """An answer that is the id of something new."""

    Id: str


class ContainersPruned(TypedDict):
    """`POST /containers/prune`. Sizes are bytes."""

    ContainersDeleted: list[str] | None
    SpaceReclaimed: int


class NetworksPruned(TypedDict):
    """`POST /networks/prune`."""

    NetworksDeleted: list[str] | None


class VolumesPruned(TypedDict):
    """`POST /volumes/prune`. Sizes are bytes."""

    VolumesDeleted: list[str] | None
    SpaceReclaimed: int


class ImageDeleted(TypedDict, total=False):
    """One thing that deleting an image did: a name was taken, or a layer removed."""

    Untagged: str
    Deleted: str


class ImagesPruned(TypedDict):
    """`POST /images/prune`. Sizes are bytes."""

    ImagesDeleted: list[ImageDeleted] | None
    SpaceReclaimed: int


class BuildsPruned(TypedDict):
    """`POST /build/prune`. Sizes are bytes."""

    CachesDeleted: list[str] | None
    SpaceReclaimed: int


class ImageSummary(TypedDict):
    """One of `GET /images/json`. Sizes are bytes, `Created` is Unix time."""

    Id: str
    ParentId: str
    RepoTags: list[str] | None
    RepoDigests: list[str] | None
    Created: int
    Size: int
    SharedSize: int
    Containers: int
    Labels: dict[str, str] | None
    VirtualSize: NotRequired[int]
    Manifests: NotRequired[list[JSON]]


class ImageLayer(TypedDict):
    """One of `GET /images/{name}/history`. Sizes are bytes, `Created` is Unix time."""

    Id: str
    Created: int
    CreatedBy: str
    Tags: list[str] | None
    Size: int
    Comment: str


class Volume(TypedDict):
    """`GET /volumes/{name}`."""

    Name: str
    Driver: str
    Mountpoint: str
    Labels: dict[str, str] | None
    Scope: str
    Options: dict[str, str] | None
    CreatedAt: NotRequired[str]
    Status: NotRequired[JSON]
    UsageData: NotRequired[JSON | None]


class VolumeList(TypedDict):
    """`GET /volumes`."""

    Volumes: list[Volume] | None
    Warnings: list[str] | None


class ExecState(TypedDict):
    """`GET /exec/{id}/json`. `ExitCode` is None while it runs."""

    ID: str
    Running: bool
    ExitCode: int | None
    Pid: int
    ContainerID: str
    CanRemove: bool
    DetachKeys: str
    OpenStdin: bool
    OpenStdout: bool
    OpenStderr: bool
    ProcessConfig: JSON


class EventActor(TypedDict):
    """What an event is about: the object's id, and its labels and the like."""

    ID: str
    Attributes: dict[str, str]


class Event(TypedDict, total=False):
    """One of `GET /events`. `time` is Unix time, `timeNano` the same in nanoseconds."""

    Type: Required[str]
    Action: Required[str]
    Actor: EventActor
    scope: str
    time: int
    timeNano: int
