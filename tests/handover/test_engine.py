"""The hand-over with containers, on the real engine: real processes, and cancelled at every checkpoint."""

import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from faults.supervised import containers_of, guards_of, instance_of

from handover.harness import GIVER_STEPS, TAKER_STEPS, Faithful, Server, server, until
from supervisor.engine import Docker

TIMEOUT = 150.0
COUNTER = b"i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); echo $i; done\r"


@asynccontextmanager
async def serving(directory: Path, docker_host: str, *more: str, **settings: str) -> AsyncGenerator[Server]:
    arguments = ("serve", "--no-setup", *more)
    async with server(directory, *arguments, DOCKER_HOST=docker_host, **settings) as one:
        yield one


@asynccontextmanager
async def first(directory: Path, docker_host: str, **settings: str) -> AsyncGenerator[Server]:
    with trio.fail_after(TIMEOUT):
        async with serving(directory, docker_host, "--port", "0", **settings) as one:
            await one.wait_open()
            yield one


@pytest.mark.engine
async def test_containers_go_on_in_another_process(
    tmp_path: Path, docker_host: str, workbench_image: str
) -> None:
    """Byte-exact; one instance and one guard before and after; nothing is left when the new process ends."""
    async with (
        Docker(docker_host) as docker,
        first(tmp_path, docker_host) as one,
        trio.open_nursery() as nursery,
    ):
        instance = instance_of(one.process.pid)
        [guard] = guards_of(instance)
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.type(COUNTER)
        await visitor.wait_for(b"\n1000\r")
        takeover = ("--port", str(one.port), "--takeover")
        async with serving(tmp_path, docker_host, *takeover) as other:
            await other.wait_open()
            assert await one.ended() == 0
            reached = len(visitor.text)
            await until(lambda: len(visitor.text) > reached + 50_000)
            assert visitor.returns == 1
            assert instance_of(other.process.pid) == instance
            assert guards_of(instance) == [guard]
            lines = bytes(visitor.text).replace(b"\r", b"").split(b"\n")[1:-1]
            counted = [int(line) for line in lines if re.fullmatch(rb"\d+", line)]
            assert counted == list(range(counted[0], counted[0] + len(counted)))
            other.process.send_signal(signal.SIGTERM)
            assert await other.ended() == 0
            await until(lambda: guards_of(instance) == [])
            assert await containers_of(docker, instance) == set()
        nursery.cancel_scope.cancel()


@pytest.mark.engine
@pytest.mark.parametrize(
    "fault",
    [*(f"giver:{step}" for step in GIVER_STEPS), *(f"taker:{step}" for step in TAKER_STEPS), "taker:taken"],
)
async def test_whoever_dies_nothing_is_left_and_nobody_is_missing(
    tmp_path: Path, docker_host: str, workbench_image: str, fault: str
) -> None:
    """A server at the end, with the session wherever somebody had all of it; then SIGKILL, and the guard has
    the rest."""
    role = fault.split(":")[0]
    ones, others = ({"FAULT_AT": fault}, {}) if role == "giver" else ({}, {"FAULT_AT": fault})
    async with (
        Docker(docker_host) as docker,
        first(tmp_path, docker_host, WARM_POOL_SIZE="1", **ones) as one,
        trio.open_nursery() as nursery,
    ):
        instance = instance_of(one.process.pid)
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.type(b"echo be''fore\r")
        await visitor.wait_for(b"before\r")
        takeover = ("--port", str(one.port), "--takeover")
        async with serving(tmp_path, docker_host, *takeover, WARM_POOL_SIZE="1", **others) as other:
            survivor = other
            if fault == "taker:taken":
                assert (await one.ended(), await other.ended()) == (0, -signal.SIGKILL)
            elif role == "giver":
                await other.wait_open()
                assert await one.ended() == -signal.SIGKILL
            else:
                assert await other.ended() == -signal.SIGKILL
                survivor = one
            if fault == "giver:sent" or survivor is one:
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
            if fault != "taker:taken":
                assert survivor.process.returncode is None
                survivor.process.kill()
                await survivor.ended()
            await until(lambda: guards_of(instance) == [], 60)
            assert await containers_of(docker, instance) == set()
        nursery.cancel_scope.cancel()


LIMIT = 6  # commands a minute: one more than there may be is waited for for 10 s


@pytest.mark.engine
async def test_commands_are_counted_and_keys_wait_across_a_hand_over(
    tmp_path: Path, docker_host: str, workbench_image: str
) -> None:
    """From the shell to the user, in two processes, and the end is what it would be without."""
    settings = {
        "SESSION_COMMAND": "restricted-shell --allow printf",
        "MAX_COMMANDS_PER_MINUTE": str(LIMIT),
    }
    async with first(tmp_path, docker_host, **settings) as one, trio.open_nursery() as nursery:
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.wait_for(b"ably> ")
        started = 0
        while not visitor.notices:  # on a slow host more may be started until there are too many
            started += 1
            await visitor.type(f"printf %s- sta rt {started}\r".encode())
            await visitor.wait_for(f"sta-rt-{started}-".encode())
            await trio.sleep(0.2)  # a count is told of within half of that
        assert started > LIMIT
        assert "may start 6 commands a minute" in visitor.notices[0]
        assert one.log_has("limit hit: commands")
        await visitor.type(b"printf %s- not this\r")
        await visitor.type(b"\x03printf %s- mo re\r")
        await visitor.wait_for(b"^C")
        assert b"mo-re" not in visitor.text
        takeover = ("--port", str(one.port), "--takeover")
        async with serving(tmp_path, docker_host, *takeover, **settings) as other:
            await other.wait_open()
            assert await one.ended() == 0
            await visitor.type(b"exit 7\r")
            await until(lambda: visitor.over is not None, 60)
            assert visitor.exited == 7
            assert b"mo-re" in visitor.text
            assert b"not-this" not in visitor.text
            await until(lambda: other.log_has("session ended"))
            assert other.log_has(f'"commands": ?{started + 1}[,}}]')
            assert other.log_has(r'"peak_memory": ?\d{6}')
            other.process.send_signal(signal.SIGTERM)
            assert await other.ended() == 0
        nursery.cancel_scope.cancel()


@pytest.mark.engine
async def test_attached_sessions_are_not_handed_over(
    tmp_path: Path, docker_host: str, workbench_image: str
) -> None:
    async with (
        first(tmp_path, docker_host, SANDBOX_TRANSPORT="attach") as one,
        trio.open_nursery() as nursery,
    ):
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        async with serving(tmp_path, docker_host, "--port", str(one.port), "--takeover") as other:
            assert await other.ended() == 75
            assert other.log_has("SANDBOX_TRANSPORT=attach, which cannot be handed")
        await visitor.type(b"echo af''ter\r")
        await visitor.wait_for(b"after\r")
        one.process.send_signal(signal.SIGTERM)
        assert await one.ended() == 0
        nursery.cancel_scope.cancel()
