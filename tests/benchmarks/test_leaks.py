"""What a soak calls a leak, and what it does not."""

import os
import signal
import subprocess
from random import Random

import pytest

from benchmarks.report import shown
from benchmarks.scenarios.soak import LeakError, Trend, descendants, judge

NOTHING = {"descriptors": 0, "processes": 0, "containers": 0}


def trend(per_session: float, unrest: float) -> Trend:
    chance = Random(1)
    x = [float(1000 * number) for number in range(9)]
    return Trend.of(x, [50_000 + per_session * each + chance.uniform(-unrest, unrest) for each in x])


def test_a_steady_rise_is_a_leak() -> None:
    assert trend(2, 500).slope == pytest.approx(2, abs=0.2)
    with pytest.raises(LeakError, match="memory grows by"):
        judge(trend(2, 500), 8000, NOTHING)


@pytest.mark.parametrize(("per_session", "unrest"), [(0, 2000), (0, 0), (-1, 100), (0.3, 0), (1, 20_000)])
def test_unrest_is_none(per_session: float, unrest: float) -> None:
    judge(trend(per_session, unrest), 8000, NOTHING)


@pytest.mark.parametrize("what", ["descriptors", "processes", "containers"])
def test_what_is_left_is_one(what: str) -> None:
    with pytest.raises(LeakError, match=f"3 more {what}"):
        judge(trend(0, 0), 8000, NOTHING | {what: 3})


def test_descendants_are_counted_at_all_depths() -> None:
    before = descendants(os.getpid())
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        sleeper = int(shell.stdout.readline())
        assert descendants(os.getpid()) == before + 2
        os.kill(sleeper, signal.SIGKILL)


def test_memory_of_readers_is_shown_and_its_steps_are_not() -> None:
    names = ["memory.slow", "memory.frozen", "memory.50", "memory", "p50", "p90", "echo.p99.9", "client.cpu"]
    assert shown(names) == ["p50", "memory.slow", "memory.frozen", "memory"]
