"""What all sessions may use together: the arithmetic, both cgroup versions by their files, real groups."""

import os
from pathlib import Path

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings
from supervisor.errors import ConfigurationError, HardeningError
from supervisor.reaping import cgroups
from supervisor.reaping.cgroups import dead_groups, group_name, hierarchies, remove_group
from supervisor.sandbox import budget as module
from supervisor.sandbox.budget import ANY, Budget, SessionsGroup, budget_of, host_budget, sessions_group
from supervisor.sandbox.identity import Identity, this_process
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.sandbox.usage import Cgroups
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

HOST = Budget(8192 * MIB, 4.0, 30_000)


def groups_now(name: str) -> set[Path]:
    return {root / name for root in hierarchies().values() if (root / name).exists()}


def test_what_is_left_open_is_nine_tenths_of_the_host() -> None:
    assert budget_of(Settings(), HOST) == Budget(int(8192 * MIB * 0.9), 4 * 0.9, 27_000)


def test_nothing_is_less_than_what_one_session_may_use() -> None:
    tiny = Budget(256 * MIB, 1.0, 50)
    assert budget_of(Settings(), tiny) == tiny


def test_numbers_are_taken_as_they_are() -> None:
    settings = Settings(sessions_memory_limit=512 * MIB, sessions_cpu_limit=0, sessions_pids_limit=99)
    assert budget_of(settings, HOST) == Budget(512 * MIB, 0, 99)
    assert not budget_of(Settings(sessions_memory_limit=0, sessions_cpu_limit=0, sessions_pids_limit=0), HOST)


def test_this_host_tells_what_it_has() -> None:
    found = host_budget()
    assert found.memory > 64 * MIB
    assert found.cpus >= 1
    assert found.pids > 100


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (Budget(100 * MIB, 2.0, 50), 0),
        (Budget(99 * MIB, 1.999, 49), 0),
        (Budget(200 * MIB, 2.0, 50), 1),
        (Budget(0, 0.0, 0), 3),
    ],
)
def test_limits_are_compared(found: Budget, wrong: int) -> None:
    assert len(Budget(100 * MIB, 2.0, 50).exceeded_by(found)) == wrong
    assert len(Budget(0, 0, 0).exceeded_by(found)) == 0
    assert len(ANY.exceeded_by(found)) == (3 if found.memory == 0 else 0)


# ---------------------------------------------------------------------- files


@pytest.fixture
def unified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of plain files that looks like cgroup version 2."""
    (tmp_path / "cgroup.subtree_control").touch()
    for each in (cgroups, module):
        monkeypatch.setattr(each, "hierarchies", lambda: {"": tmp_path})
    return tmp_path


@pytest.fixture
def busctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `busctl` that writes down what it is asked, in the file that is returned."""
    program, asked = tmp_path / "bin/busctl", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{asked}\necho "$ANSWER" >&2\nexit ${{STATUS:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return asked


async def test_version_2_by_its_documented_files(unified: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = Settings(sessions_memory_limit=512 * MIB, sessions_cpu_limit=1.5, sessions_pids_limit=99)
    identity = this_process()
    async with sessions_group(settings, "cgroupfs", identity, lambda: False) as group:
        assert group is not None
        made = unified / group_name(identity)
        assert group.parent == f"/{made.name}"
        assert (unified / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
        assert (made / "memory.max").read_text() == str(512 * MIB)
        assert (made / "cpu.max").read_text() == "15000 10000"
        assert (made / "pids.max").read_text() == "99"
        inner = made / "a-container"
        (made / "memory.current").write_text("7")
        group.require_member(Cgroups(inner, inner, inner, True, unified))
        group.require_limits()
        assert group.usage()
        (made / "pids.max").write_text("max")
        with pytest.raises(HardeningError, match="pids: 0 instead of 99"):
            group.require_limits()
        elsewhere = unified / "docker/a-container"
        with pytest.raises(HardeningError, match="docker/a-container"):
            group.require_member(Cgroups(elsewhere, elsewhere, elsewhere, True, unified))
        with pytest.raises(HardeningError, match="nowhere"):
            group.require_member(None)
        for file in made.iterdir():
            file.unlink()  # the kernel's own are no obstacle
    assert not made.exists()


async def test_next_to_systemd_it_is_a_slice(
    unified: Path, busctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    settings = Settings(sessions_memory_limit=512 * MIB, sessions_cpu_limit=1.5, sessions_pids_limit=99)
    identity = this_process()
    name = group_name(identity) + ".slice"
    async with sessions_group(settings, "systemd", identity, lambda: False) as group:
        assert group is not None
        assert group.parent == name
        assert "-" not in name
        (unified / name).mkdir()
        async with sessions_group(settings, "systemd", identity, lambda: True):
            pass  # another process takes it over, and gives it back
    asked = await trio.Path(busctl).read_text()
    called = [line.split("systemd1.Manager ")[1] for line in asked.splitlines()]
    assert called[0].startswith(f"StartTransientUnit ssa(sv)a(sa(sv)) {name} fail 8 ")
    assert "MemoryMax t 536870912 MemorySwapMax t 0" in called[0]
    assert "CPUQuotaPerSecUSec t 1500000 TasksMax t 99 0" in called[0]
    assert called[1].startswith(f"SetUnitProperties sba(sv) {name} true 8 ")
    assert called[2:] == [f"StopUnit ss {name} replace"]


@pytest.mark.parametrize("asked", [None, 64 * MIB])
async def test_what_cannot_be_had_is_an_error_only_where_somebody_asked_for_it(
    busctl: Path, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("STATUS", "1")
    monkeypatch.setenv("ANSWER", "Access denied")
    opened = sessions_group(Settings(sessions_memory_limit=asked), "systemd", this_process(), lambda: False)
    if asked is None:
        async with opened as group:
            assert group is None
    else:
        with pytest.raises(ConfigurationError, match="limits together: Access denied"):
            async with opened:
                pass


async def test_others_than_root_name_a_group_that_was_made_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    async with sessions_group(Settings(), "cgroupfs", this_process(), lambda: False) as group:
        assert group is None
    settings = Settings(sessions_cgroup="terminals.slice", sessions_pids_limit=99)
    async with sessions_group(settings, "systemd", this_process(), lambda: False) as group:
        assert group == SessionsGroup("terminals.slice", budget_of(settings, ANY))
        assert not group.budget.exceeded_by(Budget(1 << 30, 0.5, 99))
        assert len(group.budget.exceeded_by(Budget(0, 0.5, 100))) == 2


# ---------------------------------------------------------------------- this kernel's


@pytest.fixture
def identity(root: None) -> Identity:
    return this_process()


async def test_a_dead_instances_group_is_removed_and_no_other(identity: Identity) -> None:
    other = attrs.evolve(identity, instance="0" * 32)
    elsewhere = attrs.evolve(other, namespace="4:1")
    settings = Settings(sessions_pids_limit=99)
    shared = lambda: True  # noqa: E731 - leaves it behind, as a process that is killed does
    try:
        for each in (identity, other, elsewhere):
            async with sessions_group(settings, "cgroupfs", each, shared) as group:
                assert group is not None
                assert groups_now(group.name)
        mine = [group_name(each) for each in (identity, other, elsewhere)]  # another test may have some, too
        dead = dead_groups(identity, lambda instance: instance == identity.instance)
        assert [each for each in dead if each in mine] == [group_name(other)]
        assert remove_group(group_name(other), 0)
        assert groups_now(group_name(identity))
        assert not groups_now(group_name(other))
        assert groups_now(group_name(elsewhere))
    finally:
        for each in (identity, other, elsewhere):
            assert remove_group(group_name(each))


async def output_until(terminal: Terminal, wanted: bytes) -> None:
    output = b""
    while wanted not in output:
        data = await terminal.receive_some()
        assert data, output
        output += data


@pytest.mark.engine
async def test_all_containers_are_in_it_and_it_holds(request: pytest.FixtureRequest, root: None) -> None:
    """Two sessions that may have 40 processes each get 45 together; the engine and the kernel both say where
    the containers are; the group is gone in the end."""
    settings = docker_settings(
        request, pids_limit=40, sessions_pids_limit=45, memory_limit=64 * MIB, sessions_memory_limit=80 * MIB
    )
    forks = "for n in {1..30}; do sleep 60 & done; echo done; wait"
    with trio.fail_after(120):
        async with open_docker_provider(settings) as provider:
            group = provider.group
            assert group is not None
            name = group.name
            assert groups_now(name)
            async with provider.lease(LeaseRequest("first", ("/bin/bash", "-c", forks))) as terminal:
                await output_until(terminal, b"done")
                sandbox = provider.occupied["first"]
                shown = await sandbox.container.show()
                assert shown["HostConfig"]["CgroupParent"] == group.parent
                lines = await trio.Path(f"/proc/{sandbox.pid}/cgroup").read_text()
                assert f"/{name}/" in lines
                async with provider.lease(LeaseRequest("second", ("/bin/bash", "-c", forks))) as second:
                    await output_until(second, b"Resource temporarily unavailable")
                    known = provider.usage_of_all()
                    assert known is not None
                    usage, budget = known
                    assert 40 <= usage.pids <= budget.pids == 45
                    assert usage.memory_limit == 80 * MIB
    assert not groups_now(name)


@pytest.mark.engine
async def test_a_budget_that_the_kernel_does_not_have_ends_the_start(
    request: pytest.FixtureRequest, root: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_make", lambda name, budget: "")
    with trio.fail_after(60), pytest.raises(ConfigurationError, match="allows more than it should"):
        async with open_docker_provider(docker_settings(request)):
            pass


@pytest.mark.engine
async def test_a_group_by_name(request: pytest.FixtureRequest, root: None, identity: Identity) -> None:
    name = group_name(attrs.evolve(identity, instance="by-name"))
    try:
        async with sessions_group(
            Settings(), "cgroupfs", attrs.evolve(identity, instance="by-name"), lambda: True
        ) as made:
            assert made is not None
        async with open_docker_provider(docker_settings(request, sessions_cgroup=f"/{name}")) as provider:
            assert provider.group is not None
            assert provider.usage_of_all()
        assert groups_now(name), "it is its maker's"
    finally:
        assert remove_group(name)
