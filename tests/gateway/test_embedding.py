"""Serving inside another program: its say in who comes in, what it hears, and webhooks."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import structlog.testing
import trio
from trio.abc import Clock

from gateway.harness import TOKEN, V1Client, Wire, pages
from supervisor import Applicant, Session, SessionRefusedError, Settings, running
from supervisor.errors import ConfigurationError
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.testing.memory import MemoryProvider
from supervisor.webhooks import ATTEMPTS, SIGNATURE, TIMESTAMP, Webhooks, signature

SECRET = "a-webhook-secret-0123"
URL = "http://127.0.0.1:9/hook"


class Watcher:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def session_added(self, session: Session) -> None:
        self.heard.append("added")

    def session_started(self, session: Session) -> None:
        self.heard.append("started")

    def session_removed(self, session: Session) -> None:
        self.heard.append("removed")


async def client(port: int) -> V1Client:
    wire = Wire(await trio.open_tcp_stream("127.0.0.1", port))
    await wire.upgrade(SUBPROTOCOL, host=f"127.0.0.1:{port}")
    return V1Client(wire)


async def test_a_program_of_ones_own() -> None:
    watcher, seen = Watcher(), list[Applicant]()

    async def admit(applicant: Applicant) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(applicant)
        if len(seen) > 1:
            raise SessionRefusedError("policy", "One is enough.")

    settings = Settings(port=0, access_token=TOKEN)
    with trio.fail_after(20):
        async with running(
            settings, MemoryProvider(), pages(), admit=admit, watchers=[watcher]
        ) as supervisor:
            port = supervisor.gateway.house.port
            first = await client(port)
            hello = await first.auth()
            assert (seen[0].standing, seen[0].address, seen[0].profile) == ("local", "127.0.0.1", "")
            second = await client(port)
            await second.tell("auth")
            assert await second.closed() == (4008, "policy")
            assert second.messages[-1]["message"] == "One is enough."
            # A resume is no new session.
            third = await client(port)
            assert (await third.auth(sessionId=hello["sessionId"]))["resumed"]
            await third.tell("leave")
            await third.closed()
            while "removed" not in watcher.heard:
                await trio.sleep(0.01)
            assert watcher.heard == ["added", "started", "removed"]
            for each in (first, second, third):
                await trio.aclose_forcefully(each.wire.stream)


@asynccontextmanager
async def told(answers: list[int], **changes: Any) -> AsyncGenerator[tuple[Webhooks, list[httpx.Request]]]:
    """Yield webhooks whose receiver answers so, and at last with 204."""
    requests: list[httpx.Request] = []

    def receive(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        status = answers.pop(0) if answers else 204
        if status == 0:
            raise httpx.ConnectError("refused")
        return httpx.Response(status)

    settings = Settings(webhook_url=URL, webhook_secret=SECRET, **changes)
    with structlog.testing.capture_logs() as logs:
        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(receive)) as http,
            trio.open_nursery() as nursery,
        ):
            hooks = Webhooks(settings, http)
            nursery.start_soon(hooks.run)
            yield hooks, requests
            nursery.cancel_scope.cancel()
    assert SECRET not in str(logs)


def session() -> Session:
    made = Session(b"owner", LeaseRequest("", environment={"ABLY_API_KEY": "app.key:planted"}), Settings())
    made.was_ready = True
    return made


async def test_events_are_signed_and_tried_again_in_order(autojump_clock: Clock) -> None:
    async with told([500, 0, 302]) as (hooks, requests):
        one = session()
        hooks.session_started(one)
        hooks.session_removed(one)
        started = trio.current_time()
        with trio.fail_after(100):
            await hooks.finish()
        assert trio.current_time() - started == 1 + 2 + 4
        assert (hooks.delivered, hooks.dropped) == (2, 0)
        bodies = [json.loads(request.content) for request in requests]
        assert [body["event"] for body in bodies] == ["session.started"] * 4 + ["session.ended"]
        assert len({body["id"] for body in bodies}) == 2
        for request in requests:
            assert request.headers[SIGNATURE] == signature(
                SECRET, request.headers[TIMESTAMP], request.content
            )
            assert b"planted" not in request.content
            assert one.id.encode() not in request.content


async def test_another_process_delivers_what_this_one_has_not(autojump_clock: Clock) -> None:
    """In order, the one under way first, which may be delivered twice: with one id."""
    async with told([204, *[0] * 100]) as (hooks, requests), told([]) as (next_hooks, next_requests):
        one = session()
        for event in (hooks.session_started, hooks.session_started, hooks.session_removed):
            event(one)
        with trio.fail_after(10):
            while len(requests) < 2:
                await trio.sleep(0.1)
        next_hooks.session_started(one)
        next_hooks.go_on_with(hooks.undelivered())
        with trio.fail_after(10):
            await next_hooks.finish()
        bodies = [json.loads(request.content) for request in next_requests]
        assert [body["event"] for body in bodies] == ["session.started", "session.ended", "session.started"]
        assert bodies[0] == json.loads(requests[1].content)


async def test_a_receiver_that_is_away_costs_a_bounded_queue(autojump_clock: Clock) -> None:
    async with told([503] * 10_000, webhook_queue=5) as (hooks, requests):
        for _ in range(100):
            hooks.session_started(session())
            await trio.lowlevel.checkpoint()
        assert hooks.dropped >= 94
        await trio.sleep(3600)
        assert len(requests) % ATTEMPTS == 0
        assert hooks.delivered == 0


async def test_what_never_started_is_not_told(autojump_clock: Clock) -> None:
    async with told([]) as (hooks, requests):
        failed = session()
        failed.was_ready = False
        hooks.session_added(failed)
        hooks.session_removed(failed)
        await hooks.finish()
        assert requests == []


@pytest.mark.parametrize(
    "changes", [{"webhook_url": URL}, {"webhook_url": "ftp://x", "webhook_secret": SECRET}]
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="WEBHOOK"):
        Settings(**changes)
