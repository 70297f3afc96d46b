"""The supervisor dies, or is told to: nothing of it stays, nothing of anybody else's goes.

On the real engine and the restricted network, with real supervisors as processes of their own.
"""

import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from recordings.cast import files, read

from faults.supervised import LIFELINES, TOKEN, Supervised, instance_of, is_running, supervised
from faults.visitor import PROMPT, SessionOverError, Visitor, visit
from supervisor.reaping.directories import remove_dead_directories
from supervisor.reaping.recordings import settle_all

pytestmark = pytest.mark.engine

STUBBORN = b"trap '' HUP TERM; while :; do echo flood; done\r"
FORKING = (
    b"trap '' HUP TERM; for i in 1 2 3 4 5 6 7 8; do (while :; do sleep 0.1; done) & done; echo for''ked\r"
)
SESSIONS = 10
ROUNDS = int(os.environ.get("SIGKILL_ROUNDS", "10"))
"""Kills at a random moment: 10 in CI, more in `make soak`."""


@asynccontextmanager
async def visitors(one: Supervised, count: int) -> AsyncIterator[list[Visitor]]:
    """So many sessions at their prompts; one in two ignores hang-ups and floods, one in five forks."""
    opened: list[Visitor] = []

    async def stay(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        with suppress(SessionOverError):
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                if number % 5 == 2:
                    await visitor.type(FORKING)
                    await visitor.read_until(b"forked\r\n")
                elif number % 2:
                    await visitor.type(STUBBORN)
                    await visitor.read_until(b"flood\r\nflood")
                opened.append(visitor)
                task_status.started()
                await visitor.read_to_end()

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for number in range(count):
                starting.start_soon(nursery.start, stay, number)
        yield opened
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_killed_with_sessions_open_it_leaves_nothing_and_a_foreign_one_is_untouched(
    docker_host: str, workbench_image: str, tmp_path: Path, transport: str
) -> None:
    with trio.fail_after(180):
        async with (
            supervised(docker_host, tmp_path) as foreign,
            supervised(docker_host, tmp_path, SANDBOX_TRANSPORT=transport) as one,
            visit(foreign.url) as bystander,
        ):
            await bystander.read_until(PROMPT)
            before = await foreign.containers()
            async with visitors(one, SESSIONS):
                processes = await one.processes()
                assert len(processes) > SESSIONS
                one.kill()
                dead, gone = await one.wait_gone(processes)
            print(
                f"\n{transport}: {SESSIONS} sessions, {len(processes)} processes: "
                f"dead after {dead:.2f} s, containers gone after {gone:.2f} s"
            )
            assert dead < 5, "half a second on a quiet machine"
            await bystander.echo("still-here")
            assert await foreign.containers() >= before


async def test_a_guard_that_dies_is_replaced_and_the_new_one_does_the_work(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with (
            supervised(docker_host, tmp_path, SANDBOX_TRANSPORT="attach") as one,
            visitors(one, SESSIONS),
        ):
            [first] = one.guards()
            os.kill(first, signal.SIGKILL)
            await one.wait_logged("the guard process died")
            while one.guards() in ([], [first]):
                await trio.sleep(0.02)
            processes = await one.processes()
            one.kill()
            _, gone = await one.wait_gone(processes)
            print(f"\nwith the second guard: containers gone after {gone:.2f} s")


async def test_supervisor_and_guard_killed_together_the_next_start_removes_all(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path, SANDBOX_TRANSPORT="attach") as one, visitors(one, 4):
            left = await one.containers()
            assert len(left) >= 4
            [guard] = one.guards()
            os.kill(guard, signal.SIGKILL)
            one.kill()
            while is_running(guard) or is_running(one.process.pid):
                await trio.sleep(0.01)
            assert await one.containers(), "on transport attach nothing tells a gate"
            async with supervised(docker_host, tmp_path) as following:
                assert await one.containers() == set(), "before its port opened"
                assert one.sockets() == []
                assert len(following.events("left-over container")) >= len(left)


async def test_lifelines_end_containers_when_supervisor_and_guard_are_killed_together(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path) as one, visitors(one, 4):
            processes = await one.processes()
            [guard] = one.guards()
            os.kill(guard, signal.SIGKILL)
            one.kill()
            dead = await one.wait_dead(processes)
            print(f"\nwithout a guard: {len(processes)} processes dead after {dead:.2f} s")
            async with supervised(docker_host, tmp_path):
                # Engines that are not asked to remove what has ended leave it to the next start.
                assert await one.containers() == set(), "before its port opened"
                assert one.sockets() == []


async def _kill_both(one: Supervised) -> None:
    """Kill supervisor and guard at the same moment, as if long after the start."""
    [guard] = one.guards()
    os.utime(one.operators_socket(), (0, 0))
    os.kill(guard, signal.SIGKILL)
    one.kill()
    while is_running(guard) or is_running(one.process.pid):
        await trio.sleep(0.01)


async def test_supervisor_and_guard_killed_together_another_ones_reconciler_removes_all(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with (
            supervised(docker_host, tmp_path, RECONCILE_INTERVAL_MS="1000") as other,
            supervised(docker_host, tmp_path) as one,
            visitors(one, 2),
        ):
            assert len(one.sockets()) == 1
            assert one.operators_socket().exists()
            await _kill_both(one)
            while await one.containers() or one.sockets() or one.groups() or one.operators_socket().exists():
                await trio.sleep(0.05)
            assert other.operators_socket().exists()
            assert len(other.sockets()) == 1


async def test_supervisor_and_guard_killed_together_the_command_names_all_and_removes_it(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    async def reconcile(*options: str) -> str:
        command = [sys.executable, "-m", "supervisor", "--env-file", "/dev/null", "reconcile", *options]
        environment = {**os.environ, "DOCKER_HOST": docker_host}
        done = await trio.run_process(command, env=environment, capture_stdout=True)
        return done.stdout.decode()

    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path) as one, visitors(one, 2):
            await _kill_both(one)
            [directory] = one.sockets()
            dead = "of a supervisor of this host, which is dead"
            told = await reconcile("--dry-run")
            assert f"directory {directory}  to be removed: {dead}\n" in told
            assert f"socket {one.operators_socket()}  to be removed: {dead}\n" in told
            for group in {path.name for path in one.groups()}:
                assert f"control group {group}  to be removed: {dead}\n" in told
            assert one.operators_socket().exists()
            assert one.sockets() == [directory]
            told = await reconcile()
            assert f"directory {directory}  removed: {dead}\n" in told
            assert f"socket {one.operators_socket()}  removed: {dead}\n" in told
            assert await one.containers() == set()
            assert not one.operators_socket().exists()
            assert one.sockets() == []
            assert one.groups() == []
            assert str(directory) not in await reconcile("--dry-run")


async def test_the_guard_removes_the_operators_socket(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path) as one:
            os.utime(one.operators_socket(), (0, 0))
            one.kill()
            await one.wait_gone(set())
            assert not one.operators_socket().exists()


async def _churn(one: Supervised, number: int) -> None:
    """Visit again and again, each time something else, until the supervisor is gone."""
    choice = random.Random(number)
    while True:
        try:
            async with visit(one.url) as visitor:
                await visitor.read_until(PROMPT)
                match choice.randrange(4):
                    case 0:
                        await visitor.type(b"exit\r")
                        await visitor.read_to_end()
                        continue
                    case 1:
                        await visitor.type(STUBBORN)
                        await visitor.read_until(b"flood\r\nflood")
                        await visitor.tell({"type": "leave"})
                        await visitor.read_to_end()
                        continue
                    case 2:
                        return  # its session goes on without it
                    case _:
                        await visitor.echo("before")
            async with visit(one.url, session_id=visitor.hello["sessionId"], offset=visitor.offset) as back:
                await back.echo("after")
                assert back.hello["resumed"]
                await back.tell({"type": "leave"})
                await back.read_to_end()
        except SessionOverError:
            if not is_running(one.process.pid):
                return
            await trio.sleep(0.1)


async def test_killed_at_any_moment_under_churn_it_leaves_nothing(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    at_once = trio.CapacityLimiter(2)  # the other one is a foreign supervisor under churn
    times: list[float] = []
    deaths: list[float] = []
    recordings = tmp_path / "recordings"

    async def one_round(number: int) -> None:
        transport = "attach" if number % 3 == 2 else "lifeline"
        moment = random.Random(number).uniform(0.05, 2.5)
        with trio.fail_after(120):
            async with (
                supervised(
                    docker_host,
                    tmp_path,
                    SANDBOX_TRANSPORT=transport,
                    RECORDING_DIRECTORY=str(recordings),
                    RECORDING_MIN_FREE="0",
                ) as one,
                trio.open_nursery() as nursery,
            ):
                for visitor in range(4):
                    nursery.start_soon(_churn, one, number * 100 + visitor)
                await trio.sleep(moment)
                processes = await one.processes()
                one.kill()
                dead, gone = await one.wait_gone(processes)
                if transport == "lifeline":  # the others die by the guard's hand
                    deaths.append(dead)
                times.append(gone)
                nursery.cancel_scope.cancel()

    async def limited(number: int) -> None:
        async with at_once:
            await one_round(number)

    async with supervised(docker_host, tmp_path) as foreign, visit(foreign.url) as bystander:
        await bystander.read_until(PROMPT)
        before = await foreign.containers()
        async with trio.open_nursery() as rounds:
            for number in range(ROUNDS):
                rounds.start_soon(limited, number)
        await bystander.echo("still-here")
        assert await foreign.containers() >= before
    assert len(times) == ROUNDS
    assert max(deaths) < 5, "half a second on a quiet machine"
    settle_all(recordings)  # what had a file and no record yet, which a guard goes by
    casts = [read(path) for path in files(recordings)]
    assert len(casts) > ROUNDS / 4, "on the busiest of machines"
    assert all(cast.events[-1][1] == "m" for cast in casts)
    print(
        f"\n{ROUNDS} kills under churn: processes dead after {max(deaths):.2f} s at most, "
        f"containers gone after {max(times):.2f} s at most"
    )


async def test_asked_to_stop_it_says_farewell_and_leaves_nothing(
    docker_host: str, workbench_image: str, tmp_path: Path
) -> None:
    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path) as one:
            async with trio.open_nursery() as nursery:
                ends: list[SessionOverError] = []

                async def stay(number: int, *, task_status: trio.TaskStatus[None]) -> None:
                    async with visit(one.url) as visitor:
                        await visitor.read_until(PROMPT)
                        if number % 2:
                            await visitor.type(STUBBORN)
                            await visitor.read_until(b"flood\r\nflood")
                        task_status.started()
                        ends.append(await visitor.read_to_end())
                        assert [error["reason"] for error in visitor.errors] == ["shutdown"]

                for number in range(4):
                    await nursery.start(stay, number)
                processes = await one.processes()
                began = trio.current_time()
                one.process.send_signal(signal.SIGTERM)
                assert await one.process.wait() == 0
                seconds = trio.current_time() - began
            assert [(end.code, end.reason) for end in ends] == [(1001, "shutdown")] * 4
            assert not any(map(is_running, processes))
            assert await one.containers() == set()
            assert one.sockets() == []
            await one.wait_gone(set())
            assert one.events("guard removed") == [], "there was nothing left for it"
            print(f"\nSIGTERM with 4 sessions: ended after {seconds:.2f} s")


async def test_a_second_signal_hurries(docker_host: str, workbench_image: str, tmp_path: Path) -> None:
    with trio.fail_after(120):
        async with supervised(docker_host, tmp_path, SHUTDOWN_GRACE_MS="60000") as one:
            # A client that has stopped reading holds the farewell up for the whole grace.
            async with trio.open_nursery() as nursery:
                stream = await _deaf_visitor(one)
                began = trio.current_time()
                one.process.send_signal(signal.SIGTERM)
                await one.wait_logged("stopping")
                await trio.sleep(0.5)
                assert one.process.returncode is None, "it waits for the farewell to be read"
                one.process.send_signal(signal.SIGTERM)
                assert await one.process.wait() == 0
                assert trio.current_time() - began < 40
                await trio.aclose_forcefully(stream)
                nursery.cancel_scope.cancel()
            assert await one.containers() == set()
            await one.wait_gone(set())


async def _deaf_visitor(one: Supervised) -> trio.abc.Stream:
    """A client that completes the handshake and a session's start, floods, and never reads again."""
    host, port = one.url.removeprefix("ws://").split("/")[0].split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    stream.setsockopt(1, 8, 4096)  # SOL_SOCKET, SO_RCVBUF
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    head = (
        f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: terminal-supervisor.v1\r\n\r\n"
    )
    await stream.send_all(head.encode())

    def frame(opcode: int, data: bytes) -> bytes:
        assert len(data) < 126
        return bytes([0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0]) + data

    auth = f'{{"type":"auth","token":"{TOKEN}","cols":80,"rows":24}}'
    await stream.send_all(frame(1, auth.encode()))
    seen = b""
    while PROMPT not in seen:
        seen += await stream.receive_some()
    await stream.send_all(frame(2, b"while :; do echo flood; done\r"))
    while b"flood\r\nflood" not in seen:
        seen += await stream.receive_some(4096)
    return stream


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_ended_while_it_starts_it_leaves_nothing(
    docker_host: str, workbench_image: str, tmp_path: Path, number: signal.Signals
) -> None:
    with trio.fail_after(180):
        for moment in (0.0, 0.3, 0.8, 1.6):
            async with supervised(docker_host, tmp_path, wait=False) as one:
                while not (instance := _instance_if_any(one)):
                    await trio.sleep(0.01)
                one.instance = instance
                await trio.sleep(moment)
                guarded = bool(one.guards())
                one.process.send_signal(number)
                status = await one.process.wait()
                if number == signal.SIGKILL and not guarded:
                    # It has no container yet, and whoever starts next takes its directory away.
                    remove_dead_directories(LIFELINES)
                if number == signal.SIGINT:
                    assert status == 0
                    assert await one.containers() == set()
                    assert one.sockets() == []
                await one.wait_gone(set())
                assert "Traceback" not in one.log.read_text()


def _instance_if_any(one: Supervised) -> str:
    assert one.process.returncode is None, one.log.read_text()
    try:
        return instance_of(one.process.pid)
    except ValueError:
        return ""
