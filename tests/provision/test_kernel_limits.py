"""Limits of the kernel, by files as it has them: raised for the capacity, never lowered, and told."""

import errno
import io
import os
from pathlib import Path

import pytest

from supervisor.provision.kernel_limits import raise_limits, shared_instances, sysctl_file
from supervisor.provision.report import Report, Step
from supervisor.settings import Settings

PACKAGED = Path(__file__).parents[2] / "packaging/sysctl/60-terminal-supervisor.conf"
MANY = Settings(max_sessions=3998, warm_pool_size=2)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in {
        "kernel/pty/max": 4096,
        "kernel/pty/reserve": 1024,
        "fs/inotify/max_user_instances": 128,
        "kernel/keys/maxkeys": 200,
        "kernel/keys/maxbytes": 20_000,
    }.items():
        file = tmp_path / "sys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


NAMES = ("kernel/pty/max", "fs/inotify/max_user_instances", "kernel/keys/maxkeys", "kernel/keys/maxbytes")


def limits(proc: Path) -> list[int]:
    return [int((proc / "sys" / name).read_text()) for name in NAMES]


def said(settings: Settings, proc: Path, *, remapped: bool = False) -> str:
    step = Step(Report(io.StringIO()), "limits")
    raise_limits(settings, step, remapped=remapped, proc=proc)
    return step.result


def test_what_fits_stays_as_it_is(proc: Path) -> None:
    assert said(Settings(), proc) == "ok"
    assert limits(proc) == [4096, 128, 200, 20_000]


def test_what_does_not_fit_is_raised_and_told(proc: Path) -> None:
    assert said(MANY, proc) == (
        "kernel.pty.max 4096 → 9024; fs.inotify.max_user_instances 128 → 8128; "
        "kernel.keys.maxkeys 200 → 8200; kernel.keys.maxbytes 20000 → 574000"
    )
    raised = [9024, 8128, 8200, 574_000]
    assert limits(proc) == raised
    assert said(MANY, proc) == "ok", "once"
    assert said(Settings(), proc) == "ok"
    assert limits(proc) == raised, "never lowered"


def test_where_users_are_remapped_root_is_charged_for_all(proc: Path) -> None:
    wanted = 32 * 102 + 256
    assert shared_instances(Settings()) == wanted
    assert said(Settings(), proc, remapped=True) == f"fs.inotify.max_user_instances 128 → {wanted}"
    assert said(Settings(), proc, remapped=True) == "ok"


def test_what_cannot_be_raised_is_told(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path, _text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    told = said(MANY, proc)
    assert "kernel.pty.max NOT RAISED to 9024: Read-only file system" in told
    assert "fs.inotify.max_user_instances NOT RAISED to 8128: Read-only file system" in told
    assert limits(proc) == [4096, 128, 200, 20_000]


def test_without_root_it_says_what_to_do(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "as root: sysctl kernel.pty.max=9024" in said(MANY, proc)
    assert limits(proc) == [4096, 128, 200, 20_000]
    assert said(Settings(), proc) == "ok"


def test_the_packaged_file_is_current_and_the_default_capacity_fits_into_it(proc: Path) -> None:
    text = PACKAGED.read_text()
    assert text == sysctl_file(Settings()), "python -m supervisor.provision.kernel_limits prints it anew"
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for name, _, value in (line.partition(" = ") for line in lines):
        (proc / "sys" / name.replace(".", "/")).write_text(value)
    before = limits(proc)
    assert said(Settings(), proc, remapped=True) == "ok"
    assert before == limits(proc) == [4096, 3520, 404, 28_280]
