"""`--fail-if`: conditions under which a command ends with status 1, for continuous integration.

    [TARGET:]SCENARIO.FIGURE  <  or  >  NUMBER[unit]  or  NUMBERx OTHER

`OTHER` is a target measured in the same command, or `floor`. Without a target, every one of ours (and a given
server) is meant. A unit is converted to that of the figure; a number without one has the figure's own.
"""

import re
from collections.abc import Iterator

import attrs

from benchmarks import units
from benchmarks.results import Results

_TIMED = re.compile(r"(?:.*\.)?(?:p[\d.]+|max)")
"""Figures that are times, whatever the scenario: percentiles."""
_FORM = re.compile(
    r"(?:(?P<target>[\w-]+):)?(?P<scenario>[\w-]+)\.(?P<figure>[\w.@ /-]+?)\s*(?P<sign>[<>])\s*"
    r"(?P<number>\d+(?:\.\d+)?)\s*(?:(?P<times>x)\s*(?P<other>[\w-]+)|(?P<unit>(?:1/)?[A-Za-zµ%/]*))"
)


class UnfittingUnitError(ValueError):
    """A figure has another kind of unit than the condition names."""


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
            ValueError: it has another form, or a unit that its figure cannot have.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is no condition such as 'echo.p99 > 1.3x floor' or 'ours:start.p50 > 8ms'"
            )
        unit = match["unit"] or ""
        if unit and unit not in units.KNOWN:
            raise ValueError(f"{text!r}: {unit!r} is no unit; there are {', '.join(units.KNOWN)}")
        if unit and _TIMED.fullmatch(match["figure"]) and units.worth("ms", unit) is None:
            raise ValueError(f"{text!r}: {match['figure']} is a time, which has no {unit!r}")
        return cls(
            text,
            match["target"],
            match["scenario"],
            match["figure"],
            match["sign"] == ">",
            float(match["number"]),
            match["other"],
            unit,
        )

    def values(self, results: Results) -> Iterator[tuple[str, float]]:
        """Yield each target that is meant, with its figure in the condition's unit, or its figure's ratio to
        the other one's; those that have none are left out.

        Raises:
            UnfittingUnitError: the figure cannot be told in that unit.
        """
        for name in self.meant(results):
            value = self._value(results, name)
            if value is not None:
                yield name, value

    def meant(self, results: Results) -> list[str]:
        """Return the targets that the condition is about."""
        if self.target:
            return [self.target]
        about = results.document["targets"]
        return [name for name, target in about.items() if target["role"] in {"ours", "given"}]

    def _value(self, results: Results, name: str) -> float | None:
        found = results.value(name, self.scenario, self.figure)
        if found is None:
            return None
        if self.other is None:
            factor = units.worth(found.unit, self.unit or found.unit)
            if factor is None:
                raise UnfittingUnitError(
                    f"{self.text}: {self.figure} is in {found.unit or 'no unit'}, "
                    f"which cannot be told in {self.unit}"
                )
            return found.value * factor
        other = results.floor(name, self.scenario) if self.other == "floor" else self.other
        ratio = results.ratio(name, other, self.scenario, self.figure) if other else None
        return None if ratio is None else ratio.median

    def met(self, value: float) -> bool:
        """Whether that value meets the condition."""
        return value > self.number if self.above else value < self.number

    def failures(self, results: Results) -> Iterator[str]:
        """Yield a sentence for each target that meets the condition, or for which it cannot be judged. A
        scenario that does not apply to some target is not missed there, but must have been run against one.
        """
        try:
            values = dict(self.values(results))
        except UnfittingUnitError as error:
            yield str(error)
            return
        if not values:
            yield f"{self.text}: nothing was measured that it could be judged by"
            return
        for name in self.meant(results):
            if name not in values:
                if not results.skips(name, self.scenario):
                    yield f"{name}: {self.text}: nothing was measured that it could be judged by"
            elif self.met(values[name]):
                unit = f" times {self.other}" if self.other else f" {self.unit}".rstrip()
                yield f"{name}: {self.text}: it is {values[name]:.4g}{unit}"
