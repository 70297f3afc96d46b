"""Each call of the engine goes wrong in each way: a session is had or refused, and nothing is left."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from sandbox.conftest import docker_settings

from faults.engine_proxy import TROUBLES, Proxy, proxied
from faults.supervised import containers_of, guards_of
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.reaping import notices
from supervisor.reaping.estate import new_estate
from supervisor.sandbox import containers, image, verify
from supervisor.sandbox import docker as docker_provider
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.lifeline import runtime_directory
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest

pytestmark = pytest.mark.engine

VERSION = r"/v[\d.]+"
ONE = rf"{VERSION}/containers/[^/]+"
NOBODY = "ts-session-nobody"
START_TIMEOUT = 4.0  # seconds; ample for one that is late
LONGEST = 30.0  # seconds until a session is had or refused, and left, whatever goes wrong


async def lease(provider: DockerProvider, _proxy: Proxy, docker: Docker) -> str:
    """A session that ends by itself."""
    async with provider.lease(LeaseRequest("test", ("bash", "-c", "exit 3"))) as terminal:
        assert (await terminal.wait_closed()).code == 3
    return "had"


async def throttle(provider: DockerProvider, _proxy: Proxy, docker: Docker) -> str:
    """A session that is slowed down."""
    async with provider.lease(LeaseRequest("test", ("sleep", "60"))):
        await provider.throttle("test", 0.5)
    return "slowed down"


async def pause(provider: DockerProvider, proxy: Proxy, docker: Docker) -> str:
    """A session whose container somebody freezes; it must go on or end, and not hang."""
    async with provider.lease(LeaseRequest("test", ("bash", "-c", "read line; exit 3"))) as terminal:
        handle = docker.containers.container(provider.occupied["test"].name)
        await handle.pause()
        while not proxy.troubled:
            await trio.sleep(0.02)
        if proxy.trouble in {"late", "lost"}:
            while (await handle.show())["State"]["Paused"]:
                await trio.sleep(0.02)
            await terminal.send_all(b"\n")
            return f"ended with {await terminal.wait_closed()}"
        with pytest.raises(trio.BrokenResourceError) as broken:  # it cannot be thawed, so it is removed
            await terminal.wait_closed()
        return str(broken.value)


async def hear(_provider: DockerProvider, proxy: Proxy, docker: Docker) -> str:
    """The engine's events are subscribed to again."""
    before = proxy.troubled
    while proxy.troubled == before:
        proxy.cut_events()
        await trio.sleep(0.1)
    return "heard"


async def ask(provider: DockerProvider, proxy: Proxy, docker: Docker) -> str:
    """The engine is asked for a sign of life, and for what sessions need, until it is known how it is."""
    health = provider.containers.site.health
    health.ask()
    while not proxy.troubled or (proxy.trouble != "late" and not health.problem):
        await trio.sleep(0.02)
    return health.problem or "asked"


async def remove(provider: DockerProvider, _proxy: Proxy, docker: Docker) -> str:
    """What the engine has never heard of is removed, as if the engine removed it by itself."""
    pending = provider.containers.pending
    pending.register(NOBODY)
    pending.mark_created(NOBODY)
    pending.mark_started(NOBODY)
    await pending.remove(NOBODY)
    return "removed"


Provoke = Callable[[DockerProvider, Proxy, Docker], Awaitable[str]]
CALLS: dict[str, tuple[str, Provoke]] = {
    "ping": (rf"GET ({VERSION})?/_ping", ask),
    "images": (rf"GET {VERSION}/images/[^/]+/json", ask),
    "create": (rf"POST {VERSION}/containers/create", lease),
    "start": (rf"POST {ONE}/start", lease),
    "inspect": (rf"GET {ONE}/json", lease),
    "update": (rf"POST {ONE}/update", throttle),
    "kill": (rf"POST {ONE}/kill", lease),
    "delete": (rf"DELETE {VERSION}/containers/", lease),
    "wait": (rf"POST {ONE}/wait", remove),
    "events": (rf"GET {VERSION}/events", hear),
    "list": (rf"GET {VERSION}/containers/json", hear),
    "unpause": (rf"POST {ONE}/unpause", pause),
}


PATIENCE = (
    (containers, "CREATE_TIMEOUT"),
    (docker_provider, "UPDATE_TIMEOUT"),
    (image, "NEED_TIMEOUT"),
    (notices, "CALL_TIMEOUT"),
)
"""What an engine is waited for that is silent, which here is sure to last."""


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_in_every_way(
    request: pytest.FixtureRequest,
    docker_host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    for module, name in PATIENCE:
        monkeypatch.setattr(module, name, 3.0)
    pattern, provoke = CALLS[call]
    told: list[str] = []
    with trio.fail_after(200):
        async with Docker(docker_host) as docker, proxied(tmp_path, docker_host) as proxy:
            settings = docker_settings(
                request, docker_host=f"unix://{proxy.path}", start_timeout=START_TIMEOUT
            )
            async with open_docker_provider(settings, verify=False) as provider:
                site, pending = provider.containers.site, provider.containers.pending
                for trouble in TROUBLES:
                    proxy.call, proxy.trouble, proxy.troubled = pattern, trouble, 0
                    began = trio.current_time()
                    with trio.fail_after(LONGEST):
                        try:
                            outcome = await provoke(provider, proxy, docker)
                        except SandboxError as error:
                            outcome = f"refused: {error}"
                    told.append(f"{trouble}: {outcome} ({trio.current_time() - began:.1f} s)")
                    assert proxy.troubled, f"no such call was made; {told[-1]}"
                    proxy.trouble = ""
                    # Visitors are told to try again while the trouble is still being noticed; so does this.
                    while outcome := await _try_again(provider, proxy, docker):
                        assert outcome.startswith("refused"), outcome
                        await trio.sleep(0.05)
                    pending.hurry()
                # An unanswered create is doubted for a minute, and the engine removes at its own pace.
                while await containers_of(docker, site.identity.instance):
                    await trio.sleep(0.1)
            while guards_of(site.identity.instance):  # it needs the proxy
                await trio.sleep(0.1)
    print("", f"{call}:", *told, sep="\n  ")


async def _try_again(provider: DockerProvider, proxy: Proxy, docker: Docker) -> str:
    """Return an empty string once a session is had, else why not."""
    try:
        await lease(provider, proxy, docker)
    except SandboxError as error:
        provider.containers.site.health.ask()
        return f"refused: {error}"
    return ""


AT_START = {
    "ping": r"GET /_ping",
    "info": rf"GET {VERSION}/info",
    "archive": rf"GET {ONE}/archive",
    **{call: CALLS[call][0] for call in ("images", "create", "delete")},
}


@pytest.mark.parametrize("call", AT_START)
async def test_every_call_of_the_start(
    request: pytest.FixtureRequest,
    docker_host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """It comes up, or says what is wrong in time; then the guard removes what was made on the way."""
    for module in (image, verify):
        monkeypatch.setattr(module, "_CALL_TIMEOUT", 2.0)
    told: list[str] = []
    with trio.fail_after(100):
        async with Docker(docker_host) as docker, proxied(tmp_path, docker_host) as proxy:
            settings = docker_settings(
                request, docker_host=f"unix://{proxy.path}", start_timeout=START_TIMEOUT
            )
            for trouble in TROUBLES:
                proxy.call, proxy.trouble, proxy.troubled = AT_START[call], trouble, 0
                outcome = "came up"
                with new_estate(runtime_directory()) as estate:
                    try:
                        async with open_docker_provider(settings, estate, verify=False):
                            pass
                    except ConfigurationError as error:
                        outcome = str(error)
                    told.append(f"{trouble}: {outcome}")
                    assert proxy.troubled, f"no such call was made; {told[-1]}"
                    assert (outcome == "came up") == (trouble == "late")
                    proxy.trouble = ""
                    instance = estate.identity.instance
                    while await containers_of(docker, instance) or guards_of(instance):
                        await trio.sleep(0.1)
    print("", f"{call}:", *told, sep="\n  ")
