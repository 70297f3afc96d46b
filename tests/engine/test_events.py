"""Subscriptions against a stand-in engine that goes away and comes back."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trio
import trio.testing

from engine.standin import Request, StandIn, chunked, reply, standin_engine
from supervisor.engine import Docker, DockerConnectionError, DockerError
from supervisor.engine.events import RECONNECTED, engine_timestamp


def event(nano: int, action: str = "die") -> dict[str, Any]:
    return {"Type": "container", "Action": action, "time": nano // 10**9, "timeNano": nano}


def lines(*events: dict[str, Any], end: bool = True) -> bytes:
    return chunked(*(json.dumps(each).encode() + b"\n" for each in events), end=end)


def sinces(standin: StandIn) -> list[str]:
    return [parse_qs(request.query)["since"][0] for request in standin.requests if request.path == "/events"]


async def test_begins_at_the_engines_present_and_filters(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/events", lines(event(1), event(2), end=False))
    with trio.fail_after(5):
        async with client.events.subscribe(filters={"type": "container", "event": ["die", "oom"]}) as events:
            assert await events.get() == event(1)
            assert [await anext(events)] == [event(2)]
    query = parse_qs(standin.requests[-1].query)
    assert query["since"] == ["1767319445.067890000"]
    assert json.loads(query["filters"][0]) == {"type": ["container"], "event": ["die", "oom"]}
    assert "0 in use, 0 idle" in repr(client) or "0 in use, 1 idle" in repr(client)


async def test_goes_on_where_the_connection_broke_off(standin: StandIn, client: Docker) -> None:
    async def break_off(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(lines(event(5_000_000_007, "start"), event(5_000_000_007), end=False))
        await stream.aclose()

    standin.answer(
        "GET", "/events", break_off, reply(503), lines(event(5_000_000_007), event(6_000_000_000), end=False)
    )
    with trio.fail_after(10):
        async with client.events.subscribe() as events:
            got = [await events.get() for _ in range(4)]
            assert events.reconnections == 1
    assert got == [event(5_000_000_007, "start"), event(5_000_000_007), RECONNECTED, event(6_000_000_000)]
    assert sinces(standin)[1:] == ["5.000000007", "5.000000007"]


async def test_an_engine_that_is_away_for_a_while(tmp_path: Path) -> None:
    async with standin_engine(tmp_path / "s") as first:
        first.answer("GET", "/events", lines(event(1), end=False))
        docker = Docker(first.url)
        subscription = docker.events.subscribe()
        await subscription.__aenter__()
        assert await subscription.get() == event(1)
    (tmp_path / "s").unlink()
    got = []

    async def wait_for_more() -> None:
        got.append(await subscription.get())
        got.append(await subscription.get())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_more)
            await trio.sleep(0.15)
            async with standin_engine(tmp_path / "s") as second:
                second.answer("GET", "/events", lines(event(9), end=False))
                while len(got) < 2:
                    await trio.sleep(0.01)
        await subscription.aclose()
        await docker.close()
    assert got == [RECONNECTED, event(9)]


async def test_an_engine_that_stays_away(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with standin_engine(tmp_path / "s") as standin:
        standin.answer("GET", "/events", lines(end=True))
        docker = Docker(standin.url)
        subscription = docker.events.subscribe(patience=30)
        await subscription.__aenter__()
    (tmp_path / "s").unlink()
    begin = trio.current_time()
    with pytest.raises(DockerConnectionError):
        await subscription.get()
    assert 25 < trio.current_time() - begin <= 30
    await subscription.aclose()
    await docker.close()


async def test_without_reconnecting(standin: StandIn, client: Docker) -> None:
    async def break_off(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(lines(event(1), end=False))
        await stream.aclose()

    with trio.fail_after(5):
        standin.answer("GET", "/events", lines(event(1)))
        async with client.events.subscribe(reconnect=False) as events:
            assert [each async for each in events] == [event(1)]
            assert await events.get() is None
        async with client.events.subscribe(since=5, until=7) as events:
            assert [each async for each in events] == [event(1)]
        standin.answer("GET", "/events", break_off)
        async with client.events.subscribe(reconnect=False) as events:
            await events.get()
            with pytest.raises(DockerConnectionError):
                await events.get()


async def test_refusals_come_at_once(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/events", reply(400, {"message": "bad filter"}))
    with trio.fail_after(5):
        with pytest.raises(DockerError, match="bad filter"):
            await client.events.subscribe().__aenter__()
        standin.answer("GET", "/events", lines(event(1)), reply(400, {"message": "bad filter"}))
        async with client.events.subscribe() as events:
            await events.get()
            with pytest.raises(DockerError, match="bad filter"):
                await events.get()
        with pytest.raises(RuntimeError, match="async with"):
            await client.events.subscribe().get()


async def test_times() -> None:
    assert engine_timestamp("1970-01-01T00:00:01Z") == "1.000000000"
    assert engine_timestamp("1970-01-01T02:00:01.000000001+02:00") == "1.000000001"
    with pytest.raises(ValueError):
        engine_timestamp("yesterday")
