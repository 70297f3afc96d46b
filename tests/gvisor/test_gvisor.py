"""Sessions on gVisor: Debian's runsc, at an engine of the tests' own.

`own_engine` says what that engine's runtimes are. Its containers have no network but in the last tests, so
supervisors may run in the tests' own network namespace.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import conftest
import pytest
import trio
from faults.supervised import WORKBENCH, supervised
from faults.visitor import PROMPT, visit

from supervisor.attacks.run import run as attack
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.provision.host import find_program
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.survey import survey
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.settings import Settings

pytestmark = [pytest.mark.engine, pytest.mark.netns]

HERE = Path(__file__).parent
LIMIT = 120.0  # seconds; ten on a quiet machine
ECHOES = 50
SHELL = ("bash", "--norc", "--noprofile")
COVERED = {Measure.APPARMOR, Measure.LANDLOCK, Measure.USERNS}


class Engine:
    """The engine, which runs in a network namespace of its own.

    Attributes:
        url: as for DOCKER_HOST.
        pid: a process in that namespace.
    """

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def settings(self, runtime: str, **changes: Any) -> Settings:
        """Settings of sessions on the workbench, strict unless `changes` say otherwise."""
        base: dict[str, Any] = {
            "docker_host": self.url,
            "runtime": runtime,
            "transport": "attach",
            "image": WORKBENCH,
            "container_user": "1000:1000",
            "network": "none",
            "command": SHELL,
            "pids_limit": 256,
        }
        return Settings(**{**base, **changes})


@contextmanager
def running_engine(source: str) -> Iterator[Engine]:
    """An engine that has the workbench image of the one at `source`; ended on leaving."""
    # Sockets have short names: pytest's own directories are too deep for them.
    directory = Path(tempfile.mkdtemp(prefix="ts-gvisor-", dir="/tmp"))
    program = [sys.executable, str(HERE / "own_engine.py"), str(directory), source]
    with subprocess.Popen(
        ["unshare", "--net", "--mount", *program],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n", "its standard error says why"
            yield Engine(f"unix://{directory}/run/docker.sock", process.pid)
        finally:
            process.stdin.close()
            status = process.wait(timeout=60)
            shutil.rmtree(directory)
    assert status == 0


@pytest.fixture(scope="module")
def start_engine() -> Iterator[Callable[[str], Engine]]:
    """Start the engine, once for all tests."""
    with ExitStack() as stack:
        yield cache(lambda source: stack.enter_context(running_engine(source)))


@pytest.fixture
def engine(
    request: pytest.FixtureRequest,
    docker_host: str,
    workbench_image: str,
    start_engine: Callable[[str], Engine],
) -> Engine:
    needed = ("runsc", "dockerd", "dnsmasq", "ip", "iptables", "nft", "unshare")
    if os.geteuid() != 0 or not all(find_program(name) for name in needed):
        conftest.missing(request, f"an engine of the tests' own takes root and {', '.join(needed)}")
    return start_engine(docker_host)


@asynccontextmanager
async def shell(provider: DockerProvider, session: str = "one") -> AsyncIterator[tuple[Terminal, float]]:
    """A shell at its prompt, and the seconds that its start took."""
    began = time.perf_counter()
    async with provider.lease(LeaseRequest(session, SHELL, lifetime=LIMIT)) as terminal:
        await until(terminal, b"$ ")
        yield terminal, time.perf_counter() - began


async def until(terminal: Terminal, mark: bytes) -> bytes:
    """Output up to the piece in which `mark` ends."""
    seen = b""
    while mark not in seen:
        piece = await terminal.receive_some()
        assert piece, seen
        seen += piece
    return seen


async def type_and_see(terminal: Terminal, line: bytes, mark: bytes) -> bytes:
    """Type a line; return the output up to the piece in which `mark` ends."""
    await terminal.send_all(line + b"\r")
    return await until(terminal, mark)


async def echo_seconds(terminal: Terminal) -> float:
    """The median time from a key to its echo."""
    found: list[float] = []
    for _ in range(ECHOES):
        began = time.perf_counter()
        await terminal.send_all(b"#")
        await until(terminal, b"#")
        found.append(time.perf_counter() - began)
    return statistics.median(found)


async def containers_at(engine: Engine) -> int:
    async with Docker(engine.url) as docker:
        return len(await docker.containers.list(all=True))


async def test_a_session_with_all_measures(engine: Engine) -> None:
    """Strict, on a host that has neither AppArmor nor users of its own for containers: nothing is gone
    without."""
    with trio.fail_after(LIMIT):
        async with open_docker_provider(engine.settings("runsc")) as provider:
            stand = {each.measure: each for each in provider.security.measures}
            assert provider.security.failing == ()
            assert provider.security.without == ()
            assert {measure for measure, each in stand.items() if each.covered} == COVERED
            assert all(stand[measure].verified == ("host",) for measure in COVERED)
            assert all(each.holds for measure, each in stand.items() if measure not in COVERED)
            for measure in (Measure.SECCOMP, Measure.LIMITS, Measure.NAMESPACES):
                assert stand[measure].verified == ("engine", "inside", "host")

            async with shell(provider) as (terminal, _):
                assert provider.occupied["one"].uid is None, "the kernel's user is not the session's"
                assert await containers_at(engine) == 1
                await terminal.resize(100, 40)
                await type_and_see(terminal, b"trap 'echo now $(stty size)' WINCH", b"$ ")
                await terminal.resize(101, 41)
                await type_and_see(terminal, b"", b"now 41 101\r\n")
                # Job control: the keyboard's signals reach the foreground, and nobody else.
                waiting = b"bash -c 'echo read''y; exec sleep 100'"
                for key, status in ((b"\x1a", b"148"), (b"\x03", b"130")):
                    await type_and_see(terminal, waiting, b"ready\r\n")
                    await terminal.send_all(key)
                    await until(terminal, b"$ ")
                    await type_and_see(terminal, b"echo status $?", b"status " + status)
                # Threads, and programs started past fork: what the profile means by ENOSYS must be that.
                await type_and_see(
                    terminal,
                    b"python3 -c 'import os, threading as t; a = t.Thread(target=print, args=(6 * 7,)); "
                    b'a.start(); a.join(); print(os.system("exit 5") >> 8)\'',
                    b"\r42\r\n5\r\n",
                )
                for call in (b"unshare -U true", b"touch /x"):
                    await type_and_see(terminal, call + b" || echo re''fused", b"refused\r\n")
                await terminal.send_all(b"disown -a; exit 7\r")
                while await terminal.receive_some():
                    pass
                assert (await terminal.wait_closed()).code == 7
            assert await containers_at(engine) == 0

            # Left, it is hung up, and what does not go is ended.
            async with shell(provider) as (terminal, _):
                await type_and_see(terminal, b"trap '' HUP TERM; echo stub''born", b"stubborn\r\n")
            assert await containers_at(engine) == 0


async def test_beside_runc(engine: Engine) -> None:
    """Start and echo on both; the figures are for the documentation."""
    seconds: dict[str, tuple[float, float]] = {}
    without = ("apparmor", "userns", "landlock")
    with trio.fail_after(LIMIT):
        for runtime in ("runc", "runsc"):
            settings = engine.settings(runtime, hardening_without=without if runtime == "runc" else ())
            async with open_docker_provider(settings, verify=False) as provider:
                starts: list[float] = []
                for _ in range(3):
                    async with shell(provider) as (terminal, took):
                        starts.append(took)
                        echo = await echo_seconds(terminal)
                        usage = provider.usage("one")
                assert usage is not None
                seconds[runtime] = statistics.median(starts), echo
                print(
                    f"\n{runtime}: prompt after {statistics.median(starts) * 1000:.0f} ms, echo "
                    f"{echo * 1000:.2f} ms, {usage.memory / 1e6:.1f} MB, {usage.pids} threads"
                )
    assert seconds["runsc"][1] < 50 * seconds["runc"][1]


async def test_what_must_be_gone_without_is_named(engine: Engine) -> None:
    settings = engine.settings("runsc-plain")
    with trio.fail_after(LIMIT):
        with pytest.raises(ConfigurationError) as caught:
            async with open_docker_provider(settings):
                raise AssertionError
        assert "HARDENING_WITHOUT=seccomp" in str(caught.value).splitlines()[-1]
        assert "put --oci-seccomp among" in str(caught.value)
        status = await survey(settings)
        assert [each.measure for each in status.failing] == [Measure.SECCOMP]
        assert {each.measure for each in status.measures if each.covered and each.verified} == COVERED


async def test_what_stands_behind_is_looked_at(engine: Engine) -> None:
    """With the host's network stack this runsc keeps the rights of the host's root."""
    with trio.fail_after(LIMIT), pytest.raises(ConfigurationError) as caught:
        async with open_docker_provider(engine.settings("runsc-host-stack")):
            raise AssertionError
    assert 'host, gVisor for userns: Uid: ["0"] instead of "another than 0"' in str(caught.value)


@pytest.mark.parametrize(
    ("runtime", "without", "told"),
    [
        ("nothing", (), r"CONTAINER_RUNTIME=nothing: .* runc, runsc, runsc-host-stack"),
        ("runsc-in-name-only", ("seccomp",), "said to be gVisor.*run on this host's kernel"),
        ("nameless", ("apparmor", "userns", "landlock"), r"lacks .*Linux version 4\.4\.0"),
    ],
)
async def test_refused(engine: Engine, runtime: str, without: tuple[str, ...], told: str) -> None:
    with trio.fail_after(LIMIT), pytest.raises(ConfigurationError, match=told):
        async with open_docker_provider(engine.settings(runtime, hardening_without=without)):
            raise AssertionError


async def test_attacks_are_on_the_hosts_kernel(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="gVisor keeps sessions from that"):
        await attack(engine.settings("runsc"), ())


async def test_a_profile_has_a_runtime_of_its_own(engine: Engine, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[own-kernel]\nCONTAINER_RUNTIME = "runsc"\n')
    without = ("apparmor", "userns", "landlock")
    settings = engine.settings("", profiles=profiles, hardening_without=without)
    with trio.fail_after(LIMIT):
        async with open_docker_provider(settings, verify=False) as provider:
            for profile, kernel in (("own-kernel", b"4.4.0"), ("", os.uname().release.encode())):
                ask = LeaseRequest("one", ("cat", "/proc/version"), profile=profile)
                async with provider.lease(ask) as terminal:
                    await until(terminal, b"Linux version " + kernel)


async def test_a_supervisor_that_is_killed_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    changes = {
        "CONTAINER_RUNTIME": "runsc",
        "SANDBOX_TRANSPORT": "attach",
        "DOCKER_NETWORK_NAME": "none",
        "CONTAINER_PIDS_LIMIT": "256",
        "HARDENING_WITHOUT": "",
    }
    with trio.fail_after(LIMIT):
        async with supervised(engine.url, tmp_path, wait=True, **changes) as one:
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                await visitor.echo("hello")
                await one.wait_pool(1)
                async with visit(one.url) as other:
                    await other.read_until(PROMPT)
                    before = await one.containers()
                    await other.type(b"exit\r")
                    over = await other.read_to_end()
                    assert over.reason == "user-exit", over
                while len(before & await one.containers()) == len(before):
                    await trio.sleep(0.05)
                await visitor.echo("alone")
                processes = await one.processes()
                assert len(processes) > 4, "gVisor's own"
                one.kill()
                dead, gone = await one.wait_gone(processes)
            print(f"\nkilled: {len(processes)} processes dead after {dead:.2f} s, gone after {gone:.2f} s")


@pytest.mark.parametrize(("runtime", "without"), [("runsc-own-stack", ""), ("runsc-host-stack", "userns")])
def test_with_a_network(engine: Engine, runtime: str, without: str) -> None:
    """Sessions reach neither one another nor what is not listed, as packets prove; and the proof can fail."""
    program = [sys.executable, str(HERE / "on_network.py"), engine.url, runtime, without]
    result = subprocess.run(
        ["nsenter", "--net", "--target", str(engine.pid), *program],
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
