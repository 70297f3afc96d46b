"""Runs the restricted shell on a real PTY: presses keys, and looks at the screen."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .screen import Screen

DEADLINE = 10.0  # seconds for anything to appear; a loaded machine is slow, a failure is rare

ENTER = b"\r"
CTRL_C = b"\x03"
CTRL_D = b"\x04"
UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END, DELETE = b"\x1b[H", b"\x1b[F", b"\x1b[3~"
PASTE_BEGIN, PASTE_END = b"\x1b[200~", b"\x1b[201~"

PROMPT = "ably> "
PROMPT_BEGINS = b"\x1b[?2004h"


class Shell:
    """One running shell. Its environment is only what the test gives; `third` becomes its descriptor 3."""

    def __init__(
        self,
        binary: Path,
        arguments: Sequence[str] = (),
        *,
        environment: dict[str, str] | None = None,
        directory: Path | None = None,
        columns: int = 80,
        rows: int = 24,
        descriptors: Sequence[int] = (),
        third: int | None = None,
        argv0: str | None = None,
        local_modes: int | None = None,
        user: int | None = None,
        emulated: bool = True,
    ) -> None:
        self.master, slave = os.openpty()
        self.screen = Screen(columns, rows)
        self.output = b""
        self._emulated = emulated
        self._undecoded = b""
        self._set_size(columns, rows)
        if local_modes is not None:
            modes = self.modes()
            modes[3] = local_modes
            termios.tcsetattr(slave, termios.TCSANOW, modes)
        if user is not None:
            os.fchown(slave, user, -1)
        self.process = subprocess.Popen(
            [argv0 if argv0 is not None else str(binary), *arguments],
            executable=binary,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment or {},
            cwd=directory,
            start_new_session=True,
            pass_fds=descriptors if third is None else [3],
            preexec_fn=None if third is None else lambda: os.dup2(third, 3),
            user=user,
        )
        os.close(slave)

    def __enter__(self) -> "Shell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, and make sure that the shell is gone."""
        with contextlib.suppress(OSError):
            os.close(self.master)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Resize as a terminal does: what was written so far is on the screen before it changes."""
        self.read(0.05)
        self.screen.resize(columns, rows)
        self._set_size(columns, rows)

    def press(self, *keys: bytes | str) -> None:
        """Press keys; text stands for its UTF-8. Reads meanwhile, so that a flood of keys cannot block."""
        data = b"".join(key.encode() if isinstance(key, str) else key for key in keys)
        deadline = time.monotonic() + DEADLINE
        while data:
            assert time.monotonic() < deadline, "the shell does not take its input"
            readable, writable, _ = select.select([self.master], [self.master], [], 1)
            if readable and not self._read_once():
                return
            if writable:
                data = data[os.write(self.master, data[:512]) :]

    def _read_once(self) -> bool:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.output += data
        if not self._emulated:
            return True
        self._undecoded += data
        text = self._undecoded.decode(errors="ignore" if len(self._undecoded) > 8192 else "surrogateescape")
        cut = len(text)
        while cut > 0 and len(text) - cut < 3 and "\udc80" <= text[cut - 1] <= "\udcff":
            cut -= 1
        self._undecoded = text[cut:].encode(errors="surrogateescape")
        self.screen.feed(text[:cut])
        return True

    def read(self, seconds: float) -> bool:
        """Show what is written within `seconds`; False when the terminal's other side was closed."""
        if select.select([self.master], [], [], seconds)[0]:
            return self._read_once()
        return True

    def wait_for(self, condition: Callable[[], bool], what: str = "") -> None:
        """Read until `condition` holds.

        Raises:
            AssertionError: it did not in time; the text shows the screen.
        """
        deadline = time.monotonic() + DEADLINE
        while not condition():
            alive = self.read(0.2)
            if not alive:
                self.process.wait(DEADLINE)
            if condition():
                return
            if not alive or time.monotonic() > deadline:
                screen = "\n".join(self.screen.lines())
                raise AssertionError(
                    f"{what or 'it'} did not come; the screen:\n{screen}\n{self.output[-300:]!r}"
                )

    def wait_for_output(self, data: bytes) -> None:
        """Wait until `data` has been written."""
        self.wait_for(lambda: data in self.output, repr(data))

    def wait_for_text(self, text: str) -> None:
        """Wait until `text` is somewhere on the screen, scrolled away or not."""
        self.wait_for(lambda: text in self.screen.text(), repr(text))

    def wait_for_line(self, text: str, cursor: int | None = None, prompt: str = PROMPT) -> None:
        """Wait until the last row shows prompt and `text`, the cursor `cursor` columns behind the prompt."""
        shown = (prompt + text).rstrip()

        def there() -> bool:
            lines = self.screen.lines()
            row, column = self.screen.cursor()
            at = cursor is None or (row == len(lines) - 1 and column == len(prompt) + cursor)
            return bool(lines) and lines[-1] == shown and at

        self.wait_for(there, f"{shown!r} with the cursor at {cursor}")

    def wait_for_prompt(self) -> None:
        """Wait for an empty prompt."""
        self.wait_for_line("", 0)

    def enter(self, *keys: bytes | str) -> None:
        """Press `keys` and Enter, and wait for the next prompt."""
        count = self.output.count(PROMPT_BEGINS)
        self.press(*keys, ENTER)
        self.wait_for(lambda: self.output.count(PROMPT_BEGINS) > count, "the next prompt")
        self.wait_for_prompt()

    def run(self, line: bytes | str) -> str:
        """Enter `line` at an empty prompt, wait for the next one, return what was shown between."""
        self.wait_for_prompt()
        before = len(self.screen.text().splitlines())
        self.enter(line)
        return "\n".join(self.screen.text().splitlines()[before:-1])

    def wait_for_exit(self) -> int:
        """Wait for the end of the shell; return its exit status (negative: the signal that ended it)."""
        deadline = time.monotonic() + DEADLINE
        while self.process.poll() is None and time.monotonic() < deadline:
            if not self.read(0.05):
                break
        return self.process.wait(DEADLINE)

    def modes(self) -> list[Any]:
        """Return the terminal's modes, as `termios.tcgetattr` has them."""
        return termios.tcgetattr(self.master)

    def local_modes(self) -> int:
        """Return the flags ICANON, ECHO, ISIG and the like."""
        return int(self.modes()[3])

    def children(self) -> list[int]:
        """Return the pids of the shell's children."""
        return [
            int(pid)
            for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the shell itself."""
        os.kill(self.process.pid, number)


@contextlib.contextmanager
def running(binary: Path, *names: str, **options: object) -> Iterator[Shell]:
    """Run the shell with an allow list of `names`, and wait for its first prompt."""
    with Shell(binary, ["--allow", ",".join(names)], **options) as shell:  # type: ignore[arg-type]
        shell.wait_for_prompt()
        yield shell
