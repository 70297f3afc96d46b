"""What a container has written, as text pieces: a `LogStream`."""

import codecs
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, final

from supervisor.engine.errors import DockerConnectionError
from supervisor.engine.reply import Reply
from supervisor.engine.stream import MULTIPLEXED, Demultiplexer

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker
    from supervisor.engine.output import ContainerOutput


@final
class LogStream:
    """The pieces of a log as text, in the engine's order; a piece is what the program wrote at once, mostly a
    line; with a terminal, what has arrived.

    The request is sent on first use, or on entering `async with`. Bytes that are not UTF-8 are left out,
    characters that are cut in two are put together again.

    Resource handling and error handling: as `JSONStream`.
    """

    def __init__(self, request: Callable[[], Awaitable[Reply]], plain: Callable[[], Awaitable[bool]]) -> None:
        self._request = request
        self._plain = plain
        self._reply: Reply | None = None
        self._ended = False
        self._frames: Demultiplexer | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    async def open(self) -> None:
        """Send the request now, and wait for the head of the answer."""
        if self._reply is not None or self._ended:
            return
        reply = await self._request()
        try:
            with reply.deadline():
                if reply.headers.get("content-type") == MULTIPLEXED or not await self._plain():
                    self._frames = Demultiplexer()
        except BaseException:
            await reply.aclose()
            raise
        self._reply = reply

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            data = await self._piece()
            text = self._decoder.decode(data, final=not data)
            if text:
                return text
            if not data:
                raise StopAsyncIteration

    async def collect(self) -> list[str]:
        """Return all pieces up to the end."""
        async with self:
            return [piece async for piece in self]

    async def _piece(self) -> bytes:
        await self.open()
        while self._reply is not None:
            try:
                message = self._frames.next() if self._frames else None
            except ValueError as error:
                await self.aclose()
                raise DockerConnectionError(str(error)) from error
            if message is not None:
                return message.data
            data = await self._reply.receive()
            if not data:
                await self.aclose()
                if self._frames and self._frames.inside:
                    raise DockerConnectionError("the log ended inside a frame")
            elif self._frames is None:
                return data
            else:
                self._frames.receive(data)
        return b""

    async def aclose(self) -> None:
        """Stop reading and give the connection back. Idempotent; never waits."""
        self._ended = True
        if self._reply is not None:
            reply, self._reply = self._reply, None
            await reply.aclose()


@final
class DockerLog:
    """A container's log as something to follow: `async with container.logs.subscribe() as log`."""

    def __init__(self, docker: "Docker", container: "ContainerOutput") -> None:
        self.docker = docker
        self.container = container

    def subscribe(self, **params: Any) -> LogStream:
        """Return the log from its beginning (or as `since`, `tail` say) and on, stdout and stderr unless told
        otherwise.
        """
        options = {"stdout": True, "stderr": True, **params}
        return self.container.log(follow=True, **options)
