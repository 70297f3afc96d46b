"""`python -m benchmarks.engine_client`: calls per second and CPU per call of our engine client and aiodocker.

Against the real engine (`DOCKER_HOST`), and against a stand-in in a process of its own that answers at once
with the same bytes, so that the clients' own cost shows. Beside the two run:

- our client with httpx's own transport in place of ours,
- httpx alone (`AsyncClient.get(…).json()`), without any of our code: what httpx itself costs,
- a bare socket that sends the request's bytes and waits for the answer's end, one call after the other: what
  the engine itself takes, and so what no client can surpass.

Rounds are interleaved and bounded in count. Of each contender the best round is shown, because what else
goes on only ever makes a round worse; of the ratio to aiodocker the median of all rounds, each against
its neighbour, and the quartiles.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import quote_plus

import aiodocker
import httpx
import trio

from supervisor.engine import Docker

OPERATIONS = ("list", "inspect")
OURS, AIODOCKER, ON_HTTPX, HTTPX, SOCKET = CONTENDERS = (
    "ours",
    "aiodocker",
    "ours on httpx's transport",
    "httpx alone",
    "bare socket",
)
NO_MATCH = {"label": ["no-such-label"]}
"""A filter that nothing passes, so that what others do on the engine does not show."""
Measured = tuple[float, float]
"""Calls per second, and CPU seconds of this process per call."""


def _calls(docker: Any, image: str) -> dict[str, Callable[[], Awaitable[object]]]:
    async def listing() -> object:
        return await docker.containers.list(all=True, filters=NO_MATCH)

    async def inspect() -> object:
        return await docker.images.inspect(image)

    return {"list": listing, "inspect": inspect}


async def _with_trio(url: str, image: str, operation: str, count: int, tasks: int, stock: bool) -> Measured:
    path = url.removeprefix("unix://")
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False) if stock else None
    async with Docker(url, transport=transport) as docker:
        call = _calls(docker, image)[operation]
        await call()

        async def worker() -> None:
            for _ in range(count // tasks):
                await call()

        wall, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(worker)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if transport is not None:
        await transport.aclose()
    done = count // tasks * tasks
    return done / wall, cpu / done


async def _with_asyncio(url: str, image: str, operation: str, count: int, tasks: int) -> Measured:
    docker = aiodocker.Docker(url)
    try:
        call = _calls(docker, image)[operation]
        await call()

        async def worker() -> None:
            for _ in range(count // tasks):
                await call()

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(tasks)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    finally:
        await docker.close()
    done = count // tasks * tasks
    return done / wall, cpu / done


async def _with_httpx(url: str, image: str, operation: str, count: int, tasks: int) -> Measured:
    transport = httpx.AsyncHTTPTransport(uds=url.removeprefix("unix://"), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://docker") as client:
        target = _target(url, image, operation)
        await client.get(target)

        async def worker() -> None:
            for _ in range(count // tasks):
                (await client.get(target)).raise_for_status().json()

        wall, cpu = time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(worker)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = count // tasks * tasks
    return done / wall, cpu / done


def _with_socket(url: str, image: str, operation: str, count: int) -> Measured:
    request = f"GET {_target(url, image, operation)} HTTP/1.1\r\nHost: docker\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(url.removeprefix("unix://"))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            connection.sendall(request)
            answer = b""
            while not _whole(answer):
                answer += connection.recv(65536)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return count / wall, cpu / count


def _whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(separator) and (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n"))


@cache
def _target(url: str, image: str, operation: str) -> str:
    with _plain_client(url) as client:
        version = client.get("/_ping").headers["api-version"]
    filters = quote_plus(json.dumps(NO_MATCH))
    paths = {"list": f"containers/json?all=1&filters={filters}", "inspect": f"images/{image}/json"}
    return f"/v{version}/{paths[operation]}"


def measure(contender: str, url: str, image: str, operation: str, count: int, tasks: int) -> Measured:
    """Let `contender` make `count` calls, `tasks` at a time."""
    if contender == AIODOCKER:
        return asyncio.run(_with_asyncio(url, image, operation, count, tasks))
    if contender == HTTPX:
        return trio.run(_with_httpx, url, image, operation, count, tasks)
    if contender == SOCKET:
        return _with_socket(url, image, operation, count)
    return trio.run(_with_trio, url, image, operation, count, tasks, contender == ON_HTTPX)


def _plain_client(url: str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"), verify=False)
    return httpx.Client(transport=transport, base_url="http://docker")


def _record(url: str, image: str) -> dict[str, bytes]:
    """Return the real engine's answers, to be given again by the stand-in."""
    with _plain_client(url) as client:
        version = "v" + client.get("/_ping").headers["api-version"]
        paths = ("/_ping", "/version", f"/{version}/containers/json", f"/{version}/images/{image}/json")
        answers: dict[str, bytes] = {}
        for path in paths:
            answer = client.get(path)
            head = [f"HTTP/1.1 {answer.status_code} OK"]
            kept = ("api-version", "content-type", "server", "date", "ostype")
            head += [f"{name}: {value}" for name, value in answer.headers.items() if name in kept]
            head += [f"Content-Length: {len(answer.content)}", "", ""]
            answers[path] = "\r\n".join(head).encode() + answer.content
    return answers


def _serve_connection(connection: socket.socket, answers: dict[str, bytes]) -> None:
    with connection, contextlib.suppress(ConnectionError):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].split(b"?")[0].decode()
            connection.sendall(answers[path.replace("%3A", ":")])


def _serve(path: str, answers: dict[str, bytes], ready: Any) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        ready.set()
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve_connection, args=(connection, answers), daemon=True).start()


@contextmanager
def standin(answers: dict[str, bytes]) -> Generator[str]:
    """Run an engine that only knows `answers`, in a process of its own; yields its URL."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/engine.sock"
        process = context.Process(target=_serve, args=(path, answers, ready), daemon=True)
        process.start()
        try:
            if not ready.wait(30):
                raise TimeoutError("the stand-in engine does not start")
            yield f"unix://{path}"
        finally:
            process.kill()
            process.join()


def compare(url: str, image: str, count: int, rounds: int) -> dict[str, dict[str, list[Measured]]]:
    """Return what `rounds` gave for each operation (with 1 and with 10 tasks) and contender."""
    results: dict[str, dict[str, list[Measured]]] = {}
    for operation in OPERATIONS:
        for tasks in (1, 10):
            contenders = CONTENDERS if tasks == 1 else CONTENDERS[:-1]
            found: dict[str, list[Measured]] = {contender: [] for contender in contenders}
            for _ in range(rounds):
                for contender, measured in found.items():
                    measured.append(measure(contender, url, image, operation, count, tasks))
            results[f"{operation}, {tasks} at a time"] = found
    return results


def show(title: str, results: dict[str, dict[str, list[Measured]]]) -> None:
    """Print a table: calls per second (CPU per call), and the ratio to aiodocker of both."""
    print(f"\n{title}")
    print(f"{'':22}" + "".join(f"{contender:>28}" for contender in CONTENDERS))
    for name, found in results.items():
        best = [(max(rate for rate, _ in runs), min(cpu for _, cpu in runs)) for runs in found.values()]
        print(f"{name:22}" + "".join(f"{rate:>15.0f}/s {cpu * 1e6:>7.0f} us" for rate, cpu in best))
    for name, found in results.items():
        pairs = list(zip(found[OURS], found[AIODOCKER], strict=True))
        rates = [ours[0] / theirs[0] for ours, theirs in pairs]
        costs = [theirs[1] / ours[1] for ours, theirs in pairs]
        print(f"{name:22} ours : aiodocker  calls per second {_spread(rates)}  CPU {_spread(costs)}")


def _spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Measure, print, and save on request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default=os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    parser.add_argument("--image", default="terminal-supervisor-workbench:latest")
    parser.add_argument("--count", type=int, default=400, help="calls in a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--save", help="file for the results, as JSON")
    options = parser.parse_args()
    with standin(_record(options.url, options.image)) as url:
        own = compare(url, options.image, options.count, options.rounds)
    show("stand-in engine", own)
    real = compare(options.url, options.image, options.count, options.rounds)
    show("real engine", real)
    if options.save:
        with open(options.save, "w") as file:  # noqa: PTH123 - as shells write paths
            json.dump({"stand-in": own, "real": real}, file, indent=1)


if __name__ == "__main__":
    main()
