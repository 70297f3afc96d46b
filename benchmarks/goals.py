"""What the product shall reach, as conditions on the figures of a full run, and whether it does."""

from collections.abc import Iterator

import attrs

from benchmarks.full import CONTAINERS, MANY, SOME
from benchmarks.results import Results
from benchmarks.thresholds import Threshold


@attrs.frozen
class Goal:
    """A goal: what it is, and the condition under which it is missed."""

    what: str
    missed: Threshold


@attrs.frozen
class Judgement:
    """A goal, and what was measured (None: nothing): `factor` is above 1 where it is missed, by so much."""

    goal: Goal
    value: float | None

    @property
    def factor(self) -> float | None:
        """How many times too slow, too large, too little."""
        missed = self.goal.missed
        if self.value is None or not (self.value if missed.above else missed.number):
            return None if self.value is None else 0.0
        if missed.above:
            return self.value / missed.number
        return missed.number / self.value if self.value else float("inf")

    @property
    def verdict(self) -> str:
        """`reached`, `missed`, or `not measured`."""
        if self.value is None:
            return "not measured"
        return "missed" if self.goal.missed.met(self.value) else "reached"

    @property
    def wanted(self) -> str:
        """The goal's limit in words."""
        missed = self.goal.missed
        times = f" times {missed.other}" if missed.other else f" {missed.unit}"
        return f"{'≤' if missed.above else '≥'} {missed.number:g}{times}"


def _all() -> Iterator[tuple[str, str]]:
    yield f"echo, {SOME} idle sessions beside, median", "ours:echo-idle.p50 > 0.5ms"
    yield f"echo, {SOME} idle sessions beside, 99 %", "ours:echo-idle.p99 > 2.5ms"
    yield "echo beside a flood, 99 %", "ours:echo-flood.p99 > 6ms"
    yield "output of one session", "ours:output-raw.rate < 60MB/s"
    yield "output against the engine's attach", "ours:output-raw.rate < 1x engine"
    yield "output: CPU of the server", "ours:output-raw.cpu > 1 cores"
    yield "Ctrl-C in a flood of the page, 99 %", "ours:page.p99 > 100ms"
    yield "the page: bytes that were discarded", "ours:page.discarded > 0B"
    yield "warm start, median", "ours:start.p50 > 8ms"
    yield "warm start, 99 %", "ours:start.p99 > 30ms"
    yield "cold start against the engine", "ours-cold:start.p50 > 1.1x engine"
    yield "ten cold starts at once against the engine", "ours-cold:start-together.all > 1.2x engine"
    yield "memory per idle session", "standin:idle.memory-per-session > 40KB"
    yield f"memory with {MANY} idle sessions", "standin:idle.memory > 250MB"
    yield f"CPU with {MANY} idle sessions, % of a core", "standin:idle.cpu > 1%"
    yield f"echo with {CONTAINERS} containers, 99 %", "ours-cold:idle.echo.p99 > 2.5ms"
    yield "`exit` → container gone, median", "ours:cleanup-exit.containers.p50 > 500ms"
    yield (
        f"SIGTERM with {SOME} sessions → containers gone, 2 s of grace included",
        ("ours:cleanup-sigterm.containers.max > 5000ms"),
    )
    yield f"SIGKILL with {SOME} sessions → processes dead", "ours:cleanup-sigkill.processes.max > 500ms"
    yield f"SIGKILL with {SOME} sessions → containers gone", "ours:cleanup-sigkill.containers.max > 3000ms"
    yield "the same against the engine alone", "ours:cleanup-sigkill.containers-to-engine-alone > 1times"
    for peer in ("terminado", "wetty"):
        yield f"warm start against {peer}", f"ours:start.p50 > 1x {peer}"
        yield f"echo against {peer}, median", f"ours:echo.p50 > 1x {peer}"
        yield f"echo against {peer}, 99 %", f"ours:echo.p99 > 1x {peer}"
        yield f"output against {peer}", f"ours:output-raw.rate < 1x {peer}"
        yield f"without containers: start against {peer}", f"ours-local:start.p50 > 1x {peer}"
        yield f"without containers: echo against {peer}, median", f"ours-local:echo.p50 > 1x {peer}"
        yield f"without containers: echo against {peer}, 99 %", f"ours-local:echo.p99 > 1x {peer}"
        yield f"without containers: output against {peer}", f"ours-local:output-raw.rate < 1x {peer}"
        yield (
            f"without containers: memory per session against {peer}",
            f"ours-local:idle.memory-per-session > 1x {peer}",
        )


GOALS = tuple(Goal(what, Threshold.parse(condition)) for what, condition in _all())


def judge(results: Results) -> list[Judgement]:
    """Return a judgement on each goal."""
    return [
        Judgement(goal, next((value for _, value in goal.missed.values(results)), None)) for goal in GOALS
    ]
