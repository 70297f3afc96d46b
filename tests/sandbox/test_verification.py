"""What is found out before the first session, and engines that do otherwise than they were asked to."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from sandbox.between import EngineBetween, put_between
from sandbox.conftest import docker_settings
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError, HardeningError, SandboxError
from supervisor.sandbox import verify
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.providers import open_docker_provider, open_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

LIMIT = 60.0
TRUE = LeaseRequest("test", ("true",), hangup_grace=0)

GOOD_ENGINE: dict[str, Any] = {
    "OSType": "linux",
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
}


def test_a_good_engine() -> None:
    assert verify.engine_problems(GOOD_ENGINE) == []


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("MemoryLimit", False, "no memory limit"),
        ("SwapLimit", False, "no limit of memory and swap"),
        ("CpuCfsQuota", None, "no CPU limit"),
        ("PidsLimit", False, "no limit of processes"),
        ("OSType", "windows", "for windows"),
    ],
)
def test_an_engine_that_lacks_something(key: str, value: object, complaint: str) -> None:
    (problem,) = verify.engine_problems({**GOOD_ENGINE, key: value})
    assert complaint in problem


def test_an_engine_that_lacks_everything_is_told_everything() -> None:
    assert len(verify.engine_problems({})) == 5


@pytest.mark.parametrize(
    ("version", "live_restore", "harmless"),
    [
        ("20.10.24+dfsg1", True, False),
        ("20.10.24+dfsg1", False, True),
        ("23.0.6", True, False),
        ("24.0.0", True, True),
        ("28.3.2", True, True),
        ("dev", True, False),
    ],
)
def test_removal_by_the_engine_is_asked_for_where_it_costs_no_session(
    version: str, live_restore: bool, harmless: bool
) -> None:
    info = {"ServerVersion": version, "LiveRestoreEnabled": live_restore}
    assert verify.auto_remove_is_harmless(info) is harmless


@pytest.mark.engine
async def test_a_host_where_all_is_well(request: pytest.FixtureRequest, network_name: str) -> None:
    with trio.fail_after(LIMIT):
        async with (
            open_provider(docker_settings(request, network=network_name)) as provider,
            provider.lease(TRUE) as terminal,
        ):
            assert (await terminal.wait_closed()).code == 0


async def test_no_engine_at_all(tmp_path: Path) -> None:
    for host in (f"unix://{tmp_path}/none.sock", "ftp://nowhere", "tcp://127.0.0.1:1"):
        with pytest.raises(ConfigurationError, match="DOCKER_HOST"):
            async with open_provider(Settings(docker_host=host)):
                raise AssertionError


async def test_something_that_is_no_engine(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen()

        async def answer() -> None:
            while True:
                connection, _ = await listener.accept()
                with connection:
                    await connection.recv(4096)
                    await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with pytest.raises(ConfigurationError, match="no API version"):
                async with open_docker_provider(Settings(docker_host=f"unix://{path}")):
                    raise AssertionError
            nursery.cancel_scope.cancel()


@pytest.mark.engine
async def test_all_that_is_wrong_is_said_at_once(
    request: pytest.FixtureRequest, docker_host: str, network_name: str, tmp_path: Path
) -> None:
    settings = docker_settings(
        request, image="ts-test-no-such-image", network=network_name, gate=tmp_path / "no-gate"
    )
    async with Docker(docker_host) as docker:
        await docker.networks.create({"Name": network_name, "Driver": "bridge"})
        with pytest.raises(ConfigurationError) as caught:
            async with open_provider(settings):
                raise AssertionError
    text = str(caught.value)
    for part in ("ts-test-no-such-image", "make setup", "no-gate", "enable_icc"):
        assert part in text


@pytest.mark.engine
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"container_user": "root"}, "never run as root"),
        ({"container_user": "nosuchuser"}, "no such user"),
        ({"container_user": "0:0"}, "never run as root"),
    ],
)
async def test_a_user_that_sessions_must_not_have(
    request: pytest.FixtureRequest, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        async with open_provider(docker_settings(request, **changes)):
            raise AssertionError


@pytest.mark.engine
@pytest.mark.parametrize("program", ["/bin/true", "/etc/passwd"])
async def test_a_gate_that_is_none(request: pytest.FixtureRequest, program: str) -> None:
    settings = docker_settings(request, gate=Path(program), start_timeout=12.0)
    with trio.fail_after(LIMIT), pytest.raises(ConfigurationError, match="self-test, starting a sandbox"):
        async with open_docker_provider(settings):
            raise AssertionError


async def test_a_remote_engine_needs_the_other_transport() -> None:
    class Engine:
        docker_host = "tcp://engine.example:2376"

        class system:  # noqa: N801
            @staticmethod
            async def info(timeout: float) -> dict[str, Any]:
                return {**GOOD_ENGINE, "DefaultRuntime": "runc", "Architecture": "x86_64"}

    with pytest.raises(ConfigurationError, match="SANDBOX_TRANSPORT=attach"):
        await verify.read_engine(Engine(), Settings())  # type: ignore[arg-type]
    facts = await verify.read_engine(Engine(), Settings(transport="attach"))  # type: ignore[arg-type]
    assert not facts.local
    assert await verify.own_programs(Settings(), facts) == {}


class DisobedientEngine(EngineBetween):
    """The real engine, whose answers are changed on their way."""

    def __init__(self, real: httpx.AsyncBaseTransport) -> None:
        super().__init__(real)
        self.inspected: Callable[[dict[str, Any]], None] | None = None
        self.warnings: list[str] = []
        self.refuse: tuple[str, str] | None = None
        self.silent: tuple[str, str] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        method, where = self.silent or ("", "")
        if request.method == method and path.endswith(where):
            await self.body_of(await self.real.handle_async_request(request))
            raise httpx.ReadError("the answer never came")
        method, where = self.refuse or ("", "")
        if request.method == method and path.endswith(where):
            return self.answer(500, {"message": "no"})
        response = await self.real.handle_async_request(request)
        created = path.endswith("/containers/create") and self.warnings
        shown = self.shows_container(request) and self.inspected
        if response.status_code >= 300 or not (created or shown):
            return response
        body = await self.body_of(response)
        if created:
            body["Warnings"] = self.warnings
        elif self.inspected is not None:
            self.inspected(body)
        return self.answer(response.status_code, body)


@pytest.fixture
async def disobedient(hardened: DockerProvider) -> AsyncIterator[DisobedientEngine]:
    async with put_between(hardened, DisobedientEngine) as engine:
        yield engine


async def refused(provider: DockerProvider, kind: type[SandboxError]) -> str:
    """Try to have a lease, and return what was said; nothing may be left of it."""
    with trio.fail_after(LIMIT):
        with pytest.raises(kind) as caught:
            async with provider.lease(TRUE):
                raise AssertionError
        await provider.containers.pending.drain(30)
    assert provider.containers.pending.names() == []
    return str(caught.value)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("HostConfig", "PidsLimit", 0),
        ("HostConfig", "ReadonlyRootfs", False),
        ("HostConfig", "CapAdd", ["NET_RAW"]),
        ("HostConfig", "CgroupnsMode", "host"),
        ("Config", "User", "root"),
    ],
)
async def test_what_was_not_applied_ends_the_lease(
    hardened: DockerProvider, disobedient: DisobedientEngine, section: str, key: str, value: object
) -> None:
    disobedient.inspected = lambda body: body[section].update({key: value})
    assert f"{section}.{key}" in await refused(hardened, HardeningError)


@pytest.mark.engine
async def test_a_warning_ends_the_lease(hardened: DockerProvider, disobedient: DisobedientEngine) -> None:
    disobedient.warnings = ["Your kernel does not support swap limit capabilities"]
    assert "swap limit" in await refused(hardened, HardeningError)


@pytest.mark.engine
async def test_an_engine_that_refuses(hardened: DockerProvider, disobedient: DisobedientEngine) -> None:
    for call in (("POST", "/containers/create"), ("POST", "/start")):
        disobedient.refuse = call
        text = await refused(hardened, SandboxError)
        assert text == "the container engine could not start a sandbox", "no more is for users to know"


@pytest.mark.engine
async def test_a_create_call_that_is_never_answered(
    hardened: DockerProvider, disobedient: DisobedientEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container exists, and nobody was told: it is found by the name that was registered before."""
    monkeypatch.setattr("supervisor.reaping.pending.DOUBT_TIME", 3.0)
    disobedient.silent = ("POST", "/containers/create")
    await refused(hardened, SandboxError)
    docker = hardened.containers.site.docker
    mine = {"label": [f"terminal-supervisor.instance={hardened.containers.site.identity.instance}"]}
    assert await docker.containers.list(all=True, filters=mine) == []


@pytest.mark.engine
async def test_a_start_that_is_never_answered(
    hardened: DockerProvider, disobedient: DisobedientEngine
) -> None:
    disobedient.silent = ("POST", "/start")
    await refused(hardened, SandboxError)


@pytest.mark.engine
async def test_a_stranger_with_the_pid_of_another(
    hardened: DockerProvider, disobedient: DisobedientEngine, in_user_namespace: int
) -> None:
    """What connects must be the container's first process by the engine's word."""

    def lie(body: dict[str, Any]) -> None:
        body["State"]["Pid"] = in_user_namespace

    disobedient.inspected = lie
    hardened.containers.site = attrs.evolve(hardened.containers.site, start_timeout=5.0)
    assert "no sandbox came up within 5 s" in await refused(hardened, SandboxError)


@pytest.mark.engine
async def test_labels_say_whose_it_is(hardened: DockerProvider) -> None:
    site = hardened.containers.site
    with trio.fail_after(LIMIT):
        async with hardened.prepare(100, "test") as sandbox:
            labels = (await sandbox.container.show())["Config"]["Labels"]
            found = await site.docker.containers.list(filters={"label": ["terminal-supervisor=test"]})
    assert sandbox.container.id in {container.id for container in found}
    assert labels["terminal-supervisor.instance"] == site.identity.instance
    assert labels["terminal-supervisor.boot"] == site.identity.boot
    assert int(labels["terminal-supervisor.deadline"]) > 0
    with pytest.raises(DockerError, match="No such container"):
        await sandbox.container.show()
