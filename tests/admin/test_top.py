import os
import pty
import tty
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from rich.console import Console

from admin.stage import Stage, stage
from supervisor.admin.client import open_operator
from supervisor.admin.listener import administered
from supervisor.admin.top import Top, duration, print_sessions, session_table, size
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings


@asynccontextmanager
async def listening(path: Path) -> AsyncGenerator[tuple[Stage, Settings]]:
    settings = f"unix:{path / 'admin.sock'}"
    async with stage(admin_listen=settings) as s, administered(s.supervisor.view):
        yield s, s.supervisor.settings


def test_what_people_read() -> None:
    assert [duration(each) for each in (0, 59, 60, 3599, 3600, 90000)] == [
        *("0s", "59s", "1m", "59m", "1h00", "25h00"),
    ]
    assert [size(each) for each in (0, 1023, 1024, 1536, 20 << 20, 3 << 30)] == [
        *("0", "1023", "1K", "1.5K", "20M", "3G"),
    ]


def test_commands_where_they_are_counted() -> None:
    session = {"id": "x", "state": "ready", "container": None, "age_seconds": 1, "idle_seconds": 1}
    session |= {"writers": 1, "viewers": 0, "input_bytes": 0, "output_bytes": 0}
    table = session_table([{**session, "commands": None}, {**session, "commands": 1234}])
    (column,) = (each for each in table.columns if each.header == "cmds")
    assert list(column.cells) == ["-", "1234"]
    assert "cmds" not in [each.header for each in session_table([{**session, "commands": None}]).columns]


async def test_sessions_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(tmp_path) as (s, settings):
        session, _ = await s.session()
        await print_sessions(settings, as_json=False)
        assert "ready" in capsys.readouterr().out
        await print_sessions(settings, as_json=True)
        printed = capsys.readouterr().out
        assert f'"id": "{session.label}"' in printed


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no supervisor answers"):
        await print_sessions(Settings(admin_listen=f"unix:{tmp_path}/none"), as_json=True)
    with pytest.raises(ConfigurationError, match="no admin listener"):
        await print_sessions(Settings(admin_listen="none"), as_json=True)


async def test_a_wrong_token_is_told(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/a"
    async with stage(admin_listen=listen, admin_token="x" * 16) as s, administered(s.supervisor.view):
        with pytest.raises(ConfigurationError, match="ADMIN_TOKEN"):
            await print_sessions(Settings(admin_listen=listen), as_json=True)


class Keyboard:
    """A terminal whose keys the test presses."""

    def __init__(self) -> None:
        self.keys, self.terminal = pty.openpty()

    def press(self, keys: bytes) -> None:
        os.write(self.keys, keys)

    def close(self) -> None:
        os.close(self.keys)
        os.close(self.terminal)


async def test_top_shows_selects_and_ends(tmp_path: Path) -> None:
    keyboard = Keyboard()
    os.set_blocking(keyboard.terminal, True)
    with (tmp_path / "screen").open("w") as screen:
        console = Console(file=screen, force_terminal=True, width=140, height=20)
        async with listening(tmp_path) as (s, settings), open_operator(settings) as operator:
            sessions = [(await s.session())[0] for _ in range(3)]
            view = Top(operator, console, keyboard.terminal)
            tty.setcbreak(keyboard.terminal)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(view.run)
                keyboard.press(b"\x1b[B")  # the second
                while view._selected != (await operator.sessions())[1]["id"]:
                    await trio.sleep(0.01)
                keyboard.press(b"k")
                while not bool(view._question):
                    await trio.sleep(0.01)
                keyboard.press(b"n")
                while bool(view._question):
                    await trio.sleep(0.01)
                assert len(s.supervisor.registry) == 3
                keyboard.press(b"k")
                while not bool(view._question):
                    await trio.sleep(0.01)
                keyboard.press(b"y")
                while len(s.supervisor.registry) == 3:
                    await trio.sleep(0.01)
                assert sessions[1].ended is not None
                while "2 of 100 sessions" not in (tmp_path / "screen").read_text():
                    await trio.sleep(0.01)
                keyboard.press(b"q")
    keyboard.close()
