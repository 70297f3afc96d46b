"""Runs scenarios against targets: rounds, interleaved, bounded, each error kept beside the figures.

Within a round the servers are all up and each scenario visits one after the other, in an order that
turns from round to round, so that a machine that becomes slower or faster treats all alike. What ends its
server, or looks at its memory, gets a server of its own.
"""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Protocol, cast

import attrs
import trio

from benchmarks import machine
from benchmarks.adapters import ADAPTERS
from benchmarks.measuring import Record
from benchmarks.results import Results
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Options, Running, Target


class Progress(Protocol):
    """Who is told what goes on."""

    def begins(self, done: int, total: int, what: str) -> None:
        """A run begins, after `done` of `total`."""
        ...

    def ended(self, target: str, scenario: str, record: Record, error: str | None) -> None:
        """It is over."""
        ...


@attrs.frozen
class Plan:
    """What to run."""

    targets: Sequence[Target]
    scenarios: Sequence[Scenario]
    size: Size
    options: Options
    rounds: int


def applies(scenario: Scenario, running: Running) -> bool:
    """Whether the scenario can be run against that target."""
    target = running.target
    return not (
        (target.name == "standin" and scenario.shell)
        or (target.role == "floor" and not scenario.floor)
        or (scenario.resumes and not ADAPTERS[running.access.adapter].resumes)
        or (scenario.process and running.main is None)
    )


async def run(plan: Plan, progress: Progress) -> Results:
    """Run everything.

    Error handling: what goes wrong within a run is kept in the results. A target that does not start ends
    everything: figures without one that was asked for would be taken for complete.
    """
    results = Results.begin(
        began=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=shlex.join(["terminal-supervisor", "bench", *sys.argv[sys.argv.index("bench") + 1 :]])
        if "bench" in sys.argv
        else shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        machine=machine.describe(),
        size=attrs.asdict(plan.size),
        rounds=plan.rounds,
    )
    for scenario in plan.scenarios:
        results.document["scenarios"][scenario.name] = {
            "question": scenario.question,
            "method": scenario.method,
        }
    total, done = plan.rounds * len(plan.scenarios) * len(plan.targets), 0
    for number in range(plan.rounds):
        turn = number % max(1, len(plan.targets))
        order = [*plan.targets[turn:], *plan.targets[:turn]]
        async with AsyncExitStack() as servers:
            up: dict[str, Running] = {}
            for scenario in plan.scenarios:
                for target in order:
                    progress.begins(done, total, f"round {number + 1}: {scenario.name}, {target.name}")
                    done += 1
                    async with AsyncExitStack() as fresh:
                        if scenario.fresh:
                            running = await fresh.enter_async_context(target.launch(plan.options))
                        else:
                            if target.name not in up:
                                up[target.name] = await servers.enter_async_context(
                                    target.launch(plan.options)
                                )
                            running = up[target.name]
                        _note_target(results, running)
                        if applies(scenario, running):
                            await _run_one(results, number, scenario, running, plan.size, progress)
    return results


def _note_target(results: Results, running: Running) -> None:
    target = running.target
    results.document["targets"].setdefault(
        target.name,
        {
            "about": target.about,
            "isolation": target.isolation,
            "column": target.column,
            "role": target.role,
            "command": running.command,
            "version": running.version,
            "adapter": running.access.adapter,
        },
    )


async def _run_one(
    results: Results, number: int, scenario: Scenario, running: Running, size: Size, progress: Progress
) -> None:
    record, error, load = Record(), None, os.getloadavg()[0]
    try:
        with trio.fail_after(scenario.deadline):
            await scenario.run(running, size, record)
    except* Exception as problem:
        error = "; ".join(f"{type(each).__name__}: {each}" for each in _leaves(problem))
    name = running.target.name
    results.add(round_=number, target=name, scenario=scenario.name, load=load, record=record, error=error)
    progress.ended(name, scenario.name, record, error)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for each in group.exceptions for leaf in _leaves(each)]
    return [error]
