"""Each protocol against a server that speaks it as documented: a WebSocket server of the test's own."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from benchmarks.adapters import connect, session
from benchmarks.background import Background
from benchmarks.client import Access, RefusedError, SessionEndedError, read_until, run_raw
from benchmarks.measuring import Record
from benchmarks.scenarios.storms import tell_refusals
from supervisor.sandbox.providers import open_provider
from supervisor.serve import running
from supervisor.settings import Settings

Handler = Callable[[WebSocketConnection], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, subprotocol: str | None = None) -> AsyncGenerator[str]:
    async def accept(request: WebSocketRequest) -> None:
        if subprotocol is not None:
            assert subprotocol in request.proposed_subprotocols
        connection = await request.accept(subprotocol=subprotocol)
        try:
            await handler(connection)
        except ConnectionClosed:
            return

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, accept, "127.0.0.1", 0, ssl_context=None))
        with trio.fail_after(20):
            yield f"ws://127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


async def test_ttyd() -> None:
    async def handler(connection: WebSocketConnection) -> None:
        hello = json.loads(await connection.get_message())
        assert hello == {"AuthToken": "secret", "columns": 80, "rows": 24}
        await connection.send_message(b"1a title")
        await connection.send_message(b"0$ ")
        typed = await connection.get_message()
        assert typed[:1] == b"0"
        await connection.send_message(typed)

    async with serving(handler, "tty") as url, connect(Access("ttyd", url, "secret")) as client:
        assert await client.read() == b"$ "
        await client.type(b"key")
        assert await client.read() == b"key"
        assert await client.read() == b""


async def test_plain_takes_both_kinds_of_frames_and_fragments() -> None:
    async def handler(connection: WebSocketConnection) -> None:
        await connection.send_message("text ")
        await connection.ping()
        await connection.send_message(b"x" * 200_000)

    async with serving(handler) as url, connect(Access("plain", url)) as client:
        assert await client.read() == b"text "
        got = 0
        while got < 200_000:
            got += len(await client.read())


async def test_wetty_commits_what_it_took() -> None:
    async def handler(connection: WebSocketConnection) -> None:
        await connection.send_message('0{"sid":"1","pingInterval":3000}')
        assert await connection.get_message() == "40"
        await connection.send_message('40{"sid":"2"}')
        assert json.loads((await connection.get_message())[2:])[0] == "resize"
        await connection.send_message("2")
        await connection.send_message("42" + json.dumps(["data", "ü" * 300_000]))
        assert await connection.get_message() == "3"
        assert json.loads((await connection.get_message())[2:]) == ["commit", 300_000]
        await connection.send_message('42["logout"]')

    async with serving(handler) as url, connect(Access("wetty", url)) as client:
        assert await client.read() == "ü".encode() * 300_000
        assert await client.read() == b""


async def test_terminado() -> None:
    async def handler(connection: WebSocketConnection) -> None:
        assert json.loads(await connection.get_message()) == ["set_size", 24, 80]
        await connection.send_message('["setup", {}]')
        await connection.send_message('["stdout", "$ "]')
        assert json.loads(await connection.get_message()) == ["stdin", "k"]
        await connection.send_message('["disconnect", 1]')

    async with serving(handler) as url, connect(Access("terminado", url)) as client:
        await read_until(client, b"$ ")
        await client.type(b"k")
        assert await client.read() == b""


async def test_a_refusal_is_told_from_an_end() -> None:
    async def handler(connection: WebSocketConnection) -> None:
        await connection.get_message()
        await connection.send_message('{"type":"error","code":4001,"reason":"credentials","message":"No."}')

    async with serving(handler, "terminal-supervisor.v1") as url, connect(Access("v1", url, "t")) as client:
        with pytest.raises(RefusedError, match="No"):
            await client.read()


async def test_strangers_count_as_refused_only_where_they_were_answered() -> None:
    async def refused(handler: Handler | None, answer: int | str) -> None:
        async with serving(handler or hang_up, "terminal-supervisor.v1") as url:
            place = url if handler else "ws://127.0.0.1:1"  # a port that nobody listens at
            found = await Background(Access("v1", place, "t"), "refused", 1).refusal()
            assert found == answer

    async def hang_up(connection: WebSocketConnection) -> None:
        await connection.get_message()

    async def no(connection: WebSocketConnection) -> None:
        await connection.get_message()
        await connection.send_message('{"type":"error","code":4001,"reason":"credentials","message":"No."}')

    async def let_in(connection: WebSocketConnection) -> None:
        await connection.get_message()
        await connection.send_message(b"$ ")

    async def close(connection: WebSocketConnection) -> None:
        await connection.get_message()
        await connection.aclose(4029, "too many")

    await refused(no, 4001)
    await refused(close, 4029)
    await refused(let_in, "let in")
    await refused(None, "OSError")


def test_a_flood_that_nobody_refuses_is_a_failure() -> None:
    with pytest.raises(RuntimeError, match="no stranger was refused"):
        tell_refusals(Record(), {"refused": {}, "failed": {"OSError": 394}}, 1)
    with pytest.raises(RuntimeError, match="were let in"):
        tell_refusals(Record(), {"refused": {"4001": 10}, "failed": {"let in": 1}}, 1)
    record = Record()
    tell_refusals(record, {"refused": {"4001": 10}, "failed": {"OSError": 4}}, 2)
    assert (record.figures["refused"].value, record.figures["errors"].value) == (5, 2)


@pytest.mark.parametrize("adapter", ["v1", "ably", "ably-legacy"])
async def test_ours(adapter: str) -> None:
    secret = "a-signing-secret" if adapter == "ably" else ""
    token = "" if secret else "reusable-token-0123456789"
    settings = Settings(port=0, provider="local", signing_secret=secret, access_token=token)
    with trio.fail_after(30):
        async with open_provider(settings) as provider, running(settings, provider) as supervisor:
            url = supervisor.gateway.url.replace("http", "ws") + "ws"
            access = Access(adapter, url, token, secret)
            async with connect(access) as client:
                await read_until(client, b"$ ")
                ticket = client.ticket
                await run_raw(client, "stty sane")
            async with session(access), connect(access, ticket) as again:
                await again.type(b"echo back-$((40 + 2))\r")
                await read_until(again, b"back-42")
                assert again.ticket.partition("@")[0] == ticket.partition("@")[0]
                await again.type(b"exit\r")
                with pytest.raises(SessionEndedError):
                    await read_until(again, b"never")
