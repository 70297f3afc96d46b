"""What is measured: each scenario answers one question and returns numbers, never judgements."""

import os
import statistics
import time
from collections.abc import Sequence

import attrs
import trio

from benchmarks.client import connect

PROMPT = b"$ "
READY = b"raw-ready"


@attrs.frozen
class Distribution:
    """Times in milliseconds: median, 99th percentile (nearest rank), least, greatest, and how many."""

    p50: float
    p99: float
    least: float
    greatest: float
    count: int

    def __str__(self) -> str:
        return (
            f"p50 {self.p50:.2f}  p99 {self.p99:.2f}  min {self.least:.2f}  max {self.greatest:.2f} ms"
            f"  (n={self.count})"
        )


def distribution(seconds: Sequence[float]) -> Distribution:
    """Summarize durations."""
    times = sorted(value * 1000 for value in seconds)
    rank = min(len(times) - 1, max(0, round(0.99 * len(times) + 0.5) - 1))
    return Distribution(statistics.median(times), times[rank], times[0], times[-1], len(times))


async def start(url: str, token: str, count: int, pause: float) -> Distribution:
    """How long from the connection's first packet until a prompt is on the client's side, one after
    another?"""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        async with connect(url, token) as client:
            await client.read_until(PROMPT)
            times.append(time.perf_counter() - began)
        await trio.sleep(pause)  # the pool refills meanwhile; a cold start does not need it
    return distribution(times)


async def start_together(url: str, token: str, count: int) -> Distribution:
    """The same for `count` clients that come at once."""
    times: list[float] = []

    async def one() -> None:
        began = time.perf_counter()
        async with connect(url, token) as client:
            await client.read_until(PROMPT)
            times.append(time.perf_counter() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return distribution(times)


async def echo(url: str, token: str, count: int, interval: float) -> Distribution:
    """How long until a typed key is back, with the terminal raw and `cat` reading, at a typist's pace?"""
    async with connect(url, token) as client:
        await client.read_until(PROMPT)
        await client.type(b"stty raw -echo; printf 'raw-%s' ready; exec cat\r")
        await client.read_until(READY)
        times: list[float] = []
        due = trio.current_time()
        for _ in range(count):
            # Open loop: the next key is due at its time, however late the last answer was.
            due += interval
            await trio.sleep_until(due)
            began = time.perf_counter()
            await client.type(b"k")
            await client.read()
            times.append(time.perf_counter() - began)
    return distribution(times)


@attrs.frozen
class Throughput:
    """Bytes that arrived and the seconds it took."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Megabytes (10^6 bytes) per second."""
        return self.size / self.seconds / 1e6

    def __str__(self) -> str:
        return f"{self.rate:.1f} MB/s  ({self.size / 1e6:.0f} MB in {self.seconds:.2f} s)"


async def flood(url: str, token: str, size: int) -> Throughput:
    """How fast does output without newlines reach a client that acknowledges at once?"""
    async with connect(url, token) as client:
        await client.read_until(PROMPT)
        flood = f"dd if=/dev/zero bs=64k count={size // 65536} 2>/dev/null"
        await client.type(f"stty raw -echo; printf 'raw-%s' ready; {flood}\r".encode())
        seen = await client.read_until(READY)
        got = len(seen) - seen.index(READY) - len(READY)
        expected = size // 65536 * 65536
        began = time.perf_counter()
        while got < expected:
            piece = await client.read()
            if not piece:
                raise RuntimeError("the session ended within the flood")
            got += len(piece)
        return Throughput(got, time.perf_counter() - began)


def machine() -> str:
    """Return what the figures were measured on."""
    load = os.getloadavg()[0]
    uname = os.uname()
    return f"{os.cpu_count()} cores, load {load:.2f}, {uname.sysname} {uname.release} {uname.machine}"
