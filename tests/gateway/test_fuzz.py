"""Handshakes and first messages that nobody thought of: mutations of good ones.

Nothing may be logged as a fault of ours, every connection ends, and a good user is served afterwards. For
longer than in CI: `make fuzz`. A failure names the seed that repeats
it.
"""

import json
import os
import random
import time
from contextlib import suppress

import trio
from trio.abc import Clock

from gateway.harness import BINARY, CLOSE, PING, SECRET, TEXT, Stage, frame, get, signed, stage
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.settings import Settings

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = 400
PER_STAGE = 50

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
V1 = UPGRADE + f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
PAGE = 'Cookie: a=b; terminal-supervisor-8080=x\r\nIf-None-Match: "x"\r\nOrigin: http://localhost:8080\r\n'
FORWARDED = 'X-Forwarded-For: 203.0.113.7, 10.0.0.5\r\nForwarded: for="[2001:db8::7]:80";proto=https\r\n'
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDB9.c2lnbmF0dXJl"
WORDS = [
    *(b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b"\xed\xa0\x80", b"{", b"}", b'"', b"[" * 500, b":", b","),
    *(b"null", b"1e999", b"-0", b"NaN", b"9" * 400, b"\\ud800", b"\\u0000", b"Host: x\r\n", b"HTTP/1.0"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 9\r\n", b"%00", b"//", b"HTTP/2", b"a" * 9000),
    *(b"type", b"auth", b"sessionId", b"config", b"signature"),
]


def messages() -> list[bytes]:
    """Return first messages that are good, or nearly."""
    values = [
        {"type": "auth", **signed()},
        {"type": "auth", "apiKey": "app.key:secret", "accessToken": TOKEN, "size": {"cols": 80, "rows": 24}},
        {
            "type": "auth",
            **signed(bypassRateLimit=True),
            "sessionId": "x" * 32,
            "offset": 5,
            "role": "viewer",
        },
        {**signed(endpoint="example.com"), "environmentVariables": {"PS1": "$ ", "LANG": "C"}},
        {"apiKey": "app.key:secret", "accessToken": TOKEN, "sessionId": "x" * 32},
    ]
    return [json.dumps(value).encode() for value in values]


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return `data` with up to a few changes."""
    result = bytearray(data)
    for _ in range(dice.choice((0, 1, 1, 2, 3, 8))):
        start = dice.randrange(len(result) + 1)
        end = min(len(result), start + dice.choice((0, 1, 2, 8, 60)))
        match dice.randrange(5):
            case 0:
                result[start:end] = b""
            case 1:
                result[start:end] = dice.choice(WORDS)
            case 2:
                result[start:end] = dice.randbytes(end - start)
            case 3:
                result[start:start] = result[start:end]
            case _:
                if result:
                    result[start % len(result)] ^= 1 << dice.randrange(8)
    return bytes(result)


def connection(dice: random.Random) -> list[bytes]:
    """Return what a client sends, in pieces."""
    head = dice.choice((get("/", PAGE), get("/ws", UPGRADE), get("/ws", V1), get("/ws", V1 + FORWARDED)))
    body = dice.choice(messages())
    if dice.random() < 0.6:
        body = mutated(body, dice)
    frames = frame(dice.choice((TEXT, TEXT, TEXT, BINARY)), body)
    frames += frame(dice.choice((TEXT, BINARY, PING, CLOSE)), mutated(b"\x03\xe8ls\r", dice)[:125])
    if dice.random() < 0.3:
        frames = mutated(frames, dice)
    raw = (mutated(head.encode(), dice) if dice.random() < 0.5 else head.encode()) + frames
    cuts = sorted(dice.randrange(len(raw) + 1) for _ in range(dice.choice((0, 1, 5))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def send(s: Stage, pieces: list[bytes], peer: str) -> None:
    wire = s.connect(peer=peer)
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for piece in pieces:
            await wire.stream.send_all(piece)
        with trio.move_on_after(1):
            while await wire.stream.receive_some(65536):
                pass
    await trio.aclose_forcefully(wire.stream)


async def test_mutated_handshakes_and_first_messages(autojump_clock: Clock) -> None:
    settings = Settings(
        signing_secret=SECRET,
        allow_unsigned=True,
        trusted_proxy=True,
        trusted_proxies=("10.0.0.0/8",),
        throttling=False,
        resume_grace=0,
        max_failures_per_address=1_000_000,
        max_sessions_per_address=1000,
    )
    seed, sessions, started = SEED, 0, time.monotonic()
    while seed < SEED + CASES or time.monotonic() < started + SECONDS:
        async with stage(settings) as s:
            for _ in range(PER_STAGE):
                dice = random.Random(seed)
                await send(s, connection(dice), dice.choice(("10.0.0.9", "192.0.2.1")))
                faults = [entry for entry in s.logs if entry["log_level"] == "error"]
                assert not faults, f"FUZZ_SEED={seed}: {faults}"
                seed += 1
            await trio.sleep(60)
            assert s.house.door.statistics().pending == 0, f"FUZZ_SEED={seed - PER_STAGE}"
            good = await s.v1(**signed())
            await good.tell("leave")
            await good.closed()
        sessions += len(s.provider.terminals)
    print(f"{seed - SEED} connections, {sessions} sessions")
    assert sessions > CASES // 20, "the mutations leave too little to get to the sessions"
