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
        self._changed = trio.Event()

    def resize(self, cols: int, rows: int) -> None:
        """Ask for a size."""
        if (cols, rows) != self.size:
            self.size = (cols, rows)
            self._changed.set()

    def redraw(self) -> None:
        """Have a program that fills the screen draw all of it again. Programs look whether their size really
        changed, so it does, for a moment."""
        self._redraw = True
        self._changed.set()

    async def apply(self, terminal: Terminal) -> None:
        """Apply what is asked for, for ever. When the command has gone, that is for others to notice."""
        try:
            while True:
                if self._redraw:
                    self._redraw = False
                    cols, rows = self.size
                    self._applied = cols, rows - 1 if rows > 1 else rows + 1
                    await terminal.resize(*self._applied)
                    await trio.sleep(REDRAW_PAUSE)
                elif self.size != self._applied:
                    self._applied = self.size
                    await terminal.resize(*self.size)
                else:
                    await self._changed.wait()
                    self._changed = trio.Event()
        except trio.BrokenResourceError:
            await trio.sleep_forever()
