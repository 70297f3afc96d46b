"""Answers that come line by line, and logs, against a stand-in engine."""

import json

import pytest
import trio
import trio.testing

from engine.standin import Request, StandIn, chunked, hang, reply
from supervisor.engine import (
    Docker,
    DockerConnectionError,
    DockerError,
    DockerStreamError,
    DockerTimeoutError,
    progress,
)

PULL = "/images/create"
BUILD = "/build"
LOGS = "/containers/x/logs"


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


async def test_lines_cut_anywhere(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", PULL, chunked(b'{"a"', b': 1}\r\n\r\n{"b": "\xc3', b'\xa4"}\n\x1e{"c": 3}'))
    with trio.fail_after(5):
        assert await client.images.pull("i") == [{"a": 1}, {"b": "ä"}, {"c": 3}]
        assert [line async for line in client.images.pull("i", stream=True)] == [
            {"a": 1},
            {"b": "ä"},
            {"c": 3},
        ]
    assert "0 in use, 1 idle" in repr(client)


@pytest.mark.parametrize(
    ("line", "message", "detail"),
    [
        ({"errorDetail": {"code": 1, "message": "no"}, "error": "No"}, "no", {"code": 1, "message": "no"}),
        ({"error": "plain"}, "plain", {}),
        ({"errorDetail": "odd"}, "the engine reports an error without a message", {"raw": "odd"}),
    ],
)
async def test_a_reported_failure_is_raised(
    standin: StandIn, client: Docker, line: object, message: str, detail: object
) -> None:
    standin.answer("POST", PULL, chunked(b'{"status": "x"}\n', json.dumps(line).encode() + b"\n"))
    with trio.fail_after(5):
        stream = client.pull("i", stream=True)
        assert await anext(stream) == {"status": "x"}
        with pytest.raises(DockerStreamError) as caught:
            await anext(stream)
        assert (caught.value.message, caught.value.error_detail, caught.value.status) == (message, detail, 0)
        assert [each async for each in stream] == []
    assert "0 in use" in repr(client)


@pytest.mark.parametrize("answer", [chunked(b'{"a": 1}\n', end=False), chunked(b"[1]\n"), chunked(b'{"a"\n')])
async def test_an_answer_that_breaks_off_is_not_its_end(
    standin: StandIn, client: Docker, answer: bytes
) -> None:
    async def broken(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await stream.aclose()

    standin.answer("POST", PULL, broken)
    with trio.fail_after(5), pytest.raises(DockerConnectionError):
        await client.images.pull("i")
    assert "0 in use" in repr(client)


async def test_closing_forgets_what_has_not_been_read(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", PULL, chunked(b'{"a": 1}\n{"b": 2}\n', end=False))
    with trio.fail_after(5):
        stream = client.images.pull("i", stream=True)
        assert await anext(stream) == {"a": 1}
        await stream.aclose()
        assert [each async for each in stream] == []


async def test_json_that_is_nested_too_deep_is_an_error(standin: StandIn, client: Docker) -> None:
    deep = b'{"a":' * 100_000
    standin.answer("POST", PULL, chunked(deep + b"\n"))
    standin.answer("GET", "/version", reply(200, deep))
    with trio.fail_after(5):
        for call in (client.images.pull("i"), client.version()):
            with pytest.raises(DockerConnectionError, match="not JSON"):
                await call


async def test_a_line_without_end(standin: StandIn, client: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_LINE", 1000)
    standin.answer("POST", PULL, chunked(b"x" * 2000, end=False))
    with trio.fail_after(5), pytest.raises(DockerConnectionError, match="longer than 1000 bytes"):
        await client.images.pull("i")


async def test_leaving_early_and_refusals(standin: StandIn, client: Docker) -> None:
    standin.answer("POST", PULL, chunked(b'{"a": 1}\n{"b": 2}\n', end=False))
    standin.answer("POST", "/images/i/push", reply(500, {"message": "no"}))
    with trio.fail_after(5):
        async with client.images.pull("i", stream=True) as stream:
            async for line in stream:
                assert line == {"a": 1}
                break
        assert "0 in use, 0 idle" in repr(client)
        with pytest.raises(DockerError, match="no"):
            await client.push("i")
        standin.answer("GET", "/containers/x/stats", hang)
        with pytest.raises(DockerTimeoutError):
            await client.containers.container("x").stats(stream=False, timeout=0.05)


async def test_parameters_of_pull_push_build_and_import(standin: StandIn, client: Docker) -> None:
    for path in (PULL, BUILD, "/images/load", "/images/r.example/i/push"):
        standin.answer("POST", path, chunked(b"{}\n"))
    auth = {"username": "u", "password": "p"}
    with trio.fail_after(5):
        await client.images.pull("i")
        await client.images.pull("i@sha256:0")
        await client.images.pull("i", tag="", platform="linux/arm64")
        await client.images.pull("r.example/i:1", auth=auth)
        await client.images.push("r.example/i", tag="1", auth=auth)
        await client.images.push("r.example/i")
        await client.images.build(
            remote="https://x/y.git", tag="t:1", buildargs={"A": "b"}, labels={"c": "d"}
        )
        await client.images.import_image(b"tar")
        await client.images.import_rootfs(b"tar", repo="base", tag="1", changes=["CMD x", "ENV a=b"])
        for call in (client.images.pull, client.images.push):
            with pytest.raises(ValueError, match="registry's host"):
                await call("i", auth=auth)
        with pytest.raises(ValueError, match="either"):
            client.images.build()
    queries = [request.query for request in standin.requests]
    assert queries == [
        "fromImage=i&tag=latest",
        "fromImage=i%40sha256%3A0",
        "fromImage=i&platform=linux%2Farm64",
        "fromImage=r.example%2Fi%3A1",
        "tag=1",
        "",
        (
            "t=t%3A1&rm=1&q=0&pull=0&remote=https%3A%2F%2Fx%2Fy.git&nocache=0&forcerm=0"
            "&buildargs=%7B%22A%22%3A+%22b%22%7D&labels=%7B%22c%22%3A+%22d%22%7D"
        ),
        "",
        "fromSrc=-&repo=base&tag=1&changes=CMD+x&changes=ENV+a%3Db",
    ]
    assert [("x-registry-auth" in request.headers) for request in standin.requests[:6]] == [False] * 3 + [
        True
    ] * 3
    assert standin.requests[7].body == b"tar"


async def test_logs_with_and_without_a_terminal(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/containers/x/json", reply(200, {"Id": "x", "Config": {"Tty": False}}))
    cut = frame(1, b"one\n") + frame(2, b"t\xc3") + frame(2, b"\xa4\xff!\n")
    standin.answer("GET", LOGS, chunked(cut[:13], cut[13:]))
    container = client.containers.container("x")
    with trio.fail_after(5):
        assert await container.log(stdout=True, stderr=True, tail=5) == ["one\n", "t", "ä!\n"]
        assert [text async for text in container.log(stdout=True, follow=True)] == ["one\n", "t", "ä!\n"]
        async with container.logs.subscribe(since=1) as log:
            assert await anext(log) == "one\n"
        assert [request.query for request in standin.requests if request.path == LOGS] == [
            "stdout=1&stderr=1&follow=0&tail=5",
            "stdout=1&stderr=0&follow=1",
            "stdout=1&stderr=1&follow=1&since=1",
        ]
        standin.answer("GET", "/containers/x/json", reply(200, {"Id": "x", "Config": {"Tty": True}}))
        await container.show()
        standin.answer("GET", LOGS, chunked(b"a\r\n", b"b"))
        assert "".join(await container.log(stdout=True)) == "a\r\nb"
        with pytest.raises(TypeError):
            container.log()


async def test_a_log_that_ends_inside_a_frame_or_is_none(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/containers/x/json", reply(200, {"Id": "x", "Config": {"Tty": False}}))
    with trio.fail_after(5):
        for body in (frame(1, b"abc")[:-1], b"plain text"):
            standin.answer("GET", LOGS, chunked(body))
            with pytest.raises(DockerConnectionError):
                await client.containers.container("x").log(stdout=True)
        standin.answer("GET", "/containers/x/json", reply(404, {"message": "gone"}))
        with pytest.raises(DockerError, match="gone"):
            await client.containers.container("x").log(stdout=True)
    assert "0 in use" in repr(client)
