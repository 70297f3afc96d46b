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
SIZE = Size(starts=8, together=10, keys=400, sessions=SOME, megabytes=60, repeats=3, seconds=5)

WITHOUT_CONTAINERS = ("pty", "ours-local", "terminado", "wetty")
EVERYBODY = ("engine", "ours", "ours-attach", *WITHOUT_CONTAINERS)


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
        _part(("standin",), ("idle",), 1, attrs.evolve(SIZE, sessions=MANY, seconds=20)),
        _part(("ours-cold",), ("idle",), 1, attrs.evolve(SIZE, sessions=CONTAINERS, seconds=10)),
        _part(("ours-local", "terminado", "wetty"), ("idle",), 1),
        _part(EVERYBODY, ("output-lines", "output-yes", "output-utf8", "output-ansi"), 2),
        _part(served, ("cleanup-exit", "cleanup-leave"), 1),
        _part(("ours",), ("cleanup-sigterm", "cleanup-sigkill"), 1, attrs.evolve(SIZE, together=SOME)),
        _part(("ours-local", "terminado", "wetty"), ("cleanup-sigterm", "cleanup-sigkill"), 1),
        _part(("ours", "ours-local"), ("resume", "refuse"), 2),
        _part(("ours-local", "terminado", "wetty"), ("readers",), 1),
    ]
    return Plan(parts, options, seconds)
