"""TCP and TLS: a relay in front of the real engine, certificates of both sides, contexts."""

import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from engine.conftest import IMAGE, LABEL
from supervisor.engine import Docker, DockerConnectionError

pytestmark = pytest.mark.engine


@asynccontextmanager
async def relay(engine: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve the engine's unix socket on a TCP port of this host, and yield the port."""

    async def serve(front: trio.SocketStream) -> None:
        stream = trio.SSLStream(front, tls, server_side=True, https_compatible=True) if tls else front
        back = await trio.open_unix_socket(engine.removeprefix("unix://"))
        try:
            async with stream, back, trio.open_nursery() as nursery:

                async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
                    async for data in source:
                        await sink.send_all(data)
                    if isinstance(sink, trio.SocketStream):
                        await sink.send_eof()
                    else:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(copy, stream, back)
                nursery.start_soon(copy, back, stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA) -> ssl.SSLContext:
    """The server's side; it wants a certificate of the client's."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def write_certificates(directory: Path, authority: trustme.CA) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    mine = authority.issue_cert("me@example.org")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    mine.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    mine.private_key_pem.write_to_path(directory / "key.pem")


async def use(docker: Docker, label: str) -> None:
    """Calls, an upload, a stream, events."""
    for _ in range(3):
        await docker.containers.list()
    config = {"Image": IMAGE, "Cmd": ["cat"], "OpenStdin": True, "Tty": True, "Labels": {LABEL: label}}
    container = await docker.containers.create({**config, "HostConfig": {"NetworkMode": "none"}})
    try:
        async with docker.events.subscribe(filters={"container": container.id}) as events:
            async with container.attach(stdin=True, stdout=True) as stream:
                await container.start()
                await stream.send_all(b"x" * 100 + b"\n")
                got = b""
                while got.count(b"x") < 200:
                    got += await stream.receive_some()
            while (event := await events.get()) and event["Action"] != "start":
                pass
        await container.put_archive("/tmp", bytes(10240))
    finally:
        await container.delete(force=True)


async def test_plain_tcp(docker: Docker, docker_host: str, label: str) -> None:
    with trio.fail_after(30):
        async with relay(docker_host) as port, Docker(f"tcp://127.0.0.1:{port}") as remote:
            await use(remote, label)
            container = await docker.containers.create(
                {
                    "Image": IMAGE,
                    "Cmd": ["cat"],
                    "OpenStdin": True,
                    "StdinOnce": True,
                    "Labels": {LABEL: label},
                }
            )
            async with remote.containers.container(container.id).attach(stdin=True, stdout=True) as stream:
                await container.start()
                await stream.send_all(b"abc")
                await stream.send_eof()
                assert await stream.receive_some() == b"abc"
                assert await stream.receive_some() == b""


async def test_tls_by_environment(
    docker: Docker,
    docker_host: str,
    label: str,
    tmp_path: Path,
    authority: trustme.CA,
    server: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_certificates(tmp_path, authority)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with trio.fail_after(30):
        async with relay(docker_host, server) as port:
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
            async with Docker() as remote:
                await use(remote, label)
                assert "0 in use" in repr(remote)


async def test_tls_by_context(
    docker: Docker,
    docker_host: str,
    label: str,
    tmp_path: Path,
    authority: trustme.CA,
    server: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = hashlib.sha256(b"remote").hexdigest()
    write_certificates(tmp_path / "contexts/tls" / digest / "docker", authority)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    meta = tmp_path / "contexts/meta" / digest
    meta.mkdir(parents=True)
    with trio.fail_after(30):
        async with relay(docker_host, server) as port:
            endpoint = {"Host": f"tcp://localhost:{port}"}
            (meta / "meta.json").write_text(json.dumps({"Name": "remote", "Endpoints": {"docker": endpoint}}))
            async with Docker(context="remote") as remote:
                await use(remote, label)


async def test_certificates_that_do_not_fit(
    docker_host: str, tmp_path: Path, authority: trustme.CA, server: ssl.SSLContext
) -> None:
    stranger = ssl.create_default_context()
    trustme.CA().configure_trust(stranger)
    nameless = ssl.create_default_context()
    authority.configure_trust(nameless)
    with trio.fail_after(30):
        async with relay(docker_host, server) as port:
            for context in (stranger, nameless):
                async with Docker(f"https://127.0.0.1:{port}", ssl_context=context) as remote:
                    with pytest.raises(DockerConnectionError):
                        await remote.version()
                    with pytest.raises(DockerConnectionError):
                        await remote.containers.container("x").attach(tty=True).receive_some()


async def test_tls_cannot_be_closed_in_one_direction(
    docker: Docker, docker_host: str, label: str, authority: trustme.CA, server: ssl.SSLContext
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    authority.issue_cert("me@example.org").configure_cert(context)
    config = {"Image": IMAGE, "Cmd": ["cat"], "Tty": True, "OpenStdin": True, "Labels": {LABEL: label}}
    with trio.fail_after(30):
        container = await docker.containers.create(config)
        async with (
            relay(docker_host, server) as port,
            Docker(f"tcp://localhost:{port}", ssl_context=context) as remote,
            remote.containers.container(container.id).attach(stdin=True, tty=True) as stream,
        ):
            with pytest.raises(NotImplementedError):
                await stream.send_eof()
