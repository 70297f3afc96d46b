"""Calls against an engine that misbehaves: errors, slow and broken answers, and the connections after."""

import io
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from engine.standin import Request, StandIn, chunked, hang, reply, standin_engine
from supervisor.engine import Docker, DockerConnectionError, DockerError, DockerTimeoutError, EngineTransport
from supervisor.engine.connection import unix_connector
from supervisor.engine.transport import IDLE_SECONDS, MAX_IDLE


async def test_negotiates_once_and_uses_one_connection(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/info", reply(200, {"ID": "x"}))
    with trio.fail_after(5):
        assert client.api_version == "auto"
        for _ in range(3):
            assert await client.system.info() == {"ID": "x"}
        assert client.api_version == "v1.41"
        assert standin.connections == 1
        assert "1 idle" in repr(client)


@pytest.mark.parametrize(("offered", "spoken"), [("1.40", "v1.40"), ("1.53", "v1.53"), ("1.99", "v1.53")])
async def test_speaks_the_newest_version_that_both_know(
    standin: StandIn, client: Docker, offered: str, spoken: str
) -> None:
    standin.api_version = offered
    standin.answer("GET", "/version", reply(200, {}))
    with trio.fail_after(5):
        await client.version()
    assert client.api_version == spoken


@pytest.mark.parametrize("offered", ["1.39", "", "x.y"])
async def test_refuses_what_is_too_old_or_no_engine(standin: StandIn, client: Docker, offered: str) -> None:
    standin.api_version = offered
    with trio.fail_after(5), pytest.raises(DockerError) as caught:
        await client.version()
    assert caught.value.status == 0
    assert str(standin.path) in caught.value.message


async def test_a_fixed_version_is_not_negotiated(standin: StandIn) -> None:
    standin.answer("GET", "/info", reply(200, {}))
    async with Docker(standin.url, api_version="v1.30") as docker:
        with trio.fail_after(5):
            await docker.system.info()
        assert docker.api_version == "v1.30"
    with pytest.raises(ValueError):
        Docker(standin.url, api_version="latest")


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (reply(404, {"message": "No such container: x"}), 404, "No such container: x"),
        (reply(500, b"it broke\n", "text/plain"), 500, "it broke"),
        (reply(500, b"{not json", "application/json"), 500, "{not json"),
        (reply(400, {"error": "of another shape"}), 400, '{"error": "of another shape"}'),
        (reply(400, {"message": 7}), 400, '{"message": 7}'),
        (reply(503, b"\xff\xfe", "text/html"), 503, "\ufffd\ufffd"),
        (reply(502), 502, "HTTP status 502 without an explanation"),
        (reply(301, b"", Location="/v1.41/containers/json"), 301, "HTTP status 301 without an explanation"),
        (chunked(b'{"mess', b'age": "in pieces"}', status=409), 409, "in pieces"),
        (chunked(b'{"mess', status=409, end=False), 409, "did not arrive"),
    ],
)
async def test_a_refusal_is_a_docker_error(
    standin: StandIn, client: Docker, answer: bytes, status: int, message: str
) -> None:
    async def refuse(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        if b"0\r\n\r\n" not in answer and b"chunked" in answer:
            await stream.aclose()

    standin.answer("GET", "/containers/x/json", refuse)
    with trio.fail_after(5), pytest.raises(DockerError) as caught:
        await client.containers.get("x")
    assert caught.value.status == status
    assert message in caught.value.message
    assert str(caught.value).startswith(f"[{status}] ")
    assert type(caught.value) is DockerError


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        reply(200, b"<html>", "application/json"),
        b"",
    ],
)
async def test_a_broken_answer_is_a_connection_error(standin: StandIn, client: Docker, answer: bytes) -> None:
    async def broken(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        await stream.aclose()

    standin.answer("GET", "/info", broken)
    with trio.fail_after(5), pytest.raises(DockerConnectionError) as caught:
        await client.system.info()
    assert caught.value.status == 900


async def test_no_engine(tmp_path: Path) -> None:
    async with Docker(f"unix://{tmp_path}/none.sock") as docker:
        with trio.fail_after(5), pytest.raises(DockerConnectionError, match=r"none\.sock"):
            await docker.version()


async def test_no_engine_at_a_port() -> None:
    async with Docker("tcp://127.0.0.1:1") as docker:
        with trio.fail_after(5), pytest.raises(DockerConnectionError, match="Connection refused"):
            await docker.version()


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """Let this process be nobody, for whom `path` is not."""
    path.chmod(0)
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        os.setegid(65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


async def test_no_permission(standin: StandIn, client: Docker) -> None:
    told = r"\.sock: Permission denied: (the socket is for user \w+ and group|nor may its owner)"
    raises = pytest.raises(DockerConnectionError, match=told)
    with trio.fail_after(5), without_rights(standin.path), raises:
        await client.version()


async def test_a_slow_answer_meets_its_deadline(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/info", hang)
    with trio.fail_after(5):
        with pytest.raises(DockerTimeoutError) as caught:
            await client.system.info(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.status == 0
        await trio.testing.wait_all_tasks_blocked()
        assert (
            standin.open == 1
        )  # the resting one of the negotiation has been used, and cut; a pong came on it
    assert "0 in use" in repr(client)


async def test_a_slow_body_meets_its_deadline(standin: StandIn, client: Docker) -> None:
    async def slow(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(chunked(b'{"a":', end=False))
        await trio.sleep_forever()

    standin.answer("GET", "/info", slow)
    with trio.fail_after(5), pytest.raises(DockerTimeoutError, match=r"0\.05"):
        await client.system.info(timeout=0.05)
    assert "0 in use" in repr(client)


async def test_the_default_deadline_is_the_clients(standin: StandIn) -> None:
    standin.answer("GET", "/info", hang)
    async with Docker(standin.url, timeout=0.05) as docker:
        with trio.fail_after(5), pytest.raises(DockerTimeoutError):
            await docker.system.info()


async def test_cancelling_takes_effect_at_once_and_closes_the_connection(
    standin: StandIn, client: Docker
) -> None:
    standin.answer("GET", "/info", hang)
    standin.answer("GET", "/version", reply(200, {"ok": True}))
    with trio.fail_after(5):
        await client.version()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.system.info)
            while not any(request.path == "/info" for request in standin.requests):
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert repr(client.api.transport) == "<EngineTransport 0 in use, 0 idle>"
        assert dict(await client.version()) == {"ok": True}


async def test_a_connection_that_the_engine_closed_is_replaced(standin: StandIn, client: Docker) -> None:
    async def answer_and_close(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(reply(200, {"path": request.path}))
        await stream.aclose()

    standin.answer("GET", "/info", answer_and_close)
    standin.answer("POST", "/containers/x/start", answer_and_close)
    with trio.fail_after(5):
        for _ in range(3):
            await client.system.info()
            await trio.testing.wait_all_tasks_blocked()
            await client.containers.container("x").start()
            await trio.testing.wait_all_tasks_blocked()


async def test_only_what_may_be_repeated_is_repeated(standin: StandIn, client: Docker) -> None:
    async def close(request: Request, stream: trio.SocketStream) -> None:
        await stream.aclose()

    standin.answer("GET", "/info", close, reply(200, {"ok": True}))
    standin.answer("POST", "/containers/x/kill", close, reply(204))
    standin.answer("GET", "/version", reply(200, {}))
    with trio.fail_after(5):
        await client.version()  # a resting connection is now at hand, and dies when it is used
        assert await client.system.info() == {"ok": True}
        with pytest.raises(DockerConnectionError):
            await client.containers.container("x").kill()
        assert [request.path for request in standin.requests].count("/containers/x/kill") == 1


async def test_stray_bytes_between_answers_are_not_taken_for_one(standin: StandIn, client: Docker) -> None:
    async def chatty(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(reply(200, {"n": 1}))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(reply(200, {"n": 666}))

    standin.answer("GET", "/info", chatty)
    standin.answer("GET", "/version", reply(200, {"n": 2}))
    with trio.fail_after(5):
        assert await client.system.info() == {"n": 1}
        await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert dict(await client.version()) == {"n": 2}


async def test_idle_connections_are_few_and_not_old(standin: StandIn, client: Docker) -> None:
    standin.answer("GET", "/info", reply(200, {}))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(3 * MAX_IDLE):
                nursery.start_soon(client.system.info)
        assert f"0 in use, {MAX_IDLE} idle" in repr(client)
        await client.close()
        assert "0 idle" in repr(client)
        with pytest.raises(RuntimeError):
            await client.system.info()
        await client.close()


async def test_a_connection_that_rested_too_long_is_replaced(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with standin_engine(tmp_path / "s") as standin, Docker(standin.url) as docker:
        standin.answer("GET", "/info", reply(200, {}))
        await docker.system.info()
        await docker.system.info()
        assert standin.connections == 1
        await trio.sleep(IDLE_SECONDS + 1)
        await docker.system.info()
        assert standin.connections == 2


async def test_leaving_a_large_answer_unread_closes_its_connection(standin: StandIn, client: Docker) -> None:
    async def endless(request: Request, stream: trio.SocketStream) -> None:
        await stream.send_all(chunked(b"x" * 1000, end=False))
        while True:
            await stream.send_all(b"3e8\r\n" + b"x" * 1000 + b"\r\n")

    standin.answer("GET", "/images/i/get", endless)
    with trio.fail_after(5):
        async with client.images.export_image("i") as content:
            assert await content.read(500) == b"x" * 500
        assert "0 in use, 0 idle" in repr(client)


async def test_an_early_refusal_of_an_upload_is_told(
    standin: StandIn, client: Docker, tmp_path: Path
) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "early"))
    listener.listen()

    async def refuse() -> None:
        while True:
            peer, _ = await listener.accept()
            with peer:
                head = await peer.recv(1000)
                if b"_ping" in head:
                    await peer.send(reply(200, b"", Api_Version="1.41", Connection="close"))
                else:
                    await peer.send(reply(403, {"message": "no uploads"}, Connection="close"))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery, Docker(f"unix://{tmp_path}/early") as docker:
            nursery.start_soon(refuse)
            data = endless()
            with pytest.raises(DockerError, match="no uploads"):
                await docker.containers.container("x").put_archive("/", data)
            await data.aclose()  # type: ignore[attr-defined]
            nursery.cancel_scope.cancel()
    listener.close()


@pytest.mark.parametrize("kind", ["bytes", "file", "iterable"])
async def test_uploads(standin: StandIn, client: Docker, kind: str) -> None:
    payload = bytes(range(256)) * 9000

    async def pieces() -> AsyncIterator[bytes]:
        yield payload[:1]
        yield b""
        yield payload[1:]

    bodies: dict[str, Any] = {"bytes": payload, "file": io.BytesIO(payload), "iterable": pieces()}
    standin.answer("PUT", "/containers/x/archive", reply(200))
    with trio.fail_after(5):
        await client.containers.container("x").put_archive("/tmp/a b", bodies[kind])
    (request,) = standin.requests
    assert request.body == payload
    assert request.query == "path=%2Ftmp%2Fa+b"
    assert request.headers["content-type"] == "application/x-tar"
    assert ("content-length" in request.headers) == (kind == "bytes")


async def test_a_full_accept_queue_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(0)
    connect = unix_connector(path)
    made = []

    async def one() -> None:
        made.append(await connect())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
            await trio.sleep(0.05)
            assert len(made) < 5
            accepted = [(await listener.accept())[0] for _ in range(5)]
    for connection in made:
        connection.cut()
    for sock in (*accepted, listener):
        sock.close()


async def test_another_httpx_transport() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/_ping":
            return httpx.Response(200, headers={"Api-Version": "1.43"})
        if request.url.path == "/v1.43/info":
            return httpx.Response(200, json={"Name": "mock"})
        if request.url.path == "/v1.43/version":
            raise httpx.ReadTimeout("slow")
        return httpx.Response(404, json={"message": request.url.path})

    async with Docker(transport=httpx.MockTransport(handler)) as docker:
        with trio.fail_after(5):
            assert await docker.system.info() == {"Name": "mock"}
            with pytest.raises(DockerError, match=r"/v1\.43/containers/x/json"):
                await docker.containers.get("x")
            with pytest.raises(DockerConnectionError):
                await docker.version()
            with pytest.raises(DockerConnectionError, match="streams need a url"):
                await docker.containers.container("x").attach(tty=True).receive_some()


async def test_our_transport_serves_an_httpx_client(standin: StandIn) -> None:
    standin.answer("GET", "/hello", reply(200, {"a": 1}))
    standin.answer("POST", "/echo", reply(200, b"x" * 100_000, "text/plain"))
    transport = EngineTransport(unix_connector(str(standin.path)))
    async with httpx.AsyncClient(transport=transport, base_url="http://docker", trust_env=False) as client:
        with trio.fail_after(5):
            assert (await client.get("/hello")).json() == {"a": 1}
            response = await client.post("/echo", json={"b": 2})
            assert len(response.text) == 100_000
    assert json.loads(standin.requests[1].body) == {"b": 2}


async def test_names_are_escaped(standin: StandIn, client: Docker) -> None:
    with trio.fail_after(5):
        with pytest.raises(DockerError):
            await client.containers.get("../images/x?y=1")
        assert standin.requests[0].path == "/containers/..%2Fimages%2Fx%3Fy%3D1/json"
    with pytest.raises(ValueError):
        client.containers.container("")
    with pytest.raises(ValueError):
        client.containers.container("..")
