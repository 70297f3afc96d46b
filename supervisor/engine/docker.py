"""`Docker`: the client, and the way to everything else."""

import re
import ssl
from types import TracebackType
from typing import Any, Self, cast, final

import httpx

from supervisor.engine.address import Address, find
from supervisor.engine.api import DEFAULT_TIMEOUT, Api
from supervisor.engine.connection import Connection
from supervisor.engine.containers import DockerContainers
from supervisor.engine.events import DockerEvents
from supervisor.engine.images import DockerImages
from supervisor.engine.networks import DockerNetworks
from supervisor.engine.system import DockerSystem
from supervisor.engine.transport import EngineTransport
from supervisor.engine.types import SENTINEL, AuthResult, Timeout, Version
from supervisor.engine.volumes import DockerVolumes


@final
class Docker:
    """A client of one Docker Engine (or of Podman's Docker-compatible socket).

    Making one, and entering `async with`, asks the engine nothing. The first call agrees on an API version.

    Args:
        url: `unix:///path`, `tcp://host:port`, `http://…`, `https://…`, `ssh://user@host`; default: see
            `address.find`.
        transport: an `httpx` transport for all calls but streams, instead of the client's own; it is not
            closed with the client. Streams need a `url` beside it.
        timeout: seconds that a call may take unless it says otherwise (None: no bound). Streams, `wait`,
            followed logs and events have no bound of their own; what moves or makes images may take an hour.
        ssl_context: for TCP; default: see `address.find`.
        api_version: `auto`, or a fixed one such as `v1.41`.
        context: name of a Docker context.

    Resource handling: `close`, or leaving `async with`, cuts resting connections. It does not end calls and
    streams in progress: those belong to the tasks that make them.

    Cancellation: takes effect at once everywhere; only the creation of containers, networks and unnamed
    volumes waits, for at most a few seconds, to undo what it has done (see `undo`).

    Raises:
        ValueError: no engine is named and none is where engines usually are; or the URL or version is no such
            thing.
        DockerContextError: the context cannot be used.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
        api_version: str = "auto",
        context: str | None = None,
    ) -> None:
        if api_version != "auto" and not re.fullmatch(r"v\d+\.\d+", api_version):
            raise ValueError(f"not an API version: {api_version!r} (v1.41 or auto)")
        if transport is not None and url is None and context is None:
            address = Address("the given transport", _no_streams)
        else:
            address = find(url, context, ssl_context)
        self.docker_host = address.url
        self._own = EngineTransport(address.connector)
        self.api = Api(transport or self._own, address, api_version, timeout)
        self.containers = DockerContainers(self)
        self.images = DockerImages(self)
        self.networks = DockerNetworks(self)
        self.volumes = DockerVolumes(self)
        self.events = DockerEvents(self)
        self.system = DockerSystem(self)
        self.pull = self.images.pull
        self.push = self.images.push

    def __repr__(self) -> str:
        return f"<Docker {self.docker_host} API {self.api.version} {self.api.transport!r}>"

    @property
    def api_version(self) -> str:
        """The version in use; `auto` before the first call."""
        return self.api.version

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Cut resting connections and make no new ones. Idempotent; never waits."""
        self.api.closed = True
        await self._own.aclose()

    async def version(self, *, timeout: Timeout = SENTINEL) -> Version:
        """Return the engine's version: `Version`, `ApiVersion`, `MinAPIVersion`, `Os`, `Arch`,
        `KernelVersion`, …
        """
        return cast("Version", await self.api.json("GET", "version", timeout=timeout))

    async def auth(self, **credentials: Any) -> AuthResult:
        """Check credentials with a registry: `username`, `password`, `serveraddress`; or `identitytoken`."""
        return cast("AuthResult", await self.api.json("POST", "auth", body=credentials))


async def _no_streams() -> Connection:
    raise OSError("streams need a url beside the transport")
