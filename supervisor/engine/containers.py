"""All containers of an engine: make them, find them, clear them away."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, final

import trio

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.container import DockerContainer
from supervisor.engine.errors import DockerContainerError, DockerError
from supervisor.engine.execs import Exec
from supervisor.engine.params import clean_filters, segment
from supervisor.engine.types import JSON, SENTINEL, ContainersPruned, Timeout
from supervisor.engine.undo import PATIENCE, all_or_nothing

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


@final
class DockerContainers:
    """`docker.containers`."""

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker
        self._api = docker.api

    async def list(self, *, timeout: Timeout = SENTINEL, **kwargs: Any) -> list[DockerContainer]:
        """Return the running containers; `all=True` for all, `filters={"label": [...]}`, `limit`, `size` as
        in the Engine API.
        """
        if isinstance(kwargs.get("filters"), Mapping):
            kwargs["filters"] = clean_filters(kwargs["filters"])
        data = await self._api.json("GET", "containers/json", params=kwargs, timeout=timeout)
        return [DockerContainer(self.docker, **each) for each in cast("list[JSON]", data)]

    async def create(
        self,
        config: JSON,
        *,
        name: str | None = None,
        timeout: Timeout = SENTINEL,
        patience: float | None = None,
    ) -> DockerContainer:
        """Create a container from a configuration as in the Engine API; it does not run yet.

        The result has `container["Warnings"]`: what the engine did otherwise than asked.

        Cancellation: either you get the container or it is removed again, for which cancelling waits for the
        engine's answer. Only if that does not come within `patience` seconds (`undo.PATIENCE`), or the
        deadline passes, or the connection breaks, may it exist: choose the `name`, and delete by name.
        """

        async def create() -> DockerContainer:
            data = await self._api.json(
                "POST", "containers/create", params={"name": name}, body=config, timeout=timeout
            )
            container = DockerContainer(self.docker, id=data["Id"], Warnings=data.get("Warnings") or [])
            container.created_with_tty(bool(config.get("Tty")))
            return container

        return await all_or_nothing(create, lambda container: container.delete(force=True, v=True), patience)

    async def create_or_replace(
        self, name: str, config: JSON, *, timeout: Timeout = SENTINEL
    ) -> DockerContainer:
        """Return the container `name` if it is as `config` says, else one newly created in its place.

        "As it says" is: the engine shows the same for everything in `config`. A newer image of the same name
        is no difference; a `NetworkingConfig`, which cannot be compared, always is one. `timeout` is for each
        step.

        Raises:
            DockerError: the engine cannot say whether it exists, or cannot stop, delete or create it.
        """
        try:
            container = await self.get(name, timeout=timeout)
        except DockerError as error:
            if error.status != 404:
                raise
        else:
            if _shows(container, config):
                return container
            if container["State"]["Running"]:
                await container.stop(timeout=timeout)
            await container.delete(timeout=timeout)
        return await self.create(config, name=name, timeout=timeout)

    async def run(
        self,
        config: JSON,
        *,
        auth: Mapping[str, Any] | str | bytes | None = None,
        name: str | None = None,
        timeout: Timeout = SENTINEL,
    ) -> DockerContainer:
        """Create and start a container; pull its image first if the engine has not got it.

        Args:
            config: as for `create`.
            auth: as for `images.pull`.
            name: its name.
            timeout: seconds for creating, and again for starting.

        Raises:
            DockerContainerError: it could not be started. It has been removed.
        """
        try:
            container = await self.create(config, name=name, timeout=timeout)
        except DockerError as error:
            if error.status != 404 or "Image" not in config:
                raise
            await self.docker.images.pull(str(config["Image"]), auth=auth)
            container = await self.create(config, name=name, timeout=timeout)
        try:
            await container.start(timeout=timeout)
        except BaseException as error:
            with trio.move_on_after(PATIENCE, shield=True):
                try:
                    await container.delete(force=True, v=True)
                except DockerError as failure:
                    error.add_note(f"and container {container.id} could not be removed: {failure}")
            if isinstance(error, DockerError):
                raise DockerContainerError(error.status, error.message, container.id) from error
            raise
        return container

    async def get(self, container_id: str, *, timeout: Timeout = SENTINEL, **kwargs: Any) -> DockerContainer:
        """Return the container with this id (or its beginning) or name, and all that is known of it."""
        path = f"containers/{segment(container_id)}/json"
        return DockerContainer(
            self.docker, **await self._api.json("GET", path, params=kwargs, timeout=timeout)
        )

    def container(self, container_id: str, **kwargs: Any) -> DockerContainer:
        """Return a container by id or name without asking whether it exists."""
        return DockerContainer(self.docker, id=container_id, **kwargs)

    def exec(self, exec_id: str) -> Exec:
        """Return an exec by id without asking whether it exists."""
        return Exec(self.docker, exec_id)

    async def prune(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> ContainersPruned:
        """Delete stopped containers; return which, and the bytes won. Filters: `until`, `label`, `label!`."""
        params = {"filters": clean_filters(filters)}
        answer = await self._api.json(
            "POST", "containers/prune", params=params, timeout=timeout, default=LONG_TIMEOUT
        )
        return cast("ContainersPruned", answer)


def _shows(container: DockerContainer, config: JSON) -> bool:
    """Return whether a container that was asked for from the engine is as `config` says."""
    shown: JSON = {**container["Config"], "HostConfig": container["HostConfig"]}
    return _within(config, shown)


def _within(wanted: Any, have: Any) -> bool:
    """Return whether all that `wanted` says is true of `have`, which may say more."""
    if not (isinstance(wanted, dict) and isinstance(have, dict)):
        return bool(wanted == have)
    one, other = cast("JSON", wanted), cast("JSON", have)
    return all(key in other and _within(value, other[key]) for key, value in one.items())
