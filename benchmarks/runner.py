"""Runs scenarios against targets: rounds, interleaved, bounded, each error kept beside the figures.

Within a round the servers are all up and each scenario visits one after the other, in an order that
turns from round to round, so that a machine that becomes slower or faster treats all alike. What ends its
server, or looks at its memory, gets a server of its own. A target that fails costs its own figures only.
"""

import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import product
from typing import Final, Protocol, cast

import attrs
import trio

from benchmarks import machine
from benchmarks.adapters import ADAPTERS
from benchmarks.measuring import Record
from benchmarks.results import Results
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.secrecy import masked
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
class Part:
    """Scenarios of one size, against some targets, in so many rounds."""

    targets: Sequence[Target]
    scenarios: Sequence[Scenario]
    size: Size
    rounds: int

    def describe(self) -> dict[str, object]:
        """Return it as it is saved."""
        return {
            "targets": [target.name for target in self.targets],
            "scenarios": [scenario.name for scenario in self.scenarios],
            "rounds": self.rounds,
            "size": attrs.asdict(self.size),
        }


OTHERS: Final = 50
"""Sessions besides those that a scenario holds: the ones that it measures, and those that are going."""


@attrs.frozen
class Plan:
    """What to run, the most wanted first: in each round all parts that have as many, until all rounds are
    done or `seconds` are over.
    """

    parts: Sequence[Part]
    options: Options
    seconds: float = math.inf

    @property
    def runs(self) -> int:
        """How many runs there are, those that do not apply included."""
        return sum(part.rounds * len(part.scenarios) * len(part.targets) for part in self.parts)

    @property
    def containers(self) -> int:
        """How many sessions in containers there are at most at the same time."""
        return max(
            self.room(part) if any(target.column != "no containers" for target in part.targets) else 0
            for part in self.parts
        )

    def room(self, part: Part) -> int:
        """Return how many sessions a server is to admit in that part."""
        return max(self.options.sessions, part.size.sessions + OTHERS)


def obstacle(scenario: Scenario, running: Running) -> str | None:
    """Return why the scenario cannot be run against that target; None where it can."""
    target = running.target
    adapter = running.access.adapter
    reasons = {
        "nothing runs on its terminals": target.name == "standin" and scenario.shell,
        "it is no server": target.role == "floor" and not scenario.floor,
        f"the protocol {adapter} cannot come back to a session": scenario.resumes
        and not ADAPTERS[adapter].resumes,
        "its process is not one that was started here": scenario.process and running.main is None,
        "it has no page of its own that is known": scenario.page and not running.page,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def begin(plan: Plan) -> Results:
    """Return a document that has no figures yet."""
    called = sys.argv[sys.argv.index("bench") + 1 :] if "bench" in sys.argv else sys.argv[1:]
    results = Results.begin(
        began=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        command=shlex.join(["terminal-supervisor", "bench", *masked(called)]),
        machine=machine.describe(),
        parts=[part.describe() for part in plan.parts],
    )
    for scenario in [scenario for part in plan.parts for scenario in part.scenarios]:
        results.document["scenarios"][scenario.name] = {
            "question": scenario.question,
            "method": scenario.method,
        }
    return results


async def run(plan: Plan, progress: Progress, results: Results) -> None:
    """Run everything; `results` has what was found so far at every moment.

    Error handling: what goes wrong, a target that does not start among it, is kept in the results, and the
    others go on. Such a target is not tried again in that round of the part.
    """
    began = time.perf_counter()
    done = 0
    with trio.move_on_after(plan.seconds) as limit:
        for number in range(max(part.rounds for part in plan.parts)):
            for part in plan.parts:
                if number < part.rounds:
                    try:
                        done = await _Round(part, number, plan, results, progress, done).run()
                    except Exception as problem:
                        results.remark(f"a server did not end in order: {_sentence(problem)}")
    if limit.cancelled_caught:
        results.remark(f"the time was over: {done} of {plan.runs} runs are done")
    elif not results.document["runs"]:
        results.remark("nothing was measured: no scenario that was asked for applies to a target")
    results.document["seconds"] = round(time.perf_counter() - began)


@attrs.define
class _Round:
    """One round of one part."""

    part: Part
    number: int
    plan: Plan
    results: Results
    progress: Progress
    done: int
    up: dict[str, Running] = attrs.field(factory=dict[str, Running])
    failed: set[str] = attrs.field(factory=set[str])

    async def run(self) -> int:
        """Visit everybody; return how many runs are done by now."""
        options = attrs.evolve(self.plan.options, sessions=self.plan.room(self.part))
        turn = self.number % max(1, len(self.part.targets))
        order = [*self.part.targets[turn:], *self.part.targets[:turn]]
        async with AsyncExitStack() as servers:
            for scenario, target in product(self.part.scenarios, order):
                what = f"round {self.number + 1}: {scenario.name}, {target.name}"
                self.progress.begins(self.done, self.plan.runs, what)
                if target.name not in self.failed:
                    await self._visit(scenario, target, options, servers)
                self.done += 1
        return self.done

    async def _visit(
        self, scenario: Scenario, target: Target, options: Options, servers: AsyncExitStack
    ) -> None:
        try:
            async with AsyncExitStack() as own:
                if scenario.fresh:
                    environment = {**options.environment, **scenario.environment}
                    launched = target.launch(attrs.evolve(options, environment=environment))
                    running = await own.enter_async_context(launched)
                else:
                    if target.name not in self.up:
                        launched = target.launch(options)
                        self.up[target.name] = await servers.enter_async_context(launched)
                    running = self.up[target.name]
                self.results.note_target(target, running)
                if reason := obstacle(scenario, running):
                    self.results.skip(target.name, scenario.name, reason)
                else:
                    await self._measure(scenario, running)
        except Exception as problem:
            self.failed.add(target.name)
            self.results.note_target(target, None)
            self._add(scenario, target.name, Record(), os.getloadavg()[0], _sentence(problem))

    async def _measure(self, scenario: Scenario, running: Running) -> None:
        record, error, load, began = Record(), None, os.getloadavg()[0], time.perf_counter()
        try:
            with trio.fail_after(scenario.deadline):
                await scenario.run(running, self.part.size, record)
        except* trio.TooSlowError:
            error = f"it took longer than {scenario.deadline:g} s, or a step of it longer than it may"
        except* Exception as problem:
            error = _sentence(problem)
        self._add(scenario, running.target.name, record, load, error, time.perf_counter() - began)

    def _add(
        self,
        scenario: Scenario,
        target: str,
        record: Record,
        load: float,
        error: str | None,
        seconds: float = 0.0,
    ) -> None:
        self.results.add(
            round_=self.number,
            target=target,
            scenario=scenario.name,
            load=load,
            record=record,
            error=error,
            seconds=seconds,
        )
        self.progress.ended(target, scenario.name, record, error)


def _sentence(problem: BaseException) -> str:
    return "; ".join(f"{type(each).__name__}: {each}" for each in _leaves(problem))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for each in group.exceptions for leaf in _leaves(each)]
    return [error]
