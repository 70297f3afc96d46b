"""The unit file, as far as it can be judged without a running systemd; exit statuses; the notification
protocol."""

import math
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trio
from conftest import missing

from supervisor import cli, commands
from supervisor.observability.service import Service

UNIT = Path(__file__).parents[2] / "packaging/systemd/terminal-supervisor.service"


def test_systemd_finds_nothing_wrong_with_the_unit(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing(request, "no systemd-analyze")
        raise AssertionError
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/terminal-supervisor", "/bin/true"))
    result = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_exit_status_says_what_was_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def leaves_one(*_: object) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["ts-session-1"]

    monkeypatch.setattr(commands, "_prepare_and_serve", leaves_one)
    assert cli.main(["--env-file", "/dev/null", "serve"]) == 3
    assert "ts-session-1" in capsys.readouterr().err


def test_without_a_manager_nothing_is_told() -> None:
    service = Service.of({})
    service.ready("serving")
    assert service == Service("", math.inf)


async def test_a_manager_is_told_facts_and_that_the_loop_turns(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        service = Service.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"})
        service.ready("serving")
        assert manager.recv(100) == b"READY=1\nSTATUS=serving\n"
        service.reloading()
        assert manager.recv(200).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        with trio.move_on_after(61):
            await service.keep_alive()
        assert [manager.recv(100) for _ in range(5)] == [b"WATCHDOG=1\n"] * 5
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    service.tell(STOPPING="1")  # nobody listens any more, which is no error
