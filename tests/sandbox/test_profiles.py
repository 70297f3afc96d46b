"""Profiles on the real engine: each has a policy of its own."""

from pathlib import Path

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings
from supervisor.sandbox.providers import open_provider
from supervisor.sandbox.terminal import LeaseRequest, Terminal


async def _output(terminal: Terminal) -> bytes:
    output = b""
    while data := await terminal.receive_some():
        output += data
    return output


@pytest.mark.engine
async def test_a_profile_has_limits_of_its_own(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text('[small]\nCONTAINER_TMPFS_SIZE = "1m"\n')
    settings = attrs.evolve(docker_settings(request), profiles=profiles, warm_pool_size=1)
    command = ("sh", "-c", "grep ' /tmp ' /proc/mounts")
    with trio.fail_after(120):
        async with open_provider(settings) as provider:
            for profile, size in (("small", b"size=1024k"), ("", b"size=65536k")):
                ask = LeaseRequest("test", command=command, profile=profile)
                async with provider.lease(ask) as terminal:
                    assert size in await _output(terminal)
