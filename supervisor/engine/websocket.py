"""Attach over a WebSocket, the third way to a container's standard streams besides attach and exec.

`DockerContainer.attach` does the same with less between; this is for who wants messages instead of bytes.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
import trio_websocket

from supervisor.engine.api import Api
from supervisor.engine.errors import DockerConnectionError, DockerError
from supervisor.engine.reply import deadline_in, explanation
from supervisor.engine.types import Timeout

_ORIGIN = [(b"Origin", b"http://localhost")]

CLOSE_SECONDS = 1.0
"""Seconds that the engine has for the closing handshake."""


@asynccontextmanager
async def open_websocket(
    api: Api, path: str, params: Mapping[str, Any], timeout: Timeout
) -> AsyncGenerator[trio_websocket.WebSocketConnection]:
    """Open a WebSocket to the engine, and close it on leaving.

    Raises:
        DockerError: the engine said no.
        DockerConnectionError, DockerTimeoutError: as they say.
    """
    what = f"GET /{path}"
    failure: Exception | None = None
    with deadline_in(api.seconds(timeout), what):
        target = await api.target(path, params)
        connection = await api.connect()
    try:
        async with trio.open_nursery() as nursery:
            # What goes wrong in here is raised outside of the nursery, which would wrap it in a group.
            try:
                with deadline_in(api.seconds(timeout), what):
                    websocket = await trio_websocket.wrap_client_stream(
                        nursery,
                        connection.stream,
                        "docker",
                        target,
                        subprotocols=["chat"],
                        extra_headers=_ORIGIN,
                    )
                try:
                    yield websocket
                finally:
                    with trio.move_on_after(CLOSE_SECONDS, shield=True):
                        await websocket.aclose()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    except* trio_websocket.HandshakeError as errors:  # raised by the task that reads
        failure = _refusal(errors, what)
    finally:
        connection.cut()
    if failure is not None:
        raise failure


def _refusal(errors: BaseException, what: str) -> DockerError:
    while isinstance(errors, BaseExceptionGroup):
        errors = cast("BaseExceptionGroup[BaseException]", errors).exceptions[0]
    if isinstance(errors, trio_websocket.ConnectionRejected):
        return DockerError(errors.status_code, explanation(errors.body or b"", errors.status_code))
    return DockerConnectionError(f"{what}: no WebSocket: {errors}")
