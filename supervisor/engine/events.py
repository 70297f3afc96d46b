"""The engine's events: what happens to all containers, images and networks, on one connection.

There is no task behind a subscription: whoever reads it, drives it; what is not read waits in the socket and
then in the engine.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast, final

import trio

from supervisor.engine.errors import DockerConnectionError, DockerError
from supervisor.engine.params import clean_filters
from supervisor.engine.progress import JSONStream
from supervisor.engine.reply import Reply
from supervisor.engine.types import Event

if TYPE_CHECKING:
    from supervisor.engine.docker import Docker

RECONNECTED: Event = {"Type": "client", "Action": "reconnected"}
"""The event that a subscription makes up itself after a reconnection: look at the whole state again, events
may be missing.
"""

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts to reconnect, doubled each time up to the longest."""


@final
class DockerEvents:
    """`docker.events`."""

    def __init__(self, docker: "Docker") -> None:
        self.docker = docker

    def subscribe(
        self, *, reconnect: bool = True, patience: float = 60.0, **params: Any
    ) -> "EventSubscription":
        """Return a subscription, to be used with `async with`: entering it connects, and everything that
        happens afterwards is told.

        Args:
            reconnect: connect again when the connection ends, and go on where it broke off as far as the
                engine remembers (the last 256 events; none after its restart). The subscription then tells
                `RECONNECTED` first.
            patience: seconds of failing to reconnect after which the last error is raised.
            params: `filters={"type": ["container"], "event": ["die", "oom"], "label": […]}`, `since`,
                `until` as in the Engine API.
        """
        return EventSubscription(self.docker, reconnect, patience, params)


@final
class EventSubscription:
    """Events as dictionaries, as the engine writes them (`Type`, `Action`, `Actor`, `time`, `timeNano`).

    Resource handling: one connection, no task; closed on leaving `async with`.

    Error handling: `DockerConnectionError` when the connection ends and could not be replaced. Refusals that
    look passing (5xx) of a new connection are tried again like failures to connect; others are raised at
    once.

    Attributes:
        reconnections: how many there were.
    """

    def __init__(self, docker: "Docker", reconnect: bool, patience: float, params: Mapping[str, Any]) -> None:
        self._docker = docker
        self._reconnect = reconnect and "until" not in params
        self._patience = patience
        self._params = dict(params)
        if isinstance(params.get("filters"), Mapping):
            self._params["filters"] = clean_filters(params["filters"])
        self._lines: JSONStream | None = None
        self._last = 0  # timeNano of the last event
        self._told: list[Event] = []  # the events of that nanosecond
        self.reconnections = 0

    async def __aenter__(self) -> Self:
        if "since" not in self._params:
            # The engine sends the answer's head before it begins to listen; naming its own time closes that
            # gap.
            self._params["since"] = await self._engine_time()
        self._lines = await self._open(str(self._params["since"]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the subscription. Never waits."""
        if self._lines is not None:
            lines, self._lines = self._lines, None
            await lines.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._lines is None:
            raise RuntimeError(
                "enter the subscription first: async with docker.events.subscribe(…) as events"
            )
        while True:
            try:
                event = cast("Event | None", await anext(self._lines, None))
            except DockerConnectionError:
                if not self._reconnect:
                    raise
                event = None
            if event is None:
                if not self._reconnect:
                    raise StopAsyncIteration
                await self._resume()
                return RECONNECTED.copy()
            if self._is_new(event):
                return event

    async def get(self) -> Event | None:
        """Return the next event, None when there will be no more (`until`, or `reconnect=False` and the
        engine has ended it).
        """
        return await anext(self, None)

    def _is_new(self, event: Event) -> bool:
        """Return whether `event` has not been told before a reconnection, and remember it."""
        nano = event.get("timeNano", 0)
        if nano > self._last:
            self._last, self._told = nano, [event]
        elif nano == self._last != 0:
            if event in self._told:
                return False
            self._told.append(event)
        return True

    async def _resume(self) -> None:
        pause = FIRST_PAUSE
        deadline = trio.current_time() + self._patience
        since = (
            f"{self._last // 10**9}.{self._last % 10**9:09d}" if self._last else str(self._params["since"])
        )
        while True:
            try:
                self._lines = await self._open(since)
                break
            except DockerError as error:
                if 400 <= error.status < 500 or trio.current_time() + pause > deadline:
                    raise
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        self.reconnections += 1

    async def _open(self, since: str) -> JSONStream:
        api = self._docker.api

        async def request() -> Reply:
            params = {**self._params, "since": since}
            return await api.open("GET", "events", params=params, timeout=None)

        lines = JSONStream(request, raise_on_error=False)
        with trio.move_on_after(api.timeout) as scope:
            await lines.open()
        if scope.cancelled_caught:
            raise DockerConnectionError("the engine does not answer to a subscription")
        return lines

    async def _engine_time(self) -> str:
        return engine_timestamp((await self._docker.system.info())["SystemTime"])


def engine_timestamp(moment: str) -> str:
    """Return a time as the engine reads it (seconds.nanoseconds), given as it writes it (RFC 3339).

    Raises:
        ValueError: it is no such time.
    """
    match = _RFC3339.fullmatch(moment)
    if match is None:
        raise ValueError(f"not a time: {moment!r}")
    seconds = int(datetime.fromisoformat(match[1] + match[3]).timestamp())
    return f"{seconds}.{(match[2] or '').ljust(9, '0')}"
