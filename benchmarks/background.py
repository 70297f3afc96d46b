"""Load beside a measurement, from a process of its own, so that it does not slow the client that measures.

`python -m benchmarks.background '{"access": …, "mode": …, "count": …}'` opens its sessions, prints `ready`,
and works until its standard input closes; then it prints its own CPU seconds and what it counted.
"""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

import trio

from benchmarks.adapters import connect, session
from benchmarks.client import PROMPT, Access, Client, RefusedError, SessionEndedError, read_until, run_raw
from benchmarks.measuring import Record
from benchmarks.websocket import ConnectionEndedError

Mode = Literal["idle", "flood", "slow", "frozen", "refused"]
SLOW_RATE = 64 * 1024  # bytes per second that a slow reader takes
READY_TIMEOUT = 300.0
NO_ANSWER = (0, 1005, 1006)  # what clients call it when a connection ended without a code
AFTER_FAILURE = 0.05  # seconds
AT_ONCE = 8  # sessions that are being opened at the same time
FLOOD = "while :; do cat /tmp/bench.$$; done"
MAKE_FLOOD_FILE = "head -c 1000000 /dev/zero | tr '\\0' x >/tmp/bench.$$"


class Background:
    """Sessions that make load.

    Attributes:
        bytes: of output that came.
        refused: connections that were refused with an answer, by HTTP status or close code.
        failed: connections that had no such answer, by what happened instead.
    """

    def __init__(self, access: Access, mode: Mode, count: int) -> None:
        self._access = access
        self._mode = mode
        self._count = count
        self._opening = trio.CapacityLimiter(AT_ONCE)
        self.bytes = 0
        self.refused: Counter[int] = Counter()
        self.failed: Counter[str] = Counter()

    async def run(self, nursery: trio.Nursery) -> None:
        """Start everything in `nursery`; return when it is up."""
        if self._mode == "refused":
            for _ in range(self._count):
                nursery.start_soon(self._knock)
            return
        async with trio.open_nursery() as opening:
            for _ in range(self._count):
                opening.start_soon(nursery.start, self._one)

    async def _one(self, task_status: trio.TaskStatus[None]) -> None:
        with suppress(SessionEndedError):  # the server was killed: that is the measurement
            async with AsyncExitStack() as stack:
                async with self._opening:
                    client = await stack.enter_async_context(session(self._access))
                    await read_until(client, PROMPT)
                if self._mode != "idle":
                    await run_raw(client, FLOOD, prepare=[MAKE_FLOOD_FILE])
                task_status.started()
                await self._consume(client)

    async def _consume(self, client: Client) -> None:
        if self._mode == "frozen":
            await trio.sleep_forever()
        while piece := await client.read():
            self.bytes += len(piece)
            if self._mode == "slow":
                await trio.sleep(len(piece) / SLOW_RATE)

    async def _knock(self) -> None:
        while True:
            outcome = await self.refusal()
            if isinstance(outcome, int):
                self.refused[outcome] += 1
            else:
                self.failed[outcome] += 1
                await trio.sleep(AFTER_FAILURE)

    async def refusal(self) -> int | str:
        """Return the status or code that a connection was refused with, or what happened instead."""
        try:
            async with connect(self._access) as client:
                if await client.read():
                    return "let in"
                code = client.close_code
        except (RefusedError, ConnectionEndedError) as error:
            code = error.code
        except (OSError, trio.BrokenResourceError) as error:
            return type(error).__name__
        return "no answer" if code in NO_ANSWER else code


async def _main(order: dict[str, Any]) -> None:
    load = Background(Access(**order["access"]), order["mode"], order["count"])
    async with trio.open_nursery() as nursery:
        await load.run(nursery)
        print("ready", flush=True)
        began = time.process_time()
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        spent = time.process_time() - began
        counted = {"bytes": load.bytes, "refused": load.refused, "failed": load.failed}
        print(json.dumps({"cpu": spent, **counted}), flush=True)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def background(
    access: Access, mode: Mode, count: int, record: Record
) -> AsyncGenerator[dict[str, Any]]:
    """Have `count` sessions of that kind while the block runs; the dictionary holds what they counted
    afterwards.
    """
    totals: dict[str, Any] = {}
    if not count:
        yield totals
        return
    order = json.dumps({"access": json.loads(access.to_json()), "mode": mode, "count": count})
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "benchmarks.background", order], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(READY_TIMEOUT):
            said = await process.stdout.receive_some()
        if bytes(said).strip() != b"ready":
            raise SessionEndedError(f"the load in the background did not come up: {bytes(said)!r}")
        yield totals
    finally:
        with trio.move_on_after(30, shield=True):
            await process.stdin.aclose()
            said = b""
            with suppress(trio.BrokenResourceError):
                async for piece in process.stdout:
                    said += piece
            await process.wait()
            if said.strip():
                totals.update(json.loads(said))
                record.other_cpu += totals["cpu"]
        if process.returncode is None:
            process.kill()
        await process.stdout.aclose()


if __name__ == "__main__":
    trio.run(_main, json.loads(sys.argv[1]))
