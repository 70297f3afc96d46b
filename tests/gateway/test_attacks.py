"""Clients that break rules, vanish, or do not listen; and what becomes of everybody else."""

import json
import random
import struct
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from trio.abc import Clock

from gateway.ably_client import AblyTerminal, connect
from gateway.harness import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    SECRET,
    TEXT,
    TOKEN,
    ClosedError,
    Stage,
    V1Client,
    Wire,
    frame,
    get,
    signed,
    stage,
)
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.settings import Settings
from supervisor.settings.knob import KIB, MIB
from supervisor.testing.checkpoints import cancel_at_every_checkpoint
from supervisor.testing.memory import MemoryProvider

AUTH = json.dumps({"type": "auth", "token": TOKEN})


@asynccontextmanager
async def with_a_good_user(settings: Settings | None = None) -> AsyncGenerator[tuple[Stage, V1Client]]:
    """Afterwards the good user's keys arrive, and his output."""
    async with stage(settings) as s:
        good = await s.v1()
        terminal = s.terminal
        yield s, good
        before = len(terminal.typed)
        await good.wire.send(b"still here")
        await terminal.print(b"indeed")
        while not good.output.endswith(b"indeed"):
            await good.next()
        await s.settle()
        assert terminal.typed[before:] == b"still here"


async def upgraded(s: Stage, *, authenticated: bool) -> Wire:
    wire = s.connect()
    await wire.upgrade(SUBPROTOCOL)
    if authenticated:
        await wire.send(AUTH)
        await wire.receive()
    return wire


# ---------------------------------------------------------------------- frames


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(TEXT, b"x", rsv=4), 1002),  # compressed, which was not agreed on
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(BINARY, b"x", rsv=1), 1002),
        (frame(BINARY, b"x", mask=False), 1002),
        (frame(BINARY, b"", mask=False), 1002),
        (frame(3, b"x"), 1002),
        (frame(15, b""), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PONG, b"x" * 70_000), 1002),
        (frame(CLOSE, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, struct.pack("!H", 999)), 1002),
        (frame(CLOSE, struct.pack("!H", 1005)), 1002),
        (frame(CLOSE, struct.pack("!H", 1006)), 1002),
        (frame(CLOSE, struct.pack("!H", 2999)), 1002),
        (frame(CLOSE, struct.pack("!H", 5000)), 1002),
        (frame(CLOSE, struct.pack("!H", 65535)), 1002),
        (frame(CLOSE, struct.pack("!H", 1000) + b"\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"\xc0\xaf"), 1007),
        (frame(TEXT, b"\xe2\x82"), 1007),
        (frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xff"), 1007),
        (b"\x82\xfe\x00\x01" + b"mask" + b"x", 1002),  # a length written longer than it needs to be
        (b"\x82\xff" + struct.pack("!Q", 5) + b"mask" + b"xxxxx", 1002),
        (b"\x82\xff" + struct.pack("!Q", 2**63) + b"mask", 1002),
        (b"\x82\xff" + struct.pack("!Q", 2**62) + b"mask" + b"x" * (2 * MIB), 1009),
    ],
)
async def test_frames_that_break_the_protocol(
    autojump_clock: Clock, raw: bytes, code: int, authenticated: bool
) -> None:
    async with with_a_good_user() as (s, _):
        wire = await upgraded(s, authenticated=authenticated)
        await wire.send_raw(raw)
        closed, _, messages = await wire.closed()
        assert closed == code
        last = messages[-1]
        assert isinstance(last, str)
        assert json.loads(last)["code"] == code
        await wire.gone()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_the_client_s_close_is_answered(autojump_clock: Clock, code: int) -> None:
    for authenticated in (False, True):
        async with with_a_good_user() as (s, _):
            wire = await upgraded(s, authenticated=authenticated)
            await wire.close(code, "goodbye")
            assert (await wire.closed())[0] == code
            await wire.gone()


async def test_an_empty_close(autojump_clock: Clock) -> None:
    async with with_a_good_user() as (s, _):
        wire = await upgraded(s, authenticated=True)
        await wire.send_raw(frame(CLOSE))
        wire.answers_close = False
        assert (await wire.closed())[0] in {1000, 1005}
        await wire.gone()


async def test_small_frames(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        data = bytes(range(256))
        for byte in data:
            await client.wire.send_raw(frame(BINARY) + frame(BINARY, bytes([byte])) + frame(BINARY))
        await s.settle()
        assert s.terminal.typed == data


async def test_a_message_in_every_way_of_cutting_it(autojump_clock: Clock) -> None:
    text = json.dumps({"type": "ping", "id": "é€\U0001f600"}, ensure_ascii=False).encode()
    for cut in range(len(text) + 1):
        async with stage() as s:
            client = await s.v1()
            raw = (
                frame(TEXT, text[:cut], fin=False) + frame(PING, b"between") + frame(CONTINUATION, text[cut:])
            )
            for byte in raw:
                await client.wire.send_raw(bytes([byte]))
            assert (await client.expect("pong"))["id"] == "é€\U0001f600"
            assert client.wire.pongs == [b"between"]


@pytest.mark.parametrize("character", ["x", "é", "€", "\U0001f600"])
async def test_limits_count_bytes(autojump_clock: Clock, character: str) -> None:
    limit, size = MIB, len(character.encode())
    fitting = character * (limit // size) + "x" * (limit % size)
    async with stage(Settings(signing_secret=SECRET)) as s:
        for text, fits in ((fitting, True), (fitting + "x", False)):
            connected = await connect(s, AblyTerminal(), signed())
            await connected.until_hello()
            await connected.type(text)
            await s.settle()
            if fits:
                assert s.terminal.typed == text.encode()
            else:
                assert s.terminal.typed == b""
                assert (await connected.closed())[::2] == (1009, "reconnects")


async def test_limits_before_authentication(autojump_clock: Clock) -> None:
    async with stage() as s:
        for size, fits in ((64 * KIB, True), (64 * KIB + 1, False), (1024 * KIB, False)):
            wire = s.connect()
            await wire.upgrade(SUBPROTOCOL)
            message = json.dumps({"type": "auth", "token": TOKEN, "sessionId": ""})
            client = V1Client(wire)
            await wire.send(message.replace('""', f'"{"x" * (size - len(message))}"'))
            if fits:
                assert (await client.expect("hello"))["resumed"] is False
            else:
                assert await client.closed() == (1009, "too-large")


async def test_the_largest_message_in_many_fragments(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        data = random.Random(5).randbytes(MIB)
        pieces = [frame(BINARY, data[:1000], fin=False)]
        pieces += [frame(CONTINUATION, data[at : at + 1000], fin=False) for at in range(1000, MIB, 1000)]
        await client.wire.send_raw(b"".join(pieces) + frame(CONTINUATION))
        await s.settle()
        assert s.terminal.typed == data


@pytest.mark.parametrize("authenticated", [False, True])
@pytest.mark.parametrize("piece", [b"", b"x"])
async def test_endless_fragments(autojump_clock: Clock, authenticated: bool, piece: bytes) -> None:
    async with with_a_good_user() as (s, _):
        wire = await upgraded(s, authenticated=authenticated)
        await wire.send_raw(frame(BINARY, piece, fin=False))
        sent = 0
        with suppress(trio.BrokenResourceError):
            while sent < 10_000:
                await wire.send_raw(frame(CONTINUATION, piece, fin=False) * 500)
                sent += 500
                await s.settle()
        assert sent <= 4500
        assert (await wire.closed())[:2] == (4003, "rate-limit")


# ---------------------------------------------------------------------- floods


async def test_a_ping_flood_delays_nobody_and_is_answered_with_the_newest(autojump_clock: Clock) -> None:
    async with with_a_good_user() as (s, good):
        wire = await upgraded(s, authenticated=True)
        for number in range(40):
            await wire.send_raw(b"".join(frame(PING, b"%d" % (number * 100 + n)) for n in range(100)))
        await good.tell("ping", id="meanwhile")
        assert (await good.expect("pong"))["id"] == "meanwhile"
        with trio.move_on_after(1):
            while True:
                await wire.receive()
        assert wire.pongs[-1] == b"3999"


async def test_an_endless_flood_of_control_frames(autojump_clock: Clock) -> None:
    for authenticated in (False, True):
        async with with_a_good_user() as (s, _):
            wire = await upgraded(s, authenticated=authenticated)
            for _ in range(50):
                await wire.send_raw(frame(PONG, b"x" * 125) * 100)
            assert (await wire.closed())[:2] == (4003, "rate-limit")


async def test_control_frames_at_a_sensible_pace_are_welcome(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        for _ in range(100):
            await client.wire.send_raw(frame(PONG) * 60)
            await trio.sleep(1)
        await client.tell("ping")
        await client.expect("pong")


async def test_frames_never_interleave(autojump_clock: Clock) -> None:
    """Pongs, output, answers and the farewell go out together, in small pieces; wsproto parses every byte."""
    async with stage() as s, trio.open_nursery() as nursery:
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(SUBPROTOCOL)
        client = V1Client(wire)
        await client.auth()
        client.acknowledges = wire.answers_close = False  # another task writes
        wire.read_size = 5000
        to_send, sending = trio.open_memory_channel[bytes](1000)
        data = random.Random(11).randbytes(MIB)

        async def send() -> None:
            async for raw in sending:
                await wire.send_raw(raw)

        async def program() -> None:
            await s.terminal.print(data)
            s.terminal.exit(7)

        nursery.start_soon(send)
        nursery.start_soon(program)
        number = 0
        with pytest.raises(ClosedError) as caught:
            while True:
                if isinstance(await client.next(), bytes):
                    number += 1
                    ack = frame(TEXT, b'{"type":"ack","offset":%d}' % client.offset)
                    ping = frame(TEXT, b'{"type":"ping","id":%d}' % number)
                    to_send.send_nowait(frame(PING, b"%d" % number) + ack + ping + frame(PING, b"again"))
        assert caught.value.code == 4000
        assert client.output == data
        assert client.messages[-1] == {"type": "exit", "code": 7, "signal": None}
        assert len(wire.pongs) > 10
        assert len([message for message in client.messages if message["type"] == "pong"]) > 10
        nursery.cancel_scope.cancel()


async def test_messages_that_are_asked_for_and_not_read_end_the_connection(autojump_clock: Clock) -> None:
    async with with_a_good_user() as (s, _):
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(SUBPROTOCOL)
        await V1Client(wire).auth()
        try:
            for number in range(10_000):
                with trio.fail_after(60):
                    await wire.send(f'{{"type":"ping","id":{number}}}')
        except trio.BrokenResourceError:
            pass
        else:
            pytest.fail("it went on")
        assert number < 100


async def test_five_thousand_resizes_do_not_delay_a_key(autojump_clock: Clock) -> None:
    async with with_a_good_user() as (s, good):
        for number in range(5000):
            await good.tell("resize", cols=1 + number % 1000, rows=1 + number % 999)
        await good.wire.send(b"k")
        await s.settle()
        assert s.terminal.typed == b"k"
        assert s.terminal.sizes[-1] == (1000, 5)


# ---------------------------------------------------------------------- pastes


async def test_a_paste_arrives_whole_while_output_flows(autojump_clock: Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        client = await s.v1()
        paste = random.Random(2).randbytes(MIB)
        nursery.start_soon(s.terminal.print, b"o" * 4 * MIB)
        await client.wire.send(paste)
        await client.expect_output(4 * MIB)
        await s.settle()
        assert s.terminal.typed == paste


async def test_a_paste_far_beyond_the_limits_of_a_program_that_echoes(autojump_clock: Clock) -> None:
    """Acknowledgements wait behind the paste, the paste behind the program, the program behind its echo."""
    async with stage() as s, trio.open_nursery() as nursery:
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL)
        client = V1Client(wire)
        await client.auth()
        terminal = s.terminal

        async def echo() -> None:
            done = 0
            while done < 6 * MIB:
                await trio.sleep(0.01)
                size = len(terminal.typed) - done
                terminal.set_reading(False)  # it does not read while it writes
                await terminal.print(b"e" * size)
                terminal.set_reading(True)
                done += size

        nursery.start_soon(echo)
        for _ in range(6):
            await wire.send(b"p" * MIB)
        while client.offset < 6 * MIB:  # not all of it reaches the screen: acknowledgements come too late
            await client.next()
        assert terminal.typed == b"p" * 6 * MIB


async def test_three_large_messages_at_once_are_no_breach(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        s.terminal.set_reading(False)
        for letter in b"abcdef":
            await client.wire.send(bytes([letter]) * MIB)
        await s.settle()
        assert s.session.ended is None
        s.terminal.set_reading(True)
        while len(s.terminal.typed) < 6 * MIB:
            await trio.sleep(1)
        assert s.terminal.typed == b"".join(bytes([letter]) * MIB for letter in b"abcdef")


# ---------------------------------------------------------------------- clients that do not listen


async def test_a_client_that_never_reads_is_dropped_after_the_stall_timeout(autojump_clock: Clock) -> None:
    async with stage() as s, trio.open_nursery() as nursery:
        good = await s.v1()
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(SUBPROTOCOL)
        await V1Client(wire).auth(sessionId=good.hello["sessionId"], offset=0)
        started = trio.current_time()
        nursery.start_soon(s.terminal.print, b"x" * 4 * MIB)
        await good.expect_output(4 * MIB)
        assert trio.current_time() == started
        while s.session.statistics().writers > 1:
            await trio.sleep(0.5)
        assert trio.current_time() - started == pytest.approx(30, abs=1)
        await s.settle()
        assert s.gateway._connections == 1


async def test_an_existing_client_that_never_reads(autojump_clock: Clock) -> None:
    async with stage(Settings(signing_secret=SECRET)) as s, trio.open_nursery() as nursery:
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(target="/")
        await wire.send(AblyTerminal().auth(signed()))
        for _ in range(5):
            await wire.receive()
        started = trio.current_time()
        nursery.start_soon(s.terminal.print, b"x" * 4 * MIB)
        while s.gateway._connections:
            await trio.sleep(0.5)
        assert trio.current_time() - started == pytest.approx(30, abs=1)
        await s.settle()
        assert s.session.scrollback.end == 4 * MIB  # the program was not stopped for good


async def test_slow_is_not_stalled(autojump_clock: Clock) -> None:
    """A megabyte of history at 4 KB/s takes four minutes, in which the client always takes something."""
    async with stage() as s:
        first = await s.v1()
        await first.wire.stream.aclose()
        await s.settle()
        await s.terminal.print(b"0123456789abcde\n" * 60 * KIB)
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(SUBPROTOCOL)
        slow = V1Client(wire)
        await slow.auth(sessionId=first.hello["sessionId"])
        wire.read_size, wire.read_delay = 4096, 1.0
        started = trio.current_time()
        assert len(await slow.expect_history()) == 960 * KIB + 2
        assert trio.current_time() - started > 200


async def test_a_frozen_viewer_costs_a_fixed_amount(autojump_clock: Clock) -> None:
    settings = Settings(access_token=TOKEN, stall_timeout=3600, max_duration=7200, idle_timeout=7200)
    async with stage(settings) as s:
        good = await s.v1()

        async def flood() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(s.terminal.print, b"x" * 2 * MIB)
                await good.expect_output(2 * MIB)
            good.start, good.output = good.offset, bytearray()

        frozen = [s.connect(trio.testing.lockstep_stream_pair) for _ in range(5)]
        tracemalloc.start()
        try:
            await flood()
            before = tracemalloc.get_traced_memory()[0]
            for wire in frozen:
                await wire.upgrade(SUBPROTOCOL)
                await V1Client(wire).auth(sessionId=good.hello["sessionId"], offset=good.offset)
            await flood()
            first = tracemalloc.get_traced_memory()[0]
            for _ in range(3):
                await flood()
            last = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert first - before < 5 * 200 * KIB
        assert last - first < 200 * KIB
        assert s.session.statistics().writers == 6


async def test_silence_is_probed_and_the_dead_are_let_go(autojump_clock: Clock) -> None:
    async with stage() as s:
        alive, dead = await s.v1(), await s.v1()
        started = trio.current_time()
        while s.gateway._connections > 1:
            with trio.move_on_after(1):
                await alive.next()
        # Three frames that ask nothing, one that asks, and the time for its answer.
        assert trio.current_time() - started == pytest.approx(4 * 25 + 40, abs=4)
        assert len(alive.wire.pings) == 1
        assert dead.wire.pings == []
        with trio.move_on_after(200):
            while True:
                await alive.next()
        assert s.gateway._connections == 1


async def test_a_silent_client_gets_a_frame_at_every_interval(autojump_clock: Clock) -> None:
    """Proxies close what is silent for a minute; the time that an answer may take is another matter."""
    async with stage(Settings(access_token=TOKEN, ping_interval=25, ping_timeout=40)) as s:
        client = await s.v1()
        with trio.move_on_after(210):
            await client.expect("nothing")
        assert (len(client.wire.pongs), len(client.wire.pings)) == (6, 2)


async def test_a_client_that_is_busy_typing_is_not_pinged(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        for _ in range(30):
            await trio.sleep(20)
            await client.wire.send(b"k")
        with trio.move_on_after(1):
            while True:
                await client.next()
        assert client.wire.pings == []


async def test_silence_while_the_program_does_not_read_is_ours(autojump_clock: Clock) -> None:
    async with stage() as s:
        client = await s.v1()
        s.terminal.set_reading(False)
        for _ in range(4):
            await client.wire.send(b"p" * MIB)
        await trio.sleep(500)
        assert s.session.statistics().writers == 1
        s.terminal.set_reading(True)
        with trio.move_on_after(100):
            while True:
                await client.next()
        assert len(s.terminal.typed) == 4 * MIB


async def test_a_close_that_is_never_answered(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = await upgraded(s, authenticated=True)
        wire.answers_close = False
        await wire.send("nonsense")
        assert (await wire.closed())[0] == 1002
        started = trio.current_time()
        await wire.gone()
        assert trio.current_time() - started <= 2


async def test_a_flood_after_our_close(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = await upgraded(s, authenticated=True)
        await wire.send("nonsense")
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await wire.send_raw(frame(BINARY, b"x" * MIB))
                await trio.sleep(0.1)


# ---------------------------------------------------------------------- clients that go


async def test_clients_that_go_at_any_stage_leave_nothing(autojump_clock: Clock) -> None:
    whole = get(
        f"/?token={TOKEN}",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
    ).encode()
    auth = frame(TEXT, AUTH.encode())
    raw = whole + auth + frame(BINARY, b"key")
    settings = Settings(access_token=TOKEN, resume_grace=0)
    cuts = [0, 1, 50, len(whole) - 1, len(whole), len(whole) + 1, len(whole) + len(auth) - 1]
    cuts += [len(whole) + len(auth), len(raw) - 1, len(raw)]
    for delay in (0.0, 5.0):
        for cut in cuts:
            provider = MemoryProvider()
            provider.start_delay = delay
            async with stage(settings, provider) as s:
                wire = s.connect()
                await wire.send_raw(raw[:cut])
                await s.settle()
                await wire.stream.aclose()
                await s.settle()
                if delay or cut < len(whole) + len(auth):
                    assert provider.leased == 0, cut  # at once: also a start under way is given up
                    assert len(s.registry) == 0
                    assert s.gateway._connections == 0
                await trio.sleep(11)
                assert provider.leased == 0


async def test_a_client_that_goes_during_a_start_although_it_has_typed(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.start_delay = 20
    async with stage(provider=provider) as s:
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL)
        await wire.send(AUTH)
        for _ in range(100):
            await wire.send(b"key")
        await s.settle()
        assert provider.leased == 1
        await wire.close(1001)
        await s.settle()
        assert provider.leased == 0


async def test_typing_without_end_during_a_start_is_bounded(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.start_delay = 20
    async with stage(provider=provider) as s:
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL)
        await wire.send(AUTH)
        tracemalloc.start()
        for _ in range(4):
            await wire.send(b"x" * MIB)
            await s.settle()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert held < 6 * MIB  # four of them still under way in the stream
        await V1Client(wire).expect("hello")
        while len(s.terminal.typed) < 4 * MIB:
            await trio.sleep(1)


async def test_a_connection_cancelled_at_any_checkpoint_leaves_nothing(autojump_clock: Clock) -> None:
    providers: list[MemoryProvider] = []

    async def scenario() -> None:
        providers.append(MemoryProvider())
        async with stage(provider=providers[-1]) as s:
            client = await s.v1()
            await client.wire.send(b"k")
            await s.terminal.print(b"output")
            await client.expect_output(6)
            await client.wire.stream.aclose()
            again = await s.v1(sessionId=client.hello["sessionId"])
            await again.expect_history()
            s.terminal.exit(0)
            await again.closed()

    async def nothing_left() -> None:
        assert providers[-1].leased == 0

    count = await cancel_at_every_checkpoint(scenario, nothing_left)
    assert count > 100


async def test_one_connection_cancelled_at_any_checkpoint_leaves_the_others(autojump_clock: Clock) -> None:
    """Only the connection's own tasks are cancelled, as when the listener's nursery would be."""
    settings = Settings(access_token=TOKEN, resume_grace=0, idle_timeout=1e6, max_duration=1e6)
    async with stage(settings) as s:
        good = await s.v1()
        good_terminal = s.terminal

        async def scenario() -> None:
            ours, theirs = trio.testing.memory_stream_pair()
            wire = Wire(ours)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(s.gateway.serve, theirs)
                await wire.upgrade(SUBPROTOCOL)
                client = V1Client(wire)
                await client.auth()
                await client.wire.send(b"k")
                await client.tell("leave")
                await client.closed()

        async def nothing_left() -> None:
            await trio.sleep(20)
            assert s.provider.leased == 1
            assert len(s.registry) == 1
            assert s.gateway._connections == 1
            before = len(good_terminal.typed)
            await good.wire.send(b"k")
            await s.settle()
            assert len(good_terminal.typed) == before + 1

        count = await cancel_at_every_checkpoint(scenario, nothing_left)
        assert count > 50
