"""The gate in hardened containers on a real engine: as another user than root, without capabilities."""

import json
import os
import secrets
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import conftest
import httpx
import pytest
import trio

from supervisor.sandbox.lifeline import (
    SOCKET_NAME,
    Lifeline,
    LifelineTerminal,
    open_lifeline_socket,
    runtime_directory,
)
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest
from supervisor.sandbox.verify import first_uid

pytestmark = pytest.mark.engine

TIMEOUT = 30.0  # seconds; engines under load are slow to start containers
REPEATS = 20
USER = 1000
REQUEST = LeaseRequest("session", (), {"PATH": "/usr/bin:/bin", "PS1": "$ "}, cols=101, rows=33)
SHELL = ("bash", "--norc", "-i")


def configuration(image: str, gate: Path, directory: Path, **limits: int) -> dict[str, Any]:
    """A hardened container, by the engine's API."""
    return {
        "Image": image,
        "User": f"{USER}:{USER}",
        "Entrypoint": ["/run/gate", "--idle", "60", f"/run/lifeline/{SOCKET_NAME}"],
        "Cmd": [],
        "HostConfig": {
            "AutoRemove": True,
            "Binds": [f"{gate}:/run/gate:ro", f"{directory}:/run/lifeline:ro"],
            "CapDrop": ["ALL"],
            "IpcMode": "private",
            "LogConfig": {"Type": "none"},
            "Memory": 256 << 20,
            "MemorySwap": 256 << 20,
            "NetworkMode": "none",
            "PidsLimit": 50,
            "ReadonlyRootfs": True,
            "SecurityOpt": ["no-new-privileges"],
            "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=16m"},
            **limits,
        },
    }


class Engine:
    """As much of an engine's client as these tests need."""

    def __init__(self, url: str) -> None:
        self.client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=url.removeprefix("unix://"), verify=False),
            base_url="http://docker",
            timeout=TIMEOUT,
        )

    async def create(self, name: str, config: dict[str, Any]) -> None:
        answer = await self.client.post("/containers/create", params={"name": name}, json=config)
        assert answer.status_code == 201, answer.text

    async def user(self) -> int:
        """What the containers' user is on this host."""
        info = (await self.client.get("/info")).json()
        first = first_uid(info, any("name=userns" in option for option in info["SecurityOptions"]))
        assert first is not None
        return first + USER

    async def start(self, name: str) -> int:
        """Start a container; return the process id of its gate."""
        answer = await self.client.post(f"/containers/{name}/start")
        assert answer.status_code == 204, answer.text
        answer = await self.client.get(f"/containers/{name}/json")
        return int(answer.json()["State"]["Pid"])

    async def wait_removed(self, name: str) -> None:
        """Wait until a container that ends is no more."""
        with trio.fail_after(TIMEOUT):
            while (await self.client.get(f"/containers/{name}/json")).status_code != 404:
                await trio.sleep(0.02)

    async def remove(self, name: str) -> None:
        with trio.move_on_after(TIMEOUT, shield=True):
            await self.client.delete(f"/containers/{name}", params={"force": "true"})


@pytest.fixture
async def engine(docker_host: str) -> AsyncIterator[Engine]:
    engine = Engine(docker_host)
    async with engine.client:
        yield engine


Start = Callable[..., AbstractAsyncContextManager[Lifeline]]


@pytest.fixture
def start(engine: Engine, workbench_image: str, gate_binary: Path) -> Start:
    """Start a container, wait until its gate is ready, and see that it goes once its lifeline is closed."""

    @asynccontextmanager
    async def start(**limits: int) -> AsyncIterator[Lifeline]:
        name = f"ts-gate-test-{secrets.token_hex(4)}"
        try:
            async with open_lifeline_socket(runtime_directory(), await engine.user()) as listening:
                config = configuration(workbench_image, gate_binary, listening.directory, **limits)
                await engine.create(name, config)
                pid = await engine.start(name)
                lifeline = await listening.accept(pid, TIMEOUT)
                await lifeline.receive_report()
            async with lifeline:
                yield lifeline
            await engine.wait_removed(name)
        finally:
            await engine.remove(name)

    return start


def command(*words: str) -> LeaseRequest:
    return attrs.evolve(REQUEST, command=words)


async def receive_until(terminal: LifelineTerminal, end: bytes) -> bytes:
    received = b""
    with trio.fail_after(TIMEOUT):
        while end not in received:
            data = await terminal.receive_some()
            assert data, received
            received += data
    return received


async def test_a_session(start: Start) -> None:
    async with start() as lifeline:
        terminal = await lifeline.claim(command(*SHELL))
        await receive_until(terminal, b"$ ")
        for line, answer in [
            (b"stty size", b"33 101"),
            (b"id -u", b"1000"),
            (b"cat /proc/$$/oom_score_adj", b"1000"),
            (b"ls /run/lifeline | wc -l", b"0"),
        ]:
            await terminal.send_all(line + b"\r")
            output = await receive_until(terminal, b"\r\n$ ")
            assert output.endswith(b"\r\n" + answer + b"\r\n$ ")
        await terminal.send_all(b"exit 7\r")
        while await terminal.receive_some():
            pass
        assert await terminal.wait_closed() == ExitStatus(7)


async def test_the_session_cannot_look_at_its_gate(start: Start) -> None:
    async with start() as lifeline:
        terminal = await lifeline.claim(
            command(
                "bash",
                "-c",
                "for f in environ mem maps stack syscall auxv; do cat /proc/1/$f; done;"
                "ls /proc/1/fd /proc/1/map_files; readlink /proc/1/exe /proc/1/root /proc/1/cwd;"
                "echo 0 > /proc/1/oom_score_adj;"
                "for s in KILL STOP SEGV HUP INT USR1 CONT; do kill -$s 1; done;"
                "echo alive",
            )
        )
        output = await receive_until(terminal, b"alive")
        assert output.count(b"ermission denied") >= 8
        assert b"PATH" not in output
        assert await terminal.wait_closed() == ExitStatus(0)


async def test_a_session_without_memory_or_processes_ends_in_order(start: Start) -> None:
    async with start(Memory=32 << 20, MemorySwap=32 << 20, PidsLimit=20) as lifeline:
        terminal = await lifeline.claim(command(*SHELL))
        await receive_until(terminal, b"$ ")
        await terminal.send_all(b"tail /dev/zero\r")
        assert b"Killed" in await receive_until(terminal, b"$ ")
        await terminal.send_all(b"for i in $(seq 30); do sleep 60 & done\r")
        await receive_until(terminal, b"fork")
        await terminal.send_all(b"\x03")
        await receive_until(terminal, b"$ ")
        await terminal.send_all(b"exit 6\r")
        while await terminal.receive_some():
            pass
        assert await terminal.wait_closed() == ExitStatus(6)


async def test_every_byte_and_the_status(start: Start) -> None:
    request = command("sh", "-c", "head -c 1048576 /dev/zero | tr '\\0' x; exit 3")
    for _ in range(REPEATS):
        async with start() as lifeline:
            terminal = await lifeline.claim(request)
            received = 0
            while data := await terminal.receive_some():
                received += len(data)
            assert received == 1048576
            assert await terminal.wait_closed() == ExitStatus(3)


async def test_terminate_and_the_engines_stop(start: Start) -> None:
    script = "trap 'exit 5' HUP; echo on; while :; do sleep 0.05; done"
    for how in ("frame", "signal"):
        async with start() as lifeline:
            terminal = await lifeline.claim(command("sh", "-c", script))
            await receive_until(terminal, b"on\r\n")
            if how == "frame":
                await terminal.terminate()
            else:
                os.kill(lifeline.pid, 15)
            assert await terminal.wait_closed() == ExitStatus(5)


async def test_other_users_of_the_host_cannot_connect(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0:
        conftest.missing(request, "to be another user takes root")
    script = "import os, socket, sys; os.setuid(int(sys.argv[2])); socket.socket(1).connect(sys.argv[1])"
    async with open_lifeline_socket(runtime_directory(), USER) as listening:
        for user in (USER, 65534):
            result = await trio.run_process(
                [sys.executable, "-c", script, listening.directory / SOCKET_NAME, str(user)],
                check=False,
                capture_stderr=True,
            )
            assert b"PermissionError" in result.stderr


SUPERVISOR = textwrap.dedent("""
    import json, sys, trio, httpx
    from supervisor.sandbox.lifeline import *
    from supervisor.sandbox.terminal import LeaseRequest
    STUBBORN = "trap '' HUP TERM INT; while :; do echo flood; done"
    async def main(url, name, config, user):
        transport = httpx.AsyncHTTPTransport(uds=url, verify=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=30) as client:
            async with open_lifeline_socket(runtime_directory(), user) as listening:
                config = json.loads(config.replace("DIRECTORY", str(listening.directory)))
                answer = await client.post("/containers/create", params={"name": name}, json=config)
                answer.raise_for_status()
                (await client.post(f"/containers/{name}/start")).raise_for_status()
                pid = (await client.get(f"/containers/{name}/json")).json()["State"]["Pid"]
                lifeline = await listening.accept(pid, 30)
                await lifeline.receive_report()
            async with lifeline:
                terminal = await lifeline.claim(LeaseRequest("x", ("sh", "-c", STUBBORN), {"PATH": "/bin"}))
                await terminal.receive_some()
                print(pid, flush=True)
                await trio.sleep_forever()
    trio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
""")


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_killing_the_supervisor_ends_the_container(
    engine: Engine, docker_host: str, workbench_image: str, gate_binary: Path
) -> None:
    name = f"ts-gate-test-{secrets.token_hex(4)}"
    config = json.dumps(configuration(workbench_image, gate_binary, Path("DIRECTORY")))
    arguments = [docker_host.removeprefix("unix://"), name, config, str(await engine.user())]
    try:
        with trio.fail_after(2 * TIMEOUT):
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(
                    partial(
                        trio.run_process,
                        [sys.executable, "-c", SUPERVISOR, *arguments],
                        stdout=subprocess.PIPE,
                        check=False,
                    )
                )
                assert process.stdout is not None
                gate = int(await process.stdout.receive_some())
                assert exists(gate)
                process.kill()
            before = trio.current_time()
            while exists(gate):
                await trio.sleep(0.005)
            assert trio.current_time() - before < 3
            await engine.wait_removed(name)
    finally:
        await engine.remove(name)
