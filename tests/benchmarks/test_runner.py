"""What the runner does with targets that fail and when time is over; what a full run is made into."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from benchmarks import full, tables
from benchmarks.client import Access
from benchmarks.goals import GOALS, judge
from benchmarks.measuring import Record
from benchmarks.results import Results
from benchmarks.runner import Part, Plan, begin, run
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.scenarios.start import search
from benchmarks.targets import TARGETS, Options, Running, Target
from supervisor.errors import ConfigurationError


class Silent:
    def begins(self, done: int, total: int, what: str) -> None: ...

    def ended(self, target: str, scenario: str, record: Record, error: str | None) -> None: ...


def target(name: str, starts: bool = True, ends: bool = True) -> Target:
    @asynccontextmanager
    async def launch(options: Options) -> AsyncGenerator[Running]:
        await trio.lowlevel.checkpoint()
        if not starts:
            raise ConfigurationError("it is not installed")
        yield Running(made, Access("pty", "pty:"), "command", "1")
        if not ends:
            raise OSError("it cannot be ended")

    made = Target(name, "about", "none", "no containers", "ours", launch)
    return made


def scenario(name: str, seconds: float = 1.0, **options: float) -> Scenario:
    async def measure(running: Running, size: Size, record: Record) -> None:
        await trio.sleep(seconds)
        record.figure("value", 1, "")

    return Scenario(name, "Is it?", "By looking.", measure, deadline=options.get("deadline", 300))


async def measured(plan: Plan) -> Results:
    results = begin(plan)
    await run(plan, Silent(), results)
    return results


async def test_who_does_not_start_costs_its_own_figures_only(autojump_clock: trio.testing.MockClock) -> None:
    part = Part([target("bad", starts=False), target("good")], [scenario("a"), scenario("b")], Size(), 2)
    results = await measured(Plan([part], Options()))
    assert [run["scenario"] for run in results.runs("good") if not run["error"]] == ["a", "b"] * 2
    errors = [run["error"] for run in results.runs("bad")]
    assert errors == ["ConfigurationError: it is not installed"] * 2  # once a round
    assert len(results.failed) == 2


async def test_who_does_not_end_leaves_a_remark(autojump_clock: trio.testing.MockClock) -> None:
    parts = [
        Part([target(name, ends=name == "good")], [scenario("a")], Size(), 1) for name in ("bad", "good")
    ]
    results = await measured(Plan(parts, Options()))
    assert results.document["remarks"] == ["a server did not end in order: OSError: it cannot be ended"]
    assert [run["error"] for run in results.runs()] == [None, None]


async def test_all_have_a_round_before_any_has_two_and_time_ends_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    parts = [Part([target(name)], [scenario("a", seconds=10)], Size(), 3) for name in ("one", "two")]
    results = await measured(Plan(parts, Options(), seconds=35))
    assert [run["target"] for run in results.runs()] == ["one", "two", "one"]
    assert results.document["remarks"] == ["the time was over: 3 of 6 runs are done"]


async def test_a_scenario_that_takes_too_long_says_so(autojump_clock: trio.testing.MockClock) -> None:
    slow = scenario("a", seconds=100, deadline=20)
    results = await measured(Plan([Part([target("one")], [slow], Size(), 1)], Options()))
    [run] = results.runs()
    assert "longer than 20 s" in run["error"]


def test_every_goal_is_measured_by_the_full_run() -> None:
    there = {
        (target.name, scenario.name)
        for part in full.plan(Options(), 60).parts
        for target in part.targets
        for scenario in part.scenarios
    }
    for goal in GOALS:
        assert (goal.missed.target, goal.missed.scenario) in there
        assert goal.missed.other is None or (goal.missed.other, goal.missed.scenario) in there


def test_everything_is_in_the_full_run_and_in_its_tables() -> None:
    planned = {scenario.name for part in full.plan(Options(), 60).parts for scenario in part.scenarios}
    assert planned == {*SCENARIOS, *(f"idle-{count}" for count in full.FEWER)}
    assert planned == {row.scenario for table in tables.TABLES for row in table.rows}


def results_of(**figures: float) -> Results:
    results = Results.begin(
        began="now",
        command="bench full",
        machine={"cores": 2, "cpu": "", "memory_mb": 1, "system": "", "python": "", "load": 0},
        parts=[{"rounds": 1}],
    )
    results.document["scenarios"] = {
        name: {"question": each.question, "method": each.method} for name, each in SCENARIOS.items()
    }
    for name, rate in figures.items():
        results.note_target(TARGETS[name], None)
        record = Record()
        record.figure("rate", rate, "MB/s", "higher")
        results.add(round_=0, target=name, scenario="output-raw", load=1, record=record, error=None)
    return results


def test_goals_are_judged() -> None:
    judged = {each.goal.missed.text: each for each in judge(results_of(ours=30, engine=20))}
    missed = judged["ours:output-raw.rate < 60MB/s"]
    assert (missed.verdict, missed.factor) == ("missed", 2)
    reached = judged["ours:output-raw.rate < 1x engine"]
    assert (reached.verdict, reached.value) == ("reached", 1.5)
    assert judged["ours:start.p50 > 8ms"].verdict == "not measured"


def test_tables_go_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{tables.BEGIN}\nstale figures\n{tables.END}\nafter\n")
    for _ in range(2):
        tables.put_into(document, results_of(ours=30, engine=20, terminado=10))
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale figures" not in text
    assert text.count("| one endless line | 30 | 20 | 10 |") == 1
    document.write_text("no marks")
    with pytest.raises(ValueError, match="no lines"):
        tables.put_into(document, results_of(ours=1))


@pytest.mark.parametrize(
    ("limit", "found"), [(1, (1, 1.5)), (13, (12, 14)), (15, (14, 16)), (8, (8, 10)), (10_000, (512, None))]
)
async def test_the_rate_that_holds_is_found_within_a_quarter(
    limit: float, found: tuple[float, float | None]
) -> None:
    tried: list[float] = []

    async def holds(rate: float) -> bool:
        await trio.lowlevel.checkpoint()
        tried.append(rate)
        return rate <= limit

    assert await search(holds, 2.0) == found
    assert len(tried) <= 11
