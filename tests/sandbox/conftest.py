"""Fixtures of the sandbox's tests: settings and providers of each kind."""

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trio
from conftest import missing, opt_outs

from supervisor.engine import DockerContainer
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.image import ImageFacts
from supervisor.sandbox.pool import WarmPool
from supervisor.sandbox.providers import open_docker_provider, open_provider
from supervisor.sandbox.terminal import SandboxProvider
from supervisor.settings import Settings

IMAGE = ImageFacts(id="sha256:abc", name="image", user="appuser", uid=1000, gid=1000, home="/home/appuser")
"""Of an image that there is not."""
KINDS = [
    pytest.param("lifeline", marks=pytest.mark.engine),
    pytest.param("attach", marks=pytest.mark.engine),
    pytest.param("local", marks=pytest.mark.netns),
]


def docker_settings(request: pytest.FixtureRequest, **changes: object) -> Settings:
    """Settings of provider docker on the workbench, without a network unless `changes` name one."""
    base: dict[str, object] = {
        "docker_host": request.getfixturevalue("docker_host"),
        "image": request.getfixturevalue("workbench_image"),
        "container_user": "1000:1000",
        "network": "none",
        "command": ("bash", "--norc"),
        "hardening_without": opt_outs(),
    }
    return Settings(**{**base, **changes})  # type: ignore[arg-type]


async def until_waiting(pool: WarmPool, count: int) -> None:
    """Wait until so many sandboxes wait in `pool`."""
    while pool.statistics().waiting != count:
        await trio.sleep(0.02)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """`lifeline`, `attach` or `local`."""
    return str(request.param)


@pytest.fixture
def settings(request: pytest.FixtureRequest, kind: str) -> Settings:
    """Settings of that kind of provider."""
    if kind == "local":
        return Settings(provider="local")
    return docker_settings(request, transport=kind)


@pytest.fixture
async def provider(settings: Settings) -> AsyncIterator[SandboxProvider]:
    """A provider of that kind. The docker ones have not verified themselves, which costs two seconds."""
    if settings.provider == "local":
        async with open_provider(settings) as local:
            yield local
    else:
        async with open_docker_provider(settings, verify=False) as docker:
            yield docker


@pytest.fixture
async def hardened(request: pytest.FixtureRequest) -> AsyncIterator[DockerProvider]:
    """Provider docker, on the lifeline, without a network."""
    async with open_docker_provider(docker_settings(request), verify=False) as docker:
        yield docker


@pytest.fixture
def parser(request: pytest.FixtureRequest) -> str:
    """Path of apparmor_parser."""
    found = shutil.which("apparmor_parser", path="/usr/sbin:/sbin")
    if found is None:
        missing(request, "needs apparmor_parser (Debian package apparmor)")
    return str(found)


@pytest.fixture
def root(request: pytest.FixtureRequest) -> None:
    """Run as root."""
    if os.geteuid() != 0:
        missing(request, "needs root, which has rights to give up")


@pytest.fixture
def in_user_namespace(root: None) -> Iterator[int]:
    """Pid of a process in a user namespace of its own, which belongs to this host's root."""
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@pytest.fixture
def network_name(docker_host: str) -> Iterator[str]:
    """Name for a network that does not exist yet; what exists of that name afterwards is removed."""
    name = f"ts-test-{secrets.token_hex(4)}"
    yield name
    transport = httpx.HTTPTransport(uds=docker_host.removeprefix("unix://"), verify=False)
    with httpx.Client(transport=transport, timeout=30) as client:
        client.delete(f"http://docker/networks/{name}")


def command_lines(fragment: str) -> list[str]:
    """Command lines of this host's processes in which `fragment` occurs."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fragment in text:
            found.append(text)
    return found


async def execute(container: DockerContainer, *command: str, user: str = "") -> tuple[int, str]:
    """Run a command in a running container, as the engine does it, and return its exit status and output."""
    execution = await container.exec(command, user=user)
    pieces: list[bytes] = []
    async with execution.start() as stream:
        while data := await stream.receive_some():
            pieces.append(data)
    while (status := (await execution.inspect())["ExitCode"]) is None:
        await trio.sleep(0.02)
    return int(status), b"".join(pieces).decode(errors="replace")
