"""Webhooks: a backend of the operator's hears of each session's start and end.

Each event is a POST of JSON with a signature: HMAC-SHA256 by `WEBHOOK_SECRET` over the timestamp, a dot and
the body. What is not answered with 2xx is tried again, with growing pauses; events keep their order. The
queue is bounded: when a backend is away for long, the oldest events are dropped and counted. Nothing here
ever holds up a session.
"""

import hashlib
import hmac
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import trio

from supervisor.observability.log import get_logger
from supervisor.session.session import Session
from supervisor.settings import Settings

log = get_logger(__name__)

TIMEOUT: Final = 10.0
"""Seconds for one attempt."""
ATTEMPTS: Final = 8
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
LAST_WORDS: Final = 3.0
"""Seconds at shutdown for events that are still to be delivered."""

SIGNATURE: Final = "X-Terminal-Supervisor-Signature"
TIMESTAMP: Final = "X-Terminal-Supervisor-Timestamp"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return what goes into the header: `sha256=` and lower-case hex."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Webhooks:
    """Watches sessions, and tells one URL. See `SessionWatcher`.

    Attributes:
        delivered, dropped: events so far.
    """

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self._url = settings.webhook_url
        self._secret = settings.webhook_secret
        self._limit = settings.webhook_queue
        self._client = client
        self._queue: deque[bytes] = deque()
        self._arrived = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._under_way: list[bytes] = []
        self.delivered = 0
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Webhooks {len(self._queue)} queued {self.delivered} delivered {self.dropped} dropped>"

    def session_added(self, session: Session) -> None:
        """Nothing: it may never start."""

    def session_started(self, session: Session) -> None:
        """Tell of the start."""
        self._put("session.started", session)

    def session_removed(self, session: Session) -> None:
        """Tell of the end of what has started."""
        if session.was_ready:
            facts = session.statistics()
            ended = session.ended
            self._put(
                "session.ended",
                session,
                reason=None if ended is None else ended.reason.value,
                seconds=round(facts.age, 3),
                output_bytes=facts.output_bytes,
                input_bytes=facts.input_bytes,
                exit_code=None if ended is None or ended.status is None else ended.status.code,
            )

    def _put(self, event: str, session: Session, **facts: Any) -> None:
        if len(self._queue) >= self._limit:
            self._queue.popleft()
            self.dropped += 1
            log.warning("a webhook event is dropped, the queue is full", dropped=self.dropped)
        # The id itself is half of what a resume needs, and stays here.
        values = {
            "event": event,
            "id": str(uuid.uuid4()),
            "time": time.time(),
            "session": hashlib.sha256(session.id.encode()).hexdigest()[:32],
            "standing": session.visitor.standing,
            "profile": session.visitor.profile,
            **facts,
        }
        self._queue.append(json.dumps(values).encode())
        self._arrived.unpark_all()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            while not self._queue:
                self._emptied.unpark_all()
                await self._arrived.park()
            body = self._queue.popleft()
            self._under_way = [body]
            taken = await self._deliver(body)
            self._under_way = []
            if taken:
                self.delivered += 1
            else:
                self.dropped += 1
                log.warning("a webhook event is dropped, its receiver does not take it", dropped=self.dropped)

    async def _deliver(self, body: bytes) -> bool:
        pause = FIRST_PAUSE
        for attempt in range(ATTEMPTS):
            if attempt:
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            timestamp = str(int(time.time()))
            headers = {
                "Content-Type": "application/json",
                TIMESTAMP: timestamp,
                SIGNATURE: signature(self._secret, timestamp, body),
            }
            try:
                answer = await self._client.post(self._url, content=body, headers=headers)
            except httpx.HTTPError as error:
                log.info("webhook not delivered", problem=type(error).__name__, attempt=attempt + 1)
                continue
            if answer.is_success:
                return True
            log.info("a webhook event was not taken", status=answer.status_code, attempt=attempt + 1)
        return False

    def undelivered(self) -> list[str]:
        """Return the events that another process shall deliver instead, in order. The first may be under way
        already: it is delivered twice then, with one id."""
        return [body.decode() for body in (*self._under_way, *self._queue)]

    def go_on_with(self, events: list[str]) -> None:
        """Deliver what another process has not."""
        self._queue.extendleft(event.encode() for event in reversed(events))
        self._arrived.unpark_all()

    async def finish(self) -> None:
        """Wait until nothing is queued."""
        while self._queue or self._under_way:
            await self._emptied.park()


@asynccontextmanager
async def webhooks(settings: Settings) -> AsyncGenerator[Webhooks | None]:
    """Deliver events while the block runs, and for a moment afterwards; None where no URL is set."""
    if not settings.webhook_url:
        yield None
        return
    async with (
        httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=2)) as client,
        trio.open_nursery() as nursery,
    ):
        hooks = Webhooks(settings, client)
        nursery.start_soon(hooks.run)
        try:
            yield hooks
        finally:
            with trio.move_on_after(LAST_WORDS, shield=True):
                await hooks.finish()
            nursery.cancel_scope.cancel()
