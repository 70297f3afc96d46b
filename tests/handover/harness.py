"""Servers that take over from each other, and a visitor who comes back each time it is sent away."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio
from faults.supervised import LIFELINES, TOKEN, environment, is_running
from faults.visitor import SessionOverError, Visitor, visit

PROGRAM = Path(__file__).with_name("program.py")
START_TIMEOUT = 90.0
HANDOVER_CODE, ABNORMAL_CODE = 1012, 1006
GIVER_STEPS = ["hello", "offered", "prepared", "frozen", "sent"]
TAKER_STEPS = ["prepared", "received", "taking"]
"""Of the hand-over, at which a fault may be (`program`)."""


@attrs.define(eq=False)
class Server:
    """A process of the command. Attributes: `said` is all that it has printed; `port` where it listens."""

    process: trio.Process
    log: Path
    said: bytes = b""

    @property
    def port(self) -> int:
        return int(re.findall(rb"Open http://127\.0\.0\.1:(\d+)/", self.said)[0])

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def wait_open(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout
        while b"Open " not in self.said or not self.said.endswith(b"\n"):
            piece = await self.process.stdout.receive_some()
            assert piece, f"it did not serve:\n{self.log.read_text()}"
            self.said += piece

    async def ended(self) -> int:
        """Wait for its end and return its status."""
        return await self.process.wait()

    def log_has(self, pattern: str) -> bool:
        """Whether its log has something like this."""
        return re.search(pattern, self.log.read_text()) is not None


@asynccontextmanager
async def server(
    directory: Path,
    *arguments: str,
    env_file: str = "/dev/null",
    within: Sequence[str] = (),
    **settings: str,
) -> AsyncGenerator[Server]:
    """Run the command with these arguments, `within` another that executes it; killed at the end, should it
    still run."""
    log = directory / f"{time.monotonic_ns()}.log"
    with log.open("wb") as stream:
        process = await trio.lowlevel.open_process(
            [*within, sys.executable, str(PROGRAM), "--env-file", env_file, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stream,
            env={**environment(""), "SESSION_COMMAND": "sh", **settings},
        )
    try:
        yield Server(process, log)
    finally:
        with trio.move_on_after(20, shield=True):
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()
            assert process.stdout
            await process.stdout.aclose()


class Faithful:
    """A visitor who comes back to its session, with the offset it has reached, whenever it is sent away to do
    so.

    Attributes:
        text: all output, in order, each byte once.
        hello: of its newest connection.
        returns: how often it came back.
        lost: whether it got another session than it had.
        notices: sentences about the session.
        exited: status of the command, once it has ended by itself.
    """

    def __init__(self, url: str, **credentials: Any) -> None:
        self.url = url
        self._credentials = credentials or {"token": TOKEN}
        self.text = bytearray()
        self.hello: dict[str, Any] = {}
        self.returns = 0
        self.lost = False
        self.notices: list[str] = []
        self.exited: int | None = None
        self.over: SessionOverError | None = None
        self._session_id: str | None = None
        self._offset = 0
        self._visitor: Visitor | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the session is over."""
        while self.over is None:
            try:
                async with visit(
                    self.url,
                    session_id=self._session_id,
                    offset=self._offset or None,
                    credentials=self._credentials,
                ) as self._visitor:
                    self._visitor.notices = self.notices
                    await self._read(self._visitor, task_status)
            except SessionOverError as over:
                if self._visitor is not None:
                    self.exited = self._visitor.exited
                self._visitor = None
                if over.code in {HANDOVER_CODE, ABNORMAL_CODE, None}:
                    await trio.sleep(0.02)
                elif self._session_id is None:
                    raise  # it never had one, and the reason is what matters
                else:
                    self.over = over
                self.returns += over.code is not None

    async def _read(self, visitor: Visitor, task_status: trio.TaskStatus[None]) -> None:
        while True:
            data = await visitor.read()
            self.hello = visitor.hello
            if self._session_id is None:
                self._session_id = visitor.hello["sessionId"]
                task_status.started()
            elif visitor.hello["sessionId"] != self._session_id:
                self.lost = True
                raise SessionOverError(4004, "this is another session")
            self.text += data
            self._offset = visitor.offset

    async def type(self, data: bytes) -> None:
        """Type once connected; what a connection has taken, it has taken."""
        while True:
            try:
                if self._visitor is not None:
                    await self._visitor.type(data)
                    return
            except SessionOverError:
                pass
            await trio.sleep(0.01)

    async def wait_for(self, mark: bytes) -> None:
        """Wait until `mark` was shown."""
        with trio.fail_after(30):
            while mark not in self.text:
                await trio.sleep(0.02)


def keepers() -> set[int]:
    """Processes that keep local sessions, in this network namespace: others test here, too."""
    ours, found = Path("/proc/self/ns/net").readlink(), set[int]()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            pid = int(path.parent.name)
            if (
                b"local_keeper.py" in path.read_bytes()
                and is_running(pid)
                and path.with_name("ns").joinpath("net").readlink() == ours
            ):
                found.add(pid)
    return found


def directories() -> set[str]:
    """Directories of instances."""
    return {path.name for path in LIFELINES.glob("instance-*")} if LIFELINES.exists() else set()


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait until `condition()` holds."""
    with trio.fail_after(timeout):
        while not condition():
            await trio.sleep(0.05)
