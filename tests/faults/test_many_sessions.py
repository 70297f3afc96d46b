"""A thousand sessions through one supervisor: what each took is given back. With terminals of memory always;
on the real engine 40, and a thousand in `make soak`.
"""

import gc
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from sandbox.conftest import docker_settings

from faults.supervised import TOKEN
from faults.visitor import SessionOverError, visit
from supervisor.engine.transport import EngineTransport
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider, Terminal
from supervisor.serve import running
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

SESSIONS = int(os.environ.get("CHURN_SESSIONS", "1000"))
ENGINE_SESSIONS = int(os.environ.get("CHURN_ENGINE_SESSIONS", "40"))  # 1,000 in `make soak`
AT_ONCE = 20
WARM_UP = 100  # sessions before anything is counted: caches fill, modules are imported
ALLOWED_GROWTH = 2 << 20  # bytes, for the allocator's whims; 2 KB a session would show
ALLOWED_ON_ENGINE = 4 << 20  # bytes: far more comes and goes; 4 KB a session would show in `make soak`


class _Forgetful(MemoryProvider):
    """Programs that greet and wait, or end at once; forgotten when they are gone."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    @asynccontextmanager
    async def _lease(self, request: LeaseRequest) -> AsyncIterator[Terminal]:
        async with super()._lease(request) as terminal, trio.open_nursery() as nursery:
            nursery.start_soon(self._play, self.terminals.pop())
            yield terminal
            nursery.cancel_scope.cancel()

    async def _play(self, terminal: MemoryTerminal) -> None:
        self._count += 1
        ends = self._count % 3 == 0
        await terminal.print(b"$ " + b"x" * 2000)
        if ends:
            terminal.exit(0)


def _resident() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_thousand_sessions_leave_nothing() -> None:
    provider = _Forgetful()
    settings = Settings(
        port=0,
        access_token=TOKEN,
        resume_grace=0.05,
        max_sessions=2 * AT_ONCE,
        exempt_networks=("127.0.0.0/8",),
    )

    async def settled() -> int:
        assert provider.leased == 0
        return 0

    with trio.fail_after(120):
        print(f"\n{await _churn(settings, provider, SESSIONS, WARM_UP, AT_ONCE, settled)}")


@pytest.mark.engine
async def test_sessions_on_the_real_engine_leave_nothing(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = docker_settings(
        request,
        port=0,
        access_token=TOKEN,
        resume_grace=0.05,
        command=("sh",),
        exempt_networks=("127.0.0.0/8",),
        warm_pool_size=2,
    )
    with trio.fail_after(60 + 15 * ENGINE_SESSIONS):
        async with open_docker_provider(settings, verify=False) as provider, trio.open_nursery() as nursery:
            transport = provider.containers.site.docker.api.transport
            assert isinstance(transport, EngineTransport)
            pool = WarmPool(provider, 2, 600.0, 600.0)
            nursery.start_soon(pool.run)

            async def settled() -> int:
                while pool.statistics().waiting < 2 or len(provider.containers.pending.names()) > 2:
                    await trio.sleep(0.05)
                numbers = transport.statistics()
                return numbers.idle + numbers.in_use  # it is asked for a sign of life at any time

            # The bounded caches of names, and the interpreter's own table of them, are full in the end: only
            # what grows after that is a leak.
            warm_up = max(20, ENGINE_SESSIONS // 2)
            text = await _churn(settings, pool, ENGINE_SESSIONS, warm_up, 4, settled, ALLOWED_ON_ENGINE)
            numbers = pool.statistics()
            with capsys.disabled():
                print(f"\nreal engine, {numbers.warm} warm, {numbers.cold} cold: {text}")
            nursery.cancel_scope.cancel()


async def _churn(
    settings: Settings,
    provider: SandboxProvider,
    sessions: int,
    warm_up: int,
    at_once: int,
    settled: Callable[[], Awaitable[int]],
    allowed_growth: int = ALLOWED_GROWTH,
) -> str:
    """Have so many sessions come and go; require that descriptors, tasks and memory are as after `warm_up`;
    return how it went. `settled` waits until the provider rests, and returns how many connections it has."""
    ends: set[str | None] = set()

    async def one(url: str, number: int) -> None:
        try:
            async with visit(url) as visitor:
                await visitor.read_until(b"$ ")
                if number % 3 == 1:
                    return  # cut off: the session goes when its grace is over
                if number % 3 == 2:
                    await visitor.type(b"hello")
                await visitor.tell({"type": "leave"})
                await visitor.read_to_end()
        except SessionOverError as over:
            ends.add(over.reason)

    async def churn(url: str, count: int) -> None:
        numbers = iter(range(count))

        async def again_and_again() -> None:
            for number in numbers:
                await one(url, number)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(again_and_again)

    async def settle() -> int:
        while len(supervisor.registry) or supervisor.gateway._connections:
            await trio.sleep(0.01)
        kept = await settled()
        await trio.testing.wait_all_tasks_blocked(0.02)
        return kept

    async with running(settings, provider) as supervisor:
        url = supervisor.gateway.url.replace("http", "ws", 1) + "ws"
        await churn(url, warm_up)
        kept = await settle()
        tasks = trio.lowlevel.current_statistics().tasks_living
        descriptors, resident = _descriptors() - kept, _resident()
        began = trio.current_time()
        await churn(url, sessions)
        seconds = trio.current_time() - began
        kept = await settle()
        grown = _resident() - resident
        text = f"{sessions} sessions in {seconds:.1f} s; memory grew by {grown / 1024:.0f} KB"
        assert trio.lowlevel.current_statistics().tasks_living == tasks, text
        assert _descriptors() - kept == descriptors, text
    assert ends <= {"user-exit"}
    assert grown < allowed_growth, text
    return text
