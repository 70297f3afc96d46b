import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest

from provision.users import IN_USER_NAMESPACE
from supervisor.provision import remapping
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.host import find_program
from supervisor.provision.report import Report, Step

USERS = Path(__file__).with_name("users.py")


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ts-users-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.mark.netns
@pytest.mark.parametrize(
    "scenario",
    [
        "a_host_that_never_had_any",
        "ids_of_others_stay_theirs",
        "a_user_without_ids_gets_some",
        "ids_may_be_given_by_number",
        "too_few_ids_are_told",
        "tools_that_are_missing_are_named",
        "what_useradd_says_is_told",
        "a_kernel_that_gives_none",
        "ids_that_a_container_has_not",
    ],
)
def test_users_that_are_others_of_the_host(
    request: pytest.FixtureRequest, directory: Path, scenario: str
) -> None:
    if os.geteuid() != 0 or not all(find_program(name) for name in ("unshare", "useradd")):
        conftest.missing(request, "what set-up does about users takes root and a namespace of its own")
    namespaces = ["--mount"] + (["--user", "--map-root-user"] if scenario in IN_USER_NAMESPACE else [])
    result = subprocess.run(
        ["unshare", *namespaces, sys.executable, str(USERS), scenario, str(directory)],
        env={**os.environ, "PYTHONPATH": str(USERS.parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_containers_users_must_reach_the_data(tmp_path: Path) -> None:
    paths = EnginePaths(data=tmp_path / "own/data", run=tmp_path / "run")
    (tmp_path / "own").mkdir(mode=0o700)
    assert tmp_path / "own" in remapping.closed_parents(paths)
    (tmp_path / "own").chmod(0o711)
    assert tmp_path / "own" not in remapping.closed_parents(paths)
    (tmp_path / "own").rmdir()
    assert tmp_path / "own" not in remapping.closed_parents(paths), "set-up makes it"


def test_images_are_left_where_users_change(tmp_path: Path) -> None:
    paths = EnginePaths(data=tmp_path / "data", run=tmp_path / "run")

    def left() -> tuple[bool, bool]:
        return remapping.leaves_images(paths, remap=True), remapping.leaves_images(paths, remap=False)

    assert left() == (False, False), "there are none yet"
    (paths.data / "image").mkdir(parents=True)
    assert left() == (True, False)
    (paths.data / "100000.100000").mkdir()
    assert left() == (False, False), "it has had both"
    (paths.data / "image").rmdir()
    assert left() == (False, True)


@pytest.mark.parametrize(
    ("taken", "first"),
    [
        ([], 100_000),
        ([(0, 1), (1000, 1), (65_534, 1)], 100_000),
        ([(100_000, 65_536)], 165_536),
        ([(165_536, 65_536)], 100_000),
        ([(165_535, 1)], 165_536),
        ([(250_000, 10), (100_000, 65_536), (90_000, 20_000)], 165_536),
        ([(200_000, 10), (100_000, 65_536)], 200_010),
        ([(100_000, 1 << 31)], 100_000 + (1 << 31)),
    ],
)
def test_ids_are_the_first_that_are_free(taken: list[tuple[int, int]], first: int) -> None:
    assert remapping.free_range(taken) == first


@pytest.mark.parametrize(
    ("id_map", "has"),
    [
        ("         0          0 4294967295\n", True),
        ("         0     100000      65536\n", False),
        ("0 1000 1\n100000 200000 65536\n", True),
        ("0 1000 1\n100000 200000 65535\n", False),
        ("0 1000 1\n100001 200000 65536\n", False),
        ("", False),
    ],
)
def test_a_map_of_ids(id_map: str, has: bool) -> None:
    assert remapping.has_range(id_map, 100_000, 65_536) is has


def test_what_all_containers_share_is_raised_and_never_lowered(tmp_path: Path) -> None:
    said = io.StringIO()
    step = Step(Report(said), "engine")
    remapping.raise_shares(step, tmp_path)
    assert said.getvalue() == "", "this kernel has no such limits"
    for name, before, after in (
        ("fs/inotify/max_user_instances", "128\n", "8192\n"),
        ("kernel/keys/maxkeys", "65536\n", "65536\n"),
        ("kernel/keys/maxbytes", "20000\n", "49000\n"),
    ):
        limit = tmp_path / "sys" / name
        limit.parent.mkdir(parents=True, exist_ok=True)
        limit.write_text(before)
        for _again in range(2):
            remapping.raise_shares(step, tmp_path)
            assert limit.read_text() == after
    assert said.getvalue().split() == [
        *("engine", "fs.inotify.max_user_instances", "128", "→", "8192"),
        *("engine", "kernel.keys.maxbytes", "20000", "→", "49000"),
    ]
