"""How images come and go: build, pull, push, import, export."""

import json
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.export import ImageExport
from supervisor.engine.params import image_path, registry_auth
from supervisor.engine.progress import JSONStream
from supervisor.engine.reply import Reply
from supervisor.engine.types import JSON, SENTINEL, Body, SupportsRead, Timeout

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker

Progress = JSONStream | Awaitable[list[JSON]]
Credentials = Mapping[str, Any] | str | bytes
_TAR = {"Content-Type": "application/x-tar"}


class ImageTransfers:
    """The half of `docker.images` that moves and makes images.

    Its methods (but `export_image`) return an awaitable list of the engine's progress objects, or with
    `stream=True` a `JSONStream` of them as they come. Failure in the course of it is `DockerStreamError`.
    They may take an hour unless told otherwise.
    """

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker
        self._api = docker.api

    @overload
    def pull(
        self,
        from_image: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        repo: str | None = None,
        platform: str | None = None,
        stream: Literal[False] = False,
        timeout: Timeout = SENTINEL,
    ) -> Awaitable[list[JSON]]: ...

    @overload
    def pull(
        self,
        from_image: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        repo: str | None = None,
        platform: str | None = None,
        stream: Literal[True],
        timeout: Timeout = SENTINEL,
    ) -> JSONStream: ...

    def pull(
        self,
        from_image: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        repo: str | None = None,
        platform: str | None = None,
        stream: bool = False,
        timeout: Timeout = SENTINEL,
    ) -> Progress:
        """Fetch an image from a registry.

        Args:
            from_image: name, with or without a tag or digest.
            auth: credentials for the registry, which `from_image` must then name; see `params.registry_auth`.
            tag: default: that of `from_image`, else `latest`; "" for all tags.
            repo: name to give it.
            platform: `os[/arch[/variant]]`.
            stream: see the class.
            timeout: seconds in all.
        """
        last = from_image.rsplit("/", 1)[-1]
        if tag is None and ":" not in last and "@" not in last:
            tag = "latest"
        params = {
            "fromImage": from_image,
            "repo": repo or None,
            "tag": tag or None,
            "platform": platform or None,
        }
        headers = {} if auth is None else {"X-Registry-Auth": registry_auth(auth, _registry(from_image))}
        return self._progress("images/create", stream, timeout, params=params, headers=headers)

    @overload
    def push(
        self,
        name: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        stream: Literal[False] = False,
        timeout: Timeout = SENTINEL,
    ) -> Awaitable[list[JSON]]: ...

    @overload
    def push(
        self,
        name: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        stream: Literal[True],
        timeout: Timeout = SENTINEL,
    ) -> JSONStream: ...

    def push(
        self,
        name: str,
        *,
        auth: Credentials | None = None,
        tag: str | None = None,
        stream: bool = False,
        timeout: Timeout = SENTINEL,
    ) -> Progress:
        """Send an image to the registry that its name begins with.

        Args:
            name: without a tag.
            auth: credentials; see `pull`.
            tag: default: all of its tags.
            stream: see the class.
            timeout: seconds in all.
        """
        # Without credentials the engine still wants the header.
        header = registry_auth({}) if auth is None else registry_auth(auth, _registry(name))
        return self._progress(
            f"images/{image_path(name)}/push",
            stream,
            timeout,
            params={"tag": tag or None},
            headers={"X-Registry-Auth": header},
        )

    @overload
    def build(
        self,
        *,
        remote: str | None = None,
        fileobj: SupportsRead | None = None,
        path_dockerfile: str | None = None,
        tag: str | None = None,
        quiet: bool = False,
        nocache: bool = False,
        buildargs: Mapping[str, str] | None = None,
        pull: bool = False,
        rm: bool = True,
        forcerm: bool = False,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        stream: Literal[False] = False,
        encoding: str | None = None,
        timeout: Timeout = SENTINEL,
        networkmode: str | None = None,
    ) -> Awaitable[list[JSON]]: ...

    @overload
    def build(
        self,
        *,
        remote: str | None = None,
        fileobj: SupportsRead | None = None,
        path_dockerfile: str | None = None,
        tag: str | None = None,
        quiet: bool = False,
        nocache: bool = False,
        buildargs: Mapping[str, str] | None = None,
        pull: bool = False,
        rm: bool = True,
        forcerm: bool = False,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        stream: Literal[True],
        encoding: str | None = None,
        timeout: Timeout = SENTINEL,
        networkmode: str | None = None,
    ) -> JSONStream: ...

    def build(
        self,
        *,
        remote: str | None = None,
        fileobj: SupportsRead | None = None,
        path_dockerfile: str | None = None,
        tag: str | None = None,
        quiet: bool = False,
        nocache: bool = False,
        buildargs: Mapping[str, str] | None = None,
        pull: bool = False,
        rm: bool = True,
        forcerm: bool = False,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        stream: bool = False,
        encoding: str | None = None,
        timeout: Timeout = SENTINEL,
        networkmode: str | None = None,
    ) -> Progress:
        """Build an image (with the engine's classic builder).

        Args:
            remote: URL of a Git repository, Dockerfile or tar archive.
            fileobj: open file of a tar archive, the build context; instead of `remote`. Read in a thread.
            path_dockerfile: where the Dockerfile is in the context.
            tag: `name:tag` of the result.
            quiet: only the id as output.
            nocache: run every step.
            buildargs: values of the Dockerfile's ARGs. They show in the image's history.
            pull: look for a newer base image.
            rm: remove intermediate containers after success.
            forcerm: remove them after failure, too.
            labels: of the result.
            platform: `os[/arch[/variant]]`.
            stream: see the class.
            encoding: of `fileobj`, such as `gzip` (engines find out by themselves).
            timeout: seconds in all.
            networkmode: network for RUN steps, such as `none` or `host`.

        Raises:
            ValueError: neither or both of `remote` and `fileobj`.
        """
        if (remote is None) == (fileobj is None):
            raise ValueError("give either remote or fileobj")
        params = {
            "t": tag,
            "rm": rm,
            "q": quiet,
            "pull": pull,
            "remote": remote,
            "nocache": nocache,
            "forcerm": forcerm,
            "dockerfile": path_dockerfile,
            "buildargs": json.dumps(dict(buildargs)) if buildargs else None,
            "labels": json.dumps(dict(labels)) if labels else None,
            "platform": platform or None,
            "networkmode": networkmode,
        }
        headers = dict(_TAR) if fileobj is not None else {}
        if encoding and fileobj is not None:
            headers["Content-Encoding"] = encoding
        return self._progress("build", stream, timeout, params=params, headers=headers, content=fileobj)

    @overload
    def import_image(
        self, data: Body, stream: Literal[False] = False, timeout: Timeout = SENTINEL
    ) -> Awaitable[list[JSON]]: ...

    @overload
    def import_image(self, data: Body, stream: Literal[True], timeout: Timeout = SENTINEL) -> JSONStream: ...

    def import_image(self, data: Body, stream: bool = False, timeout: Timeout = SENTINEL) -> Progress:
        """Load images from a tar archive that `export_image` (or `docker save`) made. For a plain root file
        system see `import_rootfs`.
        """
        return self._progress("images/load", stream, timeout, headers=_TAR, content=data)

    @overload
    def import_rootfs(
        self,
        data: Body,
        *,
        repo: str,
        tag: str | None = None,
        message: str | None = None,
        changes: Sequence[str] = (),
        platform: str | None = None,
        stream: Literal[False] = False,
        timeout: Timeout = SENTINEL,
    ) -> Awaitable[list[JSON]]: ...

    @overload
    def import_rootfs(
        self,
        data: Body,
        *,
        repo: str,
        tag: str | None = None,
        message: str | None = None,
        changes: Sequence[str] = (),
        platform: str | None = None,
        stream: Literal[True],
        timeout: Timeout = SENTINEL,
    ) -> JSONStream: ...

    def import_rootfs(
        self,
        data: Body,
        *,
        repo: str,
        tag: str | None = None,
        message: str | None = None,
        changes: Sequence[str] = (),
        platform: str | None = None,
        stream: bool = False,
        timeout: Timeout = SENTINEL,
    ) -> Progress:
        """Make an image of one layer from a tar archive of a root file system, as `docker import` does.

        Args:
            data: the archive, also compressed.
            repo, tag: name of the image.
            message: comment in its history.
            changes: Dockerfile instructions (CMD, ENV, LABEL, …) for its configuration.
            platform: `os[/arch[/variant]]`.
            stream: see the class.
            timeout: seconds in all.
        """
        params: dict[str, Any] = {
            "fromSrc": "-",
            "repo": repo,
            "tag": tag,
            "message": message,
            "platform": platform,
            "changes": [*changes] or None,
        }
        return self._progress("images/create", stream, timeout, params=params, headers=_TAR, content=data)

    def export_image(self, name: str, timeout: Timeout = SENTINEL) -> ImageExport:
        """Return an image with all its layers as a tar archive: `async with docker.images.export_image(name)
        as content`.
        """
        return ImageExport(self._api, name, timeout)

    def _progress(
        self,
        path: str,
        stream: bool,
        timeout: Timeout,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
        content: Body | None = None,
    ) -> Progress:
        async def request() -> Reply:
            return await self._api.open(
                "POST",
                path,
                params=params,
                headers=headers,
                content=content,
                timeout=timeout,
                default=LONG_TIMEOUT,
            )

        lines = JSONStream(request)
        return lines if stream else lines.collect()


def _registry(name: str) -> str:
    registry, slash, _ = name.partition("/")
    if not slash:
        raise ValueError("credentials need an image name that begins with the registry's host")
    return registry
