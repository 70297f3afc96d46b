"""What set-up tells the person who waits for it: one line per step, and progress where a step takes long.

On a terminal the progress overwrites itself; elsewhere (a log file, CI) a progress line is printed at most
every five seconds, so that a log shows life without filling up.
"""

import contextlib
import shutil
import sys
import time
from collections.abc import Generator
from typing import TextIO

_QUIET_SECONDS = 5.0  # between two progress lines where they cannot overwrite each other
_NAME_WIDTH = 12


class Step:
    """One step of set-up, under way. `result` is what its line says at the end."""

    def __init__(self, report: "Report", name: str) -> None:
        self._report = report
        self.name = name
        self.result = "ok"

    def progress(self, text: str) -> None:
        """Show what is being done just now."""
        self._report.progress(self.name, text)

    def notice(self, text: str) -> None:
        """Print a line that stays: something the person should know although the step goes on."""
        self._report.line(self.name, text)


class Report:
    """Writes the lines of set-up to `stream` (default: standard error, which leaves standard output to the
    program).
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._progress_shown = False
        self._last_progress = 0.0

    def line(self, name: str, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._stream.write(f"  {name:<{_NAME_WIDTH}} {text}\n")
        self._stream.flush()

    def progress(self, name: str, text: str) -> None:
        """Show `text` as the state of step `name` for the time being."""
        text = " ".join(text.split())
        # Real time on purpose: this is for a person's eyes, on whatever clock the program runs.
        now = time.monotonic()
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r\x1b[K" + f"  {name:<{_NAME_WIDTH}} {text} ..."[:width])
            self._stream.flush()
            self._progress_shown = True
        elif now - self._last_progress >= _QUIET_SECONDS:
            self.line(name, f"{text} ...")
            self._last_progress = now

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[Step]:
        """Time a step; print its line when it ends, `failed` when it raises."""
        step = Step(self, name)
        began = self._last_progress = time.monotonic()
        try:
            yield step
        except BaseException:
            self.line(name, "failed")
            raise
        seconds = time.monotonic() - began
        self.line(name, step.result + (f" ({seconds:.1f} s)" if seconds >= 0.5 else ""))

    def _erase(self) -> None:
        if self._progress_shown:
            self._stream.write("\r\x1b[K")
            self._progress_shown = False
