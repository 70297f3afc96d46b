"""Images: list, name, look at, remove. How they come and go is in `supervisor.engine.transfers`."""

import warnings
from collections.abc import Mapping
from typing import Any, cast, final

from supervisor.engine.api import LONG_TIMEOUT
from supervisor.engine.params import clean_filters, image_path
from supervisor.engine.transfers import ImageTransfers
from supervisor.engine.types import (
    JSON,
    SENTINEL,
    BuildsPruned,
    ImageDeleted,
    ImageLayer,
    ImagesPruned,
    ImageSummary,
    Timeout,
)

# Inside the class, `list` is its method.
Summaries = list[ImageSummary]
Layers = list[ImageLayer]
Deletions = list[ImageDeleted]


@final
class DockerImages(ImageTransfers):
    """`docker.images`."""

    async def list(
        self, *, filters: Mapping[str, Any] | str | None = None, timeout: Timeout = SENTINEL, **params: Any
    ) -> Summaries:
        """Return the images; `filters`: `dangling`, `label`, `reference`, `before`, `since`; `all`, `digests`
        as in the Engine API.
        """
        params["filters"] = filters if isinstance(filters, str) else clean_filters(filters)
        return cast("Summaries", await self._api.json("GET", "images/json", params=params, timeout=timeout))

    async def inspect(self, name: str, *, timeout: Timeout = SENTINEL) -> JSON:
        """Return what the engine knows of an image."""
        return cast("JSON", await self._api.json("GET", f"images/{image_path(name)}/json", timeout=timeout))

    async def get(self, name: str, *, timeout: Timeout = SENTINEL) -> JSON:
        """Do as `inspect`. Deprecated, as in aiodocker."""
        warnings.warn("images.get is deprecated, use images.inspect", DeprecationWarning, stacklevel=2)
        return await self.inspect(name, timeout=timeout)

    async def history(self, name: str, *, timeout: Timeout = SENTINEL) -> Layers:
        """Return an image's layers, the last one first."""
        path = f"images/{image_path(name)}/history"
        return cast("Layers", await self._api.json("GET", path, timeout=timeout))

    async def tag(self, name: str, repo: str, *, tag: str | None = None, timeout: Timeout = SENTINEL) -> bool:
        """Give an image a further name, `repo` with `tag` (default `latest`)."""
        params = {"repo": repo, "tag": tag or None}
        await self._api.done("POST", f"images/{image_path(name)}/tag", params=params, timeout=timeout)
        return True

    async def delete(
        self, name: str, *, force: bool = False, noprune: bool = False, timeout: Timeout = SENTINEL
    ) -> Deletions:
        """Take a name from an image, or remove it with its untagged parents; return what was done.

        Args:
            name: name or id.
            force: also when stopped containers use it, or it has other names.
            noprune: leave untagged parents.
            timeout: seconds for the call.
        """
        params = {"force": force, "noprune": noprune}
        path = f"images/{image_path(name)}"
        return cast("Deletions", await self._api.json("DELETE", path, params=params, timeout=timeout))

    async def prune(
        self, *, filters: Mapping[str, Any] | None = None, timeout: Timeout = SENTINEL
    ) -> ImagesPruned:
        """Delete unused images; return which, and the bytes won. `filters`: `dangling`, `until`, `label`,
        `label!`.
        """
        params = {"filters": clean_filters(filters)}
        return cast("ImagesPruned", await self._prune("images/prune", params, timeout))

    async def prune_builds(
        self,
        *,
        reserved_space: int | None = None,
        max_used_space: int | None = None,
        min_free_space: int | None = None,
        all_builds: bool | None = None,
        filters: Mapping[str, Any] | None = None,
        timeout: Timeout = SENTINEL,
    ) -> BuildsPruned:
        """Delete the builder's cache; return which, and the bytes won.

        Args:
            reserved_space: bytes of cache to keep. API 1.48 and later, as the next two.
            max_used_space: bytes of cache to keep at most.
            min_free_space: bytes of disk that shall be free afterwards.
            all_builds: also what is in use by an image.
            filters: `until`, `id`, `parent`, `type`, `description`, `inuse`, `shared`, `private`.
            timeout: seconds for the call.
        """
        params = {
            "reserved-space": reserved_space,
            "max-used-space": max_used_space,
            "min-free-space": min_free_space,
            "all": all_builds,
            "filters": clean_filters(filters),
        }
        return cast("BuildsPruned", await self._prune("build/prune", params, timeout))

    async def _prune(self, path: str, params: Mapping[str, Any], timeout: Timeout) -> Any:
        return await self._api.json("POST", path, params=params, timeout=timeout, default=LONG_TIMEOUT)
