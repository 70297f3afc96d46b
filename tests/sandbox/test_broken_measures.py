"""Start with each measure broken in turn: a supervisor that cannot have it says which one it is and what to
do, and offers no session.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from conftest import opt_outs

from sandbox.between import EngineBetween
from sandbox.conftest import docker_settings
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.sandbox.network import configuration, ensure_network
from supervisor.sandbox.providers import open_provider
from supervisor.settings import Settings

pytestmark = pytest.mark.engine

LIMIT = 60.0
ICC = "com.docker.network.bridge.enable_icc"


@attrs.frozen
class Start:
    """A start that is to fail, and what there is to break for it."""

    settings: Settings
    patch: pytest.MonkeyPatch
    files: Path
    undo: ExitStack


class Lacking(EngineBetween):
    """The real engine, which says that it has not one of its security options."""

    option = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith("/info"):
            return response
        body = await self.body_of(response)
        body["SecurityOptions"] = [each for each in body["SecurityOptions"] if self.option not in each]
        return self.answer(response.status_code, body)


def engine_without(option: str) -> Callable[[Start], None]:
    def break_it(start: Start) -> None:
        def engine(url: str | None) -> Docker:
            docker = Docker(url)
            between = Lacking(docker.api.transport)
            between.option = option
            docker.api.transport = between
            return docker

        start.patch.setattr("supervisor.sandbox.providers.Docker", engine)

    return break_it


def seccomp_profile(content: str | None) -> Callable[[Start], None]:
    def break_it(start: Start) -> None:
        if content is not None:
            (start.files / "seccomp.json").write_text(content)
        start.patch.setattr("supervisor.sandbox.providers.docker_directory", lambda: start.files)

    return break_it


def network(change: Callable[[dict[str, Any]], object]) -> Callable[[Start], Any]:
    async def break_it(start: Start) -> None:
        wrong = configuration(start.settings.network)
        change(wrong)
        async with Docker(start.settings.docker_host) as docker:
            await docker.networks.create(wrong)

    return break_it


def kernel_without_landlock(start: Start) -> None:
    start.patch.setattr("supervisor.sandbox.verify.kernel_version", lambda: 0)


def host_without_nft(start: Start) -> None:
    start.patch.setattr("supervisor.egress.host._SEARCH_PATH", str(start.files))


async def neighbours_let_through(start: Start) -> None:
    async with Docker(start.settings.docker_host) as docker:
        bridge = (await ensure_network(docker, start.settings)).bridge
    start.undo.enter_context(rule("FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT"))


@contextmanager
def rule(*arguments: str) -> Iterator[None]:
    subprocess.run(["iptables", "-w", "-I", *arguments], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "-D", *arguments], check=True, timeout=20)


@pytest.mark.parametrize(
    ("measure", "break_it", "told"),
    [
        (Measure.SECCOMP, seccomp_profile(None), ["seccomp.json: No such file", "restore it"]),
        (Measure.SECCOMP, seccomp_profile("{"), ["seccomp.json: not JSON", "restore it"]),
        (
            Measure.SECCOMP,
            seccomp_profile('{"defaultAction": "SCMP_ACT_ALLOW"}'),
            ["seccomp.json:\n", "defaultAction", "restore it"],
        ),
        (Measure.SECCOMP, engine_without("seccomp"), ["CONFIG_SECCOMP_FILTER"]),
        (Measure.APPARMOR, engine_without("apparmor"), ["lsm=", "HARDENING_WITHOUT="]),
        (Measure.USERNS, engine_without("userns"), ["userns-remap", "HARDENING_WITHOUT="]),
        (Measure.LANDLOCK, kernel_without_landlock, ["CONFIG_SECURITY_LANDLOCK", "HARDENING_WITHOUT="]),
        (Measure.EGRESS, host_without_nft, ["apt-get install nftables dnsmasq-base", "HARDENING_WITHOUT="]),
        (
            Measure.ISOLATION,
            network(lambda wrong: wrong["Options"].update({ICC: "true"})),
            ["enable_icc: true instead of false", "docker network rm"],
        ),
        (
            Measure.ISOLATION,
            network(lambda wrong: wrong["Labels"].pop("security-level")),
            ["label security-level: not set", "docker network rm"],
        ),
        (Measure.ISOLATION, neighbours_let_through, ["reach each other (TCP and UDP)", "rules not flushed"]),
    ],
)
async def test_no_session_without_a_measure(
    request: pytest.FixtureRequest,
    network_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: None,
    measure: Measure,
    break_it: Callable[[Start], Any],
    told: list[str],
) -> None:
    without = tuple(name for name in opt_outs() if name != measure)
    on_network = network_name if measure in {Measure.EGRESS, Measure.ISOLATION} else "none"
    settings = docker_settings(request, network=on_network, hardening_without=without)
    with trio.fail_after(LIMIT), ExitStack() as undo:
        broken = break_it(Start(settings, monkeypatch, tmp_path, undo))
        if broken is not None:
            await broken
        with pytest.raises(ConfigurationError) as caught:
            async with open_provider(settings):
                raise AssertionError
    text = str(caught.value)
    for part in (str(measure), *told):
        assert part in text
