"""A killed supervisor's sessions have an end in the audit log: told by its guard, or by the next start."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio
from recordings.cast import files, only, read

from faults.supervised import LIFELINES, supervised
from faults.visitor import PROMPT, visit
from supervisor.reaping.recordings import LOST
from supervisor.reaping.records import RECORDS

pytestmark = pytest.mark.engine


def of_sessions(path: Path) -> list[Any]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [each for each in events if each["event"].startswith("session ")]


@pytest.mark.parametrize("teller", ["guard", "next start"])
async def test_each_session_has_one_end(
    docker_host: str, workbench_image: str, tmp_path: Path, teller: str
) -> None:
    log, recordings = tmp_path / "audit.log", tmp_path / "recordings"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with trio.fail_after(120):
        async with (
            supervised(
                docker_host,
                tmp_path / "one",
                SECURITY_AUDIT_LOG=str(log),
                RECORDING_DIRECTORY=str(recordings),
                RECORDING_MIN_FREE="0",
                RESOURCE_MONITORING_INTERVAL_MS="100",
            ) as one,
            visit(one.url) as visitor,
        ):
            await visitor.read_until(PROMPT)
            while PROMPT not in b"".join(path.read_bytes() for path in files(recordings)):
                await trio.sleep(0.05)
            label = of_sessions(log)[0]["session"]
            [path] = LIFELINES.glob(f"*/{RECORDS}/{label}")
            while not (known := json.loads(path.read_text()))["peak_memory"] or not known["output_bytes"]:
                await trio.sleep(0.05)
            if teller == "next start":
                for guard in one.guards():
                    os.kill(guard, signal.SIGKILL)
            one.kill()
        if teller == "next start":
            assert [each["event"] for each in of_sessions(log)] == ["session started"]
            async with supervised(docker_host, tmp_path / "two", SECURITY_AUDIT_LOG=str(log)):
                pass
        while len(of_sessions(log)) < 2:
            await trio.sleep(0.05)
        while files(recordings, "*.part"):
            await trio.sleep(0.05)
    told = of_sessions(log)
    assert len(told) == 2, told
    started, ended = told
    assert (ended["event"], ended["reason"]) == ("session ended", "supervisor_lost")
    assert ended["session"] == started["session"]
    assert ended["container"].startswith("ts-")
    assert ended["started"] == started["started"]
    assert ended["seconds"] > 0
    assert ended["peak_memory"] > 100_000
    assert ended["output_bytes"] >= len(PROMPT)
    assert ended["hardening_verified"] is True
    assert ended["recording"] == str(only(recordings))
    cast = read(only(recordings))
    assert PROMPT.decode() in cast.text("o")
    assert cast.events[-1][1:] == ("m", LOST)
