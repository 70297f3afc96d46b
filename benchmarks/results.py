"""The figures of one command: what is saved, and what is computed from it.

The JSON document (`SCHEMA`) is described in docs/performance.md. The unit of chance is the round: within one,
samples depend on each other, so spread and significance come from rounds only.
"""

import csv
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from benchmarks.adapters import ADAPTERS
from benchmarks.measuring import Better, Figure, Record, Times
from benchmarks.targets import COLUMNS, UNKNOWN, Running, Target

SCHEMA = "terminal-supervisor-benchmark/1"


@attrs.frozen
class Ratio:
    """How a target compares with another one, measured in the same rounds: median, least, greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        if self.least == self.greatest:
            return f"{self.median:.2f}x"
        return f"{self.median:.2f}x ({self.least:.2f} to {self.greatest:.2f})"


class Results:
    """A document of figures; `document` is what is saved."""

    def __init__(self, document: dict[str, Any]) -> None:
        if document.get("schema") != SCHEMA:
            raise ValueError(f"not a {SCHEMA} document")
        self.document = document

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a saved document."""
        try:
            return cls(json.loads(path.read_text()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def begin(cls, **what: Any) -> "Results":
        """Return a document without figures."""
        return cls(
            {
                "schema": SCHEMA,
                **what,
                "targets": {},
                "scenarios": {},
                "runs": [],
                "skipped": [],
                "remarks": [],
            }
        )

    def remark(self, sentence: str) -> None:
        """Note what a reader must know of the whole."""
        self.document["remarks"].append(sentence)

    def skip(self, target: str, scenario: str, reason: str) -> None:
        """Note that a scenario does not apply to a target."""
        skipped = {"target": target, "scenario": scenario, "reason": reason}
        if skipped not in self.document["skipped"]:
            self.document["skipped"].append(skipped)

    def note_target(self, target: Target, running: Running | None) -> None:
        """Note what was measured; `running` is None where it did not start."""
        about = attrs.asdict(target, filter=attrs.filters.exclude("launch"))
        name = about.pop("name")
        if running is not None:
            started = {
                "command": running.command,
                "version": running.version,
                "adapter": running.access.adapter,
                "caveat": ADAPTERS[running.access.adapter].caveat,
            }
            self.document["targets"][name] = about | started
        elif name not in self.document["targets"]:
            self.document["targets"][name] = about | {"command": "", "version": "", "adapter": ""}

    def save(self, path: Path) -> None:
        """Write the document."""
        path.write_text(json.dumps(self.document, indent=1) + "\n")

    def save_csv(self, path: Path) -> None:
        """Write one line per figure and round."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("round", "column", "target", "scenario", "figure", "value", "unit", "load"))
            for run in self.document["runs"]:
                column = self.document["targets"][run["target"]]["column"]
                for name, figure in run["values"].items():
                    writer.writerow(
                        (
                            run["round"],
                            column,
                            run["target"],
                            run["scenario"],
                            name,
                            figure["value"],
                            figure["unit"],
                            run["load"],
                        )
                    )

    def add(
        self,
        *,
        round_: int,
        target: str,
        scenario: str,
        load: float,
        record: Record,
        error: str | None,
        seconds: float = 0.0,
    ) -> None:
        """Append a run, which took so many seconds, without its server's start."""
        self.document["runs"].append(
            {
                "round": round_,
                "target": target,
                "scenario": scenario,
                "load": round(load, 2),
                "seconds": round(seconds, 1),
                "values": {name: attrs.asdict(figure) for name, figure in record.values()},
                "times": {name: times.encode() for name, times in record.times.items() if len(times)},
                "notes": record.notes,
                "error": error,
            }
        )

    # ------------------------------------------------------------------ reading

    def runs(self, target: str | None = None, scenario: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield the runs of a target, a scenario, or both."""
        for run in self.document["runs"]:
            if target in (None, run["target"]) and scenario in (None, run["scenario"]):
                yield run

    @property
    def rounds(self) -> int:
        """How many rounds were wanted of what has most."""
        return max((part["rounds"] for part in self.document["parts"]), default=0)

    @property
    def failed(self) -> list[str]:
        """What did not go as it should, in sentences."""
        runs = [f"{run['scenario']}, {run['target']}: {run['error']}" for run in self.runs() if run["error"]]
        return [*self.document["remarks"], *runs]

    @property
    def caveats(self) -> list[str]:
        """What must be known of how a target was spoken to, in sentences."""
        about = self.document["targets"].items()
        return [f"{name}: {caveat}" for name, target in about if (caveat := target.get("caveat", ""))]

    @property
    def skipped(self) -> list[str]:
        """What was not run because it does not apply, in sentences. (Older documents do not say.)"""
        return [
            f"{each['scenario']} was not run against {each['target']}: {each['reason']}"
            for each in self.document.get("skipped", [])
        ]

    def skips(self, target: str, scenario: str) -> bool:
        """Whether that scenario was not run because it does not apply to that target."""
        skipped = self.document.get("skipped", [])
        return any(each["target"] == target and each["scenario"] == scenario for each in skipped)

    def columns(self) -> list[str]:
        """Return the columns that have figures, in a fixed order."""
        present = {target["column"] for target in self.document["targets"].values()}
        return [column for column in COLUMNS if column in present]

    def targets(self, column: str) -> list[str]:
        """Return the targets of a column."""
        return [name for name, target in self.document["targets"].items() if target["column"] == column]

    def floor(self, target: str, scenario: str) -> str | None:
        """Return the floor that `target` is compared with: that of its isolation, and for a start from a
        pool, which the engine has no part in, the bare PTY. There is none where the isolation is unknown.
        """
        about = self.document["targets"]
        column = about[target]["column"]
        if column == UNKNOWN:
            return None
        claimed = column == "containers, warm" and scenario.startswith("start")
        containers = column.startswith("containers") and not claimed
        for name, other in about.items():
            if other["role"] == "floor" and other["column"].startswith("containers") == containers:
                return str(name)
        return None

    def figures(self, target: str, scenario: str) -> list[str]:
        """Return the names of the figures that there are."""
        names: dict[str, None] = {}
        for run in self.runs(target, scenario):
            names |= dict.fromkeys(run["values"])
        return list(names)

    def per_round(self, target: str, scenario: str, figure: str) -> dict[int, float]:
        """Return a figure of each round that has it."""
        return {
            run["round"]: run["values"][figure]["value"]
            for run in self.runs(target, scenario)
            if figure in run["values"]
        }

    def value(self, target: str, scenario: str, figure: str) -> Figure | None:
        """Return a figure over all rounds: percentiles of all samples together, else the median of rounds."""
        values = self.per_round(target, scenario, figure)
        if not values:
            return None
        example = next(
            run["values"][figure] for run in self.runs(target, scenario) if figure in run["values"]
        )
        name, _, statistic = figure.rpartition(".")
        merged = self.times(target, scenario, name)
        if merged is not None and statistic == "max":
            return Figure(merged.most, "ms")
        if merged is not None and statistic.startswith("p") and statistic[1:].replace(".", "").isdigit():
            return Figure(merged.at(float(statistic[1:])), "ms")
        better: Better = example["better"]
        return Figure(statistics.median(values.values()), example["unit"], better)

    def times(self, target: str, scenario: str, name: str = "") -> Times | None:
        """Return a distribution over all rounds."""
        merged: Times | None = None
        for run in self.runs(target, scenario):
            if name in run["times"]:
                merged = merged or Times()
                merged.merge(Times(run["times"][name]))
        return merged

    def ratio(self, target: str, other: str, scenario: str, figure: str) -> Ratio | None:
        """Return `target` over `other`, round by round; None where no round has both."""
        ours, theirs = self.per_round(target, scenario, figure), self.per_round(other, scenario, figure)
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number]]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios)) if ratios else None

    def notes(self, target: str, scenario: str) -> list[str]:
        """Return what a reader must know, errors included, each once."""
        found: dict[str, None] = {}
        for run in self.runs(target, scenario):
            found |= dict.fromkeys(run["notes"])
            if run["error"]:
                found[f"FAILED in round {run['round']}: {run['error']}"] = None
        return list(found)
