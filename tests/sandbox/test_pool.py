"""The warm pool: its keeping on virtual time with sandboxes of memory, and its promise on the real engine."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sandbox.conftest import docker_settings, until_waiting
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.identity import LABEL_INSTANCE
from supervisor.sandbox.pool import CLAIM_MARGIN, HEAD_START, LONGEST_BACK_OFF, WarmPool
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.sandbox.usage import Usage
from supervisor.settings import Settings
from supervisor.testing.checkpoints import cancel_at_every_checkpoint
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

START = 0.5  # seconds that a sandbox of memory takes to start
MAX_AGE = 1000.0
REQUEST = LeaseRequest("test", ("bash",), lifetime=100.0)


class MemorySandbox:
    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = trio.Event()
        self.claimable = True
        self.watched = 0
        self.request: LeaseRequest | None = None

    def usage(self) -> Usage | None:
        return None

    async def wait_lost(self) -> None:
        self.watched += 1
        try:
            await self.lost.wait()
        finally:
            self.watched -= 1

    def claim(self, request: LeaseRequest) -> AbstractAsyncContextManager[Terminal]:
        return self._claim(request)

    @asynccontextmanager
    async def _claim(self, request: LeaseRequest) -> AsyncIterator[Terminal]:
        assert self.request is None, "claimed twice"
        await trio.sleep(0.01)
        if not self.claimable:
            raise SandboxError("the gate is gone")
        assert not self.watched, "claimed under the watcher's eyes"
        self.request = request
        yield MemoryTerminal(request)


class MemoryPreparer(MemoryProvider):
    """Prepares sandboxes of memory; `alive` are those that have not been put away."""

    def __init__(self) -> None:
        super().__init__()
        self.closed: str | None = None
        self.start_delay = START
        self.prepare_failure: Exception | None = None
        self.put_away_failure: Exception | None = None
        self.attempts: list[float] = []
        self.alive: list[MemorySandbox] = []
        self.most = 0
        self.starting = 0
        self.most_starting = 0

    def require_ready(self) -> None:
        if self.closed:
            raise SandboxError(self.closed)

    def complete(self, request: LeaseRequest) -> LeaseRequest:
        return request

    def prepare(
        self, lifetime: float, role: str, *, idle: float
    ) -> AbstractAsyncContextManager[MemorySandbox]:
        assert (lifetime, role) == (100.0, "pool")
        assert idle > MAX_AGE + CLAIM_MARGIN / 2
        return self._prepare()

    @asynccontextmanager
    async def _prepare(self) -> AsyncIterator[MemorySandbox]:
        self.attempts.append(trio.current_time())
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        try:
            await trio.sleep(self.start_delay)
        finally:
            self.starting -= 1
        if self.prepare_failure is not None:
            raise self.prepare_failure
        sandbox = MemorySandbox(f"memory-{len(self.attempts)}")
        self.alive.append(sandbox)
        self.most = max(self.most, len(self.alive))
        try:
            yield sandbox
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)
            self.alive.remove(sandbox)
            if self.put_away_failure is not None:
                raise self.put_away_failure


@asynccontextmanager
async def pool_of(provider: MemoryPreparer, size: int = 2, *, filled: bool = True) -> AsyncIterator[WarmPool]:
    pool = WarmPool(provider, size, MAX_AGE, 100.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.run)
        if filled:
            await trio.sleep(START * size + 0.001)
            assert pool.statistics().waiting == size
        yield pool
        nursery.cancel_scope.cancel()
    assert provider.alive == []
    assert provider.leased == 0
    assert pool.statistics().waiting == 0


@pytest.fixture
def memory() -> MemoryPreparer:
    return MemoryPreparer()


async def test_it_is_filled_one_after_another_and_refilled(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory, 3) as pool:
        assert memory.most_starting == 1
        async with pool.lease(REQUEST):
            assert pool.statistics().waiting == 2
            await trio.sleep(HEAD_START - 0.01)
            assert len(memory.attempts) == 3, "whoever has just come gets a prompt first"
            await trio.sleep(START + 0.02)
            assert pool.statistics().waiting == 3
            assert len(memory.alive) == 4
        assert len(memory.alive) == 3
        assert (pool.statistics().warm, pool.statistics().cold) == (1, 0)
        await trio.sleep(10)
        assert len(memory.attempts) == 4, "one for one"


async def test_a_claim_takes_the_one_that_has_waited_longest_and_gets_its_request(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        first, second = memory.alive
        began = trio.current_time()
        async with pool.lease(REQUEST) as terminal:
            assert trio.current_time() - began < START, "no start was waited for"
            assert first.request == REQUEST
            assert isinstance(terminal, MemoryTerminal)
        assert second.request is None
        assert first not in memory.alive, "put away when the lease was over, not later"


async def test_an_empty_pool_falls_back_to_cold_starts(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(_use, pool, 3.0)
            await trio.sleep(START + 0.05)
            assert memory.leased == 18
        assert (pool.statistics().warm, pool.statistics().cold) == (2, 18)
        await trio.sleep(START * 2 + 0.01)
        assert pool.statistics().waiting == 2


async def _use(pool: WarmPool, seconds: float) -> None:
    async with pool.lease(REQUEST):
        await trio.sleep(seconds)


async def test_a_pool_of_none_starts_none(memory: MemoryPreparer, autojump_clock: MockClock) -> None:
    async with pool_of(memory, 0) as pool:
        async with pool.lease(REQUEST):
            await trio.sleep(100)
        assert memory.attempts == []
        assert pool.statistics().cold == 1


async def test_a_cold_start_that_fails_is_the_lease_s_error(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    memory.failure = SandboxError("the engine is away")
    async with pool_of(memory, 0) as pool:
        with pytest.raises(SandboxError, match="away"):
            async with pool.lease(REQUEST):
                raise AssertionError


@pytest.mark.parametrize(
    "failure", [SandboxError("the engine is away"), ConfigurationError("no directory"), OSError(24, "EMFILE")]
)
async def test_it_tries_again_ever_more_rarely_and_recovers(
    memory: MemoryPreparer, autojump_clock: MockClock, failure: Exception
) -> None:
    memory.prepare_failure = failure
    async with pool_of(memory, filled=False) as pool:
        await trio.sleep(600)
        pauses = [round(b - a - START) for a, b in zip(memory.attempts, memory.attempts[1:], strict=False)]
        assert pauses[:7] == [1, 2, 4, 8, 16, 32, 60]
        assert set(pauses[6:]) == {LONGEST_BACK_OFF}
        memory.prepare_failure = None
        await trio.sleep(LONGEST_BACK_OFF + 2 * START)
        assert pool.statistics().waiting == 2, "the second one without a pause"


async def test_what_has_waited_too_long_is_replaced(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        old = list(memory.alive)
        await trio.sleep(MAX_AGE + 2 * START)
        assert not set(old) & set(memory.alive)
        assert pool.statistics().waiting == 2
        assert pool.statistics().replaced == 2
        assert memory.most <= 3, "an old one may still be going while its successor starts"


async def test_one_that_dies_while_it_waits_is_replaced_unasked(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        dead = memory.alive[0]
        await trio.sleep(LONGEST_BACK_OFF)
        dead.lost.set()
        await trio.sleep(START + 0.2)
        assert dead not in memory.alive
        assert pool.statistics().waiting == 2
        async with pool.lease(REQUEST):
            assert (pool.statistics().warm, pool.statistics().cold) == (1, 0)


async def test_those_that_die_at_once_are_replaced_ever_more_rarely(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async def kill_all() -> None:
        while True:
            for sandbox in memory.alive:
                sandbox.lost.set()
            await trio.sleep(0.01)

    async with pool_of(memory, filled=False), trio.open_nursery() as nursery:
        nursery.start_soon(kill_all)
        await trio.sleep(600)
        assert 7 < len(memory.attempts) < 25
        nursery.cancel_scope.cancel()


async def test_one_that_cannot_be_claimed_is_put_away_and_the_next_one_taken(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        bad, good = memory.alive
        bad.claimable = False
        async with pool.lease(REQUEST):
            assert good.request == REQUEST
            await trio.sleep(0.2)
            assert bad not in memory.alive, "not only when the lease ends"
        assert pool.statistics().warm == 1


async def test_when_none_can_be_claimed_the_lease_is_cold(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        for sandbox in memory.alive:
            sandbox.claimable = False
        async with pool.lease(REQUEST):
            assert (pool.statistics().warm, pool.statistics().cold) == (0, 1)


async def test_a_claim_that_is_cancelled_gives_back(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool:
        with trio.move_on_after(0.005) as scope:  # the claim takes 0.01
            async with pool.lease(REQUEST):
                raise AssertionError
        assert scope.cancelled_caught
        assert len(memory.alive) == 1, "one that may have got half of an order is not used again"
        await trio.sleep(START + 0.01)
        assert pool.statistics().waiting == 2


async def test_one_that_cannot_be_put_away_ends_nobody_else(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async with pool_of(memory) as pool, pool.lease(REQUEST):
        memory.put_away_failure = RuntimeError("unheard of")
        await _use(pool, 1.0)
        memory.put_away_failure = None
        await trio.sleep(2 * START + 0.01)
        assert pool.statistics().waiting == 2


async def test_a_pool_that_goes_before_its_leases_hangs_nobody(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    pool = WarmPool(memory, 2, MAX_AGE, 100.0)
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run)
            await trio.sleep(3 * START)
            async with pool.lease(REQUEST):
                nursery.cancel_scope.cancel()
                with suppress(trio.Cancelled):
                    await trio.sleep(1)
    assert memory.alive == []


async def test_cancelled_anywhere_it_leaves_nothing(
    memory: MemoryPreparer, autojump_clock: MockClock
) -> None:
    async def scenario() -> None:
        pool = WarmPool(memory, 2, MAX_AGE, 100.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run)
            await trio.sleep(3 * START)
            memory.alive[0].claimable = False
            memory.alive[1].lost.set()
            await trio.lowlevel.checkpoint()
            await _use(pool, 1.0)
            await _use(pool, 1.0)
            nursery.cancel_scope.cancel()

    async def nothing_left() -> None:
        await wait_all_tasks_blocked()
        assert memory.alive == []
        assert memory.leased == memory.starting == 0

    with trio.fail_after(1_000_000):
        count = await cancel_at_every_checkpoint(scenario, nothing_left)
    print(f"\n{count} checkpoints")
    assert count > 30


# ---------------------------------------------------------------------- the real engine

LIMIT = 90.0


@pytest.fixture(params=["lifeline", "attach"])
def engine_settings(request: pytest.FixtureRequest) -> Settings:
    return docker_settings(request, transport=str(request.param))


async def _mine(docker: Docker, provider: DockerProvider) -> list[str]:
    mine = {"label": [f"{LABEL_INSTANCE}={provider.containers.site.identity.instance}"]}
    return [container.id for container in await docker.containers.list(all=True, filters=mine)]


async def _answers(pool: WarmPool) -> float:
    """Use a lease; return the seconds until it answered."""
    began = trio.current_time()
    request = LeaseRequest("test", ("sh", "-c", "stty size; read line; echo $line"), cols=91, rows=19)
    async with pool.lease(request) as terminal:
        output = await terminal.receive_some()
        seconds = trio.current_time() - began
        await terminal.send_all(b"hello\r")
        while data := await terminal.receive_some():
            output += data
        assert output == b"19 91\r\nhello\r\nhello\r\n"
        assert (await terminal.wait_closed()).code == 0
    return seconds


@pytest.mark.engine
async def test_a_warm_lease_is_a_lease_and_nothing_is_left(engine_settings: Settings) -> None:
    with trio.fail_after(LIMIT):
        async with (
            Docker(engine_settings.docker_host) as docker,
            open_docker_provider(engine_settings, verify=False) as provider,
        ):
            pool = WarmPool(provider, 2, 600.0, 600.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run)
                await until_waiting(pool, 2)
                seconds = [await _answers(pool), await _answers(pool)]
                print(f"\n{engine_settings.transport}: first output after {max(seconds) * 1000:.0f} ms")
                assert pool.statistics().warm == 2
                await until_waiting(pool, 2)
                nursery.cancel_scope.cancel()
            assert await _mine(docker, provider) == []
            assert provider.containers.pending.names() == []


@pytest.mark.engine
async def test_one_killed_behind_our_back_is_replaced_and_no_lease_fails(engine_settings: Settings) -> None:
    with trio.fail_after(LIMIT):
        async with (
            Docker(engine_settings.docker_host) as docker,
            open_docker_provider(engine_settings, verify=False) as provider,
        ):
            pool = WarmPool(provider, 1, 600.0, 600.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run)
                await until_waiting(pool, 1)
                [container] = await _mine(docker, provider)
                await docker.containers.container(container).kill()
                await _answers(pool)  # at once: whoever comes first, the watcher or the claim
                while container in await _mine(docker, provider):
                    await trio.sleep(0.05)
                await until_waiting(pool, 1)
                [container] = await _mine(docker, provider)
                await docker.containers.container(container).kill()
                while pool.statistics().replaced == 0:
                    await trio.sleep(0.02)
                await until_waiting(pool, 1)
                assert container not in await _mine(docker, provider)
                await _answers(pool)
                nursery.cancel_scope.cancel()
            assert await _mine(docker, provider) == []
