"""Rarer misfortunes, each on the real engine with a supervisor of its own: out of memory, fork storms, a
clock that jumps, a stopped supervisor, another network namespace, creates that go on after both of their
masters are dead.
"""

import os
import signal
import sys
from pathlib import Path

import conftest
import pytest
import trio

from faults.supervised import Supervised, is_running, processes_in, supervised
from faults.visitor import PROMPT, visit
from supervisor.reaping.reconciler import CLOCK_SKEW, Verdict, judge
from supervisor.sandbox.identity import LABEL_DEADLINE, this_process

pytestmark = pytest.mark.engine

LIMIT = 120.0


async def first_process(one: Supervised, container: str) -> int:
    return int((await one.docker.containers.get(container))["State"]["Pid"])


async def test_one_that_ignores_everything_and_forks_goes_when_its_visitor_leaves(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    bomb = b"trap '' HUP TERM INT; f() { trap '' HUP TERM INT; f | f & sleep 1000; }; f 2>/dev/null &\r"
    with trio.fail_after(LIMIT):
        async with supervised(docker_host, tmp_path, WARM_POOL_SIZE="0") as one:
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                await visitor.type(bomb)
                while len(processes := await one.processes()) < 40:
                    await trio.sleep(0.05)
                began = trio.current_time()
                await visitor.tell({"type": "leave"})
                await visitor.read_to_end()
            dead, gone = await _until_gone(one, processes)
            print(f"\na fork storm of {len(processes)}: dead {dead:.1f} s, gone {gone:.1f} s after the leave")
            assert trio.current_time() - began < 30
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)


async def _until_gone(one: Supervised, processes: set[int]) -> tuple[float, float]:
    began = trio.current_time()
    dead = await one.wait_dead(processes)
    while await one.containers():
        await trio.sleep(0.05)
    return dead, trio.current_time() - began


async def test_a_wall_clock_that_jumps_ends_nothing(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    """Ten days ahead, then ten days back: for one supervisor by a virtual wall clock, so that the other one's
    is right. What is alive is known by the kernel, how long by the monotonic clock."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    prelude = (
        "import time, pathlib; right = time.time; "
        f"time.time = lambda: right() + float(pathlib.Path({str(offset)!r}).read_text())"
    )
    with trio.fail_after(LIMIT):
        async with (
            supervised(docker_host, tmp_path, prelude=prelude, RECONCILE_INTERVAL_MS="1000") as jumping,
            supervised(docker_host, tmp_path, RECONCILE_INTERVAL_MS="1000") as steady,
            visit(jumping.url) as one,
            visit(steady.url) as other,
        ):
            await one.read_until(PROMPT)
            await other.read_until(PROMPT)
            for days in (10, -10):
                offset.write_text(str(days * 86400))
                await trio.sleep(3)  # three reconciliations of each
                for number, visitor in enumerate((one, other)):
                    await visitor.echo(f"still-{number}-there-{days}")
                async with visit(jumping.url) as new:
                    await new.read_until(PROMPT)
                    await new.tell({"type": "leave"})
                    await new.read_to_end()
            assert jumping.events("left-over container") == steady.events("left-over container") == []
            processes = await jumping.processes()
            jumping.kill()
            await jumping.wait_gone(processes)
            await other.echo("unharmed")


async def test_a_gate_that_the_kernel_kills_ends_its_own_session_only(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    """The OOM killer's signal is SIGKILL. The test sends it: the kernel takes programs of a session first,
    whose `oom_score_adj` is the highest."""
    with trio.fail_after(LIMIT):
        async with supervised(docker_host, tmp_path, WARM_POOL_SIZE="0") as one, visit(one.url) as bystander:
            await bystander.read_until(PROMPT)
            before = await one.containers()
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                [container] = await one.containers() - before
                os.kill(await first_process(one, container), signal.SIGKILL)
                over = await visitor.read_to_end()
            assert (over.code, over.reason) == (4004, "ended")
            while await one.containers() != before:
                await trio.sleep(0.05)
            await bystander.echo("still-here")


async def test_a_program_that_takes_all_memory_is_killed_and_its_shell_goes_on(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    hungry = b"python3 -c 'x = bytearray(10**9)'; echo sta''tus $?\r"
    with trio.fail_after(LIMIT):
        async with (
            supervised(docker_host, tmp_path, WARM_POOL_SIZE="0", CONTAINER_MEMORY_LIMIT="64m") as one,
            visit(one.url) as visitor,
        ):
            await visitor.read_until(PROMPT)
            await visitor.type(hungry)
            assert b"status 137" in await visitor.read_until(b"status 1")
            await visitor.echo("goes-on")


@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_stopped_past_its_sessions_deadlines_their_gates_end_them(
    docker_host: str, workbench_image: str, tmp_path: Path, transport: str
) -> None:
    """A supervisor that hangs does not close its lifelines: the gate's own clock counts then, which is told
    the time that a session has, and a margin."""
    margin = "import supervisor.session.session as session; session.LIFETIME_MARGIN = 3"
    settings = {"WARM_POOL_SIZE": "0", "MAX_SESSION_DURATION_MS": "5000", "SANDBOX_TRANSPORT": transport}
    with trio.fail_after(LIMIT):
        async with (
            supervised(docker_host, tmp_path, wait=True, prelude=margin, **settings) as one,
            visit(one.url) as visitor,
        ):
            await visitor.read_until(PROMPT)
            processes = await one.processes()
            one.process.send_signal(signal.SIGSTOP)
            began = trio.current_time()
            try:
                while any(map(is_running, processes)):
                    await trio.sleep(0.2)
                    assert trio.current_time() < began + 90
                print(
                    f"\nstopped: its session's processes were dead after {trio.current_time() - began:.0f} s"
                )
            finally:
                one.process.send_signal(signal.SIGCONT)
            over = await visitor.read_to_end()
            assert over.code == 4004
            while await one.containers():
                await trio.sleep(0.05)


async def test_both_killed_while_containers_are_being_created_the_next_start_removes_all(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(LIMIT):
        async with supervised(docker_host, tmp_path, WARM_POOL_SIZE="8") as one:
            [guard] = one.guards()
            os.kill(guard, signal.SIGKILL)
            one.kill()
            while is_running(guard) or is_running(one.process.pid):
                await trio.sleep(0.01)
            began = trio.current_time()
            while processes_in(await one.containers()):
                assert trio.current_time() < began + 30, "something of it runs"
                await trio.sleep(0.05)
            async with supervised(docker_host, tmp_path):
                assert await one.containers() == set()
                assert one.sockets() == []


@pytest.mark.netns
async def test_two_in_different_network_namespaces_leave_each_other_alone(
    request: pytest.FixtureRequest, docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    """Each holds its name in a namespace that the other does not see, and both share engine and directory."""
    if os.geteuid() != 0:
        conftest.missing(request, "a network namespace takes root")
    with trio.fail_after(LIMIT):
        async with (
            supervised(docker_host, tmp_path, WARM_POOL_SIZE="0", DOCKER_NETWORK_NAME="none") as one,
            visit(one.url) as visitor,
        ):
            await visitor.read_until(PROMPT)
            mine, sockets = await one.containers(), one.sockets()
            assert len(mine) == 1
            for dry in (["--dry-run"], []):
                command = ["-m", "supervisor", "--env-file", "/dev/null", "reconcile", *dry]
                found = await trio.run_process(
                    ["unshare", "--net", sys.executable, *command],
                    env={**os.environ, "DOCKER_HOST": docker_host},
                    capture_stdout=True,
                )
                assert b"cannot be judged from here" in found.stdout
            script = (
                "import trio\n"
                "from supervisor.sandbox.lifeline import runtime_directory\n"
                "runtime_directory()\n"  # tidies up what dead supervisors left
            )
            await trio.run_process(["unshare", "--net", sys.executable, "-c", script])
            assert await one.containers() == mine
            assert one.sockets() == sockets
            await visitor.echo("still-here")


def test_a_clock_that_jumps_ends_nothing_that_is_alive() -> None:
    """Deadlines in labels are by the wall clock, and only count for what cannot be judged otherwise."""
    ours = this_process()
    labels = ours.labels("session", 60.0)
    for jump in (-1e6, 1e6):
        now = int(labels[LABEL_DEADLINE]) + CLOCK_SKEW + jump
        assert judge(labels, "name", ours, ["name"], now=now) is Verdict.OURS
        other = this_process()
        assert judge(labels, "name", other, [], alive=lambda _: True, now=now) is Verdict.ALIVE
