"""Behind a real nginx and a real Caddy with TLS, by the configurations in examples/."""

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trustme
from conftest import missing

from gateway.harness import TOKEN, V1Client, Wire, pages
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.serve import Supervisor, running
from supervisor.settings import Settings
from supervisor.testing.memory import MemoryProvider

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "terminal.example.com"
SOURCE = "127.0.0.77"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def nginx(path: Path, port: int, upstream: int) -> list[str]:
    text = (EXAMPLES / "nginx.conf").read_text()
    for old, new in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8080", f"127.0.0.1:{upstream}"),
        ("/etc/ssl/terminal.example.com.pem", f"{path}/cert.pem"),
        ("/etc/ssl/terminal.example.com.key", f"{path}/key.pem"),
        # A timeout that only pings keep away, in a time that a test can wait.
        ("proxy_buffering off;", "proxy_buffering off; proxy_read_timeout 3s; proxy_send_timeout 3s;"),
        ("http {", "http { access_log off; " + "".join(f"{kind}_temp_path {path};" for kind in (
            "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new, 1)
    (path / "nginx.conf").write_text(text)
    return ["nginx", "-p", str(path), "-c", f"{path}/nginx.conf", "-e", f"{path}/error.log", "-g",
            f"daemon off; pid {path}/pid;"]  # fmt: skip


def caddy(path: Path, port: int, upstream: int) -> list[str]:
    text = (EXAMPLES / "Caddyfile").read_text()
    head = f"{{\n\tadmin off\n\tauto_https off\n}}\nhttps://{NAME}:{port} {{\n"
    text = text.replace(f"{NAME} {{\n", f"{head}\tbind 127.0.0.1\n\ttls {path}/cert.pem {path}/key.pem\n", 1)
    (path / "Caddyfile").write_text(text.replace("127.0.0.1:8080", f"127.0.0.1:{upstream}"))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", f"{path}/Caddyfile"]


@asynccontextmanager
async def behind(
    proxy: str, path: Path, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[Supervisor, int, ssl.SSLContext]]:
    """A supervisor behind that proxy; yields the proxy's port and whom to trust."""
    if shutil.which(proxy) is None:
        missing(request, f"needs {proxy} (Debian package of that name)")
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    certificate.private_key_pem.write_to_path(path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(path / "cert.pem", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = Settings(
        port=0,
        access_token=TOKEN,
        allowed_hosts=(NAME,),
        allowed_origins=(f"https://{NAME}",),
        trusted_proxy=True,
        trusted_proxies=("127.0.0.1",),
        ping_interval=1,
        max_connections_per_address=2,
    )
    port = free_port()
    with trio.fail_after(60):
        async with running(settings, MemoryProvider(), pages()) as supervisor:
            make = nginx if proxy == "nginx" else caddy
            command = make(path, port, supervisor.gateway.house.port)
            process = await trio.lowlevel.open_process(
                command,
                env={"PATH": "/usr/sbin:/usr/bin:/bin", "HOME": str(path)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                while True:
                    assert process.poll() is None, f"{proxy} ended"
                    try:
                        await trio.aclose_forcefully(await trio.open_tcp_stream("127.0.0.1", port))
                        break
                    except OSError:
                        await trio.sleep(0.05)
                yield supervisor, port, context
            finally:
                process.terminate()
                await process.wait()


async def visit(port: int, context: ssl.SSLContext, source: str = SOURCE) -> Wire:
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    stream = trio.SSLStream(trio.SocketStream(sock), context, server_hostname=NAME, https_compatible=True)
    wire = Wire(stream)
    # The client claims an address of its own invention, which the proxy passes on.
    spoof = f"Origin: https://{NAME}\r\nX-Forwarded-For: 6.6.6.6\r\n"
    await wire.upgrade(SUBPROTOCOL, host=NAME, headers=spoof)
    return wire


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
async def test_behind_a_real_proxy(proxy: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with behind(proxy, tmp_path, request) as (supervisor, port, context):
        wire = await visit(port, context)
        client = V1Client(wire)
        await client.auth()
        (session,) = supervisor.registry
        # Its own address is what counts: neither the proxy's nor the invented one.
        assert session.visitor.key == socket.inet_aton(SOURCE)
        # Longer than the proxy's timeout, and nothing is said but what keeps it away.
        with trio.move_on_after(5):
            await client.expect("nothing")
        assert len(wire.pings) + len(wire.pongs) >= 3
        await client.tell("ping")
        await client.expect("pong")
        # Limits hold for the one address and not for others behind the same proxy.
        others = [await visit(port, context), await visit(port, context, "127.0.0.78")]
        refused = await visit(port, context)
        assert (await V1Client(refused).closed())[0] == 4003
        await V1Client(others[1]).auth()
        for each in (wire, refused, *others):
            await trio.aclose_forcefully(each.stream)
