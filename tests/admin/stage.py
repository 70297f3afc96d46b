"""A supervisor with terminals in memory, and its operator."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import trio
from gateway.harness import pages

from supervisor.admin.app import AdminApp
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.serve import Supervisor, running
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider, MemoryTerminal


@attrs.frozen
class Stage:
    supervisor: Supervisor
    provider: MemoryProvider
    operator: httpx.AsyncClient

    async def session(self) -> tuple[Session, MemoryTerminal]:
        session = await self.supervisor.registry.create(b"owner", LeaseRequest(""))
        return session, self.provider.terminals[-1]

    async def json(self, path: str, method: str = "GET") -> Any:
        answer = await self.operator.request(method, path)
        assert answer.is_success, answer.text
        return answer.json()

    async def metrics(self) -> dict[str, float]:
        """Return each sample's value by name and labels, as the text has them."""
        text = (await self.operator.get("/metrics")).text
        samples = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("terminal_supervisor_"): float(value) for name, _, value in samples}


@asynccontextmanager
async def stage(**settings: Any) -> AsyncGenerator[Stage]:
    provider = MemoryProvider()
    with trio.fail_after(20):
        async with running(Settings(port=0, **settings), provider, pages()) as supervisor:
            transport = httpx.ASGITransport(AdminApp(supervisor.view))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://admin") as operator:
                yield Stage(supervisor, provider, operator)
