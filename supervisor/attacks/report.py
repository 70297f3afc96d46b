"""What a run has shown, for people and for programs."""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from supervisor.attacks.attack import DEFENCES, Row
from supervisor.attacks.witness import Echo, disturbances


@attrs.frozen
class Report:
    """A run.

    Attributes:
        rows: in the catalogue's order.
        before, meanwhile: another session's echo, in peace and during the attacks.
    """

    rows: Sequence[Row]
    before: Echo
    meanwhile: Echo

    @property
    def counted(self) -> list[Row]:
        """Rows that say something."""
        return [row for row in self.rows if row.counts]

    @property
    def exposed(self) -> list[Row]:
        """Rows that this host has nothing against."""
        return [row for row in self.rows if row.exposed]

    @property
    def failed(self) -> list[Row]:
        """Rows in which something did not stop what it should."""
        return [row for row in self.rows if row.failures]

    @property
    def disturbed(self) -> list[str]:
        """In what another session was worse off meanwhile than it may be."""
        return disturbances(self.before, self.meanwhile)

    @property
    def passed(self) -> bool:
        """Whether all was stopped that should be, and nobody else was affected."""
        return not self.failed and not self.disturbed

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "counted": len(self.counted),
            "failed": [row.attack.name for row in self.failed],
            "exposed": [row.attack.name for row in self.exposed],
            "disturbed": self.disturbed,
            "attacks": [_row_as_json(row) for row in self.rows],
            "echo": {"before": attrs.asdict(self.before), "meanwhile": attrs.asdict(self.meanwhile)},
        }

    def __str__(self) -> str:
        cells = [("attack", "without its defences", "each alone stops it", "as sessions are")]
        cells += [
            (
                row.attack.name,
                row.off.text,
                _stoppers(row),
                "NOT STOPPED: " + row.on.text if row.on.succeeded else row.on.text,
            )
            for row in self.counted
            if not row.exposed
        ]
        lines = _table(cells)
        if self.exposed:
            lines += ["", "SUCCEED, because this host has nothing of what stops them:"]
            lines += _table([(f"  {row.attack.name}", row.on.text, _stoppers(row)) for row in self.exposed])
        idle = [row for row in self.rows if not row.counts]
        if idle:
            lines += ["", "do not count, because they cannot succeed on this host:"]
            lines += _table([(f"  {row.attack.name}", row.off.text) for row in idle])
        lines += [
            "",
            f"{len(self.counted)} of {len(self.rows)} attacks count; "
            + (
                f"NOT STOPPED: {', '.join(row.attack.name for row in self.failed)}"
                if self.failed
                else "all of them are stopped"
            )
            + (f", but for {len(self.exposed)} that this host has nothing against" if self.exposed else ""),
            f"another session's echo before: {self.before}",
            f"another session's echo meanwhile: {self.meanwhile}",
            *(f"ANOTHER SESSION WAS AFFECTED: {each}" for each in self.disturbed),
        ]
        return "\n".join(lines)


def _stoppers(row: Row) -> str:
    stopped = ", ".join(str(each) for each in DEFENCES if each in row.alone and not row.alone[each].succeeded)
    parts = [stopped] if stopped else []
    if failures := [each for each in row.failures if each != "all"]:
        parts.append(f"NOT {', '.join(failures)}")
    if row.untried:
        parts.append(f"not here: {', '.join(map(str, row.untried))}")
    return "; ".join(parts)


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
        "name": row.attack.name,
        "wants": row.attack.wants,
        "counts": row.counts,
        "off": attrs.asdict(row.off),
        "alone": {str(each): attrs.asdict(row.alone[each]) for each in DEFENCES if each in row.alone},
        "on": attrs.asdict(row.on),
        "untried": [str(each) for each in row.untried],
        "failures": list(row.failures),
    }


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    # What was heard from containers must not act on the terminal of whoever reads it.
    rows = [
        tuple("".join(each if each.isprintable() else "?" for each in cell) for cell in row) for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
