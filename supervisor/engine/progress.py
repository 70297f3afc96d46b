"""Answers that come line by line for as long as something goes on: build output, pull progress, statistics,
events.

These objects are their own iterators, not generators, so that dropping one halfway leaves nothing suspended.
Use `async with`, or read to the end, or call `aclose`.
"""

import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self, cast, final

from supervisor.engine.errors import DockerConnectionError, DockerStreamError
from supervisor.engine.reply import Reply
from supervisor.engine.types import JSON

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one JSON document. The largest real ones, build cache tables, are below 1 MiB."""

_RECORD_SEPARATOR = b"\x1e"  # begins each document in RFC 7464's form, which newer engines can send


@final
class JSONStream:
    """The JSON objects of an answer, one per line, as they come.

    The request is sent on first use, or on entering `async with`.

    Resource handling: holds a connection until the end, an error, cancellation, or `aclose`.

    Error handling: `DockerStreamError` for a line that reports failure (where the call says so);
    `DockerConnectionError` when the answer breaks off, which is not the same as its end.
    """

    def __init__(self, request: Callable[[], Awaitable[Reply]], *, raise_on_error: bool = True) -> None:
        self._request = request
        self._raise_on_error = raise_on_error
        self._reply: Reply | None = None
        self._buffer: bytearray = bytearray()
        self._ended = False

    async def open(self) -> None:
        """Send the request now, and wait for the head of the answer."""
        if self._reply is None and not self._ended:
            self._reply = await self._request()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JSON:
        await self.open()
        while (line := await self._line()) is not None:
            if line:
                return await self._parse(line)
        raise StopAsyncIteration

    async def collect(self) -> list[JSON]:
        """Return all objects up to the end."""
        async with self:
            return [each async for each in self]

    async def _line(self) -> bytes | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE:
                await self.aclose()
                raise DockerConnectionError(f"a line of the answer is longer than {MAX_LINE} bytes")
            piece = await self._reply.receive() if self._reply is not None else b""
            if not piece:
                await self._give_back()
                end = len(self._buffer)
                if not end:
                    return None
                break
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line.strip().removeprefix(_RECORD_SEPARATOR)

    async def _parse(self, line: bytes) -> JSON:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            await self.aclose()
            raise DockerConnectionError(f"a line of the answer is not JSON: {line[:80]!r}") from error
        if not isinstance(data, dict):
            await self.aclose()
            raise DockerConnectionError(f"a line of the answer is not a JSON object: {line[:80]!r}")
        data = cast("JSON", data)
        if self._raise_on_error and ("error" in data or "errorDetail" in data):
            await self.aclose()
            raise _reported(data)
        return data

    async def aclose(self) -> None:
        """Stop reading, forget what has not been handed out, and give the connection back. Never waits."""
        self._buffer.clear()
        await self._give_back()

    async def _give_back(self) -> None:
        self._ended = True
        if self._reply is not None:
            reply, self._reply = self._reply, None
            await reply.aclose()


def _reported(line: JSON) -> DockerStreamError:
    """Return the error that a progress line reports."""
    detail: Any = line.get("errorDetail")
    fields = cast("JSON", detail) if isinstance(detail, dict) else {} if detail is None else {"raw": detail}
    message = fields.get("message") or line.get("error") or "the engine reports an error without a message"
    return DockerStreamError(str(message), error_detail=fields)
