"""The existing client's protocol, against an emulation of that client."""

import json
import time
from typing import Any

import pytest
import trio
import trio.testing
from trio.abc import Clock

from gateway.ably_client import MARKER, PREFIX, AblyTerminal, Connected, connect, run
from gateway.harness import SECRET, TEXT, TOKEN, Stage, frame, jwt, signed, stage
from supervisor.errors import SandboxError
from supervisor.gateway.ably import AblySpeaker
from supervisor.protocol.ably import OPENER
from supervisor.protocol.closing import EndReason
from supervisor.session.attachment import Output
from supervisor.settings import Settings
from supervisor.settings.knob import KIB
from supervisor.testing.memory import MemoryProvider

REQUEST = "\x1b7\x1b[999;999H\x1b[6n\x1b8"
LEGACY = {"apiKey": "app.key:secret"}
UNSIGNED_TARGET = f"/?token={TOKEN}"


def settings(**changes: Any) -> Settings:
    return Settings(signing_secret=SECRET, **changes)


def unsigned(**changes: Any) -> Settings:
    return Settings(access_token=TOKEN, **changes)


async def start(
    s: Stage, pane: AblyTerminal | None = None, credentials: dict[str, Any] | None = None
) -> Connected:
    """A pane whose session has shown its prompt."""
    connected = await connect(s, pane or AblyTerminal(), credentials or signed())
    await connected.until_hello()
    await s.terminal.print(b"$ ")
    await connected.until("$ ")
    return connected


# ---------------------------------------------------------------------- opening


async def test_the_sequence_of_frames(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await connect(s, AblyTerminal(), signed(sessionId="nobody"))
        frames = [await connected.next() for _ in range(5)]
        session_id = s.session.id
        assert frames == [
            PREFIX + '{"type":"status","payload":"connecting"}',
            PREFIX + '{"type":"status","payload":"connected"}',
            PREFIX + json.dumps({"type": "hello", "sessionId": session_id}, separators=(",", ":")),
            OPENER,
            REQUEST,
        ]
        assert OPENER == '{"stream":true,"stdin":true,"stdout":true,"stderr":true,"hijack":true}'
        assert connected.pane.session_id == session_id
        await s.terminal.print(b"$ ")
        await connected.until("$ ")
        assert connected.pane.plain == "$ "  # a bare prompt is shown, and the opener is not
        assert connected.pane.active
        assert connected.wire.head.count(b"\r\n") == 3  # no subprotocol, no extension


@pytest.mark.parametrize("control_format", ["auto", "prefixed", "plain"])
async def test_connecting_is_said_while_the_sandbox_starts(
    autojump_clock: Clock, control_format: Any
) -> None:
    provider = MemoryProvider()
    provider.start_delay = 20
    async with stage(settings(control_format=control_format), provider) as s:
        pane = AblyTerminal(legacy=control_format == "plain")
        connected = await connect(s, pane, signed())
        started = trio.current_time()
        await connected.next()
        assert pane.status() == ["connecting"]
        assert trio.current_time() == started
        await connected.until_hello()
        assert pane.status() == ["connecting", "connected", "hello"]
        assert trio.current_time() == started + 20


@pytest.mark.parametrize("control_format", ["prefixed", "plain"])
async def test_connecting_comes_before_authentication_where_the_form_is_known(
    autojump_clock: Clock, control_format: Any
) -> None:
    async with stage(settings(control_format=control_format)) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        message = await wire.receive()
        prefix = PREFIX if control_format == "prefixed" else ""
        assert message == prefix + '{"type":"status","payload":"connecting"}'


async def test_authentication_and_keys_sent_together_with_the_upgrade(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        pane = AblyTerminal()
        wire = s.connect()
        together = frame(TEXT, pane.auth(signed()).encode()) + frame(TEXT, b"early")
        await wire.upgrade(target="/", together=together)
        await Connected(pane, wire).until_hello()
        await s.settle()
        assert s.terminal.typed == b"early"


async def test_keys_typed_between_authentication_and_hello_arrive(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.start_delay = 3
    async with stage(settings(), provider) as s:
        connected = await connect(s, AblyTerminal(), signed())
        for key in "help\r":
            await connected.type(key)
        await connected.until_hello()
        await s.settle()
        assert s.terminal.typed == b"help\r"


async def test_a_client_that_misses_its_own_open_is_let_go_so_that_it_comes_back(
    autojump_clock: Clock,
) -> None:
    async with stage(settings()) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        started = trio.current_time()
        code, _, messages = await wire.closed()
        assert code in {1000, 1008}
        assert AblyTerminal.treatment(code, "") == "reconnects"
        assert messages == []  # any status would make it forget its session
        assert trio.current_time() - started == pytest.approx(10)


# ---------------------------------------------------------------------- size


async def test_the_size_is_asked_for_and_the_answer_swallowed(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        await start(s, AblyTerminal(size=(132, 43)))
        await s.settle()
        assert s.terminal.sizes == [(80, 24), (132, 43)]
        assert s.terminal.typed == b""


async def test_an_answer_in_pieces_between_keys(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        await wire.send(AblyTerminal().auth(signed()))
        for piece in ("a", "\x1b", "[5", "0;13", "2Rb", "\x1b[7;7R"):
            await wire.send(piece)
        await s.settle()
        assert s.terminal.typed == b"ab\x1b[7;7R"  # only the one that was asked for
        assert s.terminal.sizes[-1] == (132, 50)


async def test_a_lone_escape_is_a_key_after_a_moment(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        await wire.send(AblyTerminal().auth(signed()))
        await wire.send("\x1b")
        await trio.sleep(0.1)
        assert s.terminal.typed == b"\x1b"
        await trio.sleep(5)
        await wire.send("\x1b[50;132R")  # too late for an answer
        await s.settle()
        assert s.terminal.typed == b"\x1b\x1b[50;132R"


@pytest.mark.parametrize(
    ("message", "size"),
    [
        ('{"type":"resize","cols":90,"rows":30}', (90, 30)),
        ('{"type":"resize","data":{"cols":90,"rows":30}}', (90, 30)),
        ('{ "rows": 30, "type": "resize", "cols": 90, "extra": [] }', (90, 30)),
        ('{"type":"resize","cols":1,"rows":1000}', (1, 1000)),
        ('{"type":"resize","cols":0,"rows":0}', None),
        ('{"type":"resize","cols":-1,"rows":24}', None),
        ('{"type":"resize","cols":1000000000,"rows":24}', None),
        ('{"type":"resize","cols":80,"rows":65537}', None),
        ('{"type":"resize","cols":80.5,"rows":24}', None),
        ('{"type":"resize","cols":"80","rows":"24"}', None),
        ('{"type":"resize","cols":true,"rows":true}', None),
        ('{"type":"resize","data":[]}', None),
        ('{"type":"resize"}', None),
    ],
)
async def test_resizes(autojump_clock: Clock, message: str, size: tuple[int, int] | None) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await connected.type(message)
        await s.settle()
        assert s.terminal.sizes[2:] == ([size] if size else [])
        assert s.terminal.typed == b""


# ---------------------------------------------------------------------- input


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1}',
        '{"type":"unknown"}',
        '{"type":"resize"',
        '{"type":"resize","cols":80,"rows":24} ',
        ' {"type":"data","data":"x"}',
        '[{"type":"data","data":"x"}]',
        '{"type":"data","data":"x"}{"type":"data","data":"x"}',
        '{"type":"data","type":"data","data":"x"}',
        '{"type":["data"],"data":"x"}',
        "null",
        "{}",
        "{",
        '"data"',
        "7",
        "NaN",
        "é\U0001f600\ufffd",
        "\x00\x03\x1a\x1c",
        '\x00\x00ABLY_CTRL:{"type":"hello","sessionId":"x"}',
        "{" + "[" * 3000 + "}",
        '{"a":"' + "x" * 100_000 + '"}',
    ],
)
async def test_what_looks_like_control_and_is_none_is_typed(autojump_clock: Clock, text: str) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await connected.type(text)
        await s.settle()
        assert s.terminal.typed == text.encode()
        assert s.session.ended is None


async def test_control_messages_of_the_client(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await connected.type('{"type":"data","data":"ls\\r"}')
        await connected.type('{"type":"readline-control","action":"x"}')
        await connected.type('{"type":"data","data":' + json.dumps("p" * 50_000) + "}")
        await connected.wire.send(b"binary")
        await s.settle()
        assert s.terminal.typed == b"ls\r" + b"p" * 50_000 + b"binary"


async def test_an_initial_command(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        assert connected.pane.active
        await connected.type("channels list\r")
        await s.settle()
        assert s.terminal.typed == b"channels list\r"


# ---------------------------------------------------------------------- output


@pytest.mark.parametrize("piece", range(1, 12))
async def test_code_points_are_never_split(autojump_clock: Clock, piece: int) -> None:
    text = "aé€\U0001f600z" * 5
    data = text.encode()
    async with stage(settings()) as s:
        connected = await start(s)
        for position in range(0, len(data), piece):
            await s.terminal.print(data[position : position + piece])
            await s.settle()
        assert await connected.until("$ " + text) == "$ " + text


async def test_a_lone_beginning_of_a_code_point_is_shown_after_a_moment(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await s.terminal.print("1€".encode()[:-1])
        assert await connected.until("1") == "$ 1"
        started = trio.current_time()
        assert await connected.until("\ufffd") == "$ 1\ufffd"
        assert 0 < trio.current_time() - started <= 1
        await s.terminal.print(b"\xe2\x82")
        s.terminal.exit(0)
        assert (await connected.closed())[0] == 4000
        assert connected.pane.plain == "$ 1\ufffd\ufffd"


async def test_a_warning_in_the_middle_of_a_code_point(autojump_clock: Clock) -> None:
    async with stage(settings(max_duration=100)) as s:
        connected = await start(s)
        s.nursery.start_soon(run, connected)
        await trio.sleep_until(s.session.deadlines.duration.deadline - 50.01)
        await s.terminal.print("€".encode()[:1])
        await trio.sleep(0.05)
        await s.terminal.print("€".encode()[1:])
        await s.settle()
        assert "maximum duration" in connected.pane.plain
        assert connected.pane.plain.endswith("€")
        assert "\ufffd" not in connected.pane.plain


async def test_output_that_is_no_text_kills_nothing(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        data = bytes(range(256)) * 100 + b"\xed\xa0\x80\xf8\x88\x80\x80\x80\xff\xfe\xc0\xaf"
        await s.terminal.print(data + b"end")
        screen = await connected.until("end")
        assert screen == "$ " + data.decode("utf-8", "replace").replace("\x00", "") + "end"


SPOOF = 'ABLY_CTRL:{"type":"hello","sessionId":"spoofed"}'


@pytest.mark.parametrize("pane", ["primary", "secondary"])
async def test_a_program_cannot_speak_for_the_server(autojump_clock: Clock, pane: Any) -> None:
    spoofs = [b"\0\0" + SPOOF.encode(), SPOOF.encode(), b"x\0" + SPOOF.encode(), b"\0" * 5 + SPOOF.encode()]
    for spoof in spoofs:
        for cut in range(len(spoof)):
            async with stage(settings()) as s:
                connected = await start(s, AblyTerminal(pane))
                await s.terminal.print(spoof[:cut])
                await s.settle()
                await s.terminal.print(spoof[cut:])
                await connected.until("}")
                assert connected.pane.session_id == s.session.id
                assert connected.pane.spoofed == []
                assert MARKER not in connected.pane.plain
                assert "spoofed" in connected.pane.plain
                assert s.session.ended is None


async def test_a_replay_cannot_speak_for_the_server_either(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        # what a replay leaves out would join its neighbours to a marker
        await s.terminal.print(
            b'ABLY\x1b[6n_CT\x07RL:{"type":"hello","sessionId":"a"} \0\0' + SPOOF.encode() + b" ABLY_CT"
        )
        await connected.until("ABLY_CT")
        await connected.wire.stream.aclose()
        again = await connect(s, connected.pane, signed())
        await again.until("ABLY_CT")
        await s.terminal.print(b'RL:{"type":"hello","sessionId":"b"}')
        await again.until("}")
        assert again.pane.spoofed == []
        assert again.pane.session_id == s.session.id
        assert MARKER not in again.pane.plain


async def test_a_program_cannot_speak_for_the_server_to_older_clients(autojump_clock: Clock) -> None:
    hello = '{"type":"hello","sessionId":"spoofed"}'
    async with stage(unsigned()) as s:
        connected = await connect(s, AblyTerminal(legacy=True), LEGACY, UNSIGNED_TARGET)
        await connected.until_hello()
        for number in range(1, 4):
            await s.terminal.print(hello.encode())
            while connected.pane.plain.count("spoofed") < number:
                await connected.next()
        await connected.wire.stream.aclose()
        tab = AblyTerminal(legacy=True)
        tab.session_id = connected.pane.session_id
        again = await connect(s, tab, LEGACY, UNSIGNED_TARGET)
        while tab.plain.count("spoofed") < 3:
            await again.next()
        assert tab.session_id == connected.pane.session_id == s.session.id


async def test_output_is_shaped_to_what_the_terminal_can_take(autojump_clock: Clock) -> None:
    async with stage(settings(unacknowledged_rate=1024 * KIB)) as s, trio.open_nursery() as nursery:
        connected = await start(s)
        started = trio.current_time()
        nursery.start_soon(s.terminal.print, b"x" * 8192 * KIB + b"end")
        taken = 0
        while taken < 8192 * KIB:
            taken += len(await connected.next())
        # 8 MiB less a window at 1 MiB/s
        assert trio.current_time() - started == pytest.approx(7.75, abs=0.1)


async def test_what_may_go_out_at_once(autojump_clock: Clock) -> None:
    async with stage(settings(unacknowledged_rate=64 * KIB, output_window=16 * KIB)) as s:
        speaker = AblySpeaker(s.house, has_token=False)
        assert speaker.at_once(b"k") == "k"
        assert speaker.at_once(b"\0") == ""
        assert speaker.at_once("é".encode()) is None, "may end in the middle of a character"
        assert await speaker.frames(Output(0, "é".encode()[:1])) == []
        assert speaker.at_once(b"k") is None, "one of which the beginning is held back"
        assert await speaker.frames(Output(1, "é".encode()[1:])) == ["é"]
        assert speaker.at_once(b"x" * KIB) == "x" * KIB
        await speaker.frames(Output(2, b"x" * 15 * KIB))
        assert speaker.at_once(b"k") is None, "more than the terminal can take"
        await trio.sleep(1)
        assert speaker.at_once(b"k") == "k"


# ---------------------------------------------------------------------- resume


async def test_resume_after_a_drop(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        session_id = connected.pane.session_id
        await s.terminal.print(b"one\r\n")
        await connected.until("one\r\n")
        await connected.wire.stream.aclose()
        await s.settle()
        await s.terminal.print(b"while nobody watched\x1b[6n\r\n$ ")
        again = await connect(s, connected.pane, signed(age=3))
        frames = [await again.next() for _ in range(5)]
        assert frames[:3] == [
            PREFIX + '{"type":"status","payload":"connecting"}',
            PREFIX + '{"type":"status","payload":"connected"}',
            PREFIX + json.dumps({"type": "hello", "sessionId": session_id}, separators=(",", ":")),
        ]
        assert frames[3] == OPENER
        assert frames[4].startswith("\x1bc")  # the old text goes
        assert again.pane.plain == "$ one\r\nwhile nobody watched\r\n$ "
        await s.settle()
        assert s.terminal.typed == b""  # nothing was answered twice
        await s.terminal.print(b"live")
        assert (await again.until("live")).endswith("$ live")


async def test_resume_with_another_size(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await s.settle()
        await connected.wire.stream.aclose()
        connected.pane.cols = 60
        await s.terminal.print(b"unfinished \x1b]0;title")
        again = await connect(s, connected.pane, signed())
        await again.until_hello()
        await again.until("\x1b]0;title")
        await s.settle()
        assert s.terminal.sizes[-1] == (60, 43)
        await s.terminal.print(b" goes on\x07")
        assert (await again.until("\x07")).endswith("unfinished \x1b]0;title goes on\x07")


async def test_a_long_history_arrives_whole(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await connected.wire.stream.aclose()
        await s.settle()
        await s.terminal.print("€uro\r\n".encode() * 100_000)
        again = await connect(s, connected.pane, signed())
        await again.until_hello()
        while again.pane.plain.count("\n") < 100_000:
            await again.next()
        assert again.pane.plain == "$ " + "€uro\r\n" * 100_000


async def test_the_newest_connection_takes_over(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        old = await start(s)
        tab = AblyTerminal()
        tab.session_id = old.pane.session_id
        new = await connect(s, tab, signed())
        await new.until("$ ")
        assert await old.closed() == (4008, "session resumed elsewhere", "gives up")
        assert old.pane.shown == ["The session was resumed in another window. (4008)"]
        await new.type("k")
        await s.settle()
        assert s.terminal.typed == b"k"
        assert s.session.statistics().writers == 1


async def test_a_replaced_connection_has_no_say_any_more(autojump_clock: Clock) -> None:
    """Its client neither reads nor knows yet; what it sends comes to nothing."""
    async with stage(settings()) as s:
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.upgrade(target="/")
        pane = AblyTerminal()
        await wire.send(pane.auth(signed()))
        old = Connected(pane, wire)
        await old.until_hello()
        await old.next()
        await old.next()
        await s.terminal.print(b"unread")
        await s.settle()
        tab = AblyTerminal()
        tab.session_id = pane.session_id
        new = await connect(s, tab, signed())
        await new.until("unread")
        await wire.send("rm -rf\r")
        await wire.close(1000, "user-closed-primary")
        await s.settle()
        assert s.terminal.typed == b""
        assert s.session.ended is None


async def test_a_session_that_is_gone_is_a_new_one(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        old = connected.pane.session_id
        await connected.wire.stream.aclose()
        await trio.sleep(301)
        again = await connect(s, connected.pane, signed())
        await again.until_hello()
        assert again.pane.session_id not in (old, None)


async def test_the_split_screen_is_a_session_of_its_own(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        credentials = signed()
        primary = await start(s, AblyTerminal("primary"), credentials)
        secondary = await start(s, AblyTerminal("secondary"), credentials)
        assert primary.pane.session_id != secondary.pane.session_id
        await secondary.wire.close(1000, "user-closed-secondary")
        await secondary.closed()
        await s.settle()
        assert s.session.id == primary.pane.session_id


# ---------------------------------------------------------------------- leaving


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1000, "user-closed-primary"),
        (1000, "user-closed-secondary"),
        (1000, "manual-reconnect"),
        (4002, "inactivity-timeout"),
        (4003, "connection-timeout"),
    ],
)
async def test_the_user_leaves(autojump_clock: Clock, code: int, reason: str) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await connected.wire.close(code, reason)
        closed = await connected.closed()
        assert closed[0] == code  # the close handshake is finished
        await connected.wire.gone()
        await s.settle()
        assert s.provider.leased == 0


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_the_connection_is_lost(autojump_clock: Clock, code: int | None) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        if code is None:
            await connected.wire.stream.aclose()
        else:
            await connected.wire.close(code)
        await s.settle()
        assert s.session.statistics().writers == 0
        await trio.sleep(290)
        assert s.session.ended is None


async def test_exit(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        await s.terminal.print(b"logout\r\n")
        s.terminal.exit(0)
        assert await connected.closed() == (4000, "user-exit", "gives up")
        assert connected.pane.plain == "$ logout\r\n"
        assert connected.pane.control[-1] == {
            "type": "status",
            "payload": "disconnected",
            "reason": "Session ended by user",
            "code": 4000,
        }


async def test_timeouts_are_warned_of_in_the_terminal(autojump_clock: Clock) -> None:
    # No ping may be on its way at the very moment of the end: a frame that is cut cuts the connection.
    async with stage(settings(ping_interval=26)) as s:
        connected = await start(s)
        started = trio.current_time()
        code, _, treatment = await connected.closed()
        assert (code, treatment) == (4002, "gives up")
        assert trio.current_time() - started == pytest.approx(600)
        warning = next(m for m in connected.pane.control if m.get("payload") == "warning")
        assert warning["reason"] in connected.pane.plain
        assert connected.pane.shown[-1].endswith("(4002)")


async def test_shutdown(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        s.registry.close(EndReason.SHUTDOWN)
        assert (await connected.closed())[::2] == (1001, "reconnects")
        assert "going away" in connected.pane.plain
        assert connected.pane.session_id is not None


async def test_capacity(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions=1)) as s:
        await start(s)
        second = await connect(s, AblyTerminal(), signed())
        assert (await second.closed())[::2] == (4009, "gives up")
        assert second.pane.shown == ["--- Error: All terminals are in use. Please try again later. ---"]


async def test_a_sandbox_that_does_not_start(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.failure = SandboxError("internal detail")
    async with stage(settings(), provider) as s:
        connected = await connect(s, AblyTerminal(), signed())
        assert (await connected.closed())[::2] == (1013, "gives up")
        assert connected.pane.status() == ["connecting", "error"]
        assert "internal detail" not in repr(connected.pane.shown)


async def test_a_lost_sandbox(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        connected = await start(s)
        s.terminal.vanish()
        assert (await connected.closed())[::2] == (4004, "gives up")


# ---------------------------------------------------------------------- credentials


def _bad_credentials() -> list[dict[str, Any]]:
    good = signed()
    return [
        signed(secret="another secret entirely"),
        signed(age=24 * 3600 + 60),
        signed(age=-120),
        {**good, "signature": good["signature"].upper()},
        {**good, "signature": good["signature"][:-1]},
        {**good, "signature": None},
        {**good, "config": good["config"] + " "},
        {"config": good["config"]},
        {"signature": good["signature"]},
        {"config": "{}", "signature": ""},
        signed(""),
        {"apiKey": "app.key:secret"},
        {"accessToken": "token"},
        {},
    ]


async def test_bad_credentials(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        for credentials in _bad_credentials():
            connected = await connect(s, AblyTerminal(legacy="config" not in credentials), credentials)
            assert (await connected.closed())[::2] == (4001, "gives up"), credentials
            assert len(connected.pane.shown) == 1
        assert s.provider.terminals == []


async def test_unsigned_copies_beside_a_signed_config_count_for_nothing(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        await start(
            s, credentials={**signed("app.key:signed"), "apiKey": "app.key:unsigned", "accessToken": "x"}
        )
        assert s.terminal.request.environment["ABLY_API_KEY"] == "app.key:signed"
        assert "ABLY_ACCESS_TOKEN" not in s.terminal.request.environment
        assert s.terminal.request.environment["PS1"] == "ably> "


async def test_somebody_else_s_session(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        victim = await start(s, credentials=signed("app.key:victim"))
        shown = []
        for session_id in (victim.pane.session_id, victim.pane.session_id, "x"):
            pane = AblyTerminal()
            pane.session_id = session_id
            intruder = await connect(s, pane, signed("app.key:intruder"))
            if session_id == "x":
                await intruder.until_hello()
                continue
            assert (await intruder.closed())[::2] == (4001, "gives up")
            shown.append(pane.shown)
        assert shown[0] == ["--- Error: These credentials are not accepted. ---"]
        assert len([session for session in s.registry if session.statistics().writers]) == 2


async def test_older_clients(autojump_clock: Clock) -> None:
    async with stage(unsigned()) as s:
        pane = AblyTerminal(legacy=True)
        connected = await connect(s, pane, LEGACY, UNSIGNED_TARGET)
        frames = [await connected.next() for _ in range(5)]
        assert all("\0" not in each for each in frames)
        assert pane.status() == ["connecting", "connected", "hello"]
        await s.terminal.print(b"$ ")
        assert await connected.until("$ ") == "$ "
        s.terminal.exit(0)
        assert (await connected.closed())[0] == 4000
        assert pane.control[-1]["code"] == 4000


async def test_unsigned_beside_a_secret_only_by_name(autojump_clock: Clock) -> None:
    async with stage(settings(allow_unsigned=True)) as s:
        await start(s, AblyTerminal(legacy=True), LEGACY)
        assert s.terminal.request.environment["ABLY_API_KEY"] == "app.key:secret"
        bad = await connect(s, AblyTerminal(), signed(secret="another secret entirely"))
        assert (await bad.closed())[0] == 4001
        nothing = await connect(s, AblyTerminal(legacy=True), {})
        assert (await nothing.closed())[0] == 4001


@pytest.mark.parametrize(
    ("token", "accepted"),
    [
        (jwt({"exp": time.time() + 3600}), True),
        (jwt({}), True),
        ("opaque-token", True),
        (jwt({"exp": time.time() - 1}), False),
        (jwt({"exp": "never"}), False),
        (jwt({}, "none"), False),
        ("a.b.c", False),
        ("white space", False),
        ("x" * 9000, False),
    ],
)
async def test_access_tokens(autojump_clock: Clock, token: str, accepted: bool) -> None:
    async with stage(settings(allow_unsigned=True)) as s:
        connected = await connect(s, AblyTerminal(legacy=True), {"accessToken": token})
        if accepted:
            await connected.until_hello()
        else:
            assert (await connected.closed())[0] == 4001


@pytest.mark.parametrize("message", ["null", "[]", "7", "{", "x", "", "[" * 60_000, '{"sessionId":{}}'])
async def test_first_messages_that_are_no_authentication(autojump_clock: Clock, message: str) -> None:
    async with stage(settings()) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        await wire.send(message)
        code, _, messages = await wire.closed()
        assert AblyTerminal.treatment(code, "") == "gives up"
        assert all(isinstance(each, str) and each.startswith(PREFIX) for each in messages)


async def test_the_environment_is_filtered(autojump_clock: Clock) -> None:
    variables = {
        "BASH_ENV": "/etc/shadow",
        "PATH": "/evil",
        "LD_PRELOAD": "x",
        "ABLY_API_KEY": "stolen",
        "TERM": "vt100",
    }
    async with stage(settings()) as s:
        wire = s.connect()
        await wire.upgrade(target="/")
        await wire.send(json.dumps({**signed(), "environmentVariables": variables}))
        await s.settle()
        assert s.terminal.request.environment == {"ABLY_API_KEY": "app.key:secret", "TERM": "vt100"}


async def test_without_isolation_it_says_so(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    provider.isolated = False
    async with stage(settings(), provider) as s:
        connected = await connect(s, AblyTerminal(), signed())
        await connected.until_hello()
        await s.terminal.print(b"$ ")
        assert await connected.until("$ ") == "[no isolation: a plain process of the host]\r\n$ "
        await connected.wire.stream.aclose()
        tab = AblyTerminal()
        tab.session_id = connected.pane.session_id
        again = await connect(s, tab, signed())
        assert await again.until("$ ") == "[no isolation: a plain process of the host]\r\n$ "
