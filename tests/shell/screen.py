"""A screen for tests: what a terminal such as xterm.js shows after the bytes that the shell wrote.

It knows the sequences that the shell's editor uses, wraps late as real terminals do (the cursor stays in the
last column until the next character comes), and leaves the cursor's line alone when the window is resized.
"""

import re
import unicodedata

_SEQUENCE = re.compile(r"\x1b\[([?!>]?)([0-9;]*)([@-~])|\x1b([=>78])")


def width(character: str) -> int:
    """Columns of a character, by this Python's Unicode database."""
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Screen:
    """Rows of cells; a wide character fills its first cell and leaves "" in the second."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.columns = columns
        self.rows = rows
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = 0
        self.column = 0
        self.bells = 0
        self.scrolled: list[str] = []
        self._pending = ""

    def feed(self, text: str) -> None:
        """Show `text`; a sequence that is not complete waits for the rest."""
        text = self._pending + text
        self._pending = ""
        at = 0
        while at < len(text):
            if text[at] == "\x1b":
                match = _SEQUENCE.match(text, at)
                if match is None:
                    assert len(text) - at < 100, f"not a sequence of this screen: {text[at : at + 40]!r}"
                    self._pending = text[at:]
                    return
                self._sequence(match[1], match[2], match[3] or match[4])
                at = match.end()
            else:
                self._character(text[at])
                at += 1

    def resize(self, columns: int, rows: int) -> None:
        """Change the size: rows are cut or filled, and scroll away when the cursor would be outside."""
        for cells in self.cells:
            cells[columns:] = []
            cells += [" "] * (columns - len(cells))
        while self.row >= rows:
            self._scroll()
            self.row -= 1
        self.cells = self.cells[:rows] + [[" "] * columns for _ in range(rows - len(self.cells))]
        self.columns, self.rows = columns, rows
        self.column = min(self.column, columns - 1)

    def lines(self) -> list[str]:
        """Return the rows without the blanks at their ends, and without empty rows at the bottom."""
        lines = ["".join(cells).rstrip() for cells in self.cells]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def text(self) -> str:
        """Return everything that was ever shown in rows, those that scrolled away included."""
        return "\n".join([*self.scrolled, *self.lines()])

    def cursor(self) -> tuple[int, int]:
        """Return row and column of the cursor, from 0; column `columns`: the next character wraps."""
        return self.row, self.column

    def _scroll(self) -> None:
        self.scrolled.append("".join(self.cells.pop(0)).rstrip())
        self.cells.append([" "] * self.columns)

    def _line_feed(self) -> None:
        if self.row == self.rows - 1:
            self._scroll()
        else:
            self.row += 1

    def _character(self, character: str) -> None:
        if character == "\n":
            self._line_feed()
        elif character == "\r":
            self.column = 0
        elif character == "\b":
            self.column = max(0, min(self.column, self.columns - 1) - 1)
        elif character == "\t":
            self.column = min(self.columns - 1, (self.column // 8 + 1) * 8)
        elif character == "\a":
            self.bells += 1
        elif character != "\0":
            assert character >= " ", f"control character {character!r}"
            self._print(character)

    def _print(self, character: str) -> None:
        columns = width(character)
        if columns == 0:
            before = max(self.column - 1, 0)
            if self.cells[self.row][before] == "":
                before -= 1
            self.cells[self.row][before] += character
            return
        if self.column + columns > self.columns:
            self._line_feed()
            self.column = 0
        cells = self.cells[self.row]
        if cells[self.column] == "" and self.column > 0:
            cells[self.column - 1] = " "
        cells[self.column] = character
        if columns == 2:
            cells[self.column + 1] = ""
        self.column += columns
        if self.column < self.columns and cells[self.column] == "":
            cells[self.column] = " "

    def _erase(self, row: int, begin: int, end: int) -> None:
        self.cells[row][begin:end] = [" "] * (end - begin)

    def _sequence(self, prefix: str, parameters: str, final: str) -> None:
        if prefix or final in "m=>78":
            return
        number = int(parameters) if parameters.isdigit() else 0
        column = min(self.column, self.columns - 1)
        if final == "A":
            self.row = max(0, self.row - max(1, number))
        elif final == "B":
            self.row = min(self.rows - 1, self.row + max(1, number))
        elif final == "C":
            self.column = min(self.columns - 1, column + max(1, number))
        elif final == "H":
            self.row = self.column = 0
        elif final in "JK":
            first = self.row if final == "K" else (0 if number else self.row + 1)
            last = self.row if final == "K" else self.rows - 1
            for row in range(first, last + 1):
                self._erase(row, 0 if row != self.row or number == 2 else column, self.columns)
            if final == "J" and number == 0:
                self._erase(self.row, column, self.columns)
            if number == 3:
                self.scrolled.clear()
        else:
            raise AssertionError(f"not a sequence of this screen: ESC [ {prefix}{parameters}{final}")
