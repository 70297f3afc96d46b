"""The world outside of the attacks, and what is left of it when its run is killed."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from supervisor.attacks.world import world_outside

HOLD = """
import trio
from supervisor.attacks.world import world_outside

async def main():
    async with world_outside("ts-none-"):
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def state() -> tuple[list[str], list[str], list[str]]:
    """Namespaces, devices and tables of such worlds."""

    def named(*command: str) -> list[str]:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
        return sorted(line for line in done.stdout.splitlines() if "ts-out-" in line)

    devices = [line.split()[0].partition("@")[0] for line in named("ip", "-brief", "link")]
    return named("ip", "netns", "list"), devices, named("nft", "list", "tables")


@contextmanager
def another_run() -> Generator[subprocess.Popen[str]]:
    """A world of a process of its own, in which nothing of this machine is translated."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


async def test_what_a_killed_run_left_does_not_stand_in_the_way() -> None:
    before = state()
    with another_run():
        pass
    left = state()
    assert [len(each) for each in left] == [len(each) + 1 for each in before]
    async with world_outside("ts-none-"):
        during = state()
        assert [len(each) for each in during] == [len(each) for each in left]
        assert not set(during[1]) & set(left[1]), "the leftovers are gone, not used"
    assert state() == before


async def test_a_run_that_lives_is_left_alone() -> None:
    with another_run() as other:
        alive = state()
        # Its routes are those that another one needs, so there is one at a time, and the second is told.
        with pytest.raises(subprocess.CalledProcessError, match="route"):
            async with world_outside("ts-none-"):
                pass
        assert state() == alive
        assert other.poll() is None
    async with world_outside("ts-none-"):
        pass
    assert state() == ([], [], [])
