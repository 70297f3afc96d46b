"""A viewer that stops reading, on the real engine: it costs its own window, and the others notice nothing."""

import resource
import statistics
from pathlib import Path

import pytest
import trio

from faults.supervised import supervised
from faults.visitor import PROMPT, Visitor, visit

pytestmark = pytest.mark.engine

LIMIT = 150.0
ALLOWED_GROWTH = 512 * 1024  # bytes
FLOOD = 5_000_000  # bytes, of which the window of the frozen viewer and the scrollback are a part
ECHOES = 25


def resident(pid: int) -> int:
    """Bytes of the process's memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def flood(visitor: Visitor, word: str) -> None:
    await visitor.type(f"head -c {FLOOD} /dev/zero | tr '\\0' x; echo {word[:2]}''{word[2:]}\r".encode())
    while word.encode() not in visitor.text[-200:]:
        await visitor.read()


async def echo_time(visitor: Visitor) -> float:
    """Median seconds of an echo."""
    times: list[float] = []
    for number in range(ECHOES):
        began = trio.current_time()
        await visitor.echo(f"echo-{number}-")
        times.append(trio.current_time() - began)
    return statistics.median(times)


async def test_it_costs_its_window_once_and_nobody_else_anything(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT):
        async with (
            supervised(docker_host, tmp_path, WARM_POOL_SIZE="0", VIEWER_STALL_TIMEOUT_MS="120000") as one,
            visit(one.url) as watched,
        ):
            await watched.read_until(PROMPT)
            session = watched.hello["sessionId"]
            async with visit(one.url, session_id=session) as second, trio.open_nursery() as nursery:
                nursery.start_soon(second.read_to_end)
                for number in range(2):  # buffers and the scrollback fill
                    await flood(watched, f"filled-{number}-")
                before = await echo_time(watched)
                nursery.cancel_scope.cancel()
            async with visit(one.url, session_id=session) as frozen:
                while not frozen.hello:
                    await frozen.read()
                memory = resident(one.process.pid)
                grown: list[int] = []
                for number in range(4):  # from now on `frozen` does not read
                    await flood(watched, f"frozen-{number}-")
                    grown.append(resident(one.process.pid) - memory)
                after = await echo_time(watched)
            print(
                f"\nfrozen viewer, {4 * FLOOD >> 20} MB of output: memory grew by "
                f"{', '.join(str(each // 1024) for each in grown)} KB; echo of the other viewer "
                f"{before * 1000:.1f} ms before, {after * 1000:.1f} ms with it"
            )
            assert max(grown) <= ALLOWED_GROWTH
            assert after < 2 * before + 0.02
