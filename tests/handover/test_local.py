"""The hand-over between real processes, with sessions of provider `local`: who has the sessions, whatever
dies."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from faults.supervised import is_running
from faults.visitor import SessionOverError, visit
from gateway.harness import SECRET, signed

from handover.harness import (
    GIVER_STEPS,
    TAKER_STEPS,
    Faithful,
    Server,
    directories,
    keepers,
    server,
    until,
)
from supervisor.observability.service import Service
from supervisor.serve import renew_on_signal

TIMEOUT = 150.0  # a quiet machine takes a tenth of it
EXIT_NOT_TAKEN_OVER = 75
COUNTER = b"i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); echo $i; done\r"


@asynccontextmanager
async def first(directory: Path, **settings: str) -> AsyncGenerator[Server]:
    with trio.fail_after(TIMEOUT):
        async with server(directory, "demo", "--port", "0", **settings) as one:
            await one.wait_open()
            yield one


@asynccontextmanager
async def second(directory: Path, one: Server, **settings: str) -> AsyncGenerator[Server]:
    async with server(directory, "demo", "--port", str(one.port), "--takeover", **settings) as other:
        yield other


def _has_grown(reader: Faithful, size: int) -> bool:
    return len(reader.text) > size


def numbers(text: bytes) -> list[int]:
    """The counter's output: every number that has a line of its own."""
    lines = text.replace(b"\r", b"").split(b"\n")[1:-1]
    return [int(line) for line in lines if re.fullmatch(rb"\d+", line)]


async def test_no_byte_and_no_key_is_lost(tmp_path: Path) -> None:
    """Three hand-overs in a row, while one program prints without end and another one gets keys without
    end."""
    before = keepers()
    async with AsyncExitStack() as stack, first(tmp_path) as one, trio.open_nursery() as nursery:
        reader, typist = Faithful(one.url), Faithful(one.url)
        await nursery.start(reader.run)
        await nursery.start(typist.run)
        await reader.type(COUNTER)
        await reader.wait_for(b"\n1000\r")
        await typist.type(b"stty -echo; echo re''ady; cat | tr a-z A-Z\r")
        await typist.wait_for(b"ready\r")
        current = one
        for number in range(3):
            opened = trio.Event()
            typed: list[int] = []

            async def type_until(opened: trio.Event, typed: list[int], number: int) -> None:
                while not opened.is_set():
                    await typist.type(b"key-%d-%03d\r" % (number, len(typed)))
                    typed.append(len(typed))
                    await trio.sleep(0.01)
                await typist.type(b"end-%d\r" % number)

            nursery.start_soon(type_until, opened, typed, number)
            successor = await stack.enter_async_context(second(tmp_path, current))
            await successor.wait_open()
            assert await current.ended() == 0
            current = successor
            reached = len(reader.text)
            await until(partial(_has_grown, reader, reached + 50_000))
            opened.set()
            await typist.wait_for(b"END-%d\r" % number)
            seen = re.findall(rb"KEY-%d-(\d+)\r" % number, bytes(typist.text))
            assert [int(each) for each in seen] == typed
            assert reader.returns == typist.returns == number + 1
        counted = numbers(bytes(reader.text))
        assert counted == list(range(counted[0], counted[0] + len(counted)))
        assert len(counted) > 10_000
        current.process.send_signal(signal.SIGTERM)
        assert await current.ended() == 0
        nursery.cancel_scope.cancel()
    assert keepers() <= before


@pytest.mark.parametrize("step", GIVER_STEPS)
async def test_the_running_server_dies_in_the_middle(tmp_path: Path, step: str) -> None:
    """There is a server all the same; it has the sessions if all of them had been told."""
    keepers_before = keepers()
    async with first(tmp_path, FAULT_AT=f"giver:{step}") as one, trio.open_nursery() as nursery:
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.type(b"echo be''fore\r")
        await visitor.wait_for(b"before\r")
        async with second(tmp_path, one) as other:
            await other.wait_open()
            assert await one.ended() == -signal.SIGKILL
            assert other.port == one.port
            if step == "sent":
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
                assert visitor.returns == 1
            else:
                await until(lambda: visitor.lost)
            other.process.send_signal(signal.SIGTERM)
            assert await other.ended() == 0
            nursery.cancel_scope.cancel()
    assert keepers() <= keepers_before


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("step", TAKER_STEPS)
async def test_the_new_process_dies_or_hangs_in_the_middle(tmp_path: Path, step: str, fault: str) -> None:
    """The running server goes on, and hands over to the next one."""
    keepers_before = keepers()
    async with first(tmp_path, STANDSTILL="1") as one, trio.open_nursery() as nursery:
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.type(b"echo be''fore\r")
        await visitor.wait_for(b"before\r")
        async with second(tmp_path, one, FAULT_AT=f"taker:{step}", FAULT=fault) as other:
            await until(lambda: one.log_has("not handed over"))
            await visitor.type(b"echo af''ter\r")
            await visitor.wait_for(b"after\r")
            if fault == "SIGSTOP":
                other.process.send_signal(signal.SIGCONT)
                assert await other.ended() == EXIT_NOT_TAKEN_OVER
            else:
                assert await other.ended() == -signal.SIGKILL
            assert one.process.returncode is None
        await visitor.type(b"echo st''ill\r")
        await visitor.wait_for(b"still\r")
        async with second(tmp_path, one) as other:
            await other.wait_open()
            assert await one.ended() == 0
            await visitor.type(b"echo ag''ain\r")
            await visitor.wait_for(b"again\r")
            other.process.send_signal(signal.SIGTERM)
            assert await other.ended() == 0
            nursery.cancel_scope.cancel()
    assert keepers() <= keepers_before


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP"])
async def test_after_the_last_word_the_new_process_is_the_server(tmp_path: Path, fault: str) -> None:
    """Killed, it goes as any server does; stopped, it goes on when it is continued. The old one has ended."""
    keepers_before, directories_before = keepers(), directories()
    async with first(tmp_path) as one, trio.open_nursery() as nursery:
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        await visitor.type(b"echo be''fore\r")
        await visitor.wait_for(b"before\r")
        async with second(tmp_path, one, FAULT_AT="taker:taken", FAULT=fault) as other:
            assert await one.ended() == 0
            if fault == "SIGSTOP":
                assert keepers() > keepers_before
                other.process.send_signal(signal.SIGCONT)
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
                other.process.kill()
            assert await other.ended() == -signal.SIGKILL
            await until(lambda: keepers() <= keepers_before)
        nursery.cancel_scope.cancel()
    async with first(tmp_path) as next_one:  # whose start removes what the dead one left
        assert len(directories() - directories_before) == 1
        next_one.process.send_signal(signal.SIGTERM)
        assert await next_one.ended() == 0
    assert directories() <= directories_before


async def test_a_server_that_is_told_to_stop_in_the_middle_stops(tmp_path: Path) -> None:
    async with first(tmp_path) as one, trio.open_nursery() as nursery:
        visitor = Faithful(one.url)
        await nursery.start(visitor.run)
        async with second(tmp_path, one, FAULT_AT="taker:received", FAULT="SIGSTOP") as other:
            await until(lambda: one.log_has("step.*sent"))
            one.process.send_signal(signal.SIGTERM)
            assert await one.ended() == 0
            other.process.send_signal(signal.SIGCONT)
            assert await other.ended() == EXIT_NOT_TAKEN_OVER
        nursery.cancel_scope.cancel()


async def is_full(url: str) -> None:
    """One more visitor is turned away."""
    with pytest.raises(SessionOverError) as over:
        async with visit(url) as late:
            await late.read_until(b"$ ")
    assert over.value.code == 4009


async def test_new_settings_count_from_then_on(tmp_path: Path) -> None:
    """Also where there are more sessions by then than there may be."""
    async with first(tmp_path, MAX_SESSIONS="5") as one, trio.open_nursery() as nursery:
        visitors = [Faithful(one.url), Faithful(one.url)]
        for visitor in visitors:
            await nursery.start(visitor.run)
        async with second(tmp_path, one, MAX_SESSIONS="2") as other:
            await other.wait_open()
            assert await one.ended() == 0
            for visitor in visitors:
                await visitor.type(b"echo go''es on\r")
                await visitor.wait_for(b"goes on\r")
            await is_full(one.url)
            async with second(tmp_path, other, MAX_SESSIONS="1") as third:
                await third.wait_open()
                assert await other.ended() == 0
                for visitor in visitors:
                    await visitor.type(b"echo st''ill\r")
                    await visitor.wait_for(b"still\r")
                await visitors[0].type(b"exit\r")
                await until(lambda: visitors[0].over is not None)
                await is_full(one.url)
                third.process.send_signal(signal.SIGTERM)
                assert await third.ended() == 0
        nursery.cancel_scope.cancel()


async def test_a_profile_and_events_that_nobody_took_go_over(tmp_path: Path) -> None:
    """A session keeps its profile's timeouts; what a webhook's receiver had refused is told by the next
    process."""
    (tmp_path / "profiles").write_text("[brief]\nTERMINAL_IDLE_TIMEOUT_MS = 77000\n")
    events: list[str] = []
    taking = False

    async def receive(stream: trio.abc.Stream) -> None:
        async with stream:
            request = b""
            while not request.endswith(b"}"):  # the end of the body, which is one JSON object
                request += await stream.receive_some()
            if taking:
                events.append(json.loads(request.split(b"\r\n\r\n")[1])["event"])
            status = b"204 No Content" if taking else b"503 Not Now"
            await stream.send_all(
                b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, receive, 0, host="127.0.0.1"))
        settings = {
            "TERMINAL_SERVER_SIGNING_SECRET": SECRET,
            "PROFILES_FILE": str(tmp_path / "profiles"),
            "WEBHOOK_URL": f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/",
            "WEBHOOK_SECRET": "a-webhook-secret-0123",
            "LOCAL_ACCESS_TOKEN": "",
        }
        async with first(tmp_path, **settings) as one:
            visitor = Faithful(one.url, **signed(profile="brief"))
            await nursery.start(visitor.run)
            await visitor.wait_for(b"$ ")
            async with second(tmp_path, one, **settings) as other:
                await other.wait_open()
                assert await one.ended() == 0
                taking = True
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
                assert visitor.hello["resumed"]
                assert visitor.hello["idleTimeoutMs"] == 77000
                await visitor.type(b"exit\r")
                await until(lambda: len(events) >= 2)
                assert events == ["session.started", "session.ended"]
                other.process.send_signal(signal.SIGTERM)
                assert await other.ended() == 0
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_taken_over_is_said_in_a_sentence(tmp_path: Path) -> None:
    with trio.fail_after(TIMEOUT):
        async with server(tmp_path, "demo", "--port", "1", "--takeover") as other:
            assert await other.ended() == EXIT_NOT_TAKEN_OVER
            assert other.log_has("no server of this user listens at port 1")
    async with first(tmp_path) as one:
        async with second(tmp_path, one, HOST="127.0.0.2") as other:
            assert await other.ended() == EXIT_NOT_TAKEN_OVER
            assert other.log_has("HOST is '127.0.0.1' in the running server")
        async with second(tmp_path, one, VERSION_OF_HANDOVER="99") as other:
            assert await other.ended() == EXIT_NOT_TAKEN_OVER
            assert other.log_has("speaks version 3 of the hand-over, and the new one version 99")
        assert one.process.returncode is None


async def test_a_hang_up_renews_the_server(tmp_path: Path) -> None:
    """SIGHUP: the same command again; its manager learns who the server is."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    told: list[str] = []
    with manager:
        async with first(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000") as one:
            listener = trio.socket.from_stdlib_socket(manager)

            async def listen() -> None:
                while True:
                    told.append((await listener.recv(4096)).decode())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                visitor = Faithful(one.url)
                await nursery.start(visitor.run)
                await until(lambda: sum("WATCHDOG=1" in each for each in told) > 3)
                assert "READY=1" in told[0]
                del told[:]
                one.process.send_signal(signal.SIGHUP)
                assert await one.ended() == 0
                await until(lambda: any("READY=1" in each for each in told))
                assert any(re.search(r"RELOADING=1\nMONOTONIC_USEC=\d+\n", each) for each in told)
                [main] = [each for each in told if each.startswith("MAINPID=")]
                pid = int(main.strip().removeprefix("MAINPID="))
                assert pid != one.process.pid
                await visitor.type(b"echo af''ter\r")
                await visitor.wait_for(b"after\r")
                await until(lambda: "WATCHDOG=1" in told[-1])
                os.kill(pid, signal.SIGTERM)
                await until(lambda: any("STOPPING=1" in each for each in told))
                await until(lambda: not is_running(pid))
                nursery.cancel_scope.cancel()


async def test_a_successor_that_cannot_be_started_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program may be gone, after an upgrade for instance."""
    send, reloads = trio.open_memory_channel[int](2)
    told: list[str] = []

    class Told:
        def reloading(self) -> None:
            told.append("reloading")

        def ready(self, status: str) -> None:
            told.append(status)

    gateway: Any = SimpleNamespace(house=SimpleNamespace(port=1), url="http://here/")
    monkeypatch.setattr(sys, "orig_argv", ["/nowhere/python3"])
    async with send, reloads:
        await send.send(1)
        await send.send(1)
        await send.aclose()
        await renew_on_signal(reloads, cast("Service", Told()), gateway)
    assert told == 2 * ["reloading", "serving at http://here/; the last reload failed"]


async def test_a_reload_that_fails_leaves_everything_as_it_is(tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    settings.write_text("")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    with manager:
        manager.settimeout(20)
        with trio.fail_after(TIMEOUT):
            async with server(
                tmp_path,
                "demo",
                "--port",
                "0",
                env_file=str(settings),
                NOTIFY_SOCKET=str(tmp_path / "notify"),
            ) as one:
                await one.wait_open()
                settings.write_text("MAX_SESSIONS=many\n")
                one.process.send_signal(signal.SIGHUP)
                await until(lambda: one.log_has("did not take over"))
                assert one.log_has("MAX_SESSIONS='many'")
                one.process.send_signal(signal.SIGTERM)
                assert await one.ended() == 0
        told = [manager.recv(4096).decode() for _ in range(4)]
    assert "RELOADING=1" in told[1]
    assert "READY=1" in told[2]
    assert "the last reload failed" in told[2]
