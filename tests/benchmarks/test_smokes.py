"""Every scenario once, with the least of everything: it runs, finds what it should, and leaves nothing."""

import math
import os
import subprocess
import sys
from typing import Any

import attrs
import pytest
import trio

from benchmarks.machine import alive
from benchmarks.measuring import Record
from benchmarks.results import Results
from benchmarks.runner import Part, Plan, begin, run
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios.scenario import Size
from benchmarks.targets import TARGETS, Options
from supervisor.provision.processes import all_processes

TIMEOUT = 200.0  # seconds; a quiet machine takes a quarter of it
WANTED = {
    "idle": "memory-per-session",
    "churn": "growth",
    "soak": "growth",
    "start-rate": "rate",
    "start-together": "all",
    "readers": "memory.frozen",
    "refuse": "refused",
    "users": "visits",
}


class Silent:
    """Progress that nobody watches."""

    def begins(self, done: int, total: int, what: str) -> None: ...

    def ended(self, target: str, scenario: str, record: Record, error: str | None) -> None: ...


async def measure(targets: list[str], scenarios: list[str], **size: Any) -> Results:
    part = Part(
        [TARGETS[name] for name in targets],
        [SCENARIOS[name] for name in scenarios],
        attrs.evolve(Size.smoke(), **size),
        rounds=1,
    )
    plan = Plan([part], Options(pool=1))
    results = begin(plan)
    with trio.fail_after(TIMEOUT):
        await run(plan, Silent(), results)
    assert [each["error"] for each in results.runs() if each["error"]] == []
    return results


def check(results: Results, target: str, scenario: str) -> None:
    figure = WANTED.get(scenario, "rate" if scenario.startswith("output") else None)
    figures = results.figures(target, scenario)
    assert figure in figures if figure else any(name.endswith("p99") for name in figures), (scenario, figures)
    for name in figures:
        found = results.value(target, scenario, name)
        assert found is not None
        assert math.isfinite(found.value)


SHARED = [name for name, scenario in SCENARIOS.items() if not scenario.fresh and not scenario.page]
FRESH = [name for name, scenario in SCENARIOS.items() if scenario.fresh]


async def test_without_containers() -> None:
    results = await measure(["pty", "ours-local"], SHARED)
    for name in SHARED:
        check(results, "ours-local", name)
    check(results, "pty", "echo")


@pytest.mark.parametrize("scenario", FRESH)
async def test_with_a_server_of_its_own(scenario: str) -> None:
    check(await measure(["ours-local"], [scenario], rate=32), "ours-local", scenario)


@pytest.mark.browser
async def test_in_a_browser(chromium: str) -> None:
    assert chromium
    results = await measure(["ours-local"], ["page"])
    check(results, "ours-local", "page")
    lost = results.value("ours-local", "page", "discarded")
    assert lost is not None
    assert lost.value == 0


async def test_many_idle_sessions() -> None:
    results = await measure(["standin"], ["idle"], sessions=40)
    check(results, "standin", "idle")
    memory = results.value("standin", "idle", "memory-per-session")
    assert memory is not None
    assert memory.value < 200  # KB; a bound against accidents, no figure


@pytest.mark.engine
async def test_with_containers(
    workbench_image: str, monkeypatch: pytest.MonkeyPatch, docker_host: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    results = await measure(
        ["engine", "ours"], ["start", "echo", "output-raw", "cleanup-leave", "cleanup-sigkill"]
    )
    for name in ("start", "echo", "output-raw"):
        check(results, "engine", name)
        check(results, "ours", name)
    assert any(name.startswith("containers") for name in results.figures("ours", "cleanup-sigkill"))


async def test_a_signal_ends_what_was_started() -> None:
    command = [sys.executable, "-m", "benchmarks", "run", "--target", "standin", "--scenario", "idle"]
    with trio.fail_after(TIMEOUT):
        process = await trio.lowlevel.open_process(
            [*command, "--sessions", "4", "--seconds", "60"],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while not (servers := _standins(process.pid)):
                await trio.sleep(0.1)
            process.terminate()
            assert await process.wait() == 1
        finally:
            process.kill()
    assert not alive(servers)


def _standins(group: int) -> list[int]:
    return [
        each.pid
        for each in all_processes()
        if "benchmarks.standin" in each.arguments and os.getpgid(each.pid) == group
    ]
