"""A Docker Engine client for Trio, named and shaped as aiodocker, over httpx. It knows nothing of the rest of
this project.

    async with Docker() as docker:
        container = await docker.containers.create({"Image": "debian", "Cmd": ["true"]}, name="example")

See docs/engine.md.
"""

from supervisor.engine.container import DockerContainer
from supervisor.engine.containers import DockerContainers
from supervisor.engine.docker import Docker
from supervisor.engine.errors import (
    DockerConnectionError,
    DockerContainerError,
    DockerContextError,
    DockerContextInvalidError,
    DockerContextTLSError,
    DockerError,
    DockerStreamError,
    DockerTimeoutError,
    DockerUnreachableError,
)
from supervisor.engine.events import DockerEvents, EventSubscription
from supervisor.engine.execs import Exec
from supervisor.engine.images import DockerImages
from supervisor.engine.logs import DockerLog, LogStream
from supervisor.engine.networks import DockerNetwork, DockerNetworks
from supervisor.engine.progress import JSONStream
from supervisor.engine.stream import Message, Stream
from supervisor.engine.system import DockerSystem
from supervisor.engine.transport import EngineTransport
from supervisor.engine.volumes import DockerVolume, DockerVolumes

__all__ = [
    "Docker",
    "DockerConnectionError",
    "DockerContainer",
    "DockerContainerError",
    "DockerContainers",
    "DockerContextError",
    "DockerContextInvalidError",
    "DockerContextTLSError",
    "DockerError",
    "DockerEvents",
    "DockerImages",
    "DockerLog",
    "DockerNetwork",
    "DockerNetworks",
    "DockerStreamError",
    "DockerSystem",
    "DockerTimeoutError",
    "DockerUnreachableError",
    "DockerVolume",
    "DockerVolumes",
    "EngineTransport",
    "EventSubscription",
    "Exec",
    "JSONStream",
    "LogStream",
    "Message",
    "Stream",
]
