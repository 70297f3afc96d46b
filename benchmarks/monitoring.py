"""`python -m benchmarks.monitoring`: what the resource monitor costs with many sessions, in CPU time.

A round is one look at every session, spread over the interval, as the supervisor does it: the real monitor,
with real sessions (whose terminals are memory) and their records in a directory. What it reads are the
kernel's files: of control groups that are made here, with a process in a network namespace of its own in each
(needs root), or with `--engine` of so many hardened containers (`DOCKER_HOST`; a minute for 60).

Of CPU time the whole process counts, and what the same sessions cost without a monitor is taken off.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import trio

from supervisor.reaping.cgroups import hierarchies, remove_group
from supervisor.sandbox.budget import Budget
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.usage import Cgroups, Meter, Usage, find_cgroups
from supervisor.session.monitor import ResourceMonitor
from supervisor.session.record import Records
from supervisor.session.registry import SessionRegistry
from supervisor.settings import Settings
from supervisor.settings.load import load_settings
from supervisor.testing.memory import MemoryProvider

CONTROLLERS = ("memory", "cpu", "cpuacct", "pids")
STARTS_AT_ONCE = 4
Reader = Callable[[], Usage | None]


@attrs.define
class Measured:
    """A `MeasuringProvider` whose sandboxes are read by `readers`, one for each session that asks."""

    readers: list[Reader]
    given: dict[str, Reader] = attrs.field(factory=dict[str, Reader])

    def usage(self, session_id: str) -> Usage | None:
        if session_id not in self.given:
            self.given[session_id] = self.readers[len(self.given)]
        return self.given[session_id]()

    def usage_of_all(self) -> tuple[Usage, Budget] | None:
        return None

    async def throttle(self, session_id: str, part: float) -> None:
        raise NotImplementedError


@contextmanager
def groups(count: int) -> Generator[list[Reader]]:
    """So many control groups, with a process in each."""
    top = f"terminal_supervisor_benchmark.{os.getpid()}"
    processes: list[subprocess.Popen[bytes]] = []
    mounted = hierarchies()
    roots = {mounted[name] for name in CONTROLLERS if name in mounted} or {mounted[""]}
    try:
        readers: list[Reader] = []
        for root in roots:
            (root / top).mkdir()
            _delegate(root / top)
        for number in range(count):
            process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
            processes.append(process)
            for root in roots:
                group = root / top / f"group-{number}"
                group.mkdir()
                (group / "cgroup.procs").write_text(str(process.pid))
            readers.append(Meter(_found(process.pid, f"group-{number}")).read)
        yield readers
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        if not remove_group(top):
            print(f"the control groups {top} could not be removed")


def _delegate(group: Path) -> None:
    """Let groups below have the controllers that this one has (version 2 alone asks for that)."""
    controllers = group / "cgroup.controllers"
    if controllers.exists() and (names := controllers.read_text().split()):
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))


def _found(pid: int, name: str) -> Cgroups:
    cgroups = find_cgroups(pid, name)
    if cgroups is None:
        raise SystemExit("this host has not the controllers memory, cpu and pids")
    return cgroups


@asynccontextmanager
async def containers(count: int) -> AsyncGenerator[list[Reader]]:
    """So many session containers at the engine."""
    settings = attrs.evolve(load_settings(), max_sessions=count, network="none", monitoring=True)
    limiter = trio.CapacityLimiter(STARTS_AT_ONCE)
    async with open_docker_provider(settings, verify=False) as provider, AsyncExitStack() as stack:
        names = [f"session-{number}" for number in range(count)]

        async def start(name: str) -> None:
            async with limiter:
                await stack.enter_async_context(provider.lease(LeaseRequest(name)))

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(start, name)
        yield [lambda name=name: provider.usage(name) for name in names]  # type: ignore[misc]


async def measure(readers: list[Reader], rounds: int, interval: float) -> float:
    """Return the seconds of CPU time that a round takes."""
    settings = Settings(max_sessions=len(readers), monitor_interval=interval)
    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            registry = SessionRegistry(settings, MemoryProvider(), nursery)
            for _ in readers:
                await registry.create(b"owner", LeaseRequest(""))
            without = await _spent(rounds * interval)
            monitor = ResourceMonitor(settings, registry, Measured(readers), Records(Path(directory)))
            nursery.start_soon(monitor.run)
            while len(monitor.watched) < len(readers):  # noqa: ASYNC110 - the first round makes the records
                await trio.sleep(interval / 10)
            with_it = await _spent(rounds * interval)
            nursery.cancel_scope.cancel()
    return (with_it - without) / rounds


async def _spent(seconds: float) -> float:
    before = time.process_time()
    await trio.sleep(seconds)
    return time.process_time() - before


async def run(options: argparse.Namespace) -> None:
    """Measure what `options` say, and print it."""
    async with AsyncExitStack() as stack:
        if options.engine:
            readers = await stack.enter_async_context(containers(options.containers))
        else:
            readers = stack.enter_context(groups(options.containers))
        began = time.process_time()
        for read in readers:
            assert read() is not None
        reading = time.process_time() - began
        seconds = await measure(readers, options.rounds, options.interval)
    what = "containers" if options.engine else "control groups"
    print(
        f"{options.containers} {what}, {options.rounds} rounds of {options.interval:g} s: "
        f"{1000 * seconds:.1f} ms of CPU time for a round, {1000 * reading:.1f} ms of it for reading; "
        f"{100 * seconds / options.interval:.2f} % of a core"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitoring", description=__doc__)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--interval", type=float, default=5.0, help="seconds; RESOURCE_MONITORING_INTERVAL_MS"
    )
    parser.add_argument("--engine", action="store_true", help="real containers")
    options = parser.parse_args()
    trio.run(run, options)


if __name__ == "__main__":
    main()
