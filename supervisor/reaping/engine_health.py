"""Whether the engine answers and has what sessions need, known before anybody has to wait for it.

An engine that hangs takes connections and never answers, so every call would run into its own deadline, one
visitor after another. One task asks it a cheap question every few seconds. As soon as it does not answer in
time, whoever waits for it is let go, and whoever comes is refused at once; when it is back, what was put off
is done.
"""

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, final

import trio

from supervisor.engine import (
    Docker,
    DockerConnectionError,
    DockerError,
    DockerTimeoutError,
    DockerUnreachableError,
)
from supervisor.observability.log import get_logger

log = get_logger(__name__)

INTERVAL: Final = 5.0
"""Seconds between two questions to an engine that is well."""
INTERVAL_WATCHED: Final = 1.0
"""Likewise, while somebody waits for it."""
INTERVAL_IN_TROUBLE: Final = 0.5
PROBE_TIMEOUT: Final = 3.0
"""Seconds for the answer; a few milliseconds are usual, and whole seconds under a storm of starts."""
NEED_TIMEOUT: Final = 10.0
"""Seconds for each answer about something that sessions need, for which the engine may have to take locks."""
FRESH: Final = 1.0
"""Seconds that an answer is believed by whoever is about to start something."""

Need = Callable[[], Awaitable[str | None]]
"""Looks at something at the engine that every session needs; returns what is wrong with it."""


@final
class EngineHealth:
    """What is known of the engine. `run` must be running for as long as anybody asks.

    Attributes:
        needs: looked at after each answer.
        away: why the engine cannot be asked anything; None when it answers.
        problem: why no container can be started now: that, or what a need lacks; None when all is well.
        returned_at: when the engine last came back after it had been away.
        on_return: called when the engine answers again after it did not.
        on_restart: called before these when meanwhile nothing was there that took a connection.
    """

    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        # Elsewhere a connection costs a handshake, or a process.
        self._connects = docker.docker_host.startswith("unix:")
        self.needs: list[Need] = []
        self.away: str | None = None
        self.problem: str | None = None
        self.returned_at = -math.inf
        self.on_return: list[Callable[[], None]] = []
        self.on_restart: list[Callable[[], None]] = []
        self._unreachable = False
        self._answered_at = -math.inf
        self._asked = False
        self._woken = trio.Event()
        self._probed = trio.lowlevel.ParkingLot()
        self._waits: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<EngineHealth {self.problem or 'well'}>"

    async def run(self) -> None:
        """Ask, for ever."""
        while True:
            self._asked = False
            await self._probe()
            probed_at = trio.current_time()
            self._probed.unpark_all()
            while not self._asked and trio.current_time() < probed_at + self._interval:
                self._woken = trio.Event()
                with trio.move_on_at(probed_at + self._interval):
                    await self._woken.wait()

    @property
    def _interval(self) -> float:
        if self.away:
            return INTERVAL_IN_TROUBLE
        return INTERVAL_WATCHED if self._waits else INTERVAL

    def ask(self) -> None:
        """Have the engine asked now: there is reason to doubt that all is well."""
        self._asked = True
        self._woken.set()

    async def confirm(self) -> str | None:
        """Return `problem`, as of `FRESH` seconds ago at most. With an engine that stops answering it takes
        `INTERVAL_WATCHED` and `PROBE_TIMEOUT` at worst."""
        await trio.lowlevel.checkpoint()
        if self.away is None and trio.current_time() > self._answered_at + FRESH:
            self.ask()
            await self._probed.park()
        return self.problem

    @contextmanager
    def patience(self, *, shield: bool = False) -> Generator[trio.CancelScope]:
        """Run calls of the engine in a scope that is cancelled when it does not answer; it is cancelled
        already when that is known."""
        with trio.CancelScope(shield=shield) as wait:
            if self.away is not None:
                wait.cancel()
            self._waits.add(wait)
            self._woken.set()
            try:
                yield wait
            finally:
                self._waits.remove(wait)

    async def _probe(self) -> None:
        try:
            await self._docker.system.ping(timeout=PROBE_TIMEOUT, connect=self._connects)
        except DockerError as error:
            self._set_away(error)
            return
        self._answered_at = trio.current_time()
        if self.away is not None:
            log.info("the engine answers again")
            self.away = None
            self.returned_at = trio.current_time()
            for act in (*(self.on_restart if self._unreachable else ()), *self.on_return):
                act()
            self._unreachable = False
        try:
            self._set_problem(await self._lacking())
        except DockerError as error:
            self._set_away(error)

    async def _lacking(self) -> str | None:
        """Return what the first need lacks; the engine is asked for a sign of life while it looks.

        Raises:
            DockerError: there was none, or no answer about the need.
        """
        problem: str | None = None
        failure: DockerError | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal failure
                while failure is None:
                    await trio.sleep(INTERVAL_WATCHED)
                    try:
                        await self._docker.system.ping(timeout=PROBE_TIMEOUT, connect=self._connects)
                    except DockerError as error:
                        failure = error
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                for need in self.needs:
                    problem = problem or await need()
            except DockerError as error:  # kept out of the nursery, which would wrap it
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return problem

    def _set_away(self, error: DockerError) -> None:
        self._unreachable = self._unreachable or isinstance(error, DockerUnreachableError)
        self.away = problem = _explanation(error)
        self._set_problem(problem)
        for wait in self._waits:
            wait.cancel()

    def _set_problem(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            if problem:
                log.warning("no session can be started", problem=problem)
            else:
                log.info("sessions can be started again")


def _explanation(error: DockerError) -> str:
    match error:
        case DockerTimeoutError():
            return "the engine does not answer in time"
        case DockerConnectionError():
            return f"the engine is away: {error.message}"
        case _:
            return f"the engine refuses to answer: {error}"
