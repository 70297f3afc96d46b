"""`bench compare A B`: what changed between two documents, and whether that can be chance.

An exact permutation test over rounds: of all ways to deal the rounds of both documents into two hands, in how
many would the means be as far apart as they are? With fewer than 4 rounds on each side nothing can be
significant, and it says so.
"""

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from statistics import fmean

import attrs

from benchmarks.measuring import Better
from benchmarks.results import Results

SIGNIFICANT = 0.05
FEWEST_ROUNDS = 4
EXACT_UP_TO = 20_000  # ways to deal; beyond, that many are drawn


@attrs.frozen
class Change:
    """A figure before and after; `p` is the probability of such a difference by chance, None where there are
    too few rounds."""

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


def compare(before: Results, after: Results) -> Iterator[Change]:
    """Yield every figure that both have."""
    for target in before.document["targets"]:
        for scenario in before.document["scenarios"]:
            for figure in before.figures(target, scenario):
                old, new = before.value(target, scenario, figure), after.value(target, scenario, figure)
                if old is None or new is None:
                    continue
                rounds = [
                    list(document.per_round(target, scenario, figure).values())
                    for document in (before, after)
                ]
                yield Change(
                    target,
                    scenario,
                    figure,
                    new.unit,
                    new.better,
                    old.value,
                    new.value,
                    permutation_test(*rounds),
                )
