"""Fixtures of the tests of egress: they need root, nft and dnsmasq."""

import os
import subprocess
from collections.abc import AsyncIterator

import pytest
from conftest import missing
from sandbox.conftest import network_name

from egress.world import World, world
from supervisor.egress.host import missing_programs

__all__ = ["network_name"]


@pytest.fixture(scope="session")
def _impediment() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces and rules need root"
    if absent := missing_programs():
        return f"egress needs {' and '.join(absent)}"
    probe = ["unshare", "--net", "nft", "add table inet probe; add counter inet probe denied"]
    done = subprocess.run(probe, capture_output=True, timeout=20, check=False)
    return f"nftables does not work here: {done.stderr.decode()}" if done.returncode else None


@pytest.fixture
def capable(request: pytest.FixtureRequest, _impediment: str | None) -> None:
    """This host can filter egress."""
    if _impediment:
        missing(request, _impediment)


@pytest.fixture
async def scene(capable: None) -> AsyncIterator[World]:
    """A machine, two sessions and the world outside."""
    async with world() as made:
        yield made
