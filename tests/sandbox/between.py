"""The real engine with something in between: what tests of a lying or disobedient one are made from."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import httpx

from supervisor.engine import Docker
from supervisor.sandbox.docker import DockerProvider


class EngineBetween(httpx.AsyncBaseTransport):
    """Passes everything on; heirs change it on its way."""

    def __init__(self, real: httpx.AsyncBaseTransport) -> None:
        self.real = real

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.real.handle_async_request(request)

    @staticmethod
    async def body_of(response: httpx.Response) -> Any:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return json.loads(b"".join([piece async for piece in response.stream]) or b"null")

    @staticmethod
    def answer(status: int, body: Any) -> httpx.Response:
        headers = {"content-type": "application/json"}
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(json.dumps(body).encode()))

    @staticmethod
    def shows_container(request: httpx.Request) -> bool:
        path = request.url.path
        return request.method == "GET" and "/containers/" in path and path.endswith("/json")


Engine = TypeVar("Engine", bound=EngineBetween)


@asynccontextmanager
async def put_between(provider: DockerProvider, kind: type[Engine]) -> AsyncIterator[Engine]:
    """Have `provider` talk to the engine through a `kind` of it."""
    site = provider.containers.site
    engine = kind(site.docker.api.transport)
    async with Docker(site.docker.docker_host, transport=engine) as docker:
        provider.containers.site = attrs.evolve(site, docker=docker)
        yield engine
        provider.containers.site = site
