"""What is known of a container, and what it says: inspect, logs, statistics, attach."""

import math
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, cast, overload

from trio_websocket import WebSocketConnection

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.logs import DockerLog, LogStream
from supervisor.engine.params import segment
from supervisor.engine.progress import JSONStream
from supervisor.engine.reply import Reply
from supervisor.engine.stream import Opening, Stream, no_detach_keys
from supervisor.engine.types import JSON, SENTINEL, Timeout
from supervisor.engine.websocket import open_websocket

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker


class ContainerOutput:
    """A container by its id (or name), and what is known of it so far: `container["Config"]`, `"State" in
    container`.

    Making one asks the engine nothing; `show` brings it up to date.
    """

    def __init__(self, docker: "Docker", **kwargs: Any) -> None:
        self.docker = docker
        self._api = docker.api
        self._container: JSON = kwargs
        identity = next((kwargs[key] for key in ("id", "ID", "Id") if kwargs.get(key)), None)
        if identity is None:
            raise ValueError("a DockerContainer needs an id")
        self._id = str(identity)
        self._path = f"containers/{segment(self._id)}"
        self.logs = DockerLog(docker, self)
        config = cast("JSON", kwargs.get("Config") or {})
        self._tty: bool | None = config.get("Tty")

    def __repr__(self) -> str:
        return f"<DockerContainer {self._id[:12]}>"

    @property
    def id(self) -> str:
        """Its id, or the name that this object was made with."""
        return self._id

    def __getitem__(self, key: str) -> Any:
        return self._container[key]

    def __contains__(self, key: str) -> bool:
        return key in self._container

    def created_with_tty(self, tty: bool) -> None:
        """Remember what the configuration says, which saves `attach` and `log` a question."""
        self._tty = tty

    async def show(self, *, timeout: Timeout = SENTINEL, **kwargs: Any) -> JSON:
        """Return what the engine knows of it (`inspect`), and keep it. `size=True` adds sizes."""
        data = cast("JSON", await self._api.json("GET", f"{self._path}/json", params=kwargs, timeout=timeout))
        self._container = data
        self._tty = data["Config"]["Tty"]
        return data

    @overload
    def log(
        self,
        *,
        stdout: bool = False,
        stderr: bool = False,
        follow: Literal[False] = False,
        timeout: Timeout = SENTINEL,
        **kwargs: Any,
    ) -> Awaitable[list[str]]: ...

    @overload
    def log(
        self,
        *,
        stdout: bool = False,
        stderr: bool = False,
        follow: Literal[True],
        timeout: Timeout = SENTINEL,
        **kwargs: Any,
    ) -> LogStream: ...

    def log(
        self,
        *,
        stdout: bool = False,
        stderr: bool = False,
        follow: bool = False,
        timeout: Timeout = SENTINEL,
        **kwargs: Any,
    ) -> Awaitable[list[str]] | LogStream:
        """Return what it has written: an awaitable list of pieces, or with `follow` an endless `LogStream`.

        Args:
            stdout, stderr: which of the two; at least one.
            follow: go on as it writes, without a deadline.
            timeout: seconds for the whole answer.
            kwargs: `since`, `until`, `tail`, `timestamps`, … of the Engine API.

        Raises:
            TypeError: neither stdout nor stderr is asked for.
        """
        if not (stdout or stderr):
            raise TypeError("log needs stdout or stderr")
        params = {"stdout": stdout, "stderr": stderr, "follow": follow, **kwargs}
        default = math.inf if follow else LONG_TIMEOUT

        async def request() -> Reply:
            path = f"{self._path}/logs"
            return await self._api.open("GET", path, params=params, timeout=timeout, default=default)

        stream = LogStream(request, self._logs_as_terminal)
        return stream if follow else stream.collect()

    @overload
    def stats(self, *, stream: Literal[True] = True, timeout: Timeout = SENTINEL) -> JSONStream: ...

    @overload
    def stats(self, *, stream: Literal[False], timeout: Timeout = SENTINEL) -> Awaitable[list[JSON]]: ...

    def stats(
        self, *, stream: bool = True, timeout: Timeout = SENTINEL
    ) -> JSONStream | Awaitable[list[JSON]]:
        """Return its use of resources: a `JSONStream` with a sample each second, or an awaitable list of one
        sample (which takes two seconds).
        """

        async def request() -> Reply:
            default = math.inf if stream else None
            path = f"{self._path}/stats"
            return await self._api.open(
                "GET", path, params={"stream": stream}, timeout=timeout, default=default
            )

        samples = JSONStream(request, raise_on_error=False)
        return samples if stream else samples.collect()

    def attach(
        self,
        *,
        stdout: bool = False,
        stderr: bool = False,
        stdin: bool = False,
        detach_keys: str | None = None,
        logs: bool = False,
        timeout: Timeout = SENTINEL,
        tty: bool | None = None,
    ) -> Stream:
        """Return a stream of its main process's standard streams; it connects on first use.

        Attach before `start`, or the first output is lost.

        Args:
            stdout, stderr, stdin: which of them.
            detach_keys: keys that end the stream, as `docker attach --detach-keys`; None: none that anyone
                could type.
            logs: begin with what the log driver has kept.
            timeout: seconds until the stream is open.
            tty: whether the container has a terminal. None: as known from `create`, `get` or `show`; else the
                engine is asked.
        """

        async def setup() -> Opening:
            params = {
                "detachKeys": no_detach_keys() if detach_keys is None else detach_keys,
                "logs": logs,
                "stdin": stdin,
                "stdout": stdout,
                "stderr": stderr,
                "stream": True,
            }
            known = self._tty if tty is None else tty
            if known is None and not await self._api.tells_stream_kinds():
                known = await self._has_tty()
            return Opening(f"{self._path}/attach", params, tty=known)

        return Stream(self._api, setup, timeout)

    def websocket(
        self, *, timeout: Timeout = SENTINEL, **params: Any
    ) -> AbstractAsyncContextManager[WebSocketConnection]:
        """Return its streams as the messages of a WebSocket: `async with container.websocket() as messages`.

        Args:
            timeout: seconds until it is open.
            params: `stdin`, `stdout`, `stderr`, `stream`, `logs`, `detachKeys`; default: all but `logs`.
        """
        options = params or {"stdin": True, "stdout": True, "stderr": True, "stream": True}
        return open_websocket(self._api, f"{self._path}/attach/ws", options, timeout)

    async def _logs_as_terminal(self) -> bool:
        """Return whether a log that does not say it is multiplexed is not."""
        return self._tty is not False and (await self._api.tells_stream_kinds() or await self._has_tty())

    async def _has_tty(self) -> bool:
        if self._tty is None:
            await self.show()
        return bool(self._tty)
