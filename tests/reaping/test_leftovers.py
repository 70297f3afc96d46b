"""What dead supervisors left on this host besides containers: found without being touched, and removed."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from supervisor.engine import Docker, DockerError
from supervisor.reaping import places
from supervisor.reaping.directories import hold_directory
from supervisor.reaping.leftovers import LeftOver, find_left_over
from supervisor.reaping.places import LIFELINES, OPERATORS, open_place
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.identity import this_process

DEAD = "d" * 32
ALIVE = "a" * 32


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a dead supervisor left, beside what a living one has."""
    monkeypatch.setattr(places, "place", lambda name: tmp_path / name)
    lifelines, operators = open_place(LIFELINES), open_place(OPERATORS)
    hold_directory(lifelines, ALIVE)
    directory, lock = hold_directory(lifelines, DEAD)
    (directory / "handover-8080").touch()
    os.close(lock)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(operators / "8080.sock"))
    os.utime(operators / "8080.sock", (0, 0))
    return [("directory", str(directory)), ("socket", str(operators / "8080.sock"))]


def found() -> list[LeftOver]:
    """All that is of a test: the host may have more."""
    return [each for each in find_left_over(this_process()) if each.what in {"directory", "socket"}]


def test_what_the_dead_left_is_found_and_removed(left: list[tuple[str, str]], tmp_path: Path) -> None:
    assert [(each.what, each.name) for each in found()] == left
    assert [(each.what, each.name) for each in found()] == left, "to find is not to remove"
    once, again = found(), found()
    assert [each.remove() for each in once] == [True, True]
    assert [each.remove() for each in again] == [False, False], "somebody was faster"
    assert found() == []
    assert [path.name for path in (tmp_path / LIFELINES).iterdir()] == [f"instance-{ALIVE[:16]}"]


def test_what_others_could_have_put_there_is_left_alone(left: list[tuple[str, str]], tmp_path: Path) -> None:
    for name in (LIFELINES, OPERATORS):
        (tmp_path / name).chmod(0o711)
    assert found() == []
    shutil.rmtree(tmp_path / OPERATORS)
    assert found() == []


async def test_they_go_while_the_engine_is_away(left: list[tuple[str, str]], tmp_path: Path) -> None:
    async with Docker(f"unix://{tmp_path}/nobody.sock") as docker:
        with pytest.raises(DockerError):
            await Reconciler(docker, this_process(), list).reconcile()
    assert found() == []
