"""The bound on what one container takes of what the kernel counts per user, in user namespaces of our own."""

import os
import subprocess
from collections.abc import Iterator

import pytest
import trio
from conftest import missing

from supervisor.errors import SandboxError
from supervisor.sandbox.shares import INSTANCES, WATCHES, bound_shares

pytestmark = pytest.mark.netns
LIMIT = 20.0


@pytest.fixture
def inside(request: pytest.FixtureRequest) -> Iterator[int]:
    """Pid of a process in a user namespace of its own, which belongs to this host's root."""
    if os.geteuid() != 0:
        missing(request, "only root has what user namespaces of root take")
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def limit(name: str, *prefix: str) -> int:
    done = subprocess.run(
        [*prefix, "cat", f"/proc/sys/user/{name}"], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    return int(done.stdout)


async def test_a_namespace_gets_limits_of_its_own(inside: int) -> None:
    enter = ("nsenter", "--user", "--target", str(inside))
    before = limit("max_inotify_instances")
    with trio.fail_after(LIMIT):
        await bound_shares(inside)
    assert limit("max_inotify_instances", *enter) == INSTANCES
    assert limit("max_inotify_watches", *enter) == WATCHES
    assert limit("max_inotify_instances") == before, "the host's own is as it was"


async def test_the_hosts_own_namespace_is_refused(inside: int) -> None:
    """So a pid that has become another process's does no harm."""
    before = limit("max_inotify_instances")
    with trio.fail_after(LIMIT), pytest.raises(SandboxError, match="could not be bounded"):
        await bound_shares(os.getpid())
    assert limit("max_inotify_instances") == before
