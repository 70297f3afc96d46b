"""Attach and exec streams against a stand-in engine: conformance, first bytes, frames, half close."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.standin import MULTIPLEXED, RAW, Request, StandIn, hang, reply, standin_engine
from supervisor.engine import Docker, DockerConnectionError, DockerError, DockerTimeoutError, Message, Stream
from supervisor.engine.stream import WHOLE_FRAME, Demultiplexer

ATTACH = "/containers/x/attach"


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def says(*parts: bytes, end: bool = True) -> Callable[[Request, trio.SocketStream], Awaitable[None]]:
    """Answer with these bytes, each sent on its own, then end."""

    async def answer(request: Request, stream: trio.SocketStream) -> None:
        for part in parts:
            await stream.send_all(part)
            await trio.testing.wait_all_tasks_blocked()
        if end:
            await stream.aclose()
        else:
            await trio.sleep_forever()

    return answer


def attach(client: Docker, **options: Any) -> Stream:
    return client.containers.container("x").attach(stdin=True, stdout=True, stderr=True, **options)


@pytest.mark.parametrize("content_type", ["raw", "multiplexed"])
async def test_trio_conformance(content_type: str, tmp_path: Path) -> None:
    """One end of the check is ours, the other a plain socket, which frames what it sends where due."""
    connected: list[trio.SocketStream] = []
    handed_over = trio.Event()

    async def hand_over(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(RAW if content_type == "raw" else MULTIPLEXED)
        connected.append(stream)
        handed_over.set()
        await trio.sleep_forever()

    class Framing(trio.abc.HalfCloseableStream):
        """The engine's end of a multiplexed stream."""

        def __init__(self, stream: trio.SocketStream) -> None:
            self._stream = stream

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            # An empty frame would be legal, and nothing to see.
            await self._stream.send_all(frame(1, bytes(data)) if data else b"")

        async def wait_send_all_might_not_block(self) -> None:
            await self._stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return bytes(await self._stream.receive_some(max_bytes))

        async def send_eof(self) -> None:
            await self._stream.send_eof()

        async def aclose(self) -> None:
            await self._stream.aclose()

    async with standin_engine(tmp_path / "s") as standin, Docker(standin.url) as client:
        standin.answer("POST", ATTACH, hand_over)

        async def pair() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            nonlocal handed_over
            handed_over = trio.Event()
            ours = attach(client, tty=True)
            await ours.__aenter__()
            await handed_over.wait()
            theirs = connected.pop()
            return (ours, theirs) if content_type == "raw" else (ours, Framing(theirs))

        async def clogged() -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
            ours, theirs = await pair()

            async def fill() -> None:
                while True:
                    await ours.send_all(b"x" * 65536)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fill)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            return ours, theirs

        with trio.fail_after(30):
            if content_type == "raw":
                await trio.testing.check_half_closeable_stream(pair, None)
                await trio.testing.check_one_way_stream(pair, clogged)
            else:
                await trio.testing.check_two_way_stream(pair, None)


async def test_bytes_that_came_with_the_head_are_not_lost(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(RAW + b"first", b"second"))
    with trio.fail_after(5):
        async with attach(client, tty=True) as stream:
            await trio.testing.wait_all_tasks_blocked()
            assert await stream.receive_some(3) == b"fir"
            assert await stream.read_out() == Message(1, b"st")
            assert await stream.receive_some() == b"second"
            assert await stream.receive_some() == b""
            assert await stream.read_out() is None


async def test_the_head_may_come_in_pieces(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(RAW[:20], RAW[20:-1], RAW[-1:] + b"x"))
    with trio.fail_after(5):
        async with attach(client, tty=True) as stream:
            assert await stream.receive_some() == b"x"


async def test_frames(standin: StandIn, client: Docker) -> None:
    data = frame(1, b"out") + frame(2, b"") + frame(2, b"err") + frame(3, b"engine")
    standin.answer("POST", ATTACH, says(RAW + data[:5], data[5:9], data[9:]))
    with trio.fail_after(5):
        async with attach(client, tty=False) as stream:
            messages = [await stream.read_out() for _ in range(4)]
    assert messages == [Message(1, b"out"), Message(2, b"err"), Message(3, b"engine"), None]


async def test_reading_both_ways_loses_nothing(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(RAW + frame(2, b"abcdef") + frame(1, b"gh")))
    with trio.fail_after(5):
        async with attach(client, tty=False) as stream:
            assert await stream.receive_some(2) == b"ab"
            assert await stream.read_out() == Message(2, b"cdef")
            assert await stream.receive_some(1) == b"g"
            assert await stream.receive_some() == b"h"
            assert await stream.receive_some() == b""


async def test_newer_engines_say_what_it_is(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(MULTIPLEXED + frame(2, b"err")))
    with trio.fail_after(5):
        async with attach(client, tty=True) as stream:
            assert await stream.read_out() == Message(2, b"err")


@pytest.mark.parametrize("rest", [b"\x01\x00", frame(1, b"abc")[:-1]])
async def test_an_end_inside_a_frame_is_an_error(standin: StandIn, client: Docker, rest: bytes) -> None:
    standin.answer("POST", ATTACH, says(RAW + frame(1, b"ok") + rest))
    with trio.fail_after(5):
        async with attach(client, tty=False) as stream:
            assert await stream.receive_some() == b"ok"
            with pytest.raises(trio.BrokenResourceError, match="inside a frame"):
                await stream.receive_some()


async def test_what_is_no_frame_is_an_error(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(RAW + b"bash$ this is a terminal"))
    with trio.fail_after(5):
        async with attach(client, tty=False) as stream:
            with pytest.raises(trio.BrokenResourceError, match="not a frame"):
                await stream.read_out()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=50)), max_size=12),
    st.lists(st.integers(1, 30), max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_frames_cut_anywhere(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(frame(*each) for each in frames)
    parser = Demultiplexer()
    messages = []
    while data:
        size = cuts.pop() if cuts else len(data)
        parser.receive(data[:size])
        data = data[size:]
        while message := parser.next():
            messages.append(message)
    assert not parser.inside
    assert messages == [Message(*each) for each in frames if each[1]]


def test_a_huge_frame_is_not_collected() -> None:
    parser = Demultiplexer()
    parser.receive(frame(1, b"x" * 10)[:4] + (2**32 - 1).to_bytes(4, "big") + b"x" * (WHOLE_FRAME + 1))
    message = parser.next()
    assert message is not None
    assert len(message.data) == WHOLE_FRAME + 1
    assert parser.next() is None
    assert parser.inside


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (reply(404, {"message": "No such container: x"}), 404, "No such container"),
        (reply(200, b"no upgrade", "text/plain"), 200, "did not switch"),
        (reply(500, b"boom", "text/plain"), 500, "boom"),
    ],
)
async def test_refusals(standin: StandIn, client: Docker, answer: bytes, status: int, message: str) -> None:
    standin.answer("POST", ATTACH, answer)
    with trio.fail_after(5), pytest.raises(DockerError, match=message) as caught:
        await attach(client, tty=True).receive_some()
    assert caught.value.status == status
    await trio.testing.wait_all_tasks_blocked()
    assert standin.open == 1  # the resting connection of the negotiation


async def test_no_answer_and_no_engine(standin: StandIn, client: Docker, tmp_path: Path) -> None:
    standin.answer("POST", ATTACH, hang)
    with trio.fail_after(5):
        with pytest.raises(DockerTimeoutError):
            await attach(client, tty=True, timeout=0.05).receive_some()
        async with Docker(f"unix://{tmp_path}/none", api_version="v1.41") as nobody:
            with pytest.raises(DockerConnectionError):
                await attach(nobody, tty=True).receive_some()


async def test_a_container_of_unknown_kind_is_asked_for(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/containers/x/json", reply(200, {"Id": "x", "Config": {"Tty": False}}))
    standin.answer("POST", ATTACH, says(RAW + frame(1, b"a")))
    with trio.fail_after(5):
        async with attach(client) as stream:
            assert await stream.read_out() == Message(1, b"a")
    assert [request.path for request in standin.requests] == ["/containers/x/json", ATTACH]
    standin.answer("POST", "/containers/create", reply(201, {"Id": "x"}))
    with trio.fail_after(5):
        container = await client.containers.create({"Tty": True})
        standin.answer("POST", ATTACH, says(RAW + b"a"))
        async with container.attach(stdout=True) as stream:
            assert await stream.read_out() == Message(1, b"a")
    assert [request.path for request in standin.requests[2:]] == ["/containers/create", ATTACH]


async def test_detach_keys_are_off_unless_given(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", ATTACH, says(RAW))
    with trio.fail_after(5):
        for keys in (None, None, "ctrl-x"):
            async with attach(client, tty=True, detach_keys=keys) as stream:
                await stream.receive_some()
    first, second, third = (
        next(
            unquote_to_bytes(part[11:]) for part in request.query.split("&") if part.startswith("detachKeys=")
        )
        for request in standin.requests
    )
    assert first != second
    separate = first.split(b",")
    assert len(separate) == 16
    assert all(len(key) == 1 for key in separate)
    assert separate[0][0] >= 0xF8
    assert third == b"ctrl-x"
    assert parse_qs(standin.requests[0].query)["stream"] == ["1"]
    headers = standin.requests[0].headers
    assert (headers["connection"], headers["upgrade"]) == ("Upgrade", "tcp")


async def test_half_close(standin: StandIn, client: Docker) -> None:
    async def echo_after_eof(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(RAW)
        data = b""
        while piece := await stream.receive_some():
            data += piece
        await stream.send_all(data[::-1])
        await stream.aclose()

    standin.answer("POST", ATTACH, echo_after_eof)
    with trio.fail_after(5):
        async with attach(client, tty=True) as stream:
            await stream.write_in(b"abc")
            await stream.send_eof()
            assert await stream.receive_some() == b"cba"


async def test_a_stream_opened_by_two_tasks_is_one(standin: StandIn, client: Docker) -> None:
    async def echo(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(RAW)
        await stream.send_all(await stream.receive_some())
        await trio.sleep_forever()

    standin.answer("POST", ATTACH, echo)
    stream = attach(client, tty=True)
    got = []

    async def read() -> None:
        got.append(await stream.receive_some())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(stream.send_all, b"x")
        await stream.aclose()
    assert got == [b"x"]
    assert len(standin.requests) == 1


async def test_closing_while_it_opens(standin: StandIn, client: Docker) -> None:
    opened = trio.Event()

    async def slow(request: Request, stream: trio.SocketStream) -> None:
        await opened.wait()
        await stream.send_all(RAW)

    standin.answer("POST", ATTACH, slow)
    stream = attach(client, tty=True)

    async def read() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
            opened.set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")


async def test_streams_are_in_nobodys_way(standin: StandIn, client: Docker) -> None:
    async def until_closed(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(RAW)
        assert await stream.receive_some() == b""

    standin.answer("POST", ATTACH, until_closed)
    streams = [attach(client, tty=True) for _ in range(150)]
    with trio.fail_after(20):
        for stream in streams:
            await stream.__aenter__()
        await client.system.info()
        assert "0 in use, 1 idle" in repr(client)
        for stream in streams:
            await stream.aclose()
        while standin.open > 1:
            await trio.sleep(0.01)


async def test_exec_streams(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", "/containers/x/exec", reply(201, {"Id": "e"}))
    standin.answer("POST", "/exec/e/start", says(RAW + frame(1, b"hi")), reply(200))
    standin.answer("GET", "/exec/e/json", reply(200, {"ProcessConfig": {"tty": False}, "Running": False}))
    standin.answer("POST", "/exec/e/resize", reply(200))
    with trio.fail_after(5):
        execution = await client.containers.container("x").exec(
            "echo 'a b'", environment={"A": "b"}, workdir="/tmp"
        )
        async with execution.start() as stream:
            assert await stream.read_out() == Message(1, b"hi")
        again = client.containers.exec("e")
        assert await again.start(detach=True) == b""
        await again.resize(h=3, w=4)
        await again.resize()
    created, started, inspected, detached, resized = standin.requests
    assert b'"Cmd": ["echo", "a b"]' in created.body
    assert b'"Env": ["A=b"]' in created.body
    assert b'"DetachKeys": "ctrl-@,' in created.body
    assert started.body == b'{"Detach": false, "Tty": false}'
    assert inspected.path == "/exec/e/json"
    assert detached.body == b'{"Detach": true, "Tty": false}'
    assert resized.query == "h=3&w=4"
