"""An image on its way out of the engine, as a tar archive, without ever being in memory as a whole."""

import io
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, final

from supervisor.engine.api import LONG_TIMEOUT, Api
from supervisor.engine.params import image_path
from supervisor.engine.reply import Reply
from supervisor.engine.types import Timeout


@final
class ImageExport:
    """An image as a tar archive, piece by piece. Enter it with `async with`; leaving gives the connection
    back.
    """

    def __init__(self, api: Api, name: str, timeout: Timeout) -> None:
        self._api = api
        self._path = f"images/{image_path(name)}/get"
        self._timeout = timeout
        self._reply: Reply | None = None
        self._rest = b""

    async def __aenter__(self) -> Self:
        self._reply = await self._api.open("GET", self._path, timeout=self._timeout, default=LONG_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is not None:
            await self._reply.aclose()

    async def read(self, n: int = -1) -> bytes:
        """Return up to `n` bytes, all of the rest for -1, b"" at the end."""
        if self._reply is None:
            raise RuntimeError("enter the export first: async with docker.images.export_image(…) as content")
        if n < 0:
            rest = io.BytesIO()
            while piece := await self.read(io.DEFAULT_BUFFER_SIZE):
                rest.write(piece)
            return rest.getvalue()
        if not self._rest:
            self._rest = await self._reply.receive()
        piece, self._rest = self._rest[:n], self._rest[n:]
        return piece

    def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Iterate over pieces of at most `n` bytes."""
        return _Chunks(self, n)


@final
class _Chunks:
    def __init__(self, export: ImageExport, size: int) -> None:
        self._export = export
        self._size = size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._export.read(self._size)
        if not piece:
            raise StopAsyncIteration
        return piece
