"""Start with each measure broken in turn: a supervisor that cannot have it says which one it is and what to
do, and offers no session.
"""

import io
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from conftest import opt_outs

from sandbox.between import EngineBetween
from sandbox.conftest import docker_settings
from sandbox.test_measures import check
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.provision.report import Report
from supervisor.provision.setup import _fill_engine
from supervisor.sandbox import inside
from supervisor.sandbox.network import configuration, ensure_network
from supervisor.sandbox.policy import Difference
from supervisor.sandbox.providers import open_provider
from supervisor.sandbox.security import NOT_SEEN, opt_out_lines, table
from supervisor.sandbox.survey import survey
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


async def broken(break_it: Callable[[Start], Any], start: Start) -> None:
    """Break something, whether that takes a wait or not."""
    waiting = break_it(start)
    if waiting is not None:
        await waiting


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
        for module in ("providers", "survey"):
            start.patch.setattr(f"supervisor.sandbox.{module}.docker_directory", lambda: start.files)

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


def seen_otherwise(measure: Measure) -> Callable[[Start], None]:
    def break_it(start: Start) -> None:
        changed = {**inside._CHECKS, measure: lambda _policy, _seen: [Difference("it", "so", "otherwise")]}
        start.patch.setattr(inside, "_CHECKS", changed)

    return break_it


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
        await broken(break_it, Start(settings, monkeypatch, tmp_path, undo))
        with pytest.raises(ConfigurationError) as caught:
            async with open_provider(settings):
                raise AssertionError
    text = str(caught.value)
    for part in (str(measure), *told):
        assert part in text


WRONG_NETWORK = network(lambda wrong: wrong["Options"].update({ICC: "true"}))


@pytest.mark.parametrize(
    ("measure", "break_it", "told"),
    [
        (Measure.ISOLATION, neighbours_let_through, "reach each other (TCP and UDP)"),
        (Measure.SECCOMP, seccomp_profile("{"), "seccomp.json: not JSON"),
        (Measure.LANDLOCK, seen_otherwise(Measure.LANDLOCK), 'it: "otherwise" instead of "so"'),
    ],
)
async def test_check_tells_of_all_measures_when_only_a_proof_can_tell_of_one(
    request: pytest.FixtureRequest,
    network_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: None,
    measure: Measure,
    break_it: Callable[[Start], Any],
    told: str,
) -> None:
    without = tuple(name for name in opt_outs() if name != measure)
    on_network = network_name if measure is Measure.ISOLATION else "none"
    settings = docker_settings(request, network=on_network, hardening_without=without)
    with trio.fail_after(LIMIT), ExitStack() as undo:
        await broken(break_it, Start(settings, monkeypatch, tmp_path, undo))
        status = await survey(settings)
    assert [each.measure for each in status.measures] == list(Measure)
    (failing,) = status.failing
    assert (failing.measure, told in failing.how, failing.verified) == (measure, True, ())
    assert all(each.holds for each in status.measures if each.required and each is not failing)
    assert (status.initialized, status.obstacles, status.without) == (False, (), tuple(sorted(without)))
    assert opt_out_lines(status)[-1] == f"HARDENING_WITHOUT={','.join([*status.without, measure])}"


@pytest.mark.parametrize("gone_without", [False, True])
async def test_check_tells_of_a_network_that_no_opt_out_makes_fit(
    request: pytest.FixtureRequest,
    network_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gone_without: bool,
) -> None:
    names = {*opt_outs(), *(["isolation"] if gone_without else [])}
    settings = docker_settings(request, network=network_name, hardening_without=tuple(sorted(names)))
    with trio.fail_after(LIMIT), ExitStack() as undo:
        await WRONG_NETWORK(Start(settings, monkeypatch, tmp_path, undo))
        status = await survey(settings)
    assert {each.measure for each in status.failing} == {"isolation", "egress"} - names
    assert status.holds(Measure.CAPABILITIES)
    (obstacle,) = status.obstacles
    assert "enable_icc: true instead of false" in obstacle
    with pytest.raises(ConfigurationError, match="whatever is gone without"):
        opt_out_lines(status)


async def test_check_tells_what_cannot_be_gone_without(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = docker_settings(request)
    seen_otherwise(Measure.TMPFS)(Start(settings, monkeypatch, tmp_path, ExitStack()))
    with trio.fail_after(LIMIT):
        status = await survey(settings)
    rows = {each.measure: each for each in status.failing}
    assert 'it: "otherwise" instead of "so"' in rows[Measure.TMPFS].how
    assert rows[Measure.LIMITS].how == NOT_SEEN
    assert set(rows) == set(Measure) - set(map(Measure, opt_outs()))
    assert "no session starts: self-test" in table(status)


async def test_the_command_check_where_neighbours_are_let_through(
    request: pytest.FixtureRequest,
    network_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    root: None,
) -> None:
    settings = docker_settings(request, network=network_name)
    names = {"DOCKER_NETWORK_NAME": network_name, "HARDENING_WITHOUT": ",".join(opt_outs())}
    with ExitStack() as undo:
        await neighbours_let_through(Start(settings, monkeypatch, tmp_path, undo))

        async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = partial(check, settings.docker_host, tmp_path / "env", *arguments, **names)
            return await trio.to_thread.run_sync(command)

        people, programs = await run(), await run("--json")
    assert (people.returncode, programs.returncode) == (1, 1)
    (row,) = [line for line in people.stdout.splitlines() if line.startswith("isolation ")]
    assert "NO" in row
    assert "reach each other" in row
    assert len(people.stdout.splitlines()) > len(Measure)
    assert "measure isolation does not hold" in people.stderr
    told = json.loads(programs.stdout)
    assert (told["networkReady"], told["initialized"]) == (False, False)
    assert told["measures"].keys() == set(map(str, Measure))
    assert "reach each other" in told["measures"]["isolation"]["how"]
    assert told["measures"]["seccomp"]["verified"]


async def test_set_up_leaves_it_to_the_server_to_refuse_another_network(
    request: pytest.FixtureRequest, network_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check` sets up first, and is to say how everything stands."""
    settings = docker_settings(request, network=network_name)
    said = io.StringIO()
    with trio.fail_after(LIMIT):
        await WRONG_NETWORK(Start(settings, monkeypatch, tmp_path, ExitStack()))
        await _fill_engine(settings, Report(said), rebuild=False, tests=False)
        assert "NOT FOR SESSIONS" in said.getvalue()
        assert "enable_icc: true instead of false" in said.getvalue()
        with pytest.raises(ConfigurationError, match="enable_icc: true instead of false"):
            async with open_provider(settings):
                raise AssertionError
