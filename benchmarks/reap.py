"""What a killed supervisor leaves behind, and for how long.

Opens sessions, half of them ignoring hang-ups and flooding, kills the supervisor with SIGKILL, and watches
from
outside: the host's processes by their cgroup, the containers by the engine's list.
"""

import os
import signal
import time
from collections import Counter
from pathlib import Path

import attrs
import trio

from benchmarks import measure
from benchmarks.client import connect
from supervisor.engine import Docker
from supervisor.sandbox.identity import LABEL_INSTANCE, LABEL_PRODUCT

STUBBORN = b"trap '' HUP TERM; while :; do echo flood; done\r"


@attrs.frozen
class Reaping:
    """Seconds from SIGKILL until no process of the sessions ran, and until no container object was left."""

    sessions: int
    processes: int
    processes_dead: float
    containers_gone: float

    def __str__(self) -> str:
        return (
            f"{self.sessions} sessions, {self.processes} processes: all dead after "
            f"{self.processes_dead:.2f} s, no container left after {self.containers_gone:.2f} s"
        )


async def _containers(docker: Docker) -> dict[str, str]:
    """Return the supervisor's instance of each of the product's containers."""
    found = await docker.containers.list(all=True, filters={"label": [LABEL_PRODUCT]})
    return {container.id: container["Labels"][LABEL_INSTANCE] for container in found}


def _processes(containers: set[str]) -> set[int]:
    """Return the host's pids of whatever runs in these containers, read from each process's cgroup."""
    pids: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                cgroup = (entry / "cgroup").read_text()
            except OSError:
                continue
            if any(container in cgroup for container in containers):
                pids.add(int(entry.name))
    return pids


def _any_alive(processes: set[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in processes)


async def sigkill(
    url: str, token: str, pid: int, docker: Docker, sessions: int, bound: float = 30.0
) -> Reaping:
    """Kill process `pid` (the supervisor at `url`) with `sessions` sessions open, and watch for up to `bound`
    seconds.

    Raises:
        RuntimeError: something is left after `bound` seconds.
    """
    before = set(await _containers(docker))
    async with trio.open_nursery() as nursery:
        ready = 0
        all_ready = trio.Event()

        async def one(number: int) -> None:
            nonlocal ready
            async with connect(url, token) as client:
                await client.read_until(measure.PROMPT)
                if number % 2:
                    await client.type(STUBBORN)
                    await client.read_until(b"flood\r\nflood")
                ready += 1
                if ready == sessions:
                    all_ready.set()
                while await client.read():
                    pass

        for number in range(sessions):
            nursery.start_soon(one, number)
        await all_ready.wait()
        # Ours is the instance that grew most; some of its containers may have waited before.
        listed = await _containers(docker)
        grown = Counter(instance for name, instance in listed.items() if name not in before)
        [(instance, _)] = grown.most_common(1)
        ours = {name for name, owner in listed.items() if owner == instance}
        processes = _processes(ours)
        os.kill(pid, signal.SIGKILL)
        killed = time.perf_counter()
        while _any_alive(processes) and time.perf_counter() < killed + bound:  # noqa: ASYNC110 - the kernel tells nobody
            await trio.sleep(0.01)
        dead = time.perf_counter() - killed
        while ours & set(await _containers(docker)):
            if time.perf_counter() > killed + bound:
                raise RuntimeError(f"containers are left {bound:g} s after SIGKILL")
            await trio.sleep(0.02)
        gone = time.perf_counter() - killed
        nursery.cancel_scope.cancel()
    return Reaping(sessions, len(processes), dead, gone)
