"""The end of all that runs in an instance's group, by the kernel's files and on the kernel."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from supervisor.reaping import cgroups
from supervisor.reaping.cgroups import end_all, hierarchies, remove_group

INSTANCE = "ab12" * 8
NAME = f"{cgroups.PREFIX}.4_7.{INSTANCE}"
BOUND = 30.0


class Group:
    """A group in which processes run, in a tree of plain files: two containers' groups are within it."""

    def __init__(self, root: Path, version: int) -> None:
        pids, cpu = root / "pids" / NAME, root / "cpu" / NAME
        if version == 2:
            pids = cpu
        for directory in {pids, cpu}:
            directory.mkdir(parents=True)
        self.roots = {"pids": pids.parent, "cpu": cpu.parent}
        self.at_once = pids / "cgroup.kill"
        if version == 2:
            self.at_once.write_text("")
        self.containers = [pids / "one", pids / "two"]
        for number, container in enumerate(self.containers):
            container.mkdir()
            (container / "cgroup.procs").write_text(f"{number + 1}1\n{number + 1}2\n")
        self._pids = pids / "pids.current"
        self._weight = cpu / ("cpu.shares" if version == 1 else "cpu.weight")
        self.most = cgroups._MOST_WEIGHT[self._weight.name]
        self._weight.write_text("100\n")
        self.run(4)

    def run(self, count: int) -> None:
        """Let so many processes run in it."""
        self._pids.write_text(f"{count}\n")

    def weight(self) -> str:
        return self._weight.read_text().strip()


@pytest.fixture(params=[1, 2])
def group(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """One of this instance, in a tree of each cgroup version."""
    group = Group(tmp_path, request.param)
    monkeypatch.setattr(cgroups, "hierarchies", lambda: group.roots)
    return group


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were killed one by one."""
    killed: list[int] = []

    def kill(file: Path) -> None:
        killed.extend(map(int, file.read_text().split()))

    monkeypatch.setattr(cgroups, "_kill_listed", kill)
    return killed


def test_again_until_nothing_runs(group: Group, killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    left = [4, 2, 0]

    def sleep(_seconds: float) -> None:
        assert group.weight() == group.most, "the dying go first"
        group.run(left.pop(0))

    monkeypatch.setattr(time, "sleep", sleep)
    end_all(INSTANCE, BOUND)
    assert not left
    assert group.weight() == "100"
    if group.at_once.exists():
        assert group.at_once.read_text() == "1"
        assert not killed
    else:
        assert sorted(killed) == sorted([11, 12, 21, 22] * 3)


def test_the_first_kill_comes_before_the_weight(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not told to die yet, as a storm of forks, should not get the CPU."""
    weights: list[str] = []

    def kill(groups: set[Path]) -> bool:
        assert groups
        weights.append(group.weight())
        return len(weights) < 3

    monkeypatch.setattr(cgroups, "_kill", kill)
    end_all(INSTANCE, BOUND)
    assert weights == ["100", group.most, group.most]


def test_every_group_of_the_instance(group: Group, killed: list[int]) -> None:
    """There are two where the engine's cgroup driver was another one before a hand-over."""
    [other] = {
        root / f"{NAME}.slice" for root in group.roots.values() if (root / NAME / "pids.current").exists()
    }
    shutil.copytree(other.with_name(NAME), other)
    end_all(INSTANCE, 0)
    if group.at_once.exists():
        assert (other / "cgroup.kill").read_text() == "1"
    else:
        assert sorted(killed) == sorted([11, 12, 21, 22] * 2)


def test_what_does_not_die_gets_its_place_back(
    group: Group, killed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that waits for a disk: the engine is asked to remove it all the same."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    end_all(INSTANCE, 0.5)
    assert now == pytest.approx(0.5, abs=0.03)
    assert group.weight() == "100"


def test_others_are_left_alone(group: Group, killed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("there is nothing to wait for"))
    for other in ("cd34" * 8, INSTANCE[:-1], ""):
        end_all(other, BOUND)
    assert not killed
    assert group.weight() == "100"
    assert not group.at_once.exists() or not group.at_once.read_text()


@pytest.mark.parametrize("group", [1], indirect=True)
def test_groups_that_the_engine_removes_meanwhile(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def kill(file: Path) -> None:
        killed.extend(map(int, file.read_text().split()))
        for container in group.containers:
            shutil.rmtree(container, ignore_errors=True)
        group.run(0)

    monkeypatch.setattr(cgroups, "_kill_listed", kill)
    end_all(INSTANCE, BOUND)
    assert sorted(killed) in ([11, 12], [21, 22])


def test_a_process_that_has_left_is_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by the time that it is held."""
    procs, hold = tmp_path / "cgroup.procs", os.pidfd_open
    with subprocess.Popen(["/bin/sleep", "60"]) as leaves, subprocess.Popen(["/bin/sleep", "60"]) as stays:
        procs.write_text(f"{leaves.pid}\n{stays.pid}\n")

        def held(pid: int) -> int:
            procs.write_text(f"{stays.pid}\n")
            return hold(pid)

        monkeypatch.setattr(os, "pidfd_open", held)
        cgroups._kill_listed(procs)
        assert stays.wait() == -signal.SIGKILL
        with pytest.raises(subprocess.TimeoutExpired):
            leaves.wait(0.2)
        leaves.kill()
    procs.write_text(f"{leaves.pid}\n0\n")
    cgroups._kill_listed(procs)  # has ended, is in another PID namespace


def test_mounts_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are bytes, whoever mounts there."""
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(
        b"1 1 0:1 / /media/caf\xe9 rw - tmpfs none rw\n2 1 0:2 / /sys/fs/cgroup rw - cgroup2 none rw\n"
    )
    monkeypatch.setattr(cgroups, "_MOUNTS", mounts)
    assert hierarchies.__wrapped__() == {"": Path("/sys/fs/cgroup")}


@pytest.fixture
def real_group() -> Generator[set[Path]]:
    """A real group with this instance's name, in the hierarchies in question; it must be empty in the end."""
    roots = hierarchies()
    if "cpu" not in roots:
        (roots[""] / "cgroup.subtree_control").write_text("+cpu +pids")
    places = {roots.get(controller, roots.get("", Path())) / NAME for controller in ("cpu", "pids")}
    for place in places:
        place.mkdir()
    yield places
    assert remove_group(NAME)


@pytest.mark.engine
def test_on_the_kernel(real_group: set[Path]) -> None:
    """A program that ignores signals and forks without end."""
    script = (
        "trap '' TERM HUP INT; "
        'for group; do echo $$ >"$group/cgroup.procs"; done; echo in; '
        "while :; do (:) & (sleep 60) & done"
    )
    for group in real_group:
        if (limit := group / "pids.max").exists():
            limit.write_text("50")
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *map(os.fspath, real_group)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        with ThreadPoolExecutor(1) as reaper:  # as an engine's shim does: until then it counts as there
            status = reaper.submit(process.wait)
            began = time.monotonic()
            end_all(INSTANCE, BOUND)
            assert time.monotonic() < began + BOUND
        assert status.result() == -signal.SIGKILL


@pytest.mark.engine
def test_one_whose_main_thread_has_ended(real_group: set[Path]) -> None:
    """The kernel says then that it is in no group, and lists it all the same."""
    program = """
import ctypes, os, sys, threading, time
for group in sys.argv[2:]:
    open(group + "/cgroup.procs", "w").write(str(os.getpid()))
threading.Thread(target=time.sleep, args=(600,)).start()
os.write(1, b"in\\n")
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""
    leave = "60" if os.uname().machine == "x86_64" else "93"
    with subprocess.Popen(
        [sys.executable, "-c", program, leave, *map(os.fspath, real_group)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        with ThreadPoolExecutor(1) as reaper:
            status = reaper.submit(process.wait)
            end_all(INSTANCE, BOUND)
        assert status.result() == -signal.SIGKILL
