"""Volumes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, final

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.params import clean_filters, segment
from supervisor.engine.types import JSON, SENTINEL, Timeout, Volume, VolumeList, VolumesPruned
from supervisor.engine.undo import all_or_nothing

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


@final
class DockerVolumes:
    """`docker.volumes`."""

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker
        self._api = docker.api

    async def list(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> VolumeList:
        """Return `{"Volumes": […], "Warnings": …}`; `filters`: `dangling`, `driver`, `label`, `name`."""
        params = {"filters": clean_filters(filters)}
        return cast("VolumeList", await self._api.json("GET", "volumes", params=params, timeout=timeout))

    async def get(self, id: str, *, timeout: Timeout = SENTINEL) -> "DockerVolume":  # noqa: A002 - aiodocker's name
        """Return the volume of this name."""
        data = await self._api.json("GET", f"volumes/{segment(id)}", timeout=timeout)
        return DockerVolume(self.docker, data["Name"])

    async def create(self, config: JSON, *, timeout: Timeout = SENTINEL) -> "DockerVolume":
        """Create a volume, or return the one that has the `Name` already.

        Cancellation: a volume without a name in `config` is removed again. One with a name stays, because it
        may have been there before.
        """

        async def create() -> DockerVolume:
            data = await self._api.json("POST", "volumes/create", body=config, timeout=timeout)
            return DockerVolume(self.docker, data["Name"])

        if config.get("Name"):
            return await create()
        return await all_or_nothing(create, lambda volume: volume.delete())

    async def prune(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> VolumesPruned:
        """Delete volumes that no container uses; return which, and the bytes won. `filters`: `label`,
        `label!`, `all`.
        """
        params = {"filters": clean_filters(filters)}
        answer = await self._api.json(
            "POST", "volumes/prune", params=params, timeout=timeout, default=LONG_TIMEOUT
        )
        return cast("VolumesPruned", answer)


@final
class DockerVolume:
    """A volume by its name."""

    def __init__(self, docker: "Docker", name: str) -> None:
        self.docker = docker
        self.name = name
        self._api = docker.api
        self._path = f"volumes/{segment(name)}"

    def __repr__(self) -> str:
        return f"<DockerVolume {self.name}>"

    async def show(self, *, timeout: Timeout = SENTINEL) -> Volume:
        """Return what the engine knows of it."""
        return cast("Volume", await self._api.json("GET", self._path, timeout=timeout))

    async def delete(self, force: bool = False, *, timeout: Timeout = SENTINEL) -> None:
        """Remove it. Status 409 while a container uses it."""
        await self._api.done("DELETE", self._path, params={"force": force}, timeout=timeout)
