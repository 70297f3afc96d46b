"""`bench compare A B`: what changed between two documents, and whether that can be chance.

An exact permutation test over rounds: of all ways to deal the rounds of both documents into two hands, in how
many would the means be as far apart as they are? Many figures are judged at once, so p-values are corrected
(Holm 1979: the least is multiplied by the number of figures, the next by one less, and so on). With too few
rounds for that nothing can be significant, and it says so.
"""

import itertools
import math
import random
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from statistics import fmean

import attrs

from benchmarks.measuring import Better
from benchmarks.results import Results

SIGNIFICANT = 0.05
FEWEST_ROUNDS = 4
NOT_JUDGED = re.compile(r"(client|load)\..*|(.*\.)?(p90|p99\.9|max|bytes)")
"""Figures that say nothing of a server, or the same as others: each one judged makes all harder to tell."""
EXACT_UP_TO = 20_000  # ways to deal; beyond, that many are drawn


@attrs.frozen
class Change:
    """A figure before and after; `p` is the probability of such a difference by chance, corrected for all
    that are judged with it; None where it cannot be significant, because there are too few rounds."""

    target: str
    scenario: str
    figure: str
    unit: str
    better: Better
    before: float
    after: float
    p: float | None

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `same` (it may be chance) or `too few rounds`."""
        if self.p is None:
            return "too few rounds"
        if self.p >= SIGNIFICANT or self.before == self.after:
            return "same"
        return "better" if (self.after < self.before) == (self.better == "lower") else "worse"


def permutation_test(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Return the two-sided p-value; None for fewer than 4 values on a side."""
    if min(len(before), len(after)) < FEWEST_ROUNDS:
        return None
    everything = [*before, *after]
    ways: Iterator[Sequence[int]]
    if math.comb(len(everything), len(before)) <= EXACT_UP_TO:
        ways = itertools.combinations(range(len(everything)), len(before))
    else:
        chance = random.Random(0)
        ways = (chance.sample(range(len(everything)), len(before)) for _ in range(EXACT_UP_TO))
    wanted = abs(fmean(before) - fmean(after)) * (1 - 1e-9)
    as_far = total = 0
    for way in ways:
        chosen = set(way)
        one = [value for index, value in enumerate(everything) if index in chosen]
        other = [value for index, value in enumerate(everything) if index not in chosen]
        as_far += abs(fmean(one) - fmean(other)) >= wanted
        total += 1
    return as_far / total


def least(before: int, after: int, figures: int = 1) -> float:
    """Return the least p-value that so many rounds on each side can have, corrected for so many figures."""
    ways = math.comb(before + after, before)
    return min(1.0, figures * (2 if before == after else 1) / ways)


def rounds_for(figures: int) -> int:
    """Return how many rounds on each side it takes until one of so many figures can be told from chance."""
    return next(n for n in itertools.count(FEWEST_ROUNDS) if least(n, n, figures) < SIGNIFICANT)


def holm(chances: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order."""
    corrected, most = [0.0] * len(chances), 0.0
    for rank, index in enumerate(sorted(range(len(chances)), key=lambda each: chances[each])):
        most = max(most, min(1.0, chances[index] * (len(chances) - rank)))
        corrected[index] = most
    return corrected


def compare(before: Results, after: Results, patterns: Sequence[str] = ("*",)) -> list[Change]:
    """Return every figure that both have and that is judged, of those that `patterns` name: as
    `target:scenario.figure`, with `*` for anything (fnmatch).
    """
    found: list[tuple[Change, Sequence[int]]] = []
    for target in before.document["targets"]:
        for scenario in before.document["scenarios"]:
            for figure in before.figures(target, scenario):
                name = f"{target}:{scenario}.{figure}"
                old, new = before.value(target, scenario, figure), after.value(target, scenario, figure)
                if old is None or new is None or NOT_JUDGED.fullmatch(figure):
                    continue
                if not any(fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                rounds = [
                    list(document.per_round(target, scenario, figure).values())
                    for document in (before, after)
                ]
                change = Change(
                    target,
                    scenario,
                    figure,
                    new.unit,
                    new.better,
                    old.value,
                    new.value,
                    permutation_test(*rounds),
                )
                found.append((change, [len(each) for each in rounds]))
    judged = [change for change, _ in found if change.p is not None]
    corrected = iter(holm([change.p for change in judged if change.p is not None]))
    changes: list[Change] = []
    for change, (one, other) in found:
        if change.p is not None:
            p = next(corrected)
            can = least(one, other, len(judged)) < SIGNIFICANT or p < SIGNIFICANT
            change = attrs.evolve(change, p=p if can else None)
        changes.append(change)
    return changes
