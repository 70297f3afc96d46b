"""`--fail-if`: conditions under which a command ends with status 1, for continuous integration.

    [TARGET:]SCENARIO.FIGURE  <  or  >  NUMBER[unit]  or  NUMBERx OTHER

`OTHER` is a target measured in the same command, or `floor`. Without a target, every one of ours (and a given
server) is meant. Units are those of the report and only for the reader.
"""

import re
from collections.abc import Iterator

import attrs

from benchmarks.results import Results

_FORM = re.compile(
    r"(?:(?P<target>[\w-]+):)?(?P<scenario>[\w-]+)\.(?P<figure>[\w.@ /-]+?)\s*(?P<sign>[<>])\s*"
    r"(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<times>x)\s*(?P<other>[\w-]+)|(?P<unit>[A-Za-z%/]*))"
)


@attrs.frozen
class Threshold:
    """A condition, parsed."""

    text: str
    target: str | None
    scenario: str
    figure: str
    above: bool
    number: float
    other: str | None
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Understand `text`.

        Raises:
            ValueError: it has another form.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is no condition such as 'echo.p99 > 1.3x floor' or 'ours:start.p50 > 8ms'"
            )
        return cls(
            text,
            match["target"],
            match["scenario"],
            match["figure"],
            match["sign"] == ">",
            float(match["number"]),
            match["other"],
            match["unit"] or "",
        )

    def values(self, results: Results) -> Iterator[tuple[str, float]]:
        """Yield each target that is meant, with its figure, or its figure's ratio to the other one's; those
        that have none are left out.
        """
        for name, target in results.document["targets"].items():
            if name != self.target if self.target else target["role"] not in {"ours", "given"}:
                continue
            found = results.value(name, self.scenario, self.figure)
            if found is None:
                continue
            if self.other is None:
                yield name, found.value
                continue
            other = results.floor(name, self.scenario) if self.other == "floor" else self.other
            ratio = results.ratio(name, other, self.scenario, self.figure) if other else None
            if ratio is not None:
                yield name, ratio.median

    def met(self, value: float) -> bool:
        """Whether that value meets the condition."""
        return value > self.number if self.above else value < self.number

    def failures(self, results: Results) -> Iterator[str]:
        """Yield a sentence for each target that meets the condition, or for which it cannot be judged."""
        judged = False
        for name, value in self.values(results):
            judged = True
            if self.met(value):
                yield f"{name}: {self.text}: it is {value:.4g}{f' times {self.other}' if self.other else ''}"
        if not judged:
            yield f"{self.text}: nothing was measured that it could be judged by"
