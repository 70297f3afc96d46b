"""The port as HTTP: pages, tokens, names, limits, and what is refused."""

import json
from typing import Any

import h11
import pytest
import trio
from trio.abc import Clock

from gateway.harness import HOST, SECRET, TOKEN, Stage, V1Client, answer, ask, get, signed, stage
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.settings import Settings

UPGRADE = {
    "Host": HOST,
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "Sec-WebSocket-Version": "13",
}


def upgrade(
    changes: dict[str, str | None] | None = None, more: str = "", method: str = "GET", version: str = "1.1"
) -> str:
    headers = {name: value for name, value in {**UPGRADE, **(changes or {})}.items() if value is not None}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} /?token={TOKEN} HTTP/{version}\r\n{lines}{more}\r\n"


async def status(s: Stage, raw: str | bytes, method: str = "GET") -> int:
    """Return the status of the answer, which must say in a sentence what is wrong."""
    code, headers, body = await ask(s, raw, method)
    if code >= 400:
        text = body.decode()
        assert text.endswith((".\n", "</html>\n")), text
        assert len(text) > 15
        assert headers["x-content-type-options"] == "nosniff"
    return code


# ---------------------------------------------------------------------- tokens and the page


async def test_a_token_buys_a_cookie_and_the_cookie_the_page(autojump_clock: Clock) -> None:
    async with stage() as s:
        announced: list[str] = []
        s.house.on_redeemed = lambda: announced.append("redeemed")
        token = s.tokens.mint()
        code, headers, body = await ask(s, get(f"/?token={token}"))
        assert (code, headers["location"], body) == (303, "/", b"")
        cookie, *attributes = headers["set-cookie"].split("; ")
        assert cookie.startswith("terminal-supervisor-8080=")
        assert sorted(attributes) == ["HttpOnly", "Path=/", "SameSite=Strict"]
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert announced == ["redeemed"]

        code, headers, body = await ask(s, get("/", f"Cookie: other=1; {cookie}\r\n"))
        assert code == 200
        assert b"<!doctype html" in body.lower()
        assert headers["cache-control"] == "no-store"

        code, headers, body = await ask(s, get(f"/?token={token}"))
        assert code == 403
        assert b"works once" in body
        assert "set-cookie" not in headers
        assert announced == ["redeemed"]


async def test_no_page_without_a_token(autojump_clock: Clock) -> None:
    async with stage() as s:
        other_port = s.tokens.redeem(s.tokens.mint())
        for target, cookie in (
            ("/", ""),
            ("/?token=", ""),
            ("/?token=wrong", ""),
            ("/", "Cookie: terminal-supervisor-8080=\r\n"),
            ("/", "Cookie: terminal-supervisor-8080=wrong\r\n"),
            ("/", f"Cookie: terminal-supervisor-8081={other_port}\r\n"),
            ("/", f"Cookie: x-terminal-supervisor-8080={other_port}\r\n"),
            ("/", f"Cookie: {'a=b; ' * 2000}\r\n"),
        ):
            assert await status(s, get(target, cookie)) == 403, (target, cookie)


async def test_the_reusable_token(autojump_clock: Clock) -> None:
    async with stage() as s:
        for _ in range(3):
            code, headers, _ = await ask(s, get(f"/?x=1&token={TOKEN}&y=2"))
            assert code == 303
            assert await status(s, get("/", f"Cookie: {headers['set-cookie'].split(';')[0]}\r\n")) == 200


async def test_head_does_not_use_a_token_up(autojump_clock: Clock) -> None:
    async with stage() as s:
        token = s.tokens.mint()
        code, headers, body = await ask(s, get(f"/?token={token}", method="HEAD"), "HEAD")
        assert (code, body) == (403, b"")
        assert int(headers["content-length"]) > 100
        assert (await ask(s, get(f"/?token={token}")))[0] == 303


async def test_with_a_signing_secret_the_page_is_open(autojump_clock: Clock) -> None:
    async with stage(Settings(signing_secret=SECRET)) as s:
        code, headers, _ = await ask(s, get("/"))
        assert code == 200
        policy = headers["content-security-policy"]
        assert f"connect-src ws://{HOST}" in policy
        assert "default-src 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "script-src 'self'" in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


# ---------------------------------------------------------------------- assets, methods, connections


async def test_assets(autojump_clock: Clock) -> None:
    async with stage() as s:
        code, headers, body = await ask(s, get("/assets/app.js"))
        assert (code, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert body
        tag = headers["etag"]
        code, headers, rest = await ask(s, get("/assets/app.js", f"If-None-Match: {tag}\r\n"))
        assert (code, rest, headers["etag"]) == (304, b"", tag)
        assert "content-length" not in headers
        assert (await ask(s, get("/assets/app.js", 'If-None-Match: "other"\r\n')))[2] == body
        code, headers, rest = await ask(s, get("/assets/app.js", method="HEAD"), "HEAD")
        assert (code, rest, headers["content-length"]) == (200, b"", str(len(body)))
        assert (await ask(s, get("/assets/vendor/xterm.mjs")))[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "/assets",
        "/assets/",
        "/assets/index.html",
        "/assets/csp.txt",
        "/assets/../csp.txt",
        "/assets/../../settings.py",
        "/assets/%2e%2e/%2e%2e/settings.py",
        "/assets/..%2f..%2fsettings.py",
        "/assets/%61pp.js",
        "/assets//app.js",
        "//assets/app.js",
        "/assets/app.js/",
        "/assets/app.js%00",
        "/assets/package.json",
        "/assets/node_modules/x",
        "/etc/passwd",
        "/assets/\\..\\app.js",
        "/%",
        "/HEALTH",
        "/health/",
        "*",
        "http://",
    ],
)
async def test_there_is_nothing_else(autojump_clock: Clock, target: str) -> None:
    async with stage() as s:
        assert await status(s, get(target)) == 404


async def test_odd_targets(autojump_clock: Clock) -> None:
    async with stage() as s:
        assert await status(s, get("http://evil.example/health")) == 200
        assert await status(s, get("/?" + "&".join(f"a{n}=1" for n in range(100)))) == 400
        assert await status(s, get("http://[/")) == 400
        assert await status(s, get("/?token=%ff%00%zz")) == 403
        assert await status(s, get("?")) == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "X"])
async def test_other_methods(autojump_clock: Clock, method: str) -> None:
    async with stage() as s:
        code, headers, _ = await ask(
            s, get("/health", method=method), method if method != "CONNECT" else "GET"
        )
        assert (code, headers["allow"]) == (405, "GET, HEAD")


async def test_bodies_are_refused(autojump_clock: Clock) -> None:
    async with stage() as s:
        for header in ("Content-Length: 5", "Transfer-Encoding: chunked"):
            assert await status(s, get("/health", f"{header}\r\n", method="POST") + "hello", "POST") == 413
        assert await status(s, get("/health", "Content-Length: 0\r\n")) == 200


async def test_health_needs_nothing(autojump_clock: Clock) -> None:
    async with stage() as s:
        code, headers, body = await ask(s, get("/health", host="evil.example"))
        assert (code, json.loads(body)) == (200, {"status": "ok"})
        assert headers["content-type"] == "application/json"
        assert await status(s, "GET /health HTTP/1.0\r\n\r\n") == 200
        assert (await ask(s, get("/health", method="HEAD"), "HEAD"))[2] == b""


async def test_requests_follow_each_other_also_without_waiting(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = s.connect()
        parser = h11.Connection(h11.CLIENT)
        await wire.send_raw(get("/health").encode())
        code, headers, _ = await answer(wire.stream, parser=parser)
        assert (code, headers["connection"]) == (200, "keep-alive")
        targets = ["/health", "/nothing-yet", "/health"]
        await wire.send_raw(
            (
                get("/health") + "\r\n" + get("/assets/app.js") + get("/health", "Connection: close\r\n")
            ).encode()
        )
        answers = [await answer(wire.stream, parser=parser) for _ in targets]
        assert [code for code, _, _ in answers] == [200, 200, 200]
        assert answers[-1][1]["connection"] == "close"
        assert await wire.stream.receive_some() == b""


async def test_a_pipelined_upgrade_and_frames(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = s.connect()
        await wire.send_raw(get("/health").encode())
        await answer(wire.stream)
        await wire.upgrade(SUBPROTOCOL)
        assert (await V1Client(wire).auth())["type"] == "hello"


async def test_no_answer_to_head_has_a_body(autojump_clock: Clock) -> None:
    async with stage() as s:
        for target, host in (("/nothing", HOST), ("/", "evil.example"), ("/", HOST), ("/health", HOST)):
            code, headers, body = await ask(s, get(target, host=host, method="HEAD"), "HEAD")
            assert body == b"", code
            assert int(headers["content-length"]) > 10


async def test_old_clients_are_let_go(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = s.connect()
        await wire.send_raw(b"GET /health HTTP/1.0\r\n\r\n")
        code, headers, _ = await answer(wire.stream)
        assert (code, headers["connection"]) == (200, "close")
        assert await wire.stream.receive_some() == b""


# ---------------------------------------------------------------------- names and origins


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:8080", True),
        ("127.9.9.9", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("2130706433", False),
        ("0x7f.1", False),
        ("0.0.0.0", False),
        ("localhost:80:80", False),
        ("localhost/evil", False),
        ("evil@localhost", False),
        ("", False),
    ],
)
async def test_names_that_are_answered_to(autojump_clock: Clock, host: str, allowed: bool) -> None:
    async with stage(Settings(signing_secret=SECRET)) as s:
        assert await status(s, get("/", host=host)) == (200 if allowed else 421)
        assert await status(s, get("/assets/app.js", host=host)) == (200 if allowed else 421)
        assert await status(s, upgrade({"Host": host})) == (101 if allowed else 421)


async def test_further_names(autojump_clock: Clock) -> None:
    settings = Settings(
        signing_secret=SECRET,
        host="192.0.2.1",
        insecure_plain_ws=True,
        allowed_hosts=("term.example", "x.example:1"),
    )
    async with stage(settings) as s:
        assert await status(s, get("/", host="term.example:9")) == 200
        assert await status(s, get("/", host="x.example:1")) == 200
        assert await status(s, get("/", host="x.example:2")) == 421
        assert await status(s, get("/", host="192.0.2.1")) == 200
        assert await status(s, get("/", host="192.0.2.2")) == 421


@pytest.mark.parametrize(
    "raw", ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"]
)
async def test_exactly_one_host(autojump_clock: Clock, raw: str) -> None:
    async with stage() as s:
        assert await status(s, raw) == 400


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (f"http://{HOST}", True),
        (f"https://{HOST}", True),
        ("https://page.example", True),
        ("http://localhost", False),
        ("http://localhost:8081", False),
        ("http://127.0.0.1:8080", False),
        ("https://evil.example", False),
        ("https://page.example.evil.example", False),
        ("http://page.example", False),
        ("null", False),
        ("", False),
        ("file://", False),
        (f"http://{HOST}/path", False),
        (f"http://user@{HOST}", False),
    ],
)
async def test_origins(autojump_clock: Clock, origin: str, allowed: bool) -> None:
    async with stage(Settings(signing_secret=SECRET, allowed_origins=("https://page.example/",))) as s:
        assert await status(s, upgrade({"Origin": origin})) == (101 if allowed else 403)


async def test_programs_have_no_origin(autojump_clock: Clock) -> None:
    async with stage() as s:
        assert await status(s, upgrade()) == 101
        assert await status(s, upgrade({"Origin": f"http://{HOST}"}, f"Origin: http://{HOST}\r\n")) == 400


# ---------------------------------------------------------------------- upgrades


@pytest.mark.parametrize(
    ("changes", "more", "expected"),
    [
        ({}, "", 101),
        ({"Upgrade": "WebSocket"}, "", 101),
        ({"Upgrade": "h2c, websocket"}, "", 101),
        ({"Connection": "upgrade"}, "Connection: keep-alive\r\n", 101),
        ({"Sec-WebSocket-Key": None}, "", 400),
        ({"Sec-WebSocket-Key": ""}, "", 400),
        ({"Sec-WebSocket-Key": "AAAA"}, "", 400),
        ({"Sec-WebSocket-Key": "!" * 24}, "", 400),
        ({"Sec-WebSocket-Key": "é" * 24}, "", 400),
        ({"Sec-WebSocket-Key": "A" * 4000}, "", 400),
        ({}, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
        ({}, "Sec-WebSocket-Version: 13\r\n", 400),
        ({"Sec-WebSocket-Version": None}, "", 426),
        ({"Sec-WebSocket-Version": "8"}, "", 426),
        ({"Sec-WebSocket-Version": "13, 8"}, "", 426),
        ({"Content-Length": "4"}, "", 413),
        ({"Host": "evil.example"}, "", 421),
        ({"Sec-WebSocket-Extensions": "permessage-deflate"}, "", 101),
        ({"Sec-WebSocket-Protocol": "other, another"}, "", 101),
    ],
)
async def test_upgrades(
    autojump_clock: Clock, changes: dict[str, str | None], more: str, expected: int
) -> None:
    async with stage() as s:
        raw = upgrade(changes, more).encode("latin-1")
        code, headers, _ = await ask(s, raw)
        assert code == expected
        if code == 101:
            assert headers["sec-websocket-accept"] == "ICX+Yqv66kxgM0FcWaLWlFLwTAI="
            assert "sec-websocket-protocol" not in headers
            assert "sec-websocket-extensions" not in headers
        if code == 426:
            assert headers["sec-websocket-version"] == "13"


async def test_upgrades_of_other_kinds(autojump_clock: Clock) -> None:
    async with stage() as s:
        assert await status(s, upgrade(version="1.0")) == 400
        assert await status(s, upgrade(method="POST"), "POST") == 400
        assert await status(s, upgrade({"Connection": "close"})) == 303  # no upgrade: a request for the page
        assert await status(s, upgrade({"Upgrade": "h2c"})) == 303


@pytest.mark.parametrize(
    ("offer", "spoken"),
    [
        (SUBPROTOCOL, True),
        (f"other, {SUBPROTOCOL}", True),
        (SUBPROTOCOL.upper(), False),
        (f"{SUBPROTOCOL}.1", False),
        ("", False),
    ],
)
async def test_subprotocols(autojump_clock: Clock, offer: str, spoken: bool) -> None:
    async with stage() as s:
        _, headers, _ = await ask(s, upgrade({"Sec-WebSocket-Protocol": offer}))
        assert headers.get("sec-websocket-protocol") == (SUBPROTOCOL if spoken else None)


async def test_doubled_cookies_are_read_together(autojump_clock: Clock) -> None:
    async with stage() as s:
        cookie = s.tokens.redeem(s.tokens.mint())
        doubled = f"Cookie: a=b\r\nCookie: terminal-supervisor-8080={cookie}\r\n"
        assert await status(s, get("/", doubled)) == 200
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL, "/", doubled)
        assert (await V1Client(wire).auth())["type"] == "hello"


# ---------------------------------------------------------------------- hostile heads


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: loc\x00alhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: x\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\xff" * 100 + b"\r\n\r\n",
    ],
)
async def test_garbage(autojump_clock: Clock, raw: bytes) -> None:
    async with stage() as s:
        assert await status(s, raw) in {400, 405, 421}


async def test_large_heads(autojump_clock: Clock) -> None:
    async with stage() as s:
        assert await status(s, get("/health", f"X: {'x' * 15_000}\r\n")) == 200
        assert await status(s, get("/health", f"X: {'x' * 17_000}\r\n")) == 431
        assert await status(s, get("/health", "X: x\r\n" * 3_000)) == 431
        assert await status(s, get("/" + "x" * 17_000)) == 431
        wire = s.connect()
        await wire.send_raw(b"x" * 1_000_000)
        code, _, _ = await answer(wire.stream)
        assert code == 431


async def test_a_slow_head(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = s.connect()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in get("/health", f"X: {'x' * 1000}\r\n").encode():
                    await trio.sleep(1)
                    await wire.send_raw(bytes([byte]))

            nursery.start_soon(drip)
            code, _, body = await answer(wire.stream)
            nursery.cancel_scope.cancel()
        assert code == 408
        assert body == b"The request did not arrive in time.\n"
        assert trio.current_time() - started == pytest.approx(10, abs=1.1)


async def test_a_connection_that_says_nothing(autojump_clock: Clock) -> None:
    async with stage() as s:
        for prefix in (b"", b"\r\n\r\n\r\n", get("/health").encode()):
            wire = s.connect()
            if prefix:
                await wire.send_raw(prefix)
            started = trio.current_time()
            while await wire.stream.receive_some():
                pass
            assert trio.current_time() - started == pytest.approx(10)


async def test_a_client_that_does_not_read_its_answer(autojump_clock: Clock) -> None:
    import trio.testing

    async with stage() as s:
        wire = s.connect(trio.testing.lockstep_stream_pair)
        await wire.send_raw(get("/assets/vendor/xterm.mjs").encode())
        await trio.sleep(11)
        assert s.gateway._connections == 0


async def test_a_client_that_half_closes(autojump_clock: Clock) -> None:
    async with stage() as s:
        wire = s.connect()
        await wire.send_raw(get("/health").encode())
        await wire.stream.send_eof()  # type: ignore[attr-defined]
        assert (await answer(wire.stream))[0] == 200
        assert await wire.stream.receive_some() == b""
        partial = s.connect()
        await partial.send_raw(b"GET / HT")
        await partial.stream.send_eof()  # type: ignore[attr-defined]
        assert await partial.stream.receive_some() == b""


async def test_too_many_connections(autojump_clock: Clock) -> None:
    async with stage(Settings(access_token=TOKEN, max_connections=2)) as s:
        first, second = await s.v1(), s.connect()
        await s.settle()
        code, headers, body = await ask(s, get("/health"))
        assert (code, headers["retry-after"], body) == (503, "10", b"Too many connections.\n")
        await second.stream.aclose()
        await s.settle()
        assert await status(s, get("/health", "Connection: close\r\n")) == 200
        await s.settle()
        await first.tell("ping")
        await first.expect("pong")


async def test_settings_that_can_never_match(autojump_clock: Clock) -> None:
    from supervisor.errors import ConfigurationError

    bad: dict[str, Any] = {"allowed_hosts": ("http://x",), "allowed_origins": ("x",)}
    with pytest.raises(ExceptionGroup) as caught:
        async with stage(Settings(**bad)):
            pass
    assert caught.group_contains(ConfigurationError, match="ALLOWED_HOSTS.*\n.*ALLOWED_ORIGINS")


async def test_signed_clients_from_another_page(autojump_clock: Clock) -> None:
    async with stage(Settings(signing_secret=SECRET, allowed_origins=("https://page.example",))) as s:
        wire = s.connect()
        await wire.upgrade(SUBPROTOCOL, "/any/path?x=y", "Origin: https://page.example\r\n")
        assert (await V1Client(wire).auth(**signed()))["type"] == "hello"
