"""One container."""

import math
import shlex
import tarfile
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, cast, final, overload

from trio_websocket import WebSocketConnection

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.archive import receive_archive
from supervisor.engine.execs import Exec
from supervisor.engine.logs import DockerLog, LogStream
from supervisor.engine.params import segment
from supervisor.engine.progress import JSONStream
from supervisor.engine.reply import Reply
from supervisor.engine.stream import Opening, Stream, no_detach_keys, no_exec_detach_keys
from supervisor.engine.types import (
    JSON,
    SENTINEL,
    Body,
    IdResult,
    PortInfo,
    Timeout,
    TopResult,
    WaitResult,
)
from supervisor.engine.websocket import open_websocket

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker

STOP_GRACE = 10.0
"""Seconds that `stop` and `restart` give a container unless told otherwise (Engine API)."""


@final
class DockerContainer:
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

    async def start(self, *, timeout: Timeout = SENTINEL, **kwargs: Any) -> None:
        """Start it. Cancelled, it may start nevertheless."""
        await self._api.done("POST", f"{self._path}/start", params=kwargs, timeout=timeout)

    async def stop(
        self, *, t: int | None = None, signal: str | None = None, timeout: Timeout = SENTINEL
    ) -> None:
        """Ask its main process to end, then kill it.

        Args:
            t: seconds between the two (default: the container's own `StopTimeout`, mostly 10).
            signal: to ask with (default: the container's `StopSignal`, mostly SIGTERM). API 1.42 and later.
            timeout: seconds for the call; default: `t` more than the client's.
        """
        params = {"t": t, "signal": signal}
        await self._api.done(
            "POST", f"{self._path}/stop", params=params, timeout=timeout, default=self._stopping(t)
        )

    async def restart(self, *, t: int | None = None, timeout: Timeout = SENTINEL) -> None:
        """Stop it as `stop` does, and start it again."""
        await self._api.done(
            "POST", f"{self._path}/restart", params={"t": t}, timeout=timeout, default=self._stopping(t)
        )

    def _stopping(self, t: int | None) -> float:
        config = cast("JSON", self._container.get("Config") or {})
        grace = config.get("StopTimeout", STOP_GRACE) if t is None else t
        return self._api.timeout + max(grace or 0, 0)

    async def kill(self, *, signal: str | int | None = None, timeout: Timeout = SENTINEL) -> None:
        """Send it a signal, SIGKILL by default. Close its attach streams first: see
        `supervisor.engine.stream`.
        """
        params = {"signal": None if signal is None else str(signal)}
        await self._api.done("POST", f"{self._path}/kill", params=params, timeout=timeout)

    async def pause(self, *, timeout: Timeout = SENTINEL) -> None:
        """Freeze all its processes."""
        await self._api.done("POST", f"{self._path}/pause", timeout=timeout)

    async def unpause(self, *, timeout: Timeout = SENTINEL) -> None:
        """Let them go on."""
        await self._api.done("POST", f"{self._path}/unpause", timeout=timeout)

    async def wait(self, *, timeout: Timeout = SENTINEL, **kwargs: Any) -> WaitResult:
        """Wait for its end, without a deadline unless one is given.

        `condition` is what to wait for: `not-running` (default), `next-exit` or `removed`.
        """
        answer = await self._api.json(
            "POST", f"{self._path}/wait", params=kwargs, timeout=timeout, default=math.inf
        )
        return cast("WaitResult", answer)

    async def delete(
        self, *, force: bool = False, v: bool = False, link: bool = False, timeout: Timeout = SENTINEL
    ) -> None:
        """Remove it.

        Args:
            force: kill it first if it runs.
            v: remove its anonymous volumes, too.
            link: remove this link, not the container (legacy networking).
            timeout: seconds for the call.
        """
        params = {"force": force or None, "v": v or None, "link": link or None}
        await self._api.done("DELETE", self._path, params=params, timeout=timeout)

    async def rename(self, newname: str, *, timeout: Timeout = SENTINEL) -> None:
        """Give it another name."""
        await self._api.done("POST", f"{self._path}/rename", params={"name": newname}, timeout=timeout)

    async def resize(self, *, h: int, w: int, timeout: Timeout = SENTINEL) -> None:
        """Set the size of its terminal, in characters. Status 409 while it does not run."""
        await self._api.done("POST", f"{self._path}/resize", params={"h": h, "w": w}, timeout=timeout)

    async def top(self, *, ps_args: str | None = None, timeout: Timeout = SENTINEL) -> TopResult:
        """Return its processes: `{"Titles": […], "Processes": [[…], …]}`, as the host's `ps` lists them
        (default `-ef`).
        """
        params = {"ps_args": ps_args}
        return cast(
            "TopResult", await self._api.json("GET", f"{self._path}/top", params=params, timeout=timeout)
        )

    async def port(self, private_port: int | str) -> list[PortInfo] | None:
        """Return where a port of the container (`80`, `"80/udp"`) is published, None if it is not. Asks the
        engine once.
        """
        if "NetworkSettings" not in self._container:
            await self.show()
        ports = cast(
            "dict[str, list[PortInfo] | None]", self._container["NetworkSettings"].get("Ports") or {}
        )
        port = str(private_port)
        return ports.get(port) if "/" in port else ports.get(f"{port}/tcp") or ports.get(f"{port}/udp")

    async def commit(
        self,
        *,
        repository: str | None = None,
        tag: str | None = None,
        message: str | None = None,
        author: str | None = None,
        changes: str | Sequence[str] | None = None,
        config: JSON | None = None,
        pause: bool = True,
        timeout: Timeout = SENTINEL,
    ) -> IdResult:
        """Make an image of it and return `{"Id": …}`. `changes` are Dockerfile instructions, `config`
        replaces its configuration.
        """
        params = {
            "container": self._id,
            "pause": pause,
            "repo": repository,
            "tag": tag,
            "comment": message,
            "author": author,
            "changes": changes if changes is None or isinstance(changes, str) else "\n".join(changes),
        }
        answer = await self._api.json(
            "POST", "commit", params=params, body=config, timeout=timeout, default=LONG_TIMEOUT
        )
        return cast("IdResult", answer)

    async def get_archive(self, path: str, *, timeout: Timeout = SENTINEL) -> tarfile.TarFile:
        """Return a file or directory of the container as an open tar archive; large ones are kept in a
        temporary file.
        """
        reply = await self._api.open(
            "GET", f"{self._path}/archive", params={"path": path}, timeout=timeout, default=LONG_TIMEOUT
        )
        return await receive_archive(reply)

    async def put_archive(self, path: str, data: Body, *, timeout: Timeout = SENTINEL) -> None:
        """Unpack a tar archive (also gzip, bzip2 or xz) into the directory `path` of the container."""
        await self._api.done(
            "PUT",
            f"{self._path}/archive",
            params={"path": path},
            content=data,
            headers={"Content-Type": "application/x-tar"},
            timeout=timeout,
            default=LONG_TIMEOUT,
        )

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

    async def exec(
        self,
        cmd: str | Sequence[str],
        stdout: bool = True,
        stderr: bool = True,
        stdin: bool = False,
        tty: bool = False,
        privileged: bool = False,
        user: str = "",
        environment: Mapping[str, str] | Sequence[str] | None = None,
        workdir: str | None = None,
        detach_keys: str | None = None,
        *,
        timeout: Timeout = SENTINEL,
    ) -> Exec:
        """Prepare another process in it; `Exec.start` starts it.

        Args:
            cmd: argument vector, or text that is split as a shell would.
            stdout, stderr, stdin: which streams it gets; the others are /dev/null.
            tty: give it a terminal.
            privileged: with all of root's capabilities.
            user: `name`, `uid` or `uid:gid`; default: the container's.
            environment: further variables.
            workdir: default: the container's.
            detach_keys: as for `attach`.
            timeout: seconds for the call.
        """
        if isinstance(environment, Mapping):
            environment = [f"{name}={value}" for name, value in environment.items()]
        body = {
            "Privileged": privileged,
            "Tty": tty,
            "AttachStdin": stdin,
            "AttachStdout": stdout,
            "AttachStderr": stderr,
            "Cmd": shlex.split(cmd) if isinstance(cmd, str) else list(cmd),
            "Env": None if environment is None else list(environment),
            "WorkingDir": workdir or "",
            "DetachKeys": no_exec_detach_keys() if detach_keys is None else detach_keys,
            "User": user,
        }
        data = cast("JSON", await self._api.json("POST", f"{self._path}/exec", body=body, timeout=timeout))
        return Exec(self.docker, data["Id"], tty=tty)
