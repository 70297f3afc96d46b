"""How soon nothing is left of a session, by each of the ways in which it can end."""

import os
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import trio

from benchmarks.adapters import connect
from benchmarks.client import PROMPT, Access, Client, read_until
from benchmarks.machine import alive, with_argument
from benchmarks.measuring import Record
from benchmarks.scenarios.scenario import Run, Scenario, Size
from benchmarks.targets import TARGETS, Options, Running, docker_host
from supervisor.engine import Docker
from supervisor.reaping.guard import PARALLEL
from supervisor.sandbox.identity import LABEL_PRODUCT

BOUND = 15.0  # seconds after which what is still there counts as left behind
LOOK_EVERY = 0.01
LAST_LOOK = 1.0  # seconds for a look at what is left after that
CUT_GRACE = 1.0  # seconds
STUBBORN = b"trap '' HUP TERM; while :; do echo flood; done\r"


class Marked:
    """A process in the session that can be recognized from outside: it has an argument of its own."""

    def __init__(self) -> None:
        self.argument = f"4{secrets.randbelow(10**5):05}.{secrets.randbelow(10**9):09}"
        self.pids: set[int] = set()

    async def start(self, client: Client) -> None:
        """Start it, ignoring hang-ups, as the hardest case does."""
        await client.type(f"(trap '' HUP; exec sleep {self.argument}) & printf '%s' '<on''>'\r".encode())
        await read_until(client, b"<on>")
        with trio.fail_after(10):
            while not self.pids:
                self.pids = with_argument(self.argument)
                await trio.sleep(LOOK_EVERY)

    def kill(self) -> None:
        """End what should have been ended."""
        for pid in with_argument(self.argument):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def containers(docker: Docker | None) -> set[str]:
    """Return the product's containers at that engine, if there is one."""
    if docker is None:
        return set()
    found = await docker.containers.list(all=True, filters={"label": [LABEL_PRODUCT]})
    return {container.id for container in found}


@asynccontextmanager
async def engine_of(running: Running) -> AsyncGenerator[Docker | None]:
    """Yield the engine that has the target's containers; None where it has none."""
    if running.target.column == "no containers":
        yield None
    else:
        async with Docker(docker_host()) as docker:
            yield docker


async def _until_gone(
    record: Record, marked: list[Marked], docker: Docker | None, ours: set[str], began: float
) -> None:
    """Record how long it takes, counted from `began`, until processes and containers are gone.

    What is left after `BOUND` is noted, and ended.
    """
    pids = [pid for each in marked for pid in each.pids]

    async def watch(what: str, gone: Awaitable[None]) -> None:
        # A look is due also where others have used up the time.
        with trio.move_on_after(max(LAST_LOOK, began + BOUND - time.perf_counter())) as bound:
            await gone
        if bound.cancelled_caught:
            record.notes.append(f"{what} are left {BOUND:g} s after the end of their sessions")
            record.figure(f"{what}.left", 1, "")
        else:
            record.distribution(what).add(time.perf_counter() - began)

    async def dead() -> None:
        while alive(pids):  # noqa: ASYNC110 - nobody tells of others' processes
            await trio.sleep(LOOK_EVERY)

    try:
        await watch("processes", dead())
        if docker is not None:
            await watch("containers", _removed(docker, ours))
    finally:
        for each in marked:
            each.kill()


async def _removed(docker: Docker, ours: set[str]) -> None:
    """Wait until these containers are gone. The engine tells: to be asked for its list again and again would
    take its time from removing them.
    """
    filters = {"type": ["container"], "event": ["destroy"]}
    async with docker.events.subscribe(filters=filters) as events:
        left = ours & await containers(docker)
        while left:
            match await events.get():
                case {"Actor": {"ID": container}}:
                    left.discard(container)
                case _:  # reconnected
                    left &= await containers(docker)


def one_by_one(how: str) -> Run:
    """Return the scenario in which sessions end by `exit`, by their client's leaving, or by a cut."""

    async def run(running: Running, size: Size, record: Record) -> None:
        async with engine_of(running) as docker:
            for _ in range(size.repeats):
                if record.notes:
                    break  # once is enough to know that something is left, and costs the whole bound
                marked = Marked()
                async with connect(running.access) as client:
                    await read_until(client, PROMPT)
                    await marked.start(client)
                    ours = _session_containers(await containers(docker), marked)
                    began = time.perf_counter()
                    if how == "exit":
                        # Some servers wait for all who have the terminal open, so the end is not waited for.
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(_read_on, client)
                            await client.type(b"exit\r")
                            await _until_gone(record, [marked], docker, ours, began)
                            nursery.cancel_scope.cancel()
                        continue
                    if how == "leave":
                        await client.leave()
                await _until_gone(record, [marked], docker, ours, began)

    return run


async def _read_on(client: Client) -> None:
    while await client.read():
        pass


def _session_containers(candidates: set[str], marked: Marked) -> set[str]:
    """Of these containers return those in which a marked process runs; the pool's are others."""
    found: set[str] = set()
    for pid in marked.pids:
        with suppress(OSError):
            groups = Path(f"/proc/{pid}/cgroup").read_text()
            found |= {each for each in candidates if each in groups}
    return found


def killed(number: signal.Signals) -> Run:
    """Return the scenario in which the server is sent that signal."""

    async def run(running: Running, size: Size, record: Record) -> None:
        assert running.main is not None
        async with engine_of(running) as docker, trio.open_nursery() as nursery:
            everybody = [Marked() for _ in range(size.together)]

            async def one(marked: Marked, *, task_status: trio.TaskStatus[None]) -> None:
                async with connect(running.access) as client:
                    await read_until(client, PROMPT)
                    await marked.start(client)
                    if everybody.index(marked) % 2:
                        await client.type(STUBBORN)
                    task_status.started()
                    while await client.read():
                        pass

            for marked in everybody:
                await nursery.start(one, marked)
            there = await containers(docker)
            ours = set[str]().union(*(_session_containers(there, marked) for marked in everybody))
            began = time.perf_counter()
            os.kill(running.main, number)
            await _until_gone(record, everybody, docker, ours, began)
            nursery.cancel_scope.cancel()
        if docker is not None and number == signal.SIGKILL and len(record.distribution("containers")):
            took = record.distribution("containers").most / 1000
            alone = await _removed_by_the_engine_alone(size.together)
            record.figure("engine-alone", alone, "s")
            record.figure("containers-to-engine-alone", took / alone, "times")

    return run


async def _removed_by_the_engine_alone(count: int) -> float:
    """Return the seconds that the bare engine takes to remove as many running containers of the same
    HostConfig, as many at a time as the guard does: the floor of a clean-up.
    """
    leave, limiter = trio.Event(), trio.CapacityLimiter(PARALLEL)

    async def one(access: Access, *, task_status: trio.TaskStatus[None]) -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(access))
            await read_until(client, PROMPT)
            task_status.started()
            await leave.wait()
            async with limiter:
                await stack.aclose()

    async with TARGETS["engine"].launch(Options()) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                await nursery.start(one, engine.access)
            began = time.perf_counter()
            leave.set()
        return time.perf_counter() - began


SCENARIOS = (
    Scenario(
        "cleanup-exit",
        "How long after `exit` is nothing left of the session?",
        "A background process ignores hang-ups; its death is watched from outside, every 10 ms, and, where "
        "there is one, the container's removal, of which the engine tells.",
        one_by_one("exit"),
        process=True,
        floor=False,
    ),
    Scenario(
        "cleanup-leave",
        "How long after its client has left?",
        "As `cleanup-exit`; the client says that it leaves, or cuts the connection where the protocol has "
        "no word for it.",
        one_by_one("leave"),
        process=True,
        floor=False,
    ),
    Scenario(
        "cleanup-cut",
        "How long after its client's connection was cut, without a word?",
        "As `cleanup-exit`, on a server of its own. Ours keeps such a session for whoever comes back, here "
        f"for {CUT_GRACE:g} s (RESUME_GRACE_MS), which are in the figures.",
        one_by_one("cut"),
        fresh=True,
        process=True,
        floor=False,
        environment={"RESUME_GRACE_MS": f"{CUT_GRACE * 1000:.0f}"},
    ),
    *(
        Scenario(
            f"cleanup-{number.name.lower()}",
            f"How long after the server got {number.name} is nothing left of its sessions?",
            "Half of the sessions ignore hang-ups and flood. After SIGKILL also the floor: how long the bare "
            "engine takes to remove as many running containers.",
            killed(number),
            fresh=True,
            process=True,
            floor=False,
        )
        for number in (signal.SIGTERM, signal.SIGKILL)
    ),
)
