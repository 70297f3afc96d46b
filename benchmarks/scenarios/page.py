"""What a person sees: the server's own page in a real browser, with a program that prints without end."""

import json
import subprocess
import sys

import trio

from benchmarks.measuring import Record
from benchmarks.scenarios.scenario import Scenario, Size
from benchmarks.targets import Running


async def page(running: Running, size: Size, record: Record) -> None:
    """See `SCENARIOS`."""
    order = {"page": running.page, "megabytes": size.megabytes, "repeats": size.repeats}
    done = await trio.run_process(
        [sys.executable, "-m", "benchmarks.browser", json.dumps(order)],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode().strip().splitlines() or ["nothing"]
    if done.returncode:
        raise RuntimeError(f"the browser's part failed: {said[-1]}")
    found = json.loads(said[-1])
    for milliseconds in found["interrupts"]:
        record.distribution().add(milliseconds / 1000)
    record.figure("rate", found["rate"], "MB/s", "higher")
    record.figure("bytes", found["bytes"], "B", "higher")
    record.figure("discarded", found["discarded"], "B")
    record.figure("opened", found["opened"], "ms")
    record.notes.append(found["version"])


SCENARIOS = (
    Scenario(
        "page",
        "In a browser: does the page keep up with a flood, without losing a byte, and how soon does Ctrl-C "
        "stop it?",
        "Headless Chromium, xterm.js. The digest of what arrived is compared with that of what was printed; "
        "the rate counts what xterm.js has parsed. Times are from the key's event until the prompt is drawn.",
        page,
        page=True,
        process=True,
        floor=False,
    ),
)
