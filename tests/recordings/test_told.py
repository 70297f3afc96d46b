"""Who is recorded is told so, whatever its client speaks; who cannot be is told why it has no session."""

from pathlib import Path
from typing import Any

import pytest
from gateway.ably_client import AblyTerminal, connect
from gateway.harness import SECRET, TOKEN, Stage, V1Client, signed, stage
from trio.abc import Clock

from recordings.stage import Disk
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.session.recorder import Recorder
from supervisor.settings import Settings

RECORDED = "This session is recorded."


def recording(directory: Path, **changes: Any) -> dict[str, Any]:
    settings = Settings(**{"recording_directory": directory, "recording_min_free": 0, **changes})
    return {"settings": settings, "recorder": Recorder(settings, Disk())}


def ready(s: Stage) -> bool:
    return s.gateway.house.ready


async def test_clients_of_v1(autojump_clock: Clock, tmp_path: Path) -> None:
    async with stage(**recording(tmp_path, access_token=TOKEN)) as s:
        client = await s.v1()
        assert client.hello["notice"] == RECORDED
    async with stage(**recording(tmp_path, access_token=TOKEN, recording_directory=None)) as s:
        client = await s.v1()
        assert client.hello["notice"] is None


async def test_the_existing_client_when_it_comes_and_when_it_comes_back(
    autojump_clock: Clock, tmp_path: Path
) -> None:
    async with stage(**recording(tmp_path, signing_secret=SECRET)) as s:
        pane = AblyTerminal()
        first = await connect(s, pane, signed())
        await first.until_hello()
        await s.terminal.print(b"$ ")
        await first.until("$ ")
        assert f"[{RECORDED}]\r\n" in pane.plain
        pane.screen = ""
        again = await connect(s, pane, signed())
        await again.until("$ ")
        assert f"[{RECORDED}]\r\n" in pane.plain


@pytest.mark.parametrize("existing", [False, True])
async def test_a_session_that_must_be_recorded_and_cannot_be(
    autojump_clock: Clock, tmp_path: Path, existing: bool
) -> None:
    settings = recording(tmp_path, signing_secret=SECRET, recording_required=True, recording_min_free=1 << 50)
    async with stage(**settings) as s:
        assert ready(s) is True
        if existing:
            pane = AblyTerminal()
            connected = await connect(s, pane, signed())
            assert await connected.closed() == (4004, "Session cannot be recorded", "gives up")
        else:
            wire = s.connect()
            await wire.upgrade(SUBPROTOCOL)
            client = V1Client(wire)
            await client.tell("auth", **signed())
            assert await client.closed() == (4004, "recording")
            assert client.messages[-1]["reason"] == "recording"
            assert "must be recorded" in client.messages[-1]["message"]
        assert s.registry.recorder.unavailable
        assert ready(s) is False
        assert len(s.registry) == 0
