"""The engine itself."""

from typing import TYPE_CHECKING, cast, final

from supervisor.engine.reply import deadline_in
from supervisor.engine.types import JSON, SENTINEL, Timeout

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


@final
class DockerSystem:
    """`docker.system`."""

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker
        self._api = docker.api

    async def ping(self, *, timeout: Timeout = SENTINEL, connect: bool = False) -> None:
        """Return when the engine has answered: its cheapest call, for which it looks at nothing.

        `connect`: and has taken a new connection before. It may answer on those that rest here although
        nobody can reach it any more, for its socket's name has been removed.
        """
        if connect:
            with deadline_in(self._api.seconds(timeout), "connect"):
                (await self._api.connect()).cut()
        await self._api.done("GET", "_ping", timeout=timeout)

    async def info(self, *, timeout: Timeout = SENTINEL) -> JSON:
        """Return what `docker info` shows."""
        return cast("JSON", await self._api.json("GET", "info", timeout=timeout))
