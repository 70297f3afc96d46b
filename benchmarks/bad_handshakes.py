"""A flood of bad handshakes from thousands of addresses, while one good user types.

The attacker is a process of its own: plain sockets bound to addresses of 127.0.0.0/8, or, with `--proxied`,
one trusted loopback proxy that names an address of its own invention in each request. It sends everything
that is wrong at once: garbage, foreign origins, wrong versions, wrong credentials, heads that are too large
or never end. The server runs with its default limits. Printed are the rates that were reached, what was
answered, the good user's echo, and the server's CPU and memory.

    python -m benchmarks.bad_handshakes [--rate 1500] [--seconds 30] [--proxied]
"""

import argparse
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import trio
import trio_websocket

TOKEN = "benchmark-token-of-no-value"
SUBPROTOCOL = "terminal-supervisor.v1"
PROXY = "127.0.0.9"
ADDRESSES = 5000
GIVE_UP = 3.0  # seconds that the attacker holds a connection
KEY_INTERVAL = 0.02

_UPGRADE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: {version}\r\n{more}\r\n"
)


def bad_requests(port: int, forwarded: str) -> list[bytes]:
    """Return one of each kind."""

    def upgrade(version: int = 13, more: str = "") -> bytes:
        return _UPGRADE.format(port=port, version=version, more=forwarded + more).encode()

    wrong = json.dumps({"type": "auth", "token": "x" * 40}).encode()
    masked = bytes([0x81, 0x80 | len(wrong)]) + b"\0\0\0\0" + wrong
    return [
        b"\x16\x03\x01" + random.randbytes(200) + b"\r\n\r\n",
        upgrade(more="Origin: https://evil.example\r\n"),
        upgrade(version=8),
        upgrade(more=f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n") + masked,
        f"GET /?token=guess HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{forwarded}\r\n".encode(),
        upgrade(more="X-Bomb: " + "x" * 20_000 + "\r\n"),
        upgrade()[:-2],  # never ends
        b"",  # says nothing
    ]


def attack(port: int, rate: float, seconds: float, proxied: bool) -> None:
    """Flood, and print what came of it as JSON."""
    sources = [f"127.{1 + n % 250}.{n // 250}.{random.randrange(1, 255)}" for n in range(ADDRESSES)]
    poll = select.epoll()
    open_: dict[int, tuple[socket.socket, bytes, float]] = {}
    order: deque[tuple[int, float]] = deque()
    outcomes: Counter[str] = Counter()
    started = time.monotonic()
    sent = 0

    def end(number: int, outcome: str) -> None:
        outcomes[outcome] += 1
        open_.pop(number)[0].close()

    while (now := time.monotonic()) < started + seconds:
        for _ in range(min(int((now - started) * rate) - sent, 50)):
            source = random.choice(sources)
            forwarded = f"X-Forwarded-For: {source.replace('127', '203', 1)}\r\n" if proxied else ""
            client = socket.socket()
            client.setblocking(False)
            client.bind((PROXY if proxied else source, 0))
            client.connect_ex(("127.0.0.1", port))
            open_[client.fileno()] = client, random.choice(bad_requests(port, forwarded)), now
            order.append((client.fileno(), now))
            poll.register(client, select.EPOLLOUT)
            sent += 1
        for number, events in poll.poll(0.002):
            if number not in open_:
                continue
            client, request, _ = open_[number]
            try:
                if events & select.EPOLLOUT:
                    client.send(request)
                    poll.modify(client, select.EPOLLIN)
                else:
                    answer = client.recv(4096)
                    end(number, answer[9:12].decode("latin-1") if answer else "closed")
            except OSError as error:
                end(number, type(error).__name__)
        while order and order[0][1] < now - GIVE_UP:
            number, since = order.popleft()
            if number in open_ and open_[number][2] == since:
                end(number, "held")
    elapsed = time.monotonic() - started
    print(json.dumps({"rate": sent / elapsed, "outcomes": dict(outcomes.most_common())}))


@contextmanager
def server(proxied: bool) -> Generator[tuple[int, int]]:
    """Run a supervisor with plain shells and its default limits; yields port and pid."""
    environment = os.environ | {
        "LOCAL_ACCESS_TOKEN": TOKEN,
        "SESSION_COMMAND": "sh",
        "LOG_LEVEL": "error",
        "TRUSTED_PROXY_ENABLED": str(proxied).lower(),
        "TRUSTED_PROXY_IPS": PROXY if proxied else "",
    }
    arguments = ["-m", "supervisor", "--env-file", os.devnull, "demo", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                yield int(found[1]), process.pid
                break
        else:
            raise SystemExit("the supervisor did not start")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def usage(pid: int) -> tuple[float, float]:
    """Return CPU seconds so far and resident MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def echoes(port: int, seconds: float) -> list[float]:
    """Type on schedule into a program that sends each key back; return the times in seconds."""
    times: list[float] = []
    url = f"ws://127.0.0.1:{port}/ws"
    async with trio_websocket.open_websocket_url(url, subprotocols=[SUBPROTOCOL]) as socket_:
        await socket_.send_message(json.dumps({"type": "auth", "token": TOKEN}))
        offset, seen = 0, b""

        async def output() -> bytes:
            nonlocal offset
            while isinstance(message := await socket_.get_message(), str):
                pass
            offset += len(message)
            await socket_.send_message(json.dumps({"type": "ack", "offset": offset}))
            return message

        await socket_.send_message(b"stty raw -echo; echo re''ady; exec cat\r")
        while b"ready" not in seen:
            seen += await output()
        end = time.monotonic() + seconds
        while (before := time.monotonic()) < end:
            await socket_.send_message(b"k")
            await output()
            times.append(time.monotonic() - before)
            await trio.sleep(max(0.0, KEY_INTERVAL - times[-1]))
    return times


def shown(times: list[float]) -> str:
    """Return the distribution in milliseconds."""
    ordered = sorted(times)
    parts = (
        f"p{q} {1000 * ordered[min(int(len(ordered) * q / 100), len(ordered) - 1)]:.1f}" for q in (50, 95, 99)
    )
    return f"{len(ordered)} keys, {' '.join(parts)} max {1000 * ordered[-1]:.1f} ms"


def main() -> None:
    """Run it once and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1500, help="handshakes per second that are tried")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--proxied", action="store_true")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        attack(options.attack, options.rate, options.seconds, options.proxied)
        return
    with server(options.proxied) as (port, pid):
        print(f"load {os.getloadavg()[0]:.1f} before")
        print(f"quiet:    {shown(trio.run(echoes, port, 5.0))}")
        command = [sys.executable, "-m", "benchmarks.bad_handshakes", "--attack", str(port)]
        command += ["--rate", str(options.rate), "--seconds", str(options.seconds)]
        attacker = subprocess.Popen(
            [*command, *(["--proxied"] if options.proxied else [])], stdout=subprocess.PIPE, text=True
        )
        time.sleep(1)
        cpu, memory = usage(pid)
        times = trio.run(echoes, port, options.seconds - 2)
        cpu_after, memory_after = usage(pid)
        report = json.loads(attacker.communicate()[0])
        print(f"flooded:  {shown(times)}")
        print(f"attacker: {report['rate']:.0f} handshakes/s: {report['outcomes']}")
        print(
            f"server:   {100 * (cpu_after - cpu) / (options.seconds - 2):.0f} % of a CPU,"
            f" memory {memory:.1f} -> {memory_after:.1f} MiB"
        )
        print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
