"""Installs the project in the machine as an operator would, but from copies: engine, images, program, unit.

Nothing here is weaker than on a production host. Only times are longer: the machine is emulated.
"""

import json
import site
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PROJECT: Final = Path("/vm/share/project")
IMAGES: Final = Path("/vm/share/images")
OUT: Final = Path("/vm/out")
STATE: Final = Path("/var/lib/terminal-supervisor")
SETTINGS: Final = Path("/etc/terminal-supervisor/env")
UNIT: Final = "terminal-supervisor.service"
TOKEN: Final = "a-token-of-no-value-for-the-machine"
_COMMAND_LIMIT: Final = 900.0  # seconds; loading an image takes 15 to 50, on a busy host 300

_began = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the beginning."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


def run(*command: str | Path, allowed: Sequence[int] = (0,)) -> str:
    """Run a command and return its output, both streams; fail when its exit status is none of `allowed`."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_LIMIT,
        check=False,
    )
    if done.returncode not in allowed:
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def install(**settings: str) -> None:
    """Set the machine up: engine under `userns-remap`, and the program with `settings`, not yet started."""
    Path("/etc/docker").mkdir(exist_ok=True)
    engine = {"userns-remap": "default", "live-restore": True}
    Path("/etc/docker/daemon.json").write_text(json.dumps(engine))
    run("systemctl", "start", "docker.service")
    say("engine up, under userns-remap")
    for image in sorted(IMAGES.glob("*.tar")):
        run("docker", "load", "--quiet", "--input", image)
        say(f"image {image.stem} loaded")
    (Path(site.getsitepackages()[0]) / "terminal-supervisor.pth").write_text(f"{PROJECT}\n")
    program = Path("/usr/local/bin/terminal-supervisor")
    program.write_text('#!/bin/sh\nexec python3 -m supervisor "$@"\n')
    program.chmod(0o755)
    STATE.mkdir(parents=True, exist_ok=True)
    run("cp", "-r", PROJECT / ".state/bin", STATE)
    SETTINGS.parent.mkdir(exist_ok=True)
    settings = {
        "LOCAL_ACCESS_TOKEN": TOKEN,
        "HARDENING_WITHOUT": "",
        "STATE_DIRECTORY": str(STATE),
        "SANDBOX_START_TIMEOUT_MS": "120000",
        "MAX_SESSIONS": "8",  # what its memory carries
        **settings,
    }
    SETTINGS.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    SETTINGS.chmod(0o600)
    run("cp", PROJECT / "packaging/systemd" / UNIT, "/etc/systemd/system")
    # An emulated processor is 10 to 20 times slower than those that the unit's times are for.
    changes = Path(f"/etc/systemd/system/{UNIT}.d")
    changes.mkdir(exist_ok=True)
    (changes / "slow.conf").write_text("[Service]\nTimeoutStartSec=600s\n")
    run("systemctl", "daemon-reload")
    say(run("terminal-supervisor", "--env-file", SETTINGS, "apparmor", "install").strip())
