"""Networks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, final

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.params import clean_filters, segment
from supervisor.engine.types import JSON, SENTINEL, NetworksPruned, Timeout
from supervisor.engine.undo import all_or_nothing

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


@final
class DockerNetworks:
    """`docker.networks`."""

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker
        self._api = docker.api

    async def list(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> list[JSON]:
        """Return all networks; `filters`: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`."""
        params = {"filters": clean_filters(filters)}
        return cast("list[JSON]", await self._api.json("GET", "networks", params=params, timeout=timeout))

    async def create(self, config: JSON, *, timeout: Timeout = SENTINEL) -> "DockerNetwork":
        """Create a network from a configuration as in the Engine API. Cancelled: as for a container, it is
        removed again.

        `CheckDuplicate` is set unless given: without it, engines before API 1.44 make a second network of the
            same name.
        """

        async def create() -> DockerNetwork:
            body = {"CheckDuplicate": True, **config}
            data = await self._api.json("POST", "networks/create", body=body, timeout=timeout)
            return DockerNetwork(self.docker, data["Id"])

        return await all_or_nothing(create, lambda network: network.delete())

    async def get(self, net_specs: str, *, timeout: Timeout = SENTINEL) -> "DockerNetwork":
        """Return the network with this id or name."""
        data = await self._api.json("GET", f"networks/{segment(net_specs)}", timeout=timeout)
        return DockerNetwork(self.docker, data["Id"])

    async def prune(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> NetworksPruned:
        """Delete networks that no container uses; return which. `filters`: `until`, `label`, `label!`."""
        params = {"filters": clean_filters(filters)}
        answer = await self._api.json(
            "POST", "networks/prune", params=params, timeout=timeout, default=LONG_TIMEOUT
        )
        return cast("NetworksPruned", answer)


@final
class DockerNetwork:
    """A network by its id or name."""

    def __init__(self, docker: "Docker", id_: str) -> None:
        self.docker = docker
        self.id = id_
        self._api = docker.api
        self._path = f"networks/{segment(id_)}"

    def __repr__(self) -> str:
        return f"<DockerNetwork {self.id[:12]}>"

    async def show(self, *, timeout: Timeout = SENTINEL) -> JSON:
        """Return what the engine knows of it."""
        return cast("JSON", await self._api.json("GET", self._path, timeout=timeout))

    async def delete(self, *, timeout: Timeout = SENTINEL) -> bool:
        """Remove it; True when it is gone. Status 403 while containers are connected."""
        return await self._api.done("DELETE", self._path, timeout=timeout) == 204

    async def connect(self, config: JSON, *, timeout: Timeout = SENTINEL) -> None:
        """Connect a container: `{"Container": id, "EndpointConfig": {…}}`."""
        await self._api.done("POST", f"{self._path}/connect", body=config, timeout=timeout)

    async def disconnect(self, config: JSON, *, timeout: Timeout = SENTINEL) -> None:
        """Disconnect a container: `{"Container": id, "Force": …}`."""
        await self._api.done("POST", f"{self._path}/disconnect", body=config, timeout=timeout)
