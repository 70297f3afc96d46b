"""Real supervisors as processes of their own, seen from outside: what they print, hold and leave behind.

What belongs to a supervisor is found without its help: its instance by the kernel's list of sockets, its
containers by the engine's list, their processes by their cgroups, its guard by its command line.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import trio

from supervisor.engine import Docker
from supervisor.reaping.cgroups import hierarchies
from supervisor.sandbox.identity import LABEL_INSTANCE

TOKEN = "fault-test-token-of-no-value"
WORKBENCH = "terminal-supervisor-workbench:latest"
LIFELINES = Path("/run/terminal-supervisor/lifeline")
ADMIN = Path("/run/terminal-supervisor/admin")
START_TIMEOUT = 90.0  # seconds until it prints its address; it proves the network's isolation first
GONE_TIMEOUT = 60.0  # seconds for everything to go; on a quiet machine a tenth of it
_MAIN = "import sys; from supervisor.cli import main; sys.exit(main(sys.argv[1:]))"
_LIVENESS = "@terminal-supervisor/"


def environment(docker_host: str, **changes: str) -> dict[str, str]:
    """Environment of a supervisor on the workbench; `changes` are settings."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    return kept | {
        "DOCKER_HOST": docker_host,
        "DOCKER_IMAGE_NAME": WORKBENCH,
        "SESSION_COMMAND": "/bin/bash --norc --noprofile",
        "CONTAINER_USER": "1000:1000",
        "LOCAL_ACCESS_TOKEN": TOKEN,
        "HARDENING_WITHOUT": os.environ["HARDENING_WITHOUT"],
        "RATE_LIMIT_EXEMPT_NETWORKS": "127.0.0.0/8",
        "PORT": "0",
        "WARM_POOL_SIZE": "1",
        "LOG_FORMAT": "json",
        **changes,
    }


class Supervised:
    """A supervisor's process.

    Attributes:
        process: started by the test; its standard error goes to `log`.
        url: of its WebSocket, once it has said where it is.
        instance: its id, likewise.
    """

    def __init__(self, process: trio.Process, log: Path, docker: Docker) -> None:
        self.process = process
        self.log = log
        self.docker = docker
        self.url = ""
        self.instance = ""

    async def wait_open(self) -> None:
        """Wait for its address."""
        assert self.process.stdout is not None
        said = b""
        with trio.fail_after(START_TIMEOUT):
            while b"Open " not in said or not said.endswith(b"\n"):
                piece = await self.process.stdout.receive_some()
                assert piece, f"the supervisor did not start:\n{self.log.read_text()}"
                said += piece
        self.url = said.decode().split("Open ")[1].split("?")[0].replace("http", "ws", 1).strip() + "ws"
        self.instance = instance_of(self.process.pid)

    def events(self, text: str) -> list[str]:
        """The lines of its log in which `text` occurs."""
        return [line for line in self.log.read_text().splitlines() if text in line]

    async def wait_logged(self, text: str, count: int = 1) -> None:
        """Wait until it has logged `text` so many times."""
        while len(self.events(text)) < count:
            await trio.sleep(0.02)

    async def wait_pool(self, waiting: int) -> None:
        """Wait until so many sandboxes wait in its pool."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.operators_socket()))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=10) as client:
            while (await client.get("/stats")).json()["pool"]["waiting"] != waiting:
                await trio.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)

    async def containers(self) -> set[str]:
        """Ids of its containers, whatever their state."""
        return await containers_of(self.docker, self.instance)

    async def processes(self) -> set[int]:
        """Pids of everything that runs in its containers."""
        return processes_in(await self.containers())

    def guards(self) -> list[int]:
        """Pids of its guard, of which there should be one."""
        return guards_of(self.instance)

    def sockets(self) -> list[Path]:
        """Directories of its lifeline sockets."""
        return list(LIFELINES.glob(f"*{self.instance[:16]}*"))

    def operators_socket(self) -> Path:
        """Where its operators ask it."""
        return ADMIN / f"{urlsplit(self.url).port}.sock"

    def groups(self) -> list[Path]:
        """Its control groups, in each hierarchy."""
        return [group for root in set(hierarchies().values()) for group in root.glob(f"*{self.instance}*")]

    async def wait_dead(self, processes: set[int]) -> float:
        """Wait until none of these runs; return the seconds that took."""
        began = trio.current_time()
        with trio.fail_after(GONE_TIMEOUT):
            while any(map(is_running, processes)):
                await trio.sleep(0.01)
        return trio.current_time() - began

    async def wait_gone(self, processes: set[int]) -> tuple[float, float]:
        """Wait until nothing of it is left, after it was killed; return the seconds until no process of its
        containers ran, and until no container was listed. `processes` are those that ran before.
        """
        began = trio.current_time()
        with trio.fail_after(GONE_TIMEOUT):
            dead = await self.wait_dead(processes)
            while await self.containers():
                await trio.sleep(0.05)
            gone = trio.current_time() - began
            # The guard ends when it has seen two empty lists in a row: a create may have been under way.
            while self.guards():
                await trio.sleep(0.05)
        assert await self.containers() == set()
        assert self.sockets() == []
        assert self.groups() == []
        return dead, gone


def instance_of(pid: int) -> str:
    """The instance that the process holds alive."""
    names: dict[str, str] = {}
    for line in Path("/proc/net/unix").read_text().splitlines():
        fields = line.split()
        if len(fields) == 8 and fields[7].startswith(_LIVENESS):
            names[f"socket:[{fields[6]}]"] = fields[7].removeprefix(_LIVENESS)
    held: set[str] = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held.add(str(path.readlink()))
    [instance] = [names[each] for each in held if each in names]
    return instance


async def containers_of(docker: Docker, instance: str) -> set[str]:
    """Ids of an instance's containers."""
    filters = {"label": [f"{LABEL_INSTANCE}={instance}"]}
    return {container.id for container in await docker.containers.list(all=True, filters=filters)}


def processes_in(containers: set[str]) -> set[int]:
    """This host's processes whose cgroup is one of these containers'."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            cgroup = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(container in cgroup for container in containers):
            found.add(int(path.parent.name))
    return found


def is_running(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


def guards_of(instance: str) -> list[int]:
    """Pids of the guard processes of an instance."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "supervisor.reaping.guard" in words and instance in words and is_running(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


@asynccontextmanager
async def supervised(
    docker_host: str, directory: Path, *, wait: bool = True, prelude: str = "", **changes: str
) -> AsyncIterator[Supervised]:
    """Run `terminal-supervisor serve --no-setup`; ends it, should it still run, by SIGKILL and waits for its
    guard.

    Args:
        docker_host: the engine.
        directory: for its log.
        wait: until it has printed its address.
        prelude: Python to run in it first: to shorten what no setting does.
        changes: settings, by the names of their variables.
    """
    log = directory / f"supervisor-{time.monotonic_ns()}.log"
    program = ["-c", f"{prelude}\n{_MAIN}"] if prelude else ["-m", "supervisor"]
    command = [sys.executable, *program, "--env-file", "/dev/null", "serve", "--no-setup"]
    async with Docker(docker_host) as docker, trio.open_nursery() as nursery:
        with log.open("wb") as stream:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdout=subprocess.PIPE,
                    stderr=stream,
                    env=environment(docker_host, **changes),
                    start_new_session=True,
                    check=False,
                )
            )
        found = Supervised(process, log, docker)
        try:
            if wait:
                await found.wait_open()
            yield found
        finally:
            with trio.move_on_after(GONE_TIMEOUT, shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                while found.instance and found.guards():
                    await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
