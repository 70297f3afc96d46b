"""Live progress of a run: a bar below, and a line for each visit that is over."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from benchmarks import report
from benchmarks.measuring import Record
from benchmarks.plots import number


class Display:
    """Live progress: a bar, and a line for each run that is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begins(self, done: int, total: int, what: str) -> None:
        """See `Progress`."""
        self._bar.update(self._task, completed=done, total=total, description=what)

    def ended(self, target: str, scenario: str, record: Record, error: str | None) -> None:
        """See `Progress`."""
        figures = dict(record.values())
        shown = [name for name in figures if name.rpartition(".")[2] in {"p50", "p99"}]
        words = "  ".join(
            f"{name} {number(figures[name].value)} {figures[name].unit}"
            for name in (shown or report.shown(list(figures)))[:6]
        )
        self._print(f"{scenario:16} {target:12} {error or words}")
        for note in record.notes:
            self._print(f"  {note}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
