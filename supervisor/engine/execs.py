"""Exec: another process in a running container."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Literal, cast, final, overload

from supervisor.engine.params import segment
from supervisor.engine.stream import Opening, Stream
from supervisor.engine.types import SENTINEL, ExecState, Timeout

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


@final
class Exec:
    """A process to be started, or started, in a container.

    Warning: the process outlives its stream. Nothing in the Engine API ends it but the end of its container.
    """

    def __init__(self, docker: "Docker", id: str, tty: bool | None = None) -> None:  # noqa: A002 - aiodocker's name
        self.docker = docker
        self._api = docker.api
        self._id = id
        self._tty = tty

    @property
    def id(self) -> str:
        """The engine's id of it."""
        return self._id

    async def inspect(self, *, timeout: Timeout = SENTINEL) -> ExecState:
        """Return what the engine knows of it: `Running`, `ExitCode`, `Pid`, `ProcessConfig`, …"""
        path = f"exec/{segment(self._id)}/json"
        data = cast("ExecState", await self._api.json("GET", path, timeout=timeout))
        self._tty = bool(data["ProcessConfig"]["tty"])
        return data

    async def resize(
        self, *, h: int | None = None, w: int | None = None, timeout: Timeout = SENTINEL
    ) -> None:
        """Set the size of its terminal, in characters."""
        if h is not None or w is not None:
            path = f"exec/{segment(self._id)}/resize"
            await self._api.done("POST", path, params={"h": h, "w": w}, timeout=timeout)

    @overload
    def start(self, *, timeout: Timeout = SENTINEL, detach: Literal[False] = False) -> Stream: ...

    @overload
    def start(self, *, timeout: Timeout = SENTINEL, detach: Literal[True]) -> Awaitable[bytes]: ...

    def start(self, *, timeout: Timeout = SENTINEL, detach: bool = False) -> Stream | Awaitable[bytes]:
        """Start it.

        Args:
            timeout: seconds until the stream is open, or until the engine has answered.
            detach: start without a stream, as `docker exec -d` does.

        Returns:
            A `Stream`, which starts the process when it connects; with `detach`, an awaitable of the (empty)
            answer.
        """
        if detach:
            return self._start_detached(timeout)

        async def setup() -> Opening:
            tty = await self._has_tty()
            return Opening(f"exec/{segment(self._id)}/start", body={"Detach": False, "Tty": tty}, tty=tty)

        return Stream(self._api, setup, timeout)

    async def _start_detached(self, timeout: Timeout) -> bytes:
        body = {"Detach": True, "Tty": await self._has_tty()}
        reply = await self._api.open("POST", f"exec/{segment(self._id)}/start", body=body, timeout=timeout)
        return await reply.read()

    async def _has_tty(self) -> bool:
        if self._tty is None:
            await self.inspect()
        return bool(self._tty)
