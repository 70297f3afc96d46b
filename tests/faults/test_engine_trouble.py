"""The engine hangs, dies, or loses what it had: sessions that can go on go on, and nothing is left.

Each scenario has an engine of its own, so that nobody else's is disturbed; see trouble.py.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest

from supervisor.provision.host import find_program

TROUBLE = Path(__file__).with_name("trouble.py")


@pytest.fixture
def directory() -> Iterator[Path]:
    # Sockets have short names: pytest's own directories are too deep for them.
    path = Path(tempfile.mkdtemp(prefix="ts-trouble-", dir="/tmp"))
    path.chmod(0o711)  # containers' users pass here
    yield path
    shutil.rmtree(path)


@pytest.mark.engine
@pytest.mark.netns
@pytest.mark.parametrize(
    "scenario",
    [
        "others_meddle",
        "the_engine_hangs",
        "the_engine_hangs_and_nothing_tells_the_gates",
        "the_engine_hangs_at_the_end",
        "the_engine_is_killed",
        "the_engine_is_killed_without_user_namespaces",
        "the_engine_stays_away",
        "the_engine_restarts_and_egress_stays_filtered",
        "the_engine_restarts_without_live_restore",
        "the_socket_vanishes",
        "the_disk_is_full",
    ],
)
def test_trouble(
    request: pytest.FixtureRequest, docker_host: str, workbench_image: str, directory: Path, scenario: str
) -> None:
    needed = ("dockerd", "dnsmasq", "ip", "iptables", "nft", "unshare")
    if os.geteuid() != 0 or not all(find_program(name) for name in needed):
        conftest.missing(request, f"an engine of the tests' own takes root and {', '.join(needed)}")
    result = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, str(TROUBLE), scenario, str(directory), docker_host],
        env={**os.environ, "PYTHONPATH": str(TROUBLE.parents[1])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    print(f"\n{result.stdout}")
    assert result.returncode == 0, result.stderr
