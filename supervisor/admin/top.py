"""`terminal-supervisor top` and `sessions`: the sessions of a running supervisor, for people.

`top` shows them live. A session can be ended, and watched: its output is shown as it comes, rewritten so that
nothing in it can act on the operator's own terminal (`supervisor.admin.safe_output`); whoever is in the
session sees that there is another viewer.
"""

import os
import sys
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final, final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from supervisor.admin.client import Operator, open_operator
from supervisor.admin.safe_output import RESTORE, SafeOutput
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

REFRESH: Final = 1.0
"""Seconds between two looks."""
HELP: Final = "↑↓ select   w watch   k end it   q quit"
_UNITS: Final = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


async def print_sessions(settings: Settings, *, as_json: bool) -> None:
    """Print all sessions once, as a table or as the JSON of `/sessions`.

    Raises:
        ConfigurationError: see `open_operator`.
    """
    async with open_operator(settings) as operator:
        console = Console(soft_wrap=True)
        if as_json:
            console.print_json(data=await operator.ask("GET", "/sessions"))
        else:
            console.print(session_table(await operator.sessions()))


def session_table(sessions: list[dict[str, Any]], selected: int = -1) -> Table:
    """Return the sessions as a table; `selected` is the row that is marked. Commands have a column where
    somebody counts them: a screen is narrow.
    """
    counted = any(each["commands"] is not None for each in sessions)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for name in ("id", "state", "container"):
        table.add_column(name, no_wrap=True)
    for name in ("age", "idle", "viewers", "in", "out", *["cmds"] * counted, "memory", "cpu", "pids"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, each in enumerate(sessions):
        usage: dict[str, Any] = each.get("usage") or {}
        memory, cpu, pids = usage.get("memory_bytes"), usage.get("cpu_percent"), usage.get("pids")
        commands = "-" if each["commands"] is None else str(each["commands"])
        table.add_row(
            each["id"],
            each["state"],
            each["container"] or "-",
            duration(each["age_seconds"]),
            duration(each["idle_seconds"]),
            str(each["writers"] + each["viewers"]),
            size(each["input_bytes"]),
            size(each["output_bytes"]),
            *[commands] * counted,
            "-" if memory is None else size(memory),
            "-" if cpu is None else f"{cpu:.0f}%",
            "-" if pids is None else str(pids),
            style="reverse" if row == selected else "",
        )
    return table


def _pool(pool: dict[str, Any]) -> str:
    """Return how many wait, of how many, and what they use: `2/2 5.1M 0.12s CPU`."""
    return f"{pool['waiting']}/{pool['size']} {size(pool['memory_bytes'])} {pool['cpu_seconds']:.2f}s CPU"


def duration(seconds: float) -> str:
    """Return seconds as people read them: `59s`, `12m`, `3h05`."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}"


def size(count: int) -> str:
    """Return bytes as people read them: `512`, `1.5K`, `20M`."""
    for unit, letter in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


async def top(settings: Settings) -> None:
    """Show the sessions until the operator has enough.

    Raises:
        ConfigurationError: this is no terminal, or see `open_operator`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError("top needs a terminal; `terminal-supervisor sessions` does not")
    with keys_at_once(sys.stdin.fileno()):
        async with open_operator(settings) as operator:
            await Top(operator, Console(), sys.stdin.fileno()).run()


@contextmanager
def keys_at_once(descriptor: int) -> Generator[None]:
    """Have keys told one by one and not shown, for as long as the block runs."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


@final
class Top:
    """The live view."""

    def __init__(self, operator: Operator, console: Console, keyboard: int) -> None:
        self._operator = operator
        self._console = console
        self._keyboard = keyboard
        self._sessions: list[dict[str, Any]] = []
        self._stats: dict[str, Any] = {}
        self._selected = ""
        self._question = ""
        self._said = ""

    async def run(self) -> None:
        """Show and obey until `q`."""
        while (watched := await self._browse()) is not None:
            await self._watch(watched)

    async def _browse(self) -> str | None:
        """Show the table until the operator wants to watch a session, which is returned, or to leave."""
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                await self._look()
                live.update(self._screen(), refresh=True)
                key = ""
                with trio.move_on_after(REFRESH):
                    key = await self._key()
                if key == "q":
                    return None
                if key == "w" and self._selected:
                    return self._selected
                await self._obey(key)

    async def _look(self) -> None:
        self._stats = await self._operator.ask("GET", "/stats")
        self._sessions = await self._operator.sessions()
        ids = [each["id"] for each in self._sessions]
        if self._selected not in ids:
            self._selected = ids[0] if ids else ""

    async def _obey(self, key: str) -> None:
        if self._question:
            if key == "y":
                try:
                    await self._operator.end(self._question)
                except ConfigurationError as error:
                    self._said = str(error)  # it ended by itself meanwhile
            if key:
                self._question = ""
        elif key in {"up", "down"} and self._sessions:
            ids = [each["id"] for each in self._sessions]
            step = ids.index(self._selected) + (1 if key == "down" else -1)
            self._selected = ids[min(max(step, 0), len(ids) - 1)]
        elif key == "k" and self._selected:
            self._question, self._said = self._selected, ""

    def _screen(self) -> Group:
        stats = self._stats
        pool = stats["pool"]
        head = (
            f"{stats['sessions']['open']} of {stats['sessions']['limit']} sessions   "
            f"{stats['sessions']['viewers']} viewers   {stats['connections']['open']} connections   "
            + (f"pool {_pool(pool)}   " if pool else "")
            + f"up {duration(stats['uptime_seconds'])}"
        )
        rows = max(self._console.height - 4, 1)
        place = next((n for n, each in enumerate(self._sessions) if each["id"] == self._selected), 0)
        first = max(0, min(place - rows // 2, len(self._sessions) - rows))
        foot = f"End {self._question}? y/n" if self._question else self._said or HELP
        table = session_table(self._sessions[first : first + rows], place - first)
        return Group(Text(head, style="bold"), Text(""), table, Text(""), Text(foot, style="dim"))

    async def _watch(self, session: str) -> None:
        self._console.clear()
        self._console.print(f"{session}: any key goes back", style="reverse")
        async with trio.open_nursery() as nursery:

            async def until_key() -> None:
                await self._key()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_key)
            try:
                async with self._operator.output(session) as answer:
                    safe = SafeOutput()
                    async for data in answer.aiter_raw():
                        await show(safe.feed(data))
                self._said = f"{session} has ended"
            except ConfigurationError as error:
                self._said = str(error)
            nursery.cancel_scope.cancel()
        await show(RESTORE)

    async def _key(self) -> str:
        await trio.lowlevel.wait_readable(self._keyboard)
        pressed = os.read(self._keyboard, 64)
        names = {
            b"\x1b[A": "up",
            b"\x1b[B": "down",
            b"\x1bOA": "up",
            b"\x1bOB": "down",
            b"": "q",
            b"\x03": "q",
        }
        return names.get(pressed) or pressed[:1].decode("ascii", "replace")


async def show(data: bytes) -> None:
    """Write `data` to standard output."""
    waits = sys.stdout.isatty()  # a file does not, and cannot be waited for
    while data:
        if waits:
            await trio.lowlevel.wait_writable(sys.stdout.fileno())
        data = data[os.write(sys.stdout.fileno(), data) :]
