"""Answers of the engine: read under the deadline of their call, and what the bad ones mean."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Any, Literal, Self, cast, final

import httpx
import trio

from supervisor.engine.errors import DockerConnectionError, DockerError, DockerTimeoutError

MAX_REPLY = 256 * 1024 * 1024
"""Bytes of an answer that is read as a whole. A list of 10,000 containers is about 20 MB."""
MAX_ERROR = 64 * 1024
"""Bytes read of an answer that says what went wrong."""


@final
class deadline_in:  # noqa: N801 - used like a function
    """Bound the body to `seconds` (`math.inf` for no bound), counted from now, or ending at `deadline`.

    Raises:
        DockerTimeoutError: they passed.
    """

    def __init__(self, seconds: float, what: str, deadline: float | None = None) -> None:
        self._seconds = seconds
        self._what = what
        self._end = trio.current_time() + seconds if deadline is None else deadline
        self._scope = trio.CancelScope(deadline=self._end)

    def __enter__(self) -> float:
        """Return the moment at which the time is over, on Trio's clock."""
        self._scope.__enter__()
        return self._end

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise DockerTimeoutError(f"{self._what}: no answer within {self._seconds:g} s") from None
        return False


@final
class Reply:
    """A good answer whose body has not been read yet. Close it, or leave it as an async context manager."""

    def __init__(self, response: httpx.Response, what: str, seconds: float, deadline: float) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("the transport must be an asynchronous one")
        self.status = response.status_code
        self.headers = response.headers
        self._stream = response.stream
        self._pieces: AsyncIterator[bytes] = aiter(response.stream)
        self._what = what
        self._seconds = seconds
        self._deadline = deadline

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def deadline(self) -> deadline_in:
        """Bound what is done meanwhile to the time that this call has left."""
        return deadline_in(self._seconds, self._what, self._deadline)

    async def receive(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises:
            DockerConnectionError: it broke off.
            DockerTimeoutError: the call's deadline passed.
        """
        with self.deadline():
            return await self._piece()

    async def read(self, limit: int = MAX_REPLY) -> bytes:
        """Return the whole body, and close.

        Raises:
            DockerError: it is longer than `limit` bytes; or as `receive`.
        """
        with self.deadline():
            return await self.read_now(limit)

    async def read_now(self, limit: int = MAX_REPLY) -> bytes:
        """Do as `read`, but without a deadline of its own: for who has set it already."""
        pieces: list[bytes] = []
        size = 0
        async with self:
            while piece := await self._piece():
                size += len(piece)
                if size > limit:
                    raise DockerError(0, f"{self._what}: the answer is longer than {limit} bytes")
                pieces.append(piece)
        return b"".join(pieces)

    async def _piece(self) -> bytes:
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except (httpx.HTTPError, httpx.StreamError) as error:
            await self.aclose()
            raise DockerConnectionError(f"{self._what}: the answer broke off: {error}") from error
        except BaseException:
            await self.aclose()
            raise
        return b""

    async def aclose(self) -> None:
        """Give the connection back. Does not wait for the rest of the body."""
        if isinstance(self._pieces, AsyncGenerator):  # of a transport that is not ours
            await cast("AsyncGenerator[bytes]", self._pieces).aclose()
        await self._stream.aclose()


def parse_json(data: bytes, what: str) -> Any:
    """Return the value of `data`.

    Raises:
        DockerConnectionError: it is not JSON, so whatever answered is no engine.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DockerConnectionError(f"{what}: the answer is not JSON: {data[:80]!r}") from error


async def refusal(reply: Reply) -> DockerError:
    """Return the error that a bad answer stands for: the engine's own message, where it is one."""
    try:
        data = await reply.read_now(MAX_ERROR)
    except DockerError as error:
        return DockerError(reply.status, f"(and its explanation did not arrive: {error.message})")
    return DockerError(reply.status, explanation(data, reply.status))


def explanation(data: bytes, status: int) -> str:
    """Return the sentence in the body of a bad answer: the engine's JSON has it under `message`, proxies
    write text.
    """
    text = data.decode(errors="replace").strip()
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = text
    return (message if isinstance(message, str) else text) or f"HTTP status {status} without an explanation"
