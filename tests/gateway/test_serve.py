"""The command as a process: signals, farewell, exit status, and nothing left. With provider `local`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio

from gateway.harness import TOKEN, ClosedError, V1Client, Wire
from supervisor.protocol.v1 import SUBPROTOCOL

TIMEOUT = 40.0


@attrs.define
class Command:
    """A running `terminal-supervisor demo`."""

    process: trio.Process
    port: int
    said: bytes = b""

    async def client(self) -> V1Client:
        wire = Wire(await trio.open_tcp_stream("127.0.0.1", self.port))
        await wire.upgrade(SUBPROTOCOL, host=f"127.0.0.1:{self.port}")
        client = V1Client(wire)
        await client.auth()
        return client

    async def wait(self) -> int:
        """Wait for the end; nothing of it may be left."""
        descendants = _descendants(self.process.pid)
        assert descendants
        status = await self.process.wait()
        with trio.fail_after(5):
            while any(map(_alive, descendants)):
                await trio.sleep(0.05)
        return status


@asynccontextmanager
async def command(**environment: str) -> AsyncGenerator[Command]:
    arguments = [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "demo", "--port", "0"]
    with trio.fail_after(TIMEOUT):
        process = await trio.lowlevel.open_process(
            arguments,
            env={**os.environ, "LOCAL_ACCESS_TOKEN": TOKEN, "SESSION_COMMAND": "sh", **environment},
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        try:
            async with process.stdout as output:
                said = b""
                while not (found := re.search(rb"Open http://127\.0\.0\.1:(\d+)/\?token=(\S+)\n", said)):
                    data = await output.receive_some()
                    assert data, said
                    said += data
                yield Command(process, int(found[1]), said)
        finally:
            process.kill()
            await process.wait()


def _descendants(pid: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    gone = (FileNotFoundError, ProcessLookupError)  # processes and their tasks end while we look
    with suppress(*gone):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*gone):
                for child in (task / "children").read_text().split():
                    found += _descendants(int(child))
                    with suppress(*gone):
                        found.append((int(child), _started(int(child))))
    return found


def _started(pid: int) -> str:
    """The start time, by which a process is told from a later one of the same number."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def _alive(process: tuple[int, str]) -> bool:
    pid, started = process
    try:
        return _started(pid) == started
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_good_order(number: signal.Signals) -> None:
    async with command(LOG_FORMAT="json") as running:
        assert b"NO ISOLATION" in running.said
        client = await running.client()
        await client.wire.send(b"trap '' HUP; echo re''ady\r")  # it will not go when it is told to
        while b"ready" not in client.output:
            await client.next()
        other = await running.client()
        running.process.send_signal(number)
        async with trio.open_nursery() as nursery:
            statuses: list[int] = []

            async def wait() -> None:
                statuses.append(await running.wait())

            nursery.start_soon(wait)
            for each in (client, other):
                assert await each.closed() == (1001, "shutdown")
                assert "going away" in each.messages[-1]["message"]
                await each.wire.stream.aclose()
        assert statuses == [0]
        with pytest.raises(OSError, match="all attempts"):
            await running.client()


async def test_a_second_signal_hurries() -> None:
    async with command(SHUTDOWN_GRACE_MS="600000") as running:
        client = await running.client()
        client.wire.answers_close = False
        waiting = await trio.open_tcp_stream("127.0.0.1", running.port)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def signals() -> None:
                running.process.send_signal(signal.SIGTERM)
                await client.closed()
                running.process.send_signal(signal.SIGTERM)

            nursery.start_soon(signals)
            assert await running.wait() == 0
        assert trio.current_time() - started < 15
        await client.wire.stream.aclose()
        await waiting.aclose()


async def test_the_token_in_the_printed_address_works_and_the_next_one_is_printed() -> None:
    async with command() as running:
        token = re.search(rb"token=(\S+)", running.said)
        assert token is not None
        stream = await trio.open_tcp_stream("127.0.0.1", running.port)
        async with stream:
            request = f"GET /?token={token[1].decode()} HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n"
            await stream.send_all(request.encode())
            assert b"303 See Other" in await stream.receive_some()
        assert running.process.stdout
        said = b""
        while b"token=" not in said:
            said += await running.process.stdout.receive_some()
        assert token[1] not in said


async def test_sessions_are_shells_of_this_host_with_a_clean_environment() -> None:
    async with command(TERMINAL_SERVER_SIGNING_SECRET="") as running:
        client = await running.client()
        assert client.hello["isolated"] is False
        await client.wire.send(b"env | sort; stty size; exit 5\r")
        await client.tell("resize", cols=100, rows=50)
        with pytest.raises(ClosedError) as caught:
            while True:
                await client.next()
        assert caught.value.code == 4000
        assert client.messages[-1] == {"type": "exit", "code": 5, "signal": None}
        assert TOKEN.encode() not in client.output
        assert b"TERM=xterm-256color" in client.output
        await client.wire.stream.aclose()


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "70000"}, "PORT=70000: must be 0 to 65535"),
        ({"HOST": "192.0.2.1", "PORT": "8080"}, "HOST=192.0.2.1"),
        ({"HOST": "127.0.0.1", "PORT": "8080", "ALLOWED_HOSTS": "http://x"}, "ALLOWED_HOSTS"),
    ],
)
def test_what_the_operator_gets_wrong_is_said_in_a_sentence(
    environment: dict[str, str], sentence: str
) -> None:
    arguments = [sys.executable, "-m", "supervisor", "--env-file", "/nonexistent", "demo"]
    result = subprocess.run(
        arguments,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 78
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
