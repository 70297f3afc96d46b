"""Those of the project's tests that take a kernel with AppArmor or cgroup version 2: pytest runs them in the
machine.
"""

import os
import subprocess
import sys
from typing import Final

from vm.guest.installed import OUT, PROGRAM, PROJECT, WORKBENCH, require, run, say

LIMIT: Final = 1800.0  # seconds
SUITES: Final = ("tests/vm/guest/enforced.py", "tests/reaping/test_cgroups.py")
ENGINE: Final = "unix:///run/docker.sock"


def run_suites() -> None:
    """Run them, with nothing opted out of; what cannot run fails. The sessions are in the workbench."""
    say(run(*PROGRAM, "apparmor", "install", settings=WORKBENCH).strip())
    options = ("-m", "", "-v", "--durations=5", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0")
    with (OUT / "suites.txt").open("w+") as file:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *SUITES],
            cwd=PROJECT,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
            env={**os.environ, "CI": "true", "HARDENING_WITHOUT": "", "DOCKER_HOST": ENGINE},
        )
        file.seek(0)
        say(file.read())
    require(holds=done.returncode == 0, what=f"suites: {', '.join(SUITES)}")
