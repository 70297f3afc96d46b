"""terminal-supervisor.v1 as docs/protocol-v1.md says it."""

import hashlib
import json
import random
from typing import Any

import pytest
import trio
import trio.testing
from trio.abc import Clock
from trio_websocket import ConnectionClosed, wrap_client_stream

from gateway.harness import SECRET, TOKEN, Stage, V1Client, signed, stage
from supervisor.errors import SandboxError
from supervisor.protocol.closing import CLOSINGS, EndReason
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.settings import Settings
from supervisor.settings.knob import KIB, MIB
from supervisor.testing.memory import MemoryProvider


def settings(**changes: Any) -> Settings:
    return Settings(access_token=TOKEN, **changes)


async def unauthenticated(s: Stage, target: str = "/") -> V1Client:
    wire = s.connect()
    await wire.upgrade(SUBPROTOCOL, target=target)
    return V1Client(wire)


async def test_a_session_from_hello_to_exit(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1(cols=100, rows=30)
        assert client.hello == {
            "type": "hello",
            "sessionId": s.session.id,
            "resumed": False,
            "role": "writer",
            "offset": 0,
            "replay": 0,
            "window": 256 * KIB,
            "scrollback": 1024 * KIB,
            "isolated": True,
            "notice": None,
            "idleTimeoutMs": 600_000,
            "maxDurationMs": 1_800_000,
            "endsInMs": 1_800_000,
        }
        assert client.messages[0]["type"] == "hello"
        assert f"Sec-WebSocket-Protocol: {SUBPROTOCOL}".encode() in client.wire.head
        assert await client.expect("viewers") == {"type": "viewers", "writers": 1, "viewers": 0}
        assert s.terminal.sizes == [(100, 30)]
        await s.terminal.print(b"$ ")
        assert await client.expect_output(2) == b"$ "
        await client.wire.send(b"exit 3\r")
        await s.settle()
        assert s.terminal.typed == b"exit 3\r"
        s.nursery.start_soon(_print_and_exit, s, b"bye\r\n" * 100_000, 3)
        assert await client.closed() == (4000, "user-exit")
        assert client.output == b"$ " + b"bye\r\n" * 100_000  # all of it, first
        assert client.messages[-1] == {"type": "exit", "code": 3, "signal": None}
        await client.wire.gone()
        assert len(s.registry) == 0


async def _print_and_exit(s: Stage, data: bytes, code: int) -> None:
    await s.terminal.print(data)
    s.terminal.exit(code)


async def test_exit_by_a_signal(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        s.terminal.exit(None, 9)
        assert await client.closed() == (4000, "user-exit")
        assert client.messages[-1] == {"type": "exit", "code": None, "signal": 9}


async def test_the_library_that_others_use_understands_us(autojump_clock: Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        ours: Any  # the library takes any stream, and says that it does not
        ours, theirs = trio.testing.memory_stream_pair()
        s.nursery.start_soon(s.gateway.serve, theirs)
        websocket = await wrap_client_stream(
            nursery, ours, "localhost:8080", f"/?token={TOKEN}", subprotocols=[SUBPROTOCOL]
        )
        assert websocket.subprotocol == SUBPROTOCOL
        await websocket.send_message('{"type":"auth"}')
        assert json.loads(await websocket.get_message())["type"] == "hello"
        await websocket.ping(b"payload")
        await websocket.send_message(b"k" * 100_000)
        await s.settle()
        assert s.terminal.typed == b"k" * 100_000
        await websocket.send_message('{"type":"leave"}')
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await websocket.get_message()
        assert caught.value.reason is not None
        assert caught.value.reason.code == 4000
        nursery.cancel_scope.cancel()


async def test_two_writers_and_a_viewer_share_a_session(autojump_clock: Clock) -> None:
    async with stage() as s:
        first = await s.v1(cols=80, rows=24)
        session = first.hello["sessionId"]
        await s.terminal.print(b"one ")
        await first.expect_output(4)
        second = await s.v1(sessionId=session, cols=120, rows=40, offset=0)
        viewer = await s.v1(sessionId=session, cols=20, rows=10, offset=0, role="viewer")
        assert [c.hello["resumed"] for c in (first, second, viewer)] == [False, True, True]
        assert viewer.hello["role"] == "viewer"
        for client in (first, second, viewer):
            while not client.messages[-1].get("viewers"):
                await client.next()
            assert client.messages[-1] == {"type": "viewers", "writers": 2, "viewers": 1}
        await s.terminal.print(b"two")
        for client in (first, second, viewer):
            assert await client.expect_output(7) == b"one two"

        await viewer.wire.send(b"never")
        await viewer.tell("resize", cols=33, rows=33)
        await viewer.tell("leave")
        await second.wire.send(b"from the second ")
        await s.settle()
        await first.wire.send(b"from the first")
        await s.settle()
        assert s.terminal.typed == b"from the second from the first"
        assert s.terminal.sizes == [(80, 24), (120, 40), (80, 24)]  # the window of whoever types counts

        await second.wire.close()
        assert await viewer.expect("viewers") == {"type": "viewers", "writers": 1, "viewers": 1}
        await first.tell("leave")
        assert await first.closed() == (4000, "user-exit")
        assert await viewer.closed() == (4000, "user-exit")
        assert viewer.messages[-1]["type"] == "error"
        assert viewer.messages[-1]["code"] == 4000


async def test_a_connection_drops_anywhere_and_nothing_is_lost(autojump_clock: Clock) -> None:
    data = random.Random(7).randbytes(300_000)
    async with stage() as s, trio.open_nursery() as nursery:
        nursery.start_soon(_print_slowly, s, data)
        received = bytearray()
        client = await s.v1()
        while len(received) < len(data):
            dropped = client
            await client.expect_output(random.Random(len(received)).randrange(1, 60_000))
            received += client.output
            await dropped.wire.stream.aclose()
            client = await s.v1(sessionId=client.hello["sessionId"], offset=len(received))
            assert client.hello["resumed"]
            assert client.hello["replay"] == 0
            assert client.hello["offset"] == len(received)
            if len(data) - len(received) < 60_000:
                await client.expect_output(len(data) - len(received))
                received += client.output
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


async def _print_slowly(s: Stage, data: bytes) -> None:
    while not s.provider.terminals:
        await trio.sleep(0.01)
    for position in range(0, len(data), 1000):
        await s.terminal.print(data[position : position + 1000])
        await trio.sleep(0.01)


async def test_what_the_buffer_has_lost_is_a_gap(autojump_clock: Clock) -> None:
    async with stage(settings(scrollback=64 * KIB)) as s:
        client = await s.v1()
        await client.wire.stream.aclose()
        await s.settle()
        data = random.Random(1).randbytes(200 * KIB)
        await s.terminal.print(data)
        client = await s.v1(sessionId=client.hello["sessionId"], offset=10)
        assert client.hello["offset"] == 10
        assert await client.expect("gap") == {"type": "gap", "from": 10, "to": 136 * KIB}
        assert await client.expect_output(64 * KIB) == data[136 * KIB :]
        assert client.offset == 200 * KIB


async def test_an_empty_screen_gets_a_replay_that_asks_nothing(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        await s.terminal.print(b"before\x1b[6n\x1b]52;c;cHduZWQ=\x07\x1b[c\x07 after\x1b[?1004h \x1b[1")
        await client.wire.stream.aclose()
        await s.settle()
        client = await s.v1(sessionId=client.hello["sessionId"])
        history = await client.expect_history()
        assert history == b"\x1bcbefore after "
        await s.terminal.print(b"mbold")
        assert await client.expect_output(8) == b"\x1b[1mbold"  # the unfinished sequence is live output again


async def test_a_long_replay_comes_in_pieces_and_outside_of_the_window(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.gateway.history.INLINE", MIB)  # a virtual clock does not wait for threads
    async with stage(settings(output_window=16 * KIB)) as s:
        client = await s.v1()
        await client.wire.stream.aclose()
        await s.settle()
        await s.terminal.print(b"0123456789abcde\n" * 32 * KIB)
        client = await s.v1(sessionId=client.hello["sessionId"])
        assert client.hello["replay"] == 512 * KIB + 2
        assert await client.expect_history() == b"\x1bc" + b"0123456789abcde\n" * 32 * KIB
        await s.terminal.print(b"live")
        assert await client.expect_output(4) == b"live"


@pytest.mark.parametrize("quantum", [1, 5000, 65536])
async def test_never_more_than_a_window_is_unacknowledged(autojump_clock: Clock, quantum: int) -> None:
    async with stage(settings(output_window=64 * KIB)) as s, trio.open_nursery() as nursery:
        client = await s.v1()
        client.acknowledges = False
        total = 400 * KIB
        nursery.start_soon(s.terminal.print, bytes(range(256)) * (total // 256))
        acknowledged, most = 0, 0
        while len(client.output) < total:
            before = len(client.output)
            with trio.move_on_after(1):
                await client.next()
            most = max(most, len(client.output) - acknowledged)
            assert most <= 64 * KIB
            if len(client.output) == before:
                acknowledged = min(len(client.output), acknowledged + max(quantum, 64 * KIB - quantum))
                await client.tell("ack", offset=acknowledged)
        assert most == 64 * KIB
        assert client.output == bytes(range(256)) * (total // 256)


async def test_who_does_not_acknowledge_is_let_go_and_others_notice_nothing(autojump_clock: Clock) -> None:
    async with stage(settings(output_window=64 * KIB)) as s, trio.open_nursery() as nursery:
        good = await s.v1()
        bad = await s.v1(sessionId=good.hello["sessionId"], offset=0)
        bad.acknowledges = False
        total = 2000 * KIB
        started = trio.current_time()
        nursery.start_soon(s.terminal.print, b"x" * total)
        assert len(await good.expect_output(total)) == total
        assert trio.current_time() == started
        assert await bad.closed() == (4010, "slow-consumer")
        assert len(bad.output) == 64 * KIB
        assert trio.current_time() - started == pytest.approx(30, abs=1)
        assert bad.messages[-1]["reason"] == "slow-consumer"
        await good.expect("viewers")
        assert s.session.ended is None


async def test_a_slow_viewer_gets_a_gap(autojump_clock: Clock) -> None:
    async with (
        stage(settings(output_window=16 * KIB, scrollback=64 * KIB)) as s,
        trio.open_nursery() as nursery,
    ):
        fast = await s.v1()
        slow = await s.v1(sessionId=fast.hello["sessionId"], offset=0, role="viewer")
        slow.acknowledges = False
        data = random.Random(3).randbytes(500 * KIB)
        nursery.start_soon(s.terminal.print, data)
        assert await fast.expect_output(500 * KIB) == data
        await slow.expect_output(16 * KIB)
        slow.acknowledges = True
        await slow.tell("ack", offset=16 * KIB)
        assert await slow.expect("gap") == {"type": "gap", "from": 16 * KIB, "to": 436 * KIB}
        await slow.expect_output(80 * KIB)
        assert slow.output == data[: 16 * KIB] + data[436 * KIB :]
        assert slow.offset == 500 * KIB


async def test_leave(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        await client.tell("leave")
        assert await client.closed() == (4000, "user-exit")
        await s.settle()
        assert s.provider.leased == 0


@pytest.mark.parametrize("ping_id", [1, -2.5, "text", "é" * 256, True, None])
async def test_pong_has_the_ping_s_id(autojump_clock: Clock, ping_id: object) -> None:
    async with stage() as s:
        client = await s.v1()
        await client.tell("ping", id=ping_id)
        assert await client.expect("pong") == {"type": "pong", "id": ping_id}
    async with stage() as s:
        client = await s.v1()
        await client.tell("ping")
        assert await client.expect("pong") == {"type": "pong", "id": None}


async def test_warnings_come_and_go_and_late_viewers_hear_them(autojump_clock: Clock) -> None:
    # No ping may be on its way at the very moment of the end: a frame that is cut cuts the connection.
    async with stage(settings(ping_interval=26)) as s:
        client = await s.v1()
        started = trio.current_time()
        warning = await client.expect("warning")
        assert (warning["kind"], warning["endsInMs"]) == ("idle", 60_000)
        assert "Press a key" in warning["message"]
        await trio.sleep(10)
        late = await s.v1(sessionId=client.hello["sessionId"])
        assert (await late.expect("warning"))["endsInMs"] == 50_000
        await client.wire.send(b"\x1b[3;4R")  # the terminal answers by itself; nobody typed
        await s.settle()
        await late.tell("ping")
        await late.expect("pong")
        await client.wire.send(b"k")
        assert await late.expect("warningCleared") == {"type": "warningCleared", "kind": "idle"}
        assert trio.current_time() - started == pytest.approx(550)
        assert await client.closed() == (4002, "idle")
        assert trio.current_time() - started == pytest.approx(1150)


async def test_warnings_of_two_timeouts_at_the_same_moment(autojump_clock: Clock) -> None:
    async with stage(settings(idle_timeout=600, max_duration=600)) as s:
        client = await s.v1()
        kinds = {(await client.expect("warning"))["kind"], (await client.expect("warning"))["kind"]}
        assert kinds == {"idle", "maxDuration"}


async def test_the_maximum_duration(autojump_clock: Clock) -> None:
    async with stage(settings(max_duration=100, idle_timeout=1000)) as s:
        client = await s.v1()
        assert client.hello["endsInMs"] == 100_000
        await trio.sleep(70)
        again = await s.v1(sessionId=client.hello["sessionId"])
        assert again.hello["endsInMs"] == 30_000
        assert await again.closed() == (4004, "max-duration")
        assert again.messages[-1]["type"] == "error"


async def test_authentication_has_a_deadline(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await unauthenticated(s)
        started = trio.current_time()
        assert await client.closed() == (1000, "auth-timeout")
        assert trio.current_time() - started == pytest.approx(10)
        assert client.messages == [
            {
                "type": "error",
                "code": 1000,
                "reason": "auth-timeout",
                "message": "No authentication message came in time.",
            }
        ]


@pytest.mark.parametrize(
    "session_id", [".", ".*", "[a-z]+", "", "../../x", "nobody", "\u0000", "é" * 1000, "%s%n"]
)
async def test_an_unknown_session_is_a_new_one(autojump_clock: Clock, session_id: str) -> None:
    async with stage() as s:
        await s.v1()
        other = await s.v1(sessionId=session_id, offset=5)
        assert not other.hello["resumed"]
        assert other.hello["offset"] == 0
        assert other.hello["sessionId"] != session_id
        assert len(s.registry) == 2


async def test_the_session_of_other_credentials_stays_closed(autojump_clock: Clock) -> None:
    async with stage(Settings(signing_secret=SECRET)) as s:
        client = await s.v1(**signed("app.key:one"))
        texts = set()
        for attempt in (signed("app.key:two"), signed("app.key:one", accessToken="another")):
            wire = s.connect()
            await wire.upgrade(SUBPROTOCOL)
            intruder = V1Client(wire)
            await intruder.tell("auth", sessionId=client.hello["sessionId"], **attempt)
            assert await intruder.closed() == (4001, "credentials")
            texts.add(json.dumps(intruder.messages))
        (text,) = texts
        assert CLOSINGS[EndReason.CREDENTIALS].message in text
        again = await s.v1(sessionId=client.hello["sessionId"], **signed("app.key:one", age=5))
        assert again.hello["resumed"]


async def test_bad_credentials(autojump_clock: Clock) -> None:
    async with stage(Settings(signing_secret=SECRET)) as s:
        for attempt in (
            {},
            {"apiKey": "app.key:secret"},
            {"token": TOKEN},
            signed(secret="another secret entirely"),
            signed(age=25 * 3600),
            signed(age=-3600),
            {**signed(), "signature": ""},
            {**signed(), "signature": signed()["signature"].upper()},
        ):
            client = await unauthenticated(s)
            await client.tell("auth", **attempt)
            assert await client.closed() == (4001, "credentials"), attempt
        assert s.provider.terminals == []


async def test_without_a_secret_only_a_token_opens(autojump_clock: Clock) -> None:
    async with stage() as s:
        for target, auth in (
            ("/", {}),
            ("/?token=wrong", {}),
            ("/", {"token": "wrong"}),
            ("/", {"apiKey": "app.key:secret"}),
            ("/", signed()),
        ):
            client = await unauthenticated(s, target)
            await client.tell("auth", **auth)
            assert await client.closed() == (4001, "credentials")
            assert "address that the server printed" in client.messages[-1]["message"]
        for target, auth in ((f"/?token={TOKEN}", {}), ("/", {"token": TOKEN})):
            client = await unauthenticated(s, target)
            await client.auth(**auth)
        cookie = s.tokens.redeem(s.tokens.mint())
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL, "/", f"Cookie: a=b; terminal-supervisor-8080={cookie}\r\n")
        assert (await V1Client(wire).auth())["type"] == "hello"


async def test_credentials_reach_the_command_and_nothing_else(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1(
            apiKey="app.key:planted", environmentVariables={"PS1": "> ", "LD_PRELOAD": "/evil.so"}
        )
        environment = s.terminal.request.environment
        assert environment == {"ABLY_API_KEY": "app.key:planted", "PS1": "> "}
        await client.tell("leave")
        await client.closed()
        assert "planted" not in repr(s.logs)


async def test_capacity(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions=1)) as s:
        first = await s.v1()
        client = await unauthenticated(s)
        await client.tell("auth", token=TOKEN)
        assert await client.closed() == (4009, "capacity")
        shared = await s.v1(sessionId=first.hello["sessionId"])
        assert shared.hello["resumed"]


async def test_a_sandbox_that_does_not_start_is_told_without_its_reasons(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.failure = SandboxError("the container's CapDrop is [] and not [ALL]")
    async with stage(provider=provider) as s:
        client = await unauthenticated(s)
        await client.tell("auth", token=TOKEN)
        assert await client.closed() == (1013, "unavailable")
        assert "CapDrop" not in repr(client.messages)
        assert "CapDrop" in repr(s.logs)


async def test_a_lost_sandbox(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        s.terminal.vanish()
        assert await client.closed() == (4004, "ended")
        assert client.messages[-1]["reason"] == "ended"


async def test_shutdown_tells_everybody(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    async with stage(provider=provider) as s:
        idle = s.connect()
        running = await s.v1()
        silent = await unauthenticated(s)
        provider.start_delay = 5
        starting = await unauthenticated(s)
        await starting.tell("auth", token=TOKEN)
        await s.settle()
        started = trio.current_time()
        s.registry.close(EndReason.SHUTDOWN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(s.gateway.drain, EndReason.SHUTDOWN)
            for client in (running, silent, starting):
                assert await client.closed() == (1001, "shutdown")
                assert client.messages[-1]["code"] == 1001
            assert await idle.stream.receive_some() == b""
        assert trio.current_time() == started
        late = s.connect()
        assert await late.stream.receive_some() == b""


MISUNDERSTOOD = [
    *("null", "[]", "7", '"text"', "{}", "{", "", "hello", "[" * 10_000),
    *(
        '{"type":null}',
        '{"type":"nothing"}',
        '{"type":"hello"}',
        '{"type":"auth"}',
        '{"type":"ping","id":{}}',
    ),
    *('{"type":"ack"}', '{"type":"ack","offset":-1}', '{"type":"ack","offset":1.5}'),
    *('{"type":"ack","offset":1}', '{"type":"ack","offset":1e400}'),
]


async def test_messages_that_the_protocol_does_not_have(autojump_clock: Clock) -> None:
    for message in MISUNDERSTOOD:
        async with stage() as s:
            client = await s.v1()
            await client.wire.send(message)
            assert await client.closed() == (1002, "protocol"), message
            assert client.messages[-1]["reason"] == "protocol"
            assert s.session.ended is None  # the session can be resumed


NO_AUTHENTICATION: list[str | bytes] = [
    *(
        "null",
        "[]",
        "7",
        "true",
        '"auth"',
        "{}",
        "{",
        "",
        "auth",
        "[" * 60_000,
        '{"a":' * 10_000,
        b"\x00",
        b"",
    ),
    *('{"type":"ping"}', '{"type":"auth","type":"auth"}', '{"type":"auth","x":NaN}'),
    *('{"type":"auth","sessionId":7}', '{"type":"auth","role":"root"}', '{"type":"auth","role":[]}'),
    *('{"type":"auth","offset":-1}', '{"type":"auth","apiKey":{}}'),
    *('{"type":"auth","environmentVariables":[]}', '{"type":"auth","environmentVariables":{"PS1":1}}'),
    json.dumps({"type": "auth", "environmentVariables": {str(n): "" for n in range(100)}}),
]


async def test_first_messages_that_are_no_authentication(autojump_clock: Clock) -> None:
    for message in NO_AUTHENTICATION:
        async with stage() as s:
            client = await unauthenticated(s)
            await client.wire.send(message)
            assert await client.closed() == (1002, "protocol"), message
            assert s.provider.terminals == []


@pytest.mark.parametrize(
    ("cols", "rows"), [(0, 24), (80, 1001), (-1, -1), (1e9, 2), ("80", "24"), (None, 24), (80.5, 24)]
)
async def test_sizes_out_of_range_change_nothing(autojump_clock: Clock, cols: object, rows: object) -> None:
    async with stage() as s:
        client = await s.v1(cols=cols, rows=rows)
        assert s.terminal.sizes == [(80, 24)]
        await client.tell("resize", cols=cols, rows=rows)
        await client.tell("resize", cols=1, rows=1000)
        await s.settle()
        assert s.terminal.sizes == [(80, 24), (1, 1000)]


async def test_an_offset_from_the_future(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        other = await unauthenticated(s)
        await other.tell("auth", token=TOKEN, sessionId=client.hello["sessionId"], offset=1)
        assert await other.closed() == (1002, "protocol")
        assert s.session.statistics().writers == 1


async def test_input_while_the_sandbox_starts_is_delivered_in_order(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.start_delay = 5
    async with stage(provider=provider) as s:
        client = await unauthenticated(s)
        await client.tell("auth", token=TOKEN)
        for key in b"ls -l\r":
            await client.wire.send(bytes([key]))
        await client.tell("resize", cols=99, rows=9)
        assert await client.expect("hello")
        await s.settle()
        assert s.terminal.typed == b"ls -l\r"
        assert s.terminal.sizes[-1] == (99, 9)


async def test_no_isolation_is_said(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.isolated = False
    async with stage(provider=provider) as s:
        client = await s.v1()
        assert client.hello["isolated"] is False
        assert "No isolation" in client.hello["notice"]
