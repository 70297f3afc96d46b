"""The full run: everything that docs/performance.md shows, of all servers, in one command.

Its parts come in the order of their importance, and all parts have a first round before any has a second, so
that each table has figures however early the time is over.
"""

from collections.abc import Sequence

import attrs

from benchmarks.runner import Part, Plan
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.scenario import Size
from benchmarks.targets import TARGETS, Options

MANY, CONTAINERS, SOME = 5000, 200, 50
"""Idle sessions: of the stand-in, in containers, beside a typist."""
LONGEST = 240.0  # seconds for one run; the full run shall not hang on one target
FEWER = (100, 1000)
"""Idle sessions of the stand-in, too, so that it shows whether each costs the same."""
SIZE = Size(starts=6, together=10, keys=300, sessions=SOME, megabytes=60, repeats=3, seconds=5)

WITHOUT_CONTAINERS = ("pty", "ours-local", "terminado", "wetty")
EVERYBODY = ("engine", "ours", "ours-attach", *WITHOUT_CONTAINERS)


def idle(count: int) -> Part:
    """Return the part of so many idle sessions of the stand-in, under a name of its own but for the most."""
    name = "idle" if count == MANY else f"idle-{count}"
    scenario = attrs.evolve(SCENARIOS["idle"], name=name, deadline=LONGEST)
    size = attrs.evolve(SIZE, sessions=count, seconds=20 if count == MANY else 8)
    return Part([TARGETS["standin"]], [scenario], size, 1)


def _part(targets: Sequence[str], scenarios: Sequence[str], rounds: int, size: Size = SIZE) -> Part:
    chosen = [SCENARIOS[name] for name in scenarios]
    return Part(
        [TARGETS[name] for name in targets],
        [attrs.evolve(each, deadline=min(each.deadline, LONGEST)) for each in chosen],
        size,
        rounds,
    )


def plan(options: Options, seconds: float) -> Plan:
    """Return the full run, to be over after about so many seconds."""
    with_cold = ("engine", "ours", "ours-cold", "ours-attach", *WITHOUT_CONTAINERS)
    served = ("ours", "ours-local", "terminado", "wetty")
    parts = [
        _part(EVERYBODY, ("echo", "echo-flood", "output-raw", "interrupt", "paste"), 4),
        _part(with_cold, ("start", "start-together"), 4),
        _part(("engine", "ours", *WITHOUT_CONTAINERS), ("echo-idle",), 3),
        _part(("ours", "ours-local"), ("page",), 3),
        _part(("engine", "ours", *WITHOUT_CONTAINERS), ("echo-typing",), 2, attrs.evolve(SIZE, keys=100)),
        _part(served, ("users",), 2, attrs.evolve(SIZE, seconds=3)),
        idle(MANY),
        _part(("ours-cold",), ("idle",), 1, attrs.evolve(SIZE, sessions=CONTAINERS, seconds=10)),
        _part(("ours-local", "terminado", "wetty"), ("idle",), 1),
        _part(EVERYBODY, ("output-lines", "output-yes", "output-utf8", "output-ansi"), 2),
        _part(served, ("cleanup-exit", "cleanup-leave"), 1),
        _part(("ours",), ("cleanup-sigterm", "cleanup-sigkill"), 1, attrs.evolve(SIZE, together=SOME)),
        _part(("ours-local", "terminado", "wetty"), ("cleanup-sigterm", "cleanup-sigkill"), 1),
        *(idle(count) for count in FEWER),
        _part(("ours", "ours-local"), ("resume", "refuse", "cleanup-cut"), 2),
        _part(served, ("start-rate",), 2, attrs.evolve(SIZE, seconds=2)),
        _part(("ours", "ours-local"), ("soak",), 1, attrs.evolve(SIZE, seconds=20, rate=4)),
        _part(("engine", "ours", *WITHOUT_CONTAINERS), ("echo-slow",), 2),
        _part(served, ("readers",), 1),
        _part(served, ("churn",), 1),
    ]
    return Plan(parts, options, seconds)
