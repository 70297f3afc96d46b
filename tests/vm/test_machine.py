"""The project on a kernel that has everything: see `guest/main.py`, which runs in the machine."""

import os
import sys
from pathlib import Path

import pytest
from conftest import missing

from supervisor.errors import ConfigurationError
from vm.disk import ensure_disk
from vm.machine import MachineError, run_in_machine
from vm.payload import payload

LIMIT = 2700.0
"""Seconds for the machine, which has a third of a CPU for them then; eight minutes on a quiet host."""
RESULTS = Path(os.environ.get("VM_RESULTS", ".state/vm-results"))

pytestmark = pytest.mark.vm


async def test_machine(request: pytest.FixtureRequest, docker_host: str, sandbox_image: str) -> None:
    """Strict without opt-outs under systemd, and what attacks come to there."""
    try:
        disk = await ensure_disk(lambda _: None)
    except ConfigurationError as error:
        missing(request, str(error))
        return
    seen: list[bytes] = []

    def show(output: bytes) -> None:  # as it comes, since it takes minutes: with pytest's -s
        seen.append(output)
        sys.stderr.buffer.write(output)

    async with payload(docker_host, [sandbox_image]) as share:
        try:
            status = await run_in_machine(
                disk,
                Path(__file__).parent / "guest/start",
                share=share,
                out=RESULTS,
                timeout=LIMIT,
                on_output=show,
            )
        except MachineError as error:
            pytest.fail(f"{error}\n{b''.join(seen).decode(errors='replace')}")
    assert status == 0, b"".join(seen).decode(errors="replace")
