"""One container: start, stop, end, rename, its files, and processes in it."""

import math
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any, cast, final

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.archive import receive_archive
from supervisor.engine.execs import Exec
from supervisor.engine.output import ContainerOutput
from supervisor.engine.stream import no_exec_detach_keys
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

STOP_GRACE = 10.0
"""Seconds that `stop` and `restart` give a container unless told otherwise (Engine API)."""


@final
class DockerContainer(ContainerOutput):
    """A container by its id (or name): its life, its files, and by `ContainerOutput` what is known of it and
    what it says.
    """

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

    async def port(self, private_port: int | str, *, timeout: Timeout = SENTINEL) -> list[PortInfo] | None:
        """Return where a port of the container (`80`, `"80/udp"`) is published, None if it is not. Asks the
        engine once.
        """
        if "NetworkSettings" not in self._container:
            await self.show(timeout=timeout)
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
