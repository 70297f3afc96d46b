"""Installs the project in the machine as an operator would, but from copies: engine, images, program, unit.

Nothing here is weaker than on a production host.
"""

import json
import os
import site
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Final

PROJECT: Final = Path("/vm/share/project")
IMAGES: Final = Path("/vm/share/images")
OUT: Final = Path("/vm/out")
STATE: Final = Path("/var/lib/terminal-supervisor")
SETTINGS: Final = Path("/etc/terminal-supervisor/env")
PROGRAM: Final = ("terminal-supervisor", "--env-file", str(SETTINGS))
UNIT: Final = "terminal-supervisor.service"
TOKEN: Final = "a-token-of-no-value-for-the-machine"
WORKBENCH: Final[Mapping[str, str]] = MappingProxyType(
    {
        "DOCKER_IMAGE_NAME": "terminal-supervisor-workbench:latest",
        "SESSION_COMMAND": "/bin/bash --norc --noprofile",
        "CONTAINER_USER": "1000:1000",
    }
)
"""Settings of sessions in the image that has a shell and tools."""
USUAL: Final[Mapping[str, str]] = MappingProxyType({})
"""Settings of the installation: the default image."""
FAILURES: Final[list[str]] = []
"""What should hold and does not, so far."""
_COMMAND_LIMIT: Final = 900.0  # seconds; loading an image takes ten

_began = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the beginning, by the machine's clock."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


def require(*, holds: bool, what: str) -> None:
    """Note whether `what` is so; the machine's status tells in the end."""
    say(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        FAILURES.append(what)


def run(
    *command: str | Path,
    allowed: Sequence[int] = (0,),
    settings: Mapping[str, str] = USUAL,
    log: Path | None = None,
) -> str:
    """Run a command and return its output, both streams.

    Args:
        command: and its arguments.
        allowed: exit statuses; another one ends this part.
        settings: that differ from those of the installation.
        log: gets standard error, which is no part of the output then.
    """
    with log.open("w") if log else nullcontext(subprocess.STDOUT) as errors:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=_COMMAND_LIMIT,
            check=False,
            env={**os.environ, **settings},
        )
    if done.returncode not in allowed:
        logged = log.read_text() if log else ""
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}{logged}")
    return done.stdout


def install() -> None:
    """Set the machine up: engine under `userns-remap`, images, and the program, not yet started."""
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
        "MAX_SESSIONS": "8",  # what its memory carries
    }
    SETTINGS.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    SETTINGS.chmod(0o600)
    run("cp", PROJECT / "packaging/systemd" / UNIT, "/etc/systemd/system")
    run("systemctl", "daemon-reload")
    say("installed")


def keep_journal() -> None:
    """Hand out what the services and the kernel have said."""
    units = ("--unit", UNIT, "--unit", "docker")
    (OUT / "journal.txt").write_text(run("journalctl", "--no-pager", *units))
    (OUT / "kernel.txt").write_text(run("journalctl", "--no-pager", "--dmesg"))
