"""Another session, which is at work while its neighbours attack: how long it waits for the echo of a key."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from supervisor.errors import SandboxError
from supervisor.sandbox.terminal import LeaseRequest, SandboxProvider, Terminal

_KEY, _DELETE = b"a", b"\x7f"
FACTOR: Final = 10.0
ALLOWANCE: Final = 100.0
"""Milliseconds. A median echo during the attacks may take this, and `FACTOR` times what it took before. A
host that something else makes busy meanwhile delays it by less, and from there on a user notices each key.
"""
LONGEST: Final = 10_000.0
"""Milliseconds that one key may wait. Containers that are made and removed, and a compiler, take turns."""
_PAUSE: Final = 0.05  # seconds between two keys
_BEFORE: Final = 2.0
_START_TIMEOUT: Final = 15.0


@attrs.frozen
class Echo:
    """Latencies of a session's echo, in milliseconds."""

    keys: int
    median: float
    most: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Echo":
        """Return what the single latencies amount to; `most` is what 99 in 100 keys stay below."""
        if not seconds:
            return cls(0, math.nan, math.nan, math.nan)
        ordered = sorted(each * 1000 for each in seconds)
        last = len(ordered) - 1
        return cls(len(ordered), ordered[last // 2], ordered[math.ceil(last * 0.99)], ordered[last])

    def __str__(self) -> str:
        figures = f"median {self.median:.1f} ms, 99 % {self.most:.1f} ms, longest {self.longest:.0f} ms"
        return f"{self.keys} keys, {figures}"


def disturbances(before: Echo, meanwhile: Echo) -> list[str]:
    """Return in what another session was worse off `meanwhile` than it may be, in words."""
    bound = FACTOR * before.median + ALLOWANCE
    found: list[str] = []
    if not meanwhile.keys:
        found.append("no key of it was echoed")
    elif not meanwhile.median <= bound:  # nor where nothing is known of before
        found.append(f"its median echo took {meanwhile.median:.1f} ms, where {bound:.1f} ms are the most")
    if meanwhile.longest > LONGEST:
        found.append(f"it waited {meanwhile.longest:.0f} ms for a key, where {LONGEST:.0f} ms are the most")
    return found


@attrs.define
class Witness:
    """A session that types. `before` is how long its echo takes in peace."""

    session_id: str
    before: Echo
    latencies: list[float] = attrs.field(factory=list)
    waits_since: float | None = None

    @property
    def meanwhile(self) -> Echo:
        """How long it took since; a key that is not echoed yet counts when none took longer."""
        latencies = list(self.latencies)
        if self.waits_since is not None:
            waited = trio.current_time() - self.waits_since
            if waited > max(latencies, default=0.0):
                latencies.append(waited)
        return Echo.of(latencies)


@asynccontextmanager
async def witness(provider: SandboxProvider, environment: dict[str, str]) -> AsyncGenerator[Witness]:
    """Lease a session that runs its usual command, and type in it for as long as the block lasts.

    Args:
        provider: whose.
        environment: of the session.

    Raises:
        trio.TooSlowError: it shows nothing.
        SandboxError: it could not be started, or has ended.
    """
    request = LeaseRequest("attack-witness", environment=environment, hangup_grace=0)
    async with provider.lease(request) as terminal:
        with trio.fail_after(_START_TIMEOUT):
            await terminal.receive_some()  # a prompt
        latencies: list[float] = []
        with trio.move_on_after(_BEFORE):
            await _type(terminal, Witness(request.session_id, Echo.of([]), latencies))
        watched = Witness(request.session_id, Echo.of(latencies))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_type, terminal, watched)
            yield watched
            nursery.cancel_scope.cancel()


async def _type(terminal: Terminal, watched: Witness) -> None:
    """Type a key and take it back, again and again; each must be echoed."""
    heard = trio.Event()

    async def listen() -> None:
        while await terminal.receive_some():
            heard.set()
        raise SandboxError("another session has ended during the attacks")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        while True:
            for key in (_KEY, _DELETE):
                heard = trio.Event()
                watched.waits_since = begin = trio.current_time()
                await terminal.send_all(key)
                await heard.wait()
                watched.latencies.append(trio.current_time() - begin)
                watched.waits_since = None
                await trio.sleep(_PAUSE)
