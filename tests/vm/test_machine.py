"""The project on a kernel that has everything: `guest/main.py` and its parts, which run in the machine.

`make smoke-vm` has the first of these tests, `make test-vm` the second.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import missing

from supervisor.errors import ConfigurationError
from vm.disk import ensure_disk
from vm.machine import MachineError, run_in_machine
from vm.payload import payload

SMOKE_LIMIT = 2700.0
"""Seconds for the machine, which has a third of a CPU for them then; eight minutes on a quiet host."""
LIMIT = 5400.0
"""The same for all of it: half an hour on a quiet host."""
RESULTS = Path(os.environ.get("VM_RESULTS", ".state/vm-results"))

pytestmark = pytest.mark.vm


async def test_smoke(request: pytest.FixtureRequest, docker_host: str, sandbox_image: str) -> None:
    """Strict without opt-outs under systemd, and a few of the attacks that this takes."""
    parts = ["smoke", "check", "a-few-attacks"]
    await run_parts(request, docker_host, [sandbox_image], parts, SMOKE_LIMIT)


async def test_everything(
    request: pytest.FixtureRequest, docker_host: str, sandbox_image: str, workbench_image: str
) -> None:
    """That, all attacks, and AppArmor in depth."""
    parts = ["suites", "smoke", "check", "attacks"]
    await run_parts(request, docker_host, [sandbox_image, workbench_image], parts, LIMIT)


async def run_parts(
    request: pytest.FixtureRequest,
    docker_host: str,
    images: Sequence[str],
    parts: Sequence[str],
    limit: float,
) -> None:
    """Try `parts` in the machine, within `limit` seconds; what they leave goes to `RESULTS`."""
    try:
        disk = await ensure_disk(lambda _: None)
    except ConfigurationError as error:
        missing(request, str(error))
        return
    seen: list[bytes] = []

    def show(output: bytes) -> None:  # as it comes, since it takes minutes: with pytest's -s
        seen.append(output)
        sys.stderr.buffer.write(output)

    async with payload(docker_host, images) as share:
        try:
            status = await run_in_machine(
                disk,
                Path(__file__).parent / "guest/start",
                parts,
                share=share,
                out=RESULTS,
                timeout=limit,
                on_output=show,
            )
        except MachineError as error:
            pytest.fail(f"{error}\n{b''.join(seen).decode(errors='replace')}")
    assert status == 0, b"".join(seen).decode(errors="replace")
