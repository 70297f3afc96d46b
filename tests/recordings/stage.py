"""Sessions that are recorded, on virtual time; the disk's pace is in the test's hands."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from recordings.cast import Cast, only, read
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.session.recorder import Recorder
from supervisor.session.registry import SessionRegistry
from supervisor.session.session import Session
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider, MemoryTerminal


class Disk:
    """Runs what would be run in a thread, when it is not held up."""

    def __init__(self) -> None:
        self._free = trio.Event()
        self._free.set()
        self.calls = 0

    async def __call__(self, function: Callable[[], None], limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            await self._free.wait()
            self.calls += 1
            function()

    def hang(self) -> None:
        self._free = trio.Event()

    def go_on(self) -> None:
        self._free.set()


@attrs.frozen
class Stage:
    registry: SessionRegistry
    provider: MemoryProvider
    recorder: Recorder
    disk: Disk
    directory: Path

    async def start(self) -> tuple[Session, MemoryTerminal]:
        session = await self.registry.create(b"owner", LeaseRequest("", cols=100, rows=30))
        return session, self.provider.terminals[-1]

    async def over(self) -> None:
        """Wait until no session is left."""
        while len(self.registry):
            await trio.sleep(0.1)

    @property
    def part(self) -> bytes:
        return only(self.directory, "*.cast.part").read_bytes()

    @property
    def cast(self) -> Cast:
        return read(only(self.directory))


@asynccontextmanager
async def stage(directory: Path, *, threads: bool = False, **settings: Any) -> AsyncGenerator[Stage]:
    provider, disk = MemoryProvider(), Disk()
    chosen = Settings(
        **{"recording_directory": directory, "recording_min_free": 0, "idle_timeout": 1000.0, **settings}
    )
    async with trio.open_nursery() as outer:
        recorder = Recorder(chosen) if threads else Recorder(chosen, disk)
        outer.start_soon(recorder.run)
        async with trio.open_nursery() as nursery:
            yield Stage(
                SessionRegistry(chosen, provider, nursery, recorder), provider, recorder, disk, directory
            )
            nursery.cancel_scope.cancel()
        outer.cancel_scope.cancel()
    assert provider.leased == 0
