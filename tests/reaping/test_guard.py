"""The guard's process: one part that fails keeps it from none of the others."""

import json
import subprocess
import sys

PROGRAM = """
from supervisor.reaping import guard

def fail(*_arguments):
    raise UnicodeDecodeError("utf-8", b"", 0, 1, "a mount of an odd name")

async def remove_all(docker_host, instance, patience):
    print("removes all of", instance)
    return True

guard.end_all = guard.remove_groups_of = fail
guard._remove_all = remove_all
guard.main()
print("came to its end")
"""


def test_what_fails_is_told_and_the_rest_is_done() -> None:
    arguments = ["unix:///nowhere", "ab12" * 8, "60", "false", "/nowhere"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,  # has ended, as the pipe of a dead supervisor
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"removes all of {'ab12' * 8}", "came to its end"]
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert [each["event"] for each in told] == ["guard could not do all"] * 2
    assert all("a mount of an odd name" in each["problem"] for each in told)


def test_nobody_need_read_what_it_tells() -> None:
    """Whoever read the supervisor's errors may have died with it."""
    program = "from supervisor.reaping.guard import _tell; _tell({}); print('goes on')"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        process.stderr.close()
        assert process.stdout.read() == b"goes on\n"
