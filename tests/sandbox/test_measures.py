"""Measures by name: what is required, is missing, is gone without; nothing goes silently."""

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
from conftest import opt_outs

from sandbox.conftest import docker_settings
from supervisor.errors import ConfigurationError
from supervisor.measures import OPTIONAL, Measure, MeasureStatus, SecurityStatus, parse_opt_outs
from supervisor.sandbox.providers import open_docker_provider, open_provider
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.security import (
    GONE_WITHOUT,
    as_required,
    needless,
    opt_out_lines,
    require_measures,
    table,
)
from supervisor.sandbox.verify import EngineFacts, first_uid, missing_measures
from supervisor.settings import Settings
from supervisor.settings.load import load_settings, read_env_file

LIMIT = 90.0
BARE = EngineFacts(
    local=True,
    runtime="runc",
    machine="x86_64",
    remapped=False,
    first_uid=0,
    seccomp=False,
    apparmor=False,
)
WELL = attrs.evolve(BARE, remapped=True, seccomp=True, apparmor=True)
NO_NETWORK = Settings(network="none")


def test_strict_is_the_default() -> None:
    assert Settings().hardening_without == ()
    assert parse_opt_outs(()) == frozenset()


@pytest.mark.parametrize("name", ["all", "", "AppArmor", "capabilities", "read-only", "apparmor "])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="there are seccomp, apparmor, userns"):
        parse_opt_outs(["userns", name])


def test_a_wrong_name_is_an_error_of_the_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"HARDENING_WITHOUT=.*no measure.*: none, off"):
        load_settings({"HARDENING_WITHOUT": "userns,off,none"})
    assert load_settings({"HARDENING_WITHOUT": " userns, apparmor,"}).hardening_without == (
        "userns",
        "apparmor",
    )


def test_all_that_is_missing_is_said_at_once() -> None:
    missing = missing_measures(BARE, Runtime("runc"))
    assert missing.keys() == {Measure.SECCOMP, Measure.APPARMOR, Measure.USERNS}
    text = "\n".join(require_measures(missing, ()))
    for part in (
        "CONFIG_SECCOMP_FILTER",
        "lsm=",
        "userns-remap",
        "HARDENING_WITHOUT=apparmor,seccomp,userns",
    ):
        assert part in text
    (one, hint) = require_measures(missing, {Measure.SECCOMP, Measure.USERNS})
    assert one.startswith("measure apparmor")
    assert hint.endswith("HARDENING_WITHOUT=apparmor,seccomp,userns"), "what is gone without already, too"
    assert require_measures(missing, set(OPTIONAL)) == []


def test_what_is_written_for_an_operator() -> None:
    status = SecurityStatus(
        False,
        (
            MeasureStatus(Measure.SECCOMP, True, True, ("engine", "inside"), "profile"),
            MeasureStatus(Measure.APPARMOR, True, False, (), "no such kernel"),
            MeasureStatus(Measure.USERNS, False, False, (), "no userns-remap"),
            MeasureStatus(Measure.LIMITS, True, True, ("engine",), "256 MB"),
        ),
        ("userns",),
    )
    assert [each.measure for each in status.failing] == [Measure.APPARMOR]
    assert table(status).splitlines() == [
        "measure   required  applied  verified by     how",
        "seccomp   yes       yes      engine, inside  profile",
        "apparmor  yes       NO       -               no such kernel",
        "userns    no        no       -               no userns-remap",
        "limits    yes       yes      engine          256 MB",
    ]
    *comments, line = opt_out_lines(status)
    assert line == "HARDENING_WITHOUT=userns,apparmor"
    assert all(text.startswith("#") for text in comments)
    assert any("apparmor: no such kernel" in text for text in comments)
    shown = status.as_json()
    assert (shown["seccompEnabled"], shown["appArmorEnabled"], shown["initialized"]) == (True, False, False)
    broken = attrs.evolve(
        status, measures=(MeasureStatus(Measure.LIMITS, True, False, (), "no cgroups"),), without=()
    )
    with pytest.raises(ConfigurationError, match="limits: no cgroups"):
        opt_out_lines(broken)


def test_an_opt_out_that_is_not_needed_any_more() -> None:
    without = {Measure.USERNS, Measure.APPARMOR, Measure.ISOLATION}
    assert needless(without, {Measure.APPARMOR: "no such kernel"}) == [Measure.USERNS]
    assert needless((), {}) == []
    assert needless(OPTIONAL, dict.fromkeys(OPTIONAL, "")) == []


def test_what_could_not_be_had_at_first_is_told_by_its_reason() -> None:
    """What was then opened went without it; that it is there by now does not count."""
    opened = SecurityStatus(
        True, (MeasureStatus(Measure.EGRESS, False, False, (), GONE_WITHOUT),), ("egress",)
    )
    (egress,) = as_required(opened, Settings(), {Measure.EGRESS: "nft did not end"}).failing
    assert (egress.measure, egress.how) == (Measure.EGRESS, "nft did not end")


@pytest.mark.engine
async def test_without_opt_outs_the_start_is_refused(request: pytest.FixtureRequest) -> None:
    settings = docker_settings(request, hardening_without=())
    if not opt_outs():  # a host that has it all
        async with open_docker_provider(settings) as provider:
            assert provider.security.failing == ()
        return
    with trio.fail_after(LIMIT), pytest.raises(ConfigurationError) as caught:
        async with open_provider(settings):
            raise AssertionError
    text = str(caught.value)
    for name in set(opt_outs()) - {"egress"}:  # these settings have no network
        assert f"measure {name}" in text


@pytest.mark.engine
async def test_what_holds_is_told(request: pytest.FixtureRequest) -> None:
    with trio.fail_after(LIMIT):
        async with open_provider(docker_settings(request)) as provider:
            security = provider.security
    assert security.initialized
    assert security.failing == ()
    assert security.holds(Measure.SECCOMP)
    assert set(security.without) == set(opt_outs())
    assert len(security.seccomp_digest) == 64
    assert "covered by the memory limit" in table(security)


def check(
    docker_host: str, env_file: Path, *arguments: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HARDENING_WITHOUT"}
    environment |= {
        "DOCKER_HOST": docker_host,
        "DOCKER_IMAGE_NAME": "terminal-supervisor-workbench:latest",
        "SESSION_COMMAND": "bash",
        "CONTAINER_USER": "1000:1000",
        "DOCKER_NETWORK_NAME": "none",
        **changes,
    }
    command = [
        sys.executable,
        "-m",
        "supervisor",
        "--env-file",
        str(env_file),
        "check",
        "--no-setup",
        *arguments,
    ]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


@pytest.mark.engine
def test_the_command_check(docker_host: str, workbench_image: str, tmp_path: Path) -> None:
    env_file = tmp_path / "env"
    strict = check(docker_host, env_file, "--json")
    status = json.loads(strict.stdout)
    failing = {name for name, each in status["measures"].items() if each["required"] and not each["verified"]}
    assert failing == set(opt_outs()) - {"egress"}
    assert strict.returncode == (1 if failing else 0)
    for name in failing:
        assert f"measure {name} does not hold" in strict.stderr
    report = tmp_path / "report.json"
    written = check(docker_host, env_file, "--write", "--report", str(report))
    assert written.returncode == 0
    assert json.loads(report.read_text())["measures"].keys() == status["measures"].keys()
    assert "HARDENING_WITHOUT=" in written.stdout
    assert set(load_settings(read_env_file(env_file)).hardening_without) == failing
    content = env_file.read_text()
    assert check(docker_host, env_file, "--write").stdout == "", "once"
    assert env_file.read_text() == content
    after = check(docker_host, env_file)
    assert after.returncode == 0
    assert "could be had" not in after.stdout
    more = check(docker_host, env_file, HARDENING_WITHOUT=",".join(sorted({*failing, "seccomp"})))
    assert more.returncode == 0
    assert [line for line in more.stdout.splitlines() if "could be had" in line] == [
        "note: seccomp could be had here now: take it out of HARDENING_WITHOUT, and run `check` again"
    ]


def test_check_needs_isolation_to_look_at(tmp_path: Path) -> None:
    result = check("", tmp_path / "env", SANDBOX_PROVIDER="local")
    assert result.returncode == 78
    assert "no isolation" in result.stderr


@pytest.mark.parametrize(
    ("info", "remapped", "expected"),
    [
        ({"DockerRootDir": "/var/lib/docker"}, False, 0),
        ({"DockerRootDir": "/srv/1000.1000"}, False, 0),
        ({"DockerRootDir": "/var/lib/docker/165536.231072"}, True, 165536),
        ({"DockerRootDir": "/var/lib/docker"}, True, None),
        ({}, True, None),
    ],
)
def test_who_root_in_a_container_is(info: dict[str, str], remapped: bool, expected: int | None) -> None:
    assert first_uid(info, remapped) == expected
