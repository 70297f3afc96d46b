"""The window of a session's terminal: its size, and having all of it drawn again.

Of many sizes in a row only the newest is applied. It belongs to the session, not to one terminal's pump: what
was not applied when the pump was stopped is applied by the next.
"""

from typing import Final

import trio

from supervisor.sandbox.terminal import Terminal

REDRAW_PAUSE: Final = 0.1
"""Seconds for a program to notice the changed size before it is changed back."""


class Window:
    """A size that is wanted, and one that the terminal has.

    Args:
        cols, rows: what is wanted.
        applied: whether the terminal has it already, for sure.

    Attributes:
        size: what is wanted, columns and rows.
    """

    def __init__(self, cols: int, rows: int, *, applied: bool) -> None:
        self.size = (cols, rows)
        self._applied: tuple[int, int] | None = self.size if applied else None
        self._redraw = False
        self._plugged: tuple[Terminal, trio.Nursery] | None = None
        self._applying = False

    def plug(self, terminal: Terminal, nursery: trio.Nursery) -> None:
        """Apply to `terminal` what is asked for, in a task of `nursery` when something is, until `unplug`."""
        self._plugged = terminal, nursery
        self._start()

    def unplug(self) -> None:
        """Only note what is asked for from now on."""
        self._plugged = None

    def resize(self, cols: int, rows: int) -> None:
        """Ask for a size."""
        self.size = (cols, rows)
        self._start()

    def redraw(self) -> None:
        """Have a program that fills the screen draw all of it again. Programs look whether their size really
        changed, so it does, for a moment."""
        self._redraw = True
        self._start()

    def _start(self) -> None:
        if self._plugged and not self._applying and (self._redraw or self.size != self._applied):
            terminal, nursery = self._plugged
            self._applying = True
            nursery.start_soon(self._apply, terminal)

    async def _apply(self, terminal: Terminal) -> None:
        try:
            while self._redraw or self.size != self._applied:
                if self._redraw:
                    self._redraw = False
                    cols, rows = self.size
                    self._applied = cols, rows - 1 if rows > 1 else rows + 1
                    await terminal.resize(*self._applied)
                    await trio.sleep(REDRAW_PAUSE)
                else:
                    self._applied = self.size
                    await terminal.resize(*self.size)
        except trio.BrokenResourceError:
            self._applied = self.size  # the command has gone: that is for others to notice
        finally:
            self._applying = False
