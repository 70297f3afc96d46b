"""`python -m benchmarks`: start the supervisor in each of its forms, measure it and the floors, print and
save.

Rounds are interleaved, so that a machine that gets slower or faster meanwhile treats all alike. Every run is
bounded in count; packets go to loopback only.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from benchmarks import floor, measure, reap
from supervisor.engine import Docker
from supervisor.settings import load_settings

TOKEN = "benchmark-token-of-no-value"
WORKBENCH = "terminal-supervisor-workbench:latest"
FORMS: dict[str, dict[str, str]] = {
    "lifeline, warm": {"SANDBOX_TRANSPORT": "lifeline", "WARM_POOL_SIZE": "2"},
    "lifeline, cold": {"SANDBOX_TRANSPORT": "lifeline", "WARM_POOL_SIZE": "0"},
    "attach, cold": {"SANDBOX_TRANSPORT": "attach", "WARM_POOL_SIZE": "0"},
    "local (no isolation)": {"SANDBOX_PROVIDER": "local"},
}
ISOLATED = [form for form in FORMS if not form.startswith("local")]


def environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the environment that gives a supervisor the form `extra`, without the measures that the
    development machines cannot have unless it says otherwise.
    """
    return (
        {"HARDENING_WITHOUT": "apparmor,userns,egress"}
        | os.environ
        | {
            "DOCKER_IMAGE_NAME": WORKBENCH,
            "CONTAINER_USER": "1000:1000",
            "SESSION_COMMAND": "/bin/bash --norc --noprofile",
            "LOCAL_ACCESS_TOKEN": TOKEN,
            "RATE_LIMIT_EXEMPT_NETWORKS": "127.0.0.0/8",
            "LOG_LEVEL": "warning",
            "INPUT_RATE": "1g",
            **extra,
        }
    )


@contextmanager
def server(extra: dict[str, str]) -> Generator[tuple[str, int]]:
    """Run a supervisor on a free port; yields the WebSocket's URL and the process's pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "serve", "--no-setup", "--port", "0"],
        stdout=subprocess.PIPE,
        env=environment(extra),
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("Open "):
                yield line.split()[1].split("?")[0].replace("http", "ws", 1) + "ws", process.pid
                break
        else:
            raise SystemExit("the supervisor did not start")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        process.stdout.close()


async def measure_form(url: str, form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all scenarios against one form."""
    warm = "warm" in form
    result: dict[str, Any] = {}
    result["start"] = await measure.start(url, TOKEN, options.starts, 1.5 if warm else 0.0)
    result["start, 10 at once"] = await measure.start_together(url, TOKEN, 10)
    result["echo"] = await measure.echo(url, TOKEN, options.keys, 0.01)
    result["flood"] = await measure.flood(url, TOKEN, options.megabytes * 1_000_000)
    return result


async def measure_sigkill(url: str, pid: int, sessions: int) -> reap.Reaping:
    """Kill the supervisor, last of all."""
    async with Docker() as docker:
        return await reap.sigkill(url, TOKEN, pid, docker, sessions)


def main() -> None:
    """Measure, print a line per figure, and save all as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=1, help="times that everything is measured, interleaved"
    )
    parser.add_argument("--starts", type=int, default=20, help="sessions per round for the start scenario")
    parser.add_argument("--keys", type=int, default=500, help="keys per round for the echo scenario")
    parser.add_argument("--megabytes", type=int, default=200, help="output per round for the flood scenario")
    parser.add_argument("--killed", type=int, default=10, help="sessions that are open at the SIGKILL")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="only this form (repeatable)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}: {measure.machine()}")
    results: list[dict[str, Any]] = []
    for number in range(options.rounds):
        figures: dict[str, Any] = {}
        figures["floor: bare local PTY"] = {
            "echo": floor.bare_pty_echo(options.keys, 0.01),
            "flood": floor.bare_pty_flood(options.megabytes * 1_000_000),
        }
        if not options.form or set(options.form) & set(ISOLATED):
            figures["floor: bare engine"] = trio.run(
                floor.bare_engine, load_settings(environment(FORMS["attach, cold"])), options.starts
            )
        for form in options.form or FORMS:
            with server(FORMS[form]) as (url, pid):
                figures[form] = trio.run(measure_form, url, form, options)
                if form in ISOLATED:
                    figures[form]["SIGKILL"] = trio.run(measure_sigkill, url, pid, options.killed)
        results.append(figures)
        print(f"\nround {number + 1} of {options.rounds}")
        for subject, scenarios in figures.items():
            for scenario, value in scenarios.items():
                print(f"  {subject:24} {scenario:18} {value}")
    if options.json:
        plain = [
            {
                subject: {name: attrs.asdict(v) for name, v in values.items()}
                for subject, values in figures.items()
            }
            for figures in results
        ]
        options.json.write_text(json.dumps({"machine": measure.machine(), "rounds": plain}, indent=2))


main()
