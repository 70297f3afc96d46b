"""What every provider promises, on both transports and on the local PTY: real programs on real terminals.

The programs are those that the workbench image and any Debian host have.
"""

import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from sandbox.conftest import command_lines
from supervisor.engine import Docker, DockerError
from supervisor.errors import SandboxError
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, SandboxProvider, Terminal

LIMIT = 60.0  # seconds for a lease; a start takes 0.3 on a quiet machine and whole seconds on a busy one
MIB = 1 << 20


@asynccontextmanager
async def running(
    provider: SandboxProvider, *command: str, grace: float = 0.0, **fields: object
) -> AsyncIterator[Terminal]:
    request = LeaseRequest("test", command, hangup_grace=grace, **fields)  # type: ignore[arg-type]
    with trio.fail_after(LIMIT):
        async with provider.lease(request) as terminal:
            yield terminal


def shell(script: str) -> tuple[str, str, str]:
    return "bash", "-c", script


async def read_until(terminal: Terminal, wanted: bytes) -> bytes:
    output = b""
    while wanted not in output:
        data = await terminal.receive_some()
        assert data, f"{wanted!r} did not come: {output[-500:]!r}"
        output += data
    return output


async def read_all(terminal: Terminal) -> bytes:
    pieces: list[bytes] = []
    while data := await terminal.receive_some():
        pieces.append(data)
    return b"".join(pieces)


async def test_the_window_has_its_size_from_the_first_instruction_on(provider: SandboxProvider) -> None:
    async with running(provider, "stty", "size", cols=101, rows=33) as terminal:
        assert await read_all(terminal) == b"33 101\r\n"
        assert await terminal.wait_closed() == ExitStatus(0)


async def test_a_shell_can_be_talked_to(provider: SandboxProvider) -> None:
    async with running(provider, environment={"PS1": "prompt> "}) as terminal:
        await read_until(terminal, b"prompt> ")
        await terminal.send_all(b"tty; echo $((6 * 7)); ps -o tpgid= -p $$ | wc -l\r")
        output = await read_until(terminal, b"42\r\n1\r\n")
        assert b"/dev/pts/" in output or b"/dev/console" in output
        await terminal.send_all(b"sh -c 'echo go; exec sleep 100'\r")
        await read_until(terminal, b"\rgo\r\n")
        await terminal.send_all(b"\x03")
        await terminal.send_all(b"echo after-$?\r")
        await read_until(terminal, b"after-130\r\n")
        await terminal.send_all(b"exit 7\r")
        await read_all(terminal)
        assert await terminal.wait_closed() == ExitStatus(7)


async def test_a_resize_reaches_the_program_as_a_signal(provider: SandboxProvider) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 1 & wait $!; done"
    async with running(provider, *shell(script)) as terminal:
        await read_until(terminal, b"ready")
        await terminal.resize(132, 50)
        await read_until(terminal, b"50 132\r\n")
        for cols, rows in ((0, 24), (80, 0), (1001, 24), (80, -1)):
            with pytest.raises(ValueError, match="1 to 1000"):
                await terminal.resize(cols, rows)


async def test_of_many_sizes_the_last_one_counts(provider: SandboxProvider) -> None:
    script = "stty -echo; echo ready; while read -r line; do stty size; done"
    async with running(provider, *shell(script)) as terminal:
        await read_until(terminal, b"ready\r\n")
        begin = trio.current_time()
        for cols in range(40, 540):
            await terminal.resize(cols, 20)
        assert trio.current_time() - begin < 2, "nobody has to wait for a resize"
        size = b""
        while size != b"20 539\r\n":
            await terminal.send_all(b"\r")
            size = await read_until(terminal, b"\n")


async def test_bytes_arrive_as_they_are(provider: SandboxProvider) -> None:
    async with running(provider, *shell("stty raw -echo; echo ready; exec cat")) as terminal:
        await read_until(terminal, b"ready\n")
        every_byte = bytes(range(256)) * 3 + b"!"
        await terminal.send_all(every_byte)
        output = b""
        while len(output) < len(every_byte):
            output += await terminal.receive_some()
        assert output == every_byte
        text = "ä漢字😀".encode()
        output = b""
        for index in range(len(text)):
            await terminal.send_all(text[index : index + 1])
        while len(output) < len(text):
            output += await terminal.receive_some(1)
        assert output == text


async def test_no_key_is_taken_away(provider: SandboxProvider) -> None:
    async with running(provider, *shell("stty raw -echo; echo ready; exec cat")) as terminal:
        await read_until(terminal, b"ready\n")
        for keys in (b"\x10", b"\x10\x11", b"\x11", b"\x00", b"\x13", b"\x1a", b"\x1c", b"\x04"):
            await terminal.send_all(keys)
            output = b""
            while len(output) < len(keys):
                output += await terminal.receive_some()
            assert output == keys


async def test_a_megabyte_each_way(provider: SandboxProvider) -> None:
    sent = secrets.token_bytes(MIB)
    script = f"stty raw -echo; echo ready; head -c {MIB}; exit 3"
    async with running(provider, *shell(script)) as terminal:
        await read_until(terminal, b"ready\n")
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await read_all(terminal))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await terminal.send_all(sent)
        assert await terminal.wait_closed() == ExitStatus(3)
        assert received[0] == sent


@pytest.mark.parametrize(
    ("command", "code", "signal"),
    [
        (("true",), 0, None),
        (shell("exit 255"), 255, None),
        (shell("kill -KILL $$"), None, 9),
        (shell("kill -TERM $$"), None, 15),
        (("/nonexistent/program",), 127, None),
        (("no-such-program",), 127, None),
        (("/etc/passwd",), 126, None),
    ],
    ids=["zero", "most", "killed", "terminated", "path", "name", "denied"],
)
async def test_how_it_ended(
    provider: SandboxProvider, kind: str, command: tuple[str, ...], code: int | None, signal: int | None
) -> None:
    async with running(provider, *command) as terminal:
        await read_all(terminal)
        status = await terminal.wait_closed()
    if kind == "attach" and signal is not None:
        assert status == ExitStatus(128 + signal), "the engine knows no better"
    else:
        assert status == ExitStatus(code, signal)


async def test_the_status_does_not_come_before_the_last_output(provider: SandboxProvider) -> None:
    for _ in range(3):
        async with running(provider, *shell("stty raw; head -c 3000 /dev/zero; exit 3")) as terminal:
            assert await terminal.wait_closed() == ExitStatus(3)
            assert await read_all(terminal) == bytes(3000)
            assert await terminal.receive_some() == b""


async def test_the_environment_is_what_was_asked_for(provider: SandboxProvider, kind: str) -> None:
    wanted = {"SECRET": "x y\nz", "TERM": "vt100", "EMPTY": ""}
    async with running(provider, "env", "-0", environment=wanted) as terminal:
        output = await read_all(terminal)
    entries = output.replace(b"\r\n", b"\n").decode().split("\0")[:-1]
    environment = dict(entry.split("=", 1) for entry in entries)
    assert environment.keys() == {"PATH", "HOME", "USER", "LOGNAME", *wanted}
    assert wanted.items() <= environment.items()


async def test_credentials_show_nowhere(provider: SandboxProvider, kind: str, docker_host: str) -> None:
    secret = secrets.token_hex(16)
    async with running(provider, "sleep", "1000", environment={"ACCESS_TOKEN": secret}):
        assert command_lines(secret) == []
        if isinstance(provider, DockerProvider):
            async with Docker(docker_host) as docker:
                (name,) = provider.containers.pending.names()
                container = docker.containers.container(name)
                assert secret not in json.dumps(await container.show())
                assert secret not in json.dumps(await container.top(ps_args="aux"))


async def test_somebody_who_does_not_read_cannot_hold_up_the_end(provider: SandboxProvider) -> None:
    begin = 0.0
    async with running(
        provider, *shell("trap '' HUP TERM; while :; do echo flood; done"), grace=0.2
    ) as terminal:
        await read_until(terminal, b"flood")
        await trio.sleep(1)  # time to fill every buffer on the way
        begin = trio.current_time()
    assert trio.current_time() - begin < 15
    if isinstance(provider, DockerProvider):
        assert provider.containers.pending.names() == []


async def test_leaving_hangs_up_first(provider: SandboxProvider) -> None:
    """What heeds the signal gets the time that it needs, and no more is waited."""
    fifo_free = "trap 'exit 0' HUP; echo ready; while :; do sleep 0.1; done"
    async with running(provider, *shell(fifo_free), grace=10.0) as terminal:
        await read_until(terminal, b"ready")
        begin = trio.current_time()
    assert trio.current_time() - begin < 8
    async with running(provider, *shell("trap '' HUP; echo ready; sleep 1000"), grace=1.0) as terminal:
        await read_until(terminal, b"ready")
        begin = trio.current_time()
    assert trio.current_time() - begin >= 1


async def test_the_lifetime_is_the_sandboxs_own(provider: SandboxProvider) -> None:
    async with running(provider, "sleep", "1000", lifetime=1.0) as terminal:
        begin = trio.current_time()
        assert await read_all(terminal) == b""
        assert trio.current_time() - begin < 15
        try:
            status = await terminal.wait_closed()
        except trio.BrokenResourceError:
            return
        assert status == ExitStatus(247), "the gate's own status: lifetime over"


async def test_nothing_survives_its_session(provider: SandboxProvider) -> None:
    marker = f"9{secrets.randbelow(10**6):06}"
    nap = f"sleep {marker}"
    escape = f"(setsid {nap} &) ; nohup {nap} >/dev/null 2>&1 & disown; {nap} & echo ready"
    async with running(provider, *shell(f"{escape}; exit 0")) as terminal:
        await read_all(terminal)
        assert await terminal.wait_closed() == ExitStatus(0)
        assert command_lines(nap) == [], "gone before the end is reported"
    async with running(provider, *shell(f"{escape}; wait")) as terminal:
        await read_until(terminal, b"ready")
        while command_lines(nap).count(f"{nap} ") < 3:
            await trio.sleep(0.05)
    assert command_lines(nap) == []


async def test_a_closed_terminal_says_so(provider: SandboxProvider) -> None:
    async with running(provider, "cat", grace=1.0) as terminal:
        await terminal.aclose()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: terminal.receive_some(),
            lambda: terminal.send_all(b"x"),
            lambda: terminal.resize(80, 24),
            lambda: terminal.wait_closed(),
        ]
        for call in calls:
            with pytest.raises(trio.ClosedResourceError):
                await call()
        await terminal.aclose()


async def test_closing_wakes_whoever_waits(provider: SandboxProvider) -> None:
    async with running(provider, "cat") as terminal:
        woken: list[str] = []

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await terminal.receive_some()
            woken.append("receive")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked(0.1)
            await terminal.aclose()
        assert woken == ["receive"]


async def test_two_tasks_in_one_method_are_an_error(provider: SandboxProvider) -> None:
    async with running(provider, *shell("stty -echo; echo ready; exec cat")) as terminal:
        await read_until(terminal, b"ready\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(terminal.receive_some)
            await trio.testing.wait_all_tasks_blocked(0.1)
            with pytest.raises(trio.BusyResourceError):
                await terminal.receive_some()
            nursery.cancel_scope.cancel()
        await terminal.send_all(b"still there\r")
        assert await read_until(terminal, b"\n") == b"still there\r\n"


async def test_a_program_that_ended_takes_no_more_input(provider: SandboxProvider) -> None:
    async with running(provider, "true") as terminal:
        await read_all(terminal)
        await terminal.wait_closed()
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await terminal.send_all(b"x" * 1000)
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    "request_",
    [
        LeaseRequest("x", ("echo", "a\0b")),
        LeaseRequest("x", ("echo",) * 65),
        LeaseRequest("x", ("true",), environment={"A=B": "c"}),
        LeaseRequest("x", ("true",), environment={"BIG": "x" * 70_000}),
        LeaseRequest("x", ("true",), cols=0),
        LeaseRequest("x", ("true",), lifetime=-1),
    ],
    ids=["nul", "arguments", "name", "size", "window", "lifetime"],
)
async def test_requests_beyond_the_bounds_are_refused(
    provider: SandboxProvider, request_: LeaseRequest
) -> None:
    with pytest.raises(SandboxError) as caught:
        async with provider.lease(request_):
            raise AssertionError("no lease")
    assert "x" * 100 not in str(caught.value)


async def test_an_error_inside_comes_out_as_it_is(provider: SandboxProvider) -> None:
    with pytest.raises(KeyError):
        async with running(provider, "cat"):
            raise KeyError


async def test_names_and_promises(provider: SandboxProvider, kind: str) -> None:
    assert provider.name == ("local" if kind == "local" else "docker")
    assert provider.isolated == (kind != "local")


async def test_containers_are_gone_when_the_lease_is_left(
    provider: SandboxProvider, docker_host: str
) -> None:
    if not isinstance(provider, DockerProvider):
        return
    async with running(provider, "cat"):
        (name,) = provider.containers.pending.names()
    assert provider.containers.pending.names() == []
    async with Docker(docker_host) as docker:
        with pytest.raises(DockerError, match="No such container"):
            await docker.containers.get(name)
