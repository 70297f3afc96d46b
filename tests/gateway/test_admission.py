"""Who gets in, how often, and how the others are told: limits by address, capacities, proxies."""

import base64
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import jwt as pyjwt
import pytest
import structlog.testing
import trio
import trio.testing
from trio.abc import Clock

from gateway.ably_client import AblyTerminal, connect
from gateway.harness import (
    SECRET,
    TOKEN,
    ClosedError,
    Stage,
    V1Client,
    answer,
    get,
    jwt,
    pages,
    signed,
    stage,
)
from supervisor.errors import SandboxError
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.serve import running
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
UPGRADE = get(
    f"/?token={TOKEN}",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
)


def settings(**changes: Any) -> Settings:
    return Settings(**{"access_token": TOKEN, **changes})


def house(**changes: Any) -> Settings:
    """Settings of a server with a signing secret."""
    return Settings(**{"signing_secret": SECRET, **changes})


async def said(s: Stage, peer: str, raw: str = UPGRADE) -> tuple[int, dict[str, str]]:
    """Return the answer to a request, and wait until its connection is over."""
    wire = s.connect(peer=peer)
    with suppress(trio.BrokenResourceError):
        await wire.send_raw(raw.encode())
    status, headers, _ = await answer(wire.stream)
    await trio.aclose_forcefully(wire.stream)
    await s.settle()
    return status, headers


async def refused(s: Stage, peer: str | None = None, **auth: Any) -> tuple[int, str]:
    """Return how a client is refused that asks for a session."""
    wire = s.connect(peer=peer)
    await wire.upgrade(SUBPROTOCOL)
    client = V1Client(wire)
    with suppress(ClosedError):
        await client.auth(**auth)
        pytest.fail("it was let in")
    error = client.messages[-1]
    assert error["type"] == "error"
    return error["code"], error["message"]


# ---------------------------------------------------------------------- rates by address


async def test_connections_of_one_address(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        for _ in range(10):
            client = await s.v1(peer=A)
            await client.tell("leave")
            await client.closed()
        # Told in the client's words first: a browser sees nothing of an HTTP refusal.
        code, message = await refused(s, A)
        assert code == 4003
        assert "wait 60 seconds" in message
        await s.v1(peer=B)
        # Cheaply, once it does not listen.
        for _ in range(9):
            await refused(s, A)
        status, headers = await said(s, A)
        assert status == 429
        assert 50 <= int(headers["retry-after"]) <= 60
        await trio.sleep(60)
        await s.v1(peer=A)
        assert s.house.door.refusals["connection_rate"] == 11


async def test_refusals_over_the_websocket_are_limited_altogether(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_per_address=1, max_new_connections=10_000)) as s:
        told = 0
        for number in range(100):
            peer = f"10.0.{number}.1"
            assert (await said(s, peer))[0] == 101
            told += (await said(s, peer))[0] == 101
        assert 20 <= told <= 40


async def test_the_existing_client_gives_up_and_says_why(autojump_clock: Clock) -> None:
    async with stage(house(max_connections_per_address=1)) as s:
        terminal = AblyTerminal()
        await s.v1(peer=A, **signed())
        connected = await connect(s, terminal, signed(), peer=A)
        code, _, consequence = await connected.closed()
        assert (code, consequence) == (4003, "gives up")
        assert "wait" in terminal.control[-1]["reason"]


async def test_ipv6_is_counted_by_64(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_per_address=2)) as s:
        await s.v1(peer="2001:db8::1")
        await s.v1(peer="2001:db8::2:1")
        assert (await refused(s, "2001:db8::3"))[0] == 4003
        await s.v1(peer="2001:db8:0:1::1")


async def test_loopback_is_exempt_only_when_named(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_per_address=1)) as s:
        await s.v1(peer="127.0.0.1")
        assert (await refused(s, "127.0.0.1"))[0] == 4003
    async with stage(settings(max_connections_per_address=1, exempt_networks=("127.0.0.0/8",))) as s:
        for _ in range(20):
            await s.v1(peer="127.0.0.1")
    async with stage(settings(max_connections_per_address=1, throttling=False)) as s:
        for _ in range(20):
            await s.v1(peer="127.0.0.1")


async def test_connections_at_once(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_at_once_per_address=3, max_connections_per_address=50)) as s:
        clients = [await s.v1(peer=A) for _ in range(3)]
        assert (await said(s, A))[0] == 429
        await s.v1(peer=B)
        await clients[0].tell("leave")
        await clients[0].closed()
        await s.settle()
        await s.v1(peer=A)
        assert s.house.door.statistics().addresses == 2
    assert s.house.door.statistics().addresses == 0
    assert s.house.door.statistics().pending == 0


async def test_requests_for_pages(autojump_clock: Clock) -> None:
    async with stage(settings(max_requests_per_address=5)) as s:
        for _ in range(5):
            assert (await said(s, A, get("/health")))[0] == 200
        status, headers = await said(s, A, get("/health"))
        assert (status, headers["retry-after"]) == (429, "60")
        assert (await said(s, B, get("/health")))[0] == 200
        assert (await said(s, A))[0] == 101  # another matter


async def test_failed_authentications(autojump_clock: Clock) -> None:
    async with stage(house(max_connections_per_address=1000)) as s:
        good = await s.v1(peer=A, **signed())
        for _ in range(11):
            assert (await refused(s, A, **signed(secret="x" * 20)))[0] == 4001
        assert (await said(s, A))[0] == 429
        await s.v1(peer=B, **signed())
        await good.tell("ping")  # who is in stays in
        await good.expect("pong")
        await trio.sleep(60)
        await s.v1(peer=A, **signed())


async def test_guessed_tokens_are_failed_authentications(autojump_clock: Clock) -> None:
    async with stage(settings()) as s:
        for number in range(11):
            assert (await said(s, A, get(f"/?token=guess{number}")))[0] == 403
        assert (await said(s, A, get(f"/?token={TOKEN}")))[0] == 429


async def test_resumes_of_one_session(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_per_address=1000)) as s:
        first = await s.v1(peer=A)
        session_id = first.hello["sessionId"]
        for peer in (A, B, C):
            assert (await s.v1(peer=peer, sessionId=session_id)).hello["resumed"]
        code, message = await refused(s, A, sessionId=session_id)
        assert code == 4003
        assert "wait 300 seconds" in message
        assert not (await s.v1(peer=A)).hello["resumed"]
        await trio.sleep(300)
        assert (await s.v1(peer=A, sessionId=session_id)).hello["resumed"]


async def test_strangers_cannot_use_up_the_resumes_of_a_session(autojump_clock: Clock) -> None:
    async with stage(house(max_failures_per_address=1000, max_connections_per_address=1000)) as s:
        mine = await s.v1(peer=A, **signed())
        for _ in range(20):
            theirs = signed("other.key:secret")
            assert (await refused(s, B, sessionId=mine.hello["sessionId"], **theirs))[0] == 4001
        assert (await s.v1(peer=A, sessionId=mine.hello["sessionId"], **signed())).hello["resumed"]


async def test_bypassing_the_limits_needs_the_signer_and_the_operator(autojump_clock: Clock) -> None:
    for allowed in (False, True):
        async with stage(house(max_connections_per_address=1, allow_bypass=allowed, max_sessions=3)) as s:
            await s.v1(peer=A, **signed())
            assert (await refused(s, A, **signed()))[0] == 4003
            bypassing = signed(bypassRateLimit=True)
            if allowed:
                await s.v1(peer=A, **bypassing)
                await s.v1(peer=A, **bypassing)
                assert (await refused(s, A, **bypassing))[0] == 4009  # of rates, not of room
            else:
                assert (await refused(s, A, **bypassing))[0] == 4003


# ---------------------------------------------------------------------- a flood


async def test_a_flood_from_everywhere_is_refused_unread_but_not_to_known_addresses(
    autojump_clock: Clock,
) -> None:
    async with stage(settings(max_new_connections=50)) as s:
        good = await s.v1(peer=A)
        answers = [
            (await said(s, f"10.{number >> 8}.{number & 255}.1", "x\r\n\r\n"))[0] for number in range(300)
        ]
        assert answers.count(400) <= 100
        assert answers.count(503) >= 200
        again = await s.v1(peer=A, sessionId=good.hello["sessionId"])
        assert again.hello["resumed"]


async def test_being_told_costs_a_bounded_number_of_tasks(autojump_clock: Clock) -> None:
    """Those who are refused and do not go."""
    async with stage(settings(max_new_connections=1)) as s:
        before = len(s.nursery.child_tasks)
        wires = [s.connect(peer=f"10.0.0.{number}") for number in range(1, 250)]
        await s.settle()
        assert len(s.nursery.child_tasks) - before <= 16 + 1
        assert len(wires) == 249


async def test_those_who_say_nothing_give_way_to_those_who_do(autojump_clock: Clock) -> None:
    async with stage(settings(max_pending_connections=20)) as s:
        silent = [s.connect(peer=f"10.0.0.{number}") for number in range(1, 101)]
        await s.settle()
        good = await s.v1(peer=A)
        assert s.house.door.statistics().pending <= 20
        assert s.house.door.refusals["pending"] == 81
        assert len(silent) == 100
        # Who has authenticated never gives way.
        for number in range(1, 101):
            s.connect(peer=f"10.0.1.{number}")
        await s.settle()
        await good.tell("ping")
        await good.expect("pong")


async def test_a_slow_head_from_one_address(autojump_clock: Clock) -> None:
    async with stage(settings(max_connections_at_once_per_address=5)) as s:
        slow = list[Any]()
        for _ in range(20):
            slow.append(s.connect(peer=A))
            await s.settle()
        for wire in slow[:5]:
            await wire.send_raw(b"GET / HTTP/1.1\r\nHost: ")
        await s.settle()
        assert s.house.door.statistics().pending == 5
        assert (await answer(slow[-1].stream))[0] == 429
        await trio.sleep(12)
        assert s.house.door.statistics().pending == 0


# ---------------------------------------------------------------------- room


def visitor(name: str, *, token: bool = True) -> dict[str, Any]:
    fields: dict[str, Any] = {"accessToken": jwt({"sub": name})} if token else {}
    return signed(f"app.{name}:secret", **fields)


async def test_anonymous_and_authenticated_have_capacities_of_their_own(autojump_clock: Clock) -> None:
    async with stage(house(max_anonymous_sessions=2, max_authenticated_sessions=1)) as s:
        await s.v1(**visitor("a", token=False))
        await s.v1(**visitor("a", token=False))
        assert (await refused(s, **visitor("b", token=False)))[0] == 4009
        await s.v1(**visitor("c"))
        assert (await refused(s, **visitor("d")))[0] == 4009
        assert s.house.capacity.refusals == {"anonymous": 1, "authenticated": 1}


async def test_credentials_that_nobody_vouches_for_are_anonymous(autojump_clock: Clock) -> None:
    async with stage(house(max_anonymous_sessions=1, allow_unsigned=True)) as s:
        await s.v1(apiKey="app.key:secret", accessToken=jwt({"sub": "x"}))
        assert (await refused(s, apiKey="app.key:secret", accessToken=jwt({"sub": "y"})))[0] == 4009


async def test_one_visitor_has_so_many(autojump_clock: Clock) -> None:
    async with stage(house(max_sessions_per_credential=2)) as s:
        await s.v1(**visitor("a"))
        mine = await s.v1(**visitor("a"))
        code, message = await refused(s, **visitor("a"))
        assert (code, message) == (4009, "These credentials have too many terminals already.")
        assert (await s.v1(sessionId=mine.hello["sessionId"], **visitor("a"))).hello["resumed"]
        await s.v1(**visitor("b"))


async def test_one_address_has_so_many(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions_per_address=2)) as s:
        await s.v1(peer=A)
        await s.v1(peer=A)
        assert (await refused(s, A))[0] == 4009
        await s.v1(peer=B)


async def test_a_start_that_fails_takes_no_room(autojump_clock: Clock) -> None:
    provider = MemoryProvider()
    async with stage(settings(max_sessions=1), provider) as s:
        provider.failure = SandboxError("no")
        assert (await refused(s))[0] == 1013
        provider.failure = None
        await s.v1()


async def test_waiting_in_line(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions=1, waiting_line=2)) as s:
        order = list[str]()
        first = await s.v1()

        async def wait(name: str) -> None:
            client = await s.v1()
            order.append(name)
            await client.tell("leave")
            await client.closed()

        async with trio.open_nursery() as nursery:
            for name in ("a", "b"):
                nursery.start_soon(wait, name)
                await s.settle()
            assert s.house.capacity.waiting == 2
            assert (await refused(s))[0] == 4009  # the line is full, too
            await first.tell("leave")
            await first.closed()
        assert order == ["a", "b"]


async def test_the_line_ends_for_those_who_go_and_for_those_who_wait_too_long(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions=1, waiting_line=3, waiting_timeout=30)) as s:
        await s.v1()
        gone = s.connect()
        await gone.upgrade(SUBPROTOCOL)
        await gone.send(json.dumps({"type": "auth"}))
        await s.settle()
        assert s.house.capacity.waiting == 1
        await trio.aclose_forcefully(gone.stream)
        started = trio.current_time()
        assert (await refused(s))[0] == 4009
        assert trio.current_time() - started == pytest.approx(30)
        assert s.house.capacity.waiting == 0


async def test_nobody_who_fits_waits_behind_somebody_who_does_not(autojump_clock: Clock) -> None:
    async with stage(house(max_anonymous_sessions=1, max_authenticated_sessions=2, waiting_line=5)) as s:
        await s.v1(**visitor("a", token=False))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: s.v1(**visitor("b", token=False)))
            await s.settle()
            assert s.house.capacity.waiting == 1
            await s.v1(**visitor("c"))
            nursery.cancel_scope.cancel()


async def test_the_operator_is_told_at_80_percent_once(autojump_clock: Clock) -> None:
    async with stage(settings(max_sessions=10)) as s:
        clients = [await s.v1() for _ in range(10)]

        def told() -> list[tuple[str, int]]:
            return [(e["event"], e["number"]) for e in s.logs if "nearly full" in e["event"]]

        assert told() == [("nearly full", 8)]
        for client in clients[:4]:
            await client.tell("leave")
            await client.closed()
        await s.settle()
        assert told() == [("nearly full", 8), ("no longer nearly full", 6)]
        for _ in range(2):
            await s.v1()
        assert told()[-1] == ("nearly full", 8)


# ---------------------------------------------------------------------- input and output of a session


async def test_messages_beyond_the_rate_wait_and_arrive(autojump_clock: Clock) -> None:
    async with stage(settings(message_rate=10, message_burst=20)) as s:
        client = await s.v1()
        started = trio.current_time()
        for _ in range(120):
            await client.wire.send(b"k")
        while len(s.terminal.typed) < 120:
            await trio.sleep(0.1)
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)


async def test_output_is_shaped_not_cut(autojump_clock: Clock) -> None:
    async with stage(settings(output_rate=100_000)) as s:
        client = await s.v1()
        started = trio.current_time()
        s.nursery.start_soon(s.terminal.print, b"x" * 1_100_000)
        assert await client.expect_output(1_100_000) == b"x" * 1_100_000
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)


# ---------------------------------------------------------------------- proxies, on real sockets


@attrs.frozen
class Place:
    port: int
    door: Any

    async def request(self, raw: bytes, source: str = "127.0.0.1") -> tuple[int, dict[str, str]]:
        sock = trio.socket.socket()
        with sock:
            await sock.bind((source, 0))
            await sock.connect(("127.0.0.1", self.port))
            stream = trio.SocketStream(sock)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(raw)
            status, headers, _ = await answer(stream)
            return status, headers


@asynccontextmanager
async def listening(**changes: Any) -> AsyncGenerator[Place]:
    with trio.fail_after(30), structlog.testing.capture_logs() as logs:
        async with running(settings(port=0, **changes), MemoryProvider(), pages()) as supervisor:
            yield Place(supervisor.gateway.house.port, supervisor.gateway.house.door)
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


def health(headers: str = "") -> bytes:
    return get("/health", headers, host="127.0.0.1").encode()


async def test_clients_behind_a_trusted_proxy_are_told_apart() -> None:
    proxied = {"trusted_proxy": True, "trusted_proxies": ("127.0.0.9",)}
    async with listening(max_requests_per_address=2, **proxied) as place:
        for client in ("203.0.113.1", "203.0.113.2"):
            header = f"X-Forwarded-For: 6.6.6.6, {client}\r\n"
            assert [(await place.request(health(header), "127.0.0.9"))[0] for _ in range(3)] == [
                200,
                200,
                429,
            ]
        assert place.door.addresses.spoofed == 0
        # Somebody else who says the same is counted by where it comes from, whatever it says.
        answers = [
            (await place.request(health(f"X-Forwarded-For: 203.0.113.{n}\r\n"), "127.0.0.1"))[0]
            for n in range(5, 8)
        ]
        assert answers == [200, 200, 429]
        assert place.door.addresses.spoofed == 3


V2_HEALTH = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([203, 0, 113, 7, 10, 0, 0, 1]) + b"\x12\x34\x00\x50"
)


@pytest.mark.parametrize("prefix", [b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n", V2_HEALTH])
async def test_the_proxy_protocol(prefix: bytes) -> None:
    proxied = {
        "trusted_proxy": True,
        "trusted_proxies": ("127.0.0.9",),
        "trusted_proxy_header": "none",
        "proxy_protocol": True,
    }
    async with listening(max_requests_per_address=2, handshake_timeout=1, **proxied) as place:
        answers = [(await place.request(prefix + health(), "127.0.0.9"))[0] for _ in range(3)]
        assert answers == [200, 200, 429]
        # From anybody else it is no HTTP; and from the proxy nothing else will do.
        assert (await place.request(prefix + health(), "127.0.0.1"))[0] == 400
        with pytest.raises(Exception, match=r".*"), trio.fail_after(5):
            await place.request(health(), "127.0.0.9")


async def test_a_proxy_that_says_nothing_is_let_go() -> None:
    proxied = {"trusted_proxy": True, "trusted_proxies": ("127.0.0.9",), "proxy_protocol": True}
    async with listening(handshake_timeout=0.2, **proxied) as place:
        sock = trio.socket.socket()
        with sock:
            await sock.bind(("127.0.0.9", 0))
            await sock.connect(("127.0.0.1", place.port))
            await sock.send(b"PROXY TCP4 ")
            with suppress(ConnectionResetError):
                assert await sock.recv(100) == b""


async def test_a_flood_of_real_sockets_leaves_nothing() -> None:
    async with listening(max_new_connections=20) as place:
        for number in range(300):
            with socket.socket() as sock:
                sock.bind((f"127.0.{1 + number % 200}.{1 + number // 200}", 0))
                sock.connect(("127.0.0.1", place.port))
                sock.send(b"\xff" * 100 + b"\r\n\r\n")
            await trio.lowlevel.checkpoint()
        while place.door.statistics().pending:
            await trio.sleep(0.01)
        assert place.door.refusals["flood"] > 0
        assert place.door.statistics().addresses == 0


# ---------------------------------------------------------------------- keys


async def test_a_signing_secret_is_replaced(autojump_clock: Clock) -> None:
    """With several secrets a page's server can change to the new one at its own time."""
    async with stage(house(further_secrets=("an-older-signing-secret",))) as s:
        old = await s.v1(**signed(secret="an-older-signing-secret"))
        assert (await s.v1(sessionId=old.hello["sessionId"], **signed())).hello["resumed"]
        assert (await refused(s, **signed(secret="another-signing-secret")))[0] == 4001


async def test_tokens_that_the_issuer_signed_are_authenticated(autojump_clock: Clock, tmp_path: Path) -> None:
    secret = b"k" * 32
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [{"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode()}]}))
    token = pyjwt.encode({"sub": "x"}, secret, "HS256")
    async with stage(house(jwt_keys=keys, allow_unsigned=True, max_anonymous_sessions=0)) as s:
        await s.v1(apiKey="app.key:secret", accessToken=token)
        await s.v1(**signed(accessToken=token))
        assert (await refused(s, apiKey="app.key:secret", accessToken=jwt({"sub": "x"})))[0] == 4001
        assert (await refused(s, **signed(accessToken=jwt({"sub": "x"}))))[0] == 4001
        assert (await refused(s, **signed()))[0] == 4009


# ---------------------------------------------------------------------- profiles


async def test_only_a_signer_chooses_a_profile(autojump_clock: Clock, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text("[short]\nSESSION_COMMAND = 'special command'\nMAX_SESSION_DURATION_MS = 5000\n")
    async with stage(house(profiles=profiles, allow_unsigned=True)) as s:
        client = await s.v1(**signed(profile="short"))
        assert (s.terminal.request.profile, s.terminal.request.command) == ("short", ("special", "command"))
        assert client.hello["maxDurationMs"] == 5000
        # An unsigned copy beside it, or none at all, counts for nothing.
        for auth in ({**signed(), "profile": "short"}, {"apiKey": "app.key:secret", "profile": "short"}):
            with suppress(ClosedError):
                await s.v1(**auth)
                assert s.terminal.request.profile == ""
        # Resuming goes to a session of the same profile, never into another.
        same = await s.v1(sessionId=client.hello["sessionId"], **signed(profile="short"))
        assert same.hello["resumed"]
        other = await s.v1(sessionId=client.hello["sessionId"], **signed())
        assert not other.hello["resumed"]
        assert await client.closed() == (4004, "max-duration")
        assert (await refused(s, **signed(profile="unknown")))[0] == 4008
        assert (await refused(s, **signed(profile=["short"])))[0] == 4001
