"""The bound on what one container takes of what the kernel counts per user, in user namespaces of our own."""

import os
import subprocess

import pytest
import trio

from supervisor.errors import SandboxError
from supervisor.sandbox.shares import INSTANCES, WATCHES, bound_shares

pytestmark = pytest.mark.netns
LIMIT = 20.0


def limit(name: str, *prefix: str) -> int:
    done = subprocess.run(
        [*prefix, "cat", f"/proc/sys/user/{name}"], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    return int(done.stdout)


async def test_a_namespace_gets_limits_of_its_own(in_user_namespace: int) -> None:
    enter = ("nsenter", "--user", "--target", str(in_user_namespace))
    before = limit("max_inotify_instances")
    with trio.fail_after(LIMIT):
        await bound_shares(in_user_namespace)
    assert limit("max_inotify_instances", *enter) == INSTANCES
    assert limit("max_inotify_watches", *enter) == WATCHES
    assert limit("max_inotify_instances") == before, "the host's own is as it was"


async def test_the_hosts_own_namespace_is_refused(in_user_namespace: int) -> None:
    """So a pid that has become another process's does no harm."""
    before = limit("max_inotify_instances")
    with trio.fail_after(LIMIT), pytest.raises(SandboxError, match="could not be bounded"):
        await bound_shares(os.getpid())
    assert limit("max_inotify_instances") == before
