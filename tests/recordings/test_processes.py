"""Recordings of real processes, with sessions of provider `local`: what is on disk when they are killed, when
they hand over to each other, and when the disk is full."""

import os
import random
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from conftest import missing
from faults.visitor import SessionOverError, visit
from handover.harness import Faithful, Server, server, until

from recordings.cast import files, only, read
from supervisor.reaping.recordings import LOST

TIMEOUT = 180.0  # a quiet machine takes a tenth of it
ROUNDS = int(os.environ.get("SIGKILL_ROUNDS", "6"))
LOST_AT_MOST = 2.0  # seconds of output; half a second on a quiet machine
COUNTER = b"i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done\r"
FAST_COUNTER = b"i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); echo $i; done\r"


@asynccontextmanager
async def recording(directory: Path, *arguments: str, **settings: str) -> AsyncGenerator[Server]:
    """A server that records into `directory`/recordings."""
    settings = {"RECORDING_DIRECTORY": str(directory / "recordings"), "RECORDING_MIN_FREE": "0", **settings}
    async with server(directory, "demo", *(arguments or ("--port", "0")), **settings) as one:
        yield one


async def test_killed_at_any_moment_it_leaves_all_but_the_last_moment(tmp_path: Path) -> None:
    choice, worst = random.Random(4711), 0.0
    with trio.fail_after(TIMEOUT):
        for _ in range(ROUNDS):
            async with recording(tmp_path) as one, trio.open_nursery() as nursery:
                await one.wait_open()
                visitor = Faithful(one.url)
                await nursery.start(visitor.run)
                reached = [(trio.current_time(), 0)]
                await visitor.type(COUNTER)
                await visitor.wait_for(b"\n20\r")
                with trio.move_on_after(choice.uniform(0, 2.5)):
                    while True:
                        reached.append((trio.current_time(), len(visitor.text)))
                        await trio.sleep(0.01)
                reached.append((trio.current_time(), len(visitor.text)))
                one.process.kill()
                killed = trio.current_time()
                await one.ended()
                nursery.cancel_scope.cancel()
            part = only(tmp_path / "recordings", "*.part")
            async with recording(tmp_path) as following:
                await following.wait_open()
            path = only(tmp_path / "recordings")
            assert f"{path}.part" == str(part)
            cast, shown = read(path), visitor.text.decode()
            path.unlink()
            assert cast.events[-1][1:] == ("m", LOST)
            text = cast.text("o")
            length = min(len(text), len(shown))
            assert text[:length] == shown[:length], "they are beginnings of the same output"
            lost = min(killed - when for when, length in reached if length <= len(text))
            worst = max(worst, lost)
    print(f"\n{ROUNDS} kills: at most the last {worst:.2f} s were lost")
    assert worst < LOST_AT_MOST


async def test_a_recording_goes_on_in_the_process_that_takes_over(tmp_path: Path) -> None:
    """Three processes, one file, no byte missing or double; then it is killed."""
    settings = {"RECORDING_REQUIRED": "true", "RECORD_INPUT": "true"}
    with trio.fail_after(TIMEOUT):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            current = await stack.enter_async_context(recording(tmp_path, **settings))
            await current.wait_open()
            visitor = Faithful(current.url)
            await nursery.start(visitor.run)
            assert visitor.hello["notice"].startswith("This session is recorded.")
            await visitor.type(FAST_COUNTER)
            await visitor.wait_for(b"\n1000\r")
            for _ in range(2):
                arguments = ("--port", str(current.port), "--takeover")
                following = await stack.enter_async_context(recording(tmp_path, *arguments, **settings))
                await following.wait_open()
                assert await current.ended() == 0
                current, size = following, len(visitor.text)
                await until(lambda size=size: len(visitor.text) > size + 50_000)  # type: ignore[misc]
            await visitor.type(b"\x03")
            await visitor.type(b"exit\r")
            await until(lambda: visitor.over is not None)
            current.process.send_signal(signal.SIGTERM)
            assert await current.ended() == 0
            nursery.cancel_scope.cancel()
    assert visitor.returns == 3
    cast = read(only(tmp_path / "recordings"))
    assert cast.text("o").encode() == bytes(visitor.text)
    assert cast.text("i").encode() == FAST_COUNTER + b"\x03exit\r"
    assert cast.all("m") == ["session ended: user_exit"]


async def test_a_take_over_that_fails_leaves_the_recording_with_the_one_that_goes_on(tmp_path: Path) -> None:
    with trio.fail_after(TIMEOUT):
        async with recording(tmp_path, STANDSTILL="1") as one, trio.open_nursery() as nursery:
            await one.wait_open()
            visitor = Faithful(one.url)
            await nursery.start(visitor.run)
            await visitor.type(b"echo be''fore\r")
            await visitor.wait_for(b"before\r")
            arguments = ("--port", str(one.port), "--takeover")
            async with recording(tmp_path, *arguments, FAULT_AT="taker:received") as other:
                assert await other.ended() == -signal.SIGKILL
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
            await visitor.type(b"exit\r")
            await until(lambda: visitor.over is not None)
            one.process.send_signal(signal.SIGTERM)
            assert await one.ended() == 0
            nursery.cancel_scope.cancel()
    assert read(only(tmp_path / "recordings")).text("o").encode() == bytes(visitor.text)


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Command prefix that runs a program where `recordings` is on a disk of 256 KiB."""
    directory = tmp_path / "recordings"
    directory.mkdir()
    mounted = f'mount -t tmpfs -o size=256k,mode=0700 none {directory} && exec "$@"'
    for options in (["--mount"], ["--mount", "--user", "--map-root-user"]):
        prefix = ["unshare", *options, "sh", "-c", mounted, "sh"]
        if subprocess.run([*prefix, "true"], capture_output=True, timeout=60, check=False).returncode == 0:
            return prefix
    missing(request, "no mount namespaces: neither root nor unprivileged user namespaces here")
    raise AssertionError


def on_small_disk(one: Server, directory: Path) -> Path:
    return Path(f"/proc/{one.process.pid}/root") / directory.relative_to("/") / "recordings"


def fill(directory: Path) -> None:
    """Leave no byte free."""
    with (directory / "rest").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)


@pytest.mark.parametrize("required", [False, True])
async def test_a_full_disk(tmp_path: Path, small_disk: list[str], required: bool) -> None:
    """The session goes on, or ends with a reason of its own; what was recorded can be read."""
    settings = {"RECORDING_REQUIRED": str(required), "within": small_disk}
    with trio.fail_after(TIMEOUT):
        async with recording(tmp_path, **settings) as one:  # type: ignore[arg-type]
            await one.wait_open()
            async with visit(one.url) as visitor:
                await visitor.type(b"seq 1 100000; echo do''ne\r")
                if required:
                    over = await visitor.read_to_end()
                    assert (over.code, over.reason) == (4004, "recording")
                    fill(on_small_disk(one, tmp_path))
                    with pytest.raises(SessionOverError) as refused:
                        async with visit(one.url) as another:
                            await another.read()
                    assert (refused.value.code, refused.value.reason) == (4004, "recording")
                else:
                    await visitor.read_until(b"done\r")
                    await visitor.echo("still-here")
                    fill(on_small_disk(one, tmp_path))
                    async with visit(one.url) as another:
                        await another.echo("not-recorded")
                        assert "recorded" not in another.hello["notice"]
            cast = read(only(on_small_disk(one, tmp_path), "*.cast"))
            assert len(cast.text("o")) > 100_000
            assert one.log_has("a recording ended before its session.*No space left on device")
            assert one.log_has("a session is not recorded")
            one.process.send_signal(signal.SIGTERM)
            assert await one.ended() == 0
    assert files(tmp_path / "recordings") == []
