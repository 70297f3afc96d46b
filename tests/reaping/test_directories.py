"""Directories of supervisors: a dead one's go, a living one's stay, whatever else is there stays."""

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.reaping.directories import PREFIX, held_directory, remove_dead_directories

INSTANCE = "0123456789abcdef" * 2


def test_it_goes_when_it_is_left_with_all_that_is_in_it(tmp_path: Path) -> None:
    with held_directory(tmp_path, INSTANCE) as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "socket").mkdir()
        (directory / "socket/gate").touch()
        assert remove_dead_directories(tmp_path) == []
        assert directory.exists()
        with pytest.raises(FileExistsError), held_directory(tmp_path, INSTANCE):
            pass
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from supervisor.reaping.directories import held_directory\n"
        f"with held_directory(Path(sys.argv[1]), {INSTANCE!r}) as directory:\n"
        " (directory / 'socket').mkdir(); print('held', flush=True); time.sleep(60)"
    )
    other = tmp_path / "somebody-else-s"
    other.mkdir()
    odd = tmp_path / f"{PREFIX}file"
    odd.touch()
    (tmp_path / f"{PREFIX}link").symlink_to(other)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert remove_dead_directories(tmp_path) == []
        process.kill()
        process.wait()
    [removed] = remove_dead_directories(tmp_path)
    assert removed.name == f"{PREFIX}{INSTANCE[:16]}"
    assert other.exists()
    assert odd.exists()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        f"{PREFIX}file",
        f"{PREFIX}link",
        "somebody-else-s",
    ]
