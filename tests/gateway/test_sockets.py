"""The gateway on real loopback sockets: TLS, last words that arrive, memory."""

import gc
import os
import resource
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import attrs
import pytest
import structlog.testing
import trio
import trio.testing
import trustme
from trio.abc import Clock

from gateway.harness import BINARY, CLOSE, PING, TOKEN, V1Client, Wire, answer, frame, get, pages
from supervisor.alarms import Alarms
from supervisor.errors import ConfigurationError
from supervisor.gateway.server import Gateway
from supervisor.gateway.tls import Tls
from supervisor.gateway.websocket import ConnectionLostError, WebSocket
from supervisor.protocol.closing import EndReason
from supervisor.protocol.v1 import SUBPROTOCOL
from supervisor.serve import Supervisor, running
from supervisor.settings import Settings
from supervisor.settings.knob import KIB, MIB
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

TIMEOUT = 30.0


@attrs.frozen
class Place:
    """A gateway that listens, and the clients' sockets."""

    supervisor: Supervisor
    provider: MemoryProvider
    streams: list[trio.SocketStream] = attrs.field(factory=list)

    @property
    def gateway(self) -> Gateway:
        return self.supervisor.gateway

    @property
    def terminal(self) -> MemoryTerminal:
        return self.provider.terminals[-1]

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.gateway.house.port)
        self.streams.append(stream)
        return stream

    async def v1(self, stream: trio.abc.Stream | None = None, **auth: Any) -> V1Client:
        wire = Wire(stream or await self.connect())
        await wire.upgrade(SUBPROTOCOL, host=f"127.0.0.1:{self.gateway.house.port}")
        client = V1Client(wire)
        await client.auth(**auth)
        return client

    async def secured(self, authority: trustme.CA) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        stream = trio.SSLStream(
            await self.connect(), context, server_hostname="localhost", https_compatible=True
        )
        await stream.do_handshake()
        return stream


@asynccontextmanager
async def serving(**changes: Any) -> AsyncGenerator[Place]:
    exempt = ("127.0.0.0/8",)
    settings = Settings(**{"port": 0, "access_token": TOKEN, "exempt_networks": exempt, **changes})
    provider = MemoryProvider()
    with trio.fail_after(TIMEOUT), structlog.testing.capture_logs() as logs:
        async with running(settings, provider, pages()) as supervisor:
            place = Place(supervisor, provider)
            try:
                yield place
            finally:
                for stream in place.streams:
                    await trio.aclose_forcefully(stream)
    assert provider.leased == 0
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


async def test_a_session_over_a_socket() -> None:
    async with serving() as place, trio.open_nursery() as nursery:
        assert place.gateway.url == f"http://127.0.0.1:{place.gateway.house.port}/"
        client = await place.v1()
        await client.wire.send(b"x" * MIB)
        data = bytes(range(256)) * 8 * KIB
        nursery.start_soon(place.terminal.print, data)
        assert await client.expect_output(len(data)) == data
        while len(place.terminal.typed) < MIB:
            await trio.sleep(0.01)
        place.terminal.exit(0)
        assert await client.closed() == (4000, "user-exit")
        assert await client.wire.stream.receive_some() == b""


async def test_the_url_has_a_token_that_works_once() -> None:
    async with serving(access_token="") as place:
        target = place.supervisor.url.removeprefix(place.gateway.url)
        for expected in (303, 403):
            stream = await place.connect()
            await stream.send_all(get("/" + target).encode())
            assert (await answer(stream))[0] == expected
            await stream.aclose()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/health", "Content-Length: 3000000\r\n", method="POST").encode() + b"x" * 3_000_000, 413),
        (b"x" * 3_000_000, 431),
        (get("/nothing").encode() + b"rest" * 1000, 404),
        (b"GET / HTTP/1.1\r\n\r\n" + b"rest" * 1000, 400),
    ],
)
async def test_a_refusal_arrives_although_more_is_on_its_way(request_: bytes, expected: int) -> None:
    """A socket closed with unread input is reset, and the answer with it."""
    async with serving() as place:
        for _ in range(5):
            stream = await place.connect()
            async with trio.open_nursery() as nursery:

                async def send(stream: trio.SocketStream = stream) -> None:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(request_)

                nursery.start_soon(send)
                assert (await answer(stream))[0] == expected
                nursery.cancel_scope.cancel()


async def test_too_many_connections_are_told() -> None:
    async with serving(max_connections=1) as place:
        client = await place.v1()
        for _ in range(3):
            stream = await place.connect()
            await stream.send_all(get("/health").encode())
            assert (await answer(stream))[0] == 503
            assert await stream.receive_some() == b""
        await client.tell("ping")
        await client.expect("pong")


@pytest.mark.parametrize(
    ("flood", "code"), [(frame(PING, b"x" * 100) * 1000, 4003), (frame(BINARY, b"x" * 100_000), 1002)]
)
async def test_last_words_to_those_who_flood(flood: bytes, code: int) -> None:
    async with serving() as place, trio.open_nursery() as nursery:
        client = await place.v1()

        async def send() -> None:
            await client.wire.send("nonsense" if code == 1002 else b"")
            with suppress(trio.BrokenResourceError):
                while True:
                    await client.wire.send_raw(flood)

        client.wire.answers_close = False
        nursery.start_soon(send)
        assert (await client.closed())[0] == code
        nursery.cancel_scope.cancel()


async def test_a_client_that_never_reads() -> None:
    async with serving(stall_timeout=1, max_connections=2) as place, trio.open_nursery() as nursery:
        good = await place.v1()
        frozen = await place.v1(sessionId=good.hello["sessionId"])
        frozen.acknowledges = False
        nursery.start_soon(place.terminal.print, b"x" * 16 * MIB)
        await good.expect_output(16 * MIB)
        (session,) = place.supervisor.registry
        while session.statistics().writers > 1:
            await trio.sleep(0.05)


async def test_clients_that_vanish() -> None:
    """A reset in the middle of everything."""
    async with serving(resume_grace=0) as place:
        for size in (1, 10, 100, 200, 400, 1000):
            for _ in range(5):
                raw = socket.create_connection(("127.0.0.1", place.gateway.house.port))
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                request = get(
                    f"/?token={TOKEN}",
                    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                    f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n",
                    host="127.0.0.1",
                ).encode()
                raw.sendall(
                    (request + frame(1, b'{"type":"auth"}') + frame(BINARY, b"k" * 1000) + frame(CLOSE))[
                        :size
                    ]
                )
                await trio.sleep(0.002)
                raw.close()
        while place.gateway._connections or len(place.supervisor.registry):
            await trio.sleep(0.01)
        client = await place.v1()
        await client.tell("leave")
        await client.closed()


async def test_an_address_that_is_taken() -> None:
    async with serving() as place:
        with pytest.raises(ExceptionGroup) as caught:
            async with running(Settings(port=place.gateway.house.port), MemoryProvider(), pages()):
                pass
        assert caught.group_contains(ConfigurationError, match="cannot listen there: Address already in use")


async def test_stopping_tells_everybody_and_takes_no_longer_than_that() -> None:
    async with serving(shutdown_grace=20) as place:
        client = await place.v1()
        idle = await place.connect()
        await idle.send_all(get("/health").encode())
        await answer(idle)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.supervisor.stop)
            assert await client.closed() == (1001, "shutdown")
            assert await idle.receive_some() == b""
        assert trio.current_time() - started < 5
        with pytest.raises(OSError, match="all attempts to connect"):
            await place.connect()


async def test_what_an_idle_session_costs(capsys: pytest.CaptureFixture[str]) -> None:
    count = 200
    async with serving(max_sessions=count + 10, max_connections=count + 10) as place:
        clients = [await place.v1() for _ in range(10)]
        before = _resident()
        for _ in range(count):
            await place.v1()  # the client's own objects go; they are not what is measured
        each = (_resident() - before) / count
        with capsys.disabled():
            print(f"\n    {each / KIB:.1f} KiB per idle session, gateway and session together")
        assert each < 60 * KIB
        for client in clients:
            await client.tell("ping")
            await client.expect("pong")


def _resident() -> int:
    gc.collect()
    pages_ = int(Path("/proc/self/statm").read_text().split()[1])
    return pages_ * os.sysconf("SC_PAGESIZE")


# ---------------------------------------------------------------------- TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path) -> tuple[Path, Path]:
    """Write a new certificate and key; returns the files."""
    issued = authority.issue_cert("localhost", "127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return certificate, key


async def test_tls(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = issue(authority, tmp_path)
    async with (
        serving(tls_certificate=certificate, tls_key=key) as place,
        trio.open_nursery() as nursery,
    ):
        assert place.gateway.url.startswith("https://127.0.0.1:")
        stream = await place.secured(authority)
        await stream.send_all(get("/?token=" + TOKEN).encode())
        _, headers, _ = await answer(stream)
        assert headers["set-cookie"].startswith("__Host-terminal-supervisor-")
        assert headers["set-cookie"].endswith("; Secure")
        await stream.send_all(get("/", f"Cookie: {headers['set-cookie'].split(';')[0]}\r\n").encode())
        _, headers, _ = await answer(stream)
        assert "connect-src wss://" in headers["content-security-policy"]

        client = await place.v1(await place.secured(authority))
        data = os.urandom(2 * MIB)
        nursery.start_soon(place.terminal.print, data)
        assert await client.expect_output(len(data)) == data
        await client.wire.send(b"nonsense" * 1000)
        await client.tell("leave")
        assert await client.closed() == (4000, "user-exit")


async def test_a_renewed_certificate_is_used_by_new_connections(
    tmp_path: Path, authority: trustme.CA
) -> None:
    certificate, key = issue(authority, tmp_path)
    async with serving(tls_certificate=certificate, tls_key=key) as place:
        tls = place.gateway.tls
        assert tls is not None
        old = await place.secured(authority)
        first = old.getpeercert(binary_form=True)
        issue(authority, tmp_path)
        assert tls.reload()
        new = await place.secured(authority)
        second = new.getpeercert(binary_form=True)
        assert first != second
        key.write_text("half written")
        assert not tls.reload()
        third = (await place.secured(authority)).getpeercert(binary_form=True)
        assert third == second
        await old.send_all(get("/health").encode())
        assert (await answer(old))[0] == 200


async def test_changed_files_are_noticed(
    autojump_clock: Clock, tmp_path: Path, authority: trustme.CA
) -> None:
    certificate, key = issue(authority, tmp_path)
    tls = Tls(certificate, key)
    before = tls.context
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.watch)
        await trio.sleep(25)
        assert tls.context is before
        key.unlink()
        os.utime(certificate, ns=(1, 1))
        await trio.sleep(25)
        assert tls.context is before
        issue(authority, tmp_path)
        await trio.sleep(25)
        assert tls.context is not before
        nursery.cancel_scope.cancel()


def test_a_certificate_that_cannot_be_loaded_is_the_operator_s(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, _ = issue(authority, tmp_path)
    with pytest.raises(ConfigurationError, match="TLS_CERTIFICATE_FILE"):
        Tls(tmp_path / "missing", None)
    with pytest.raises(ConfigurationError, match="TLS_CERTIFICATE_FILE"):
        Tls(certificate, None)  # no key in it


async def test_what_is_no_tls(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = issue(authority, tmp_path)
    async with serving(tls_certificate=certificate, tls_key=key, handshake_timeout=1.0) as place:
        for raw in (get("/health").encode(), os.urandom(1000), b""):
            stream = await place.connect()
            if raw:
                await stream.send_all(raw)
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        old = ssl.create_default_context()
        authority.configure_trust(old)
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        outdated = trio.SSLStream(await place.connect(), old, server_hostname="localhost")
        with pytest.raises(trio.BrokenResourceError):
            await outdated.do_handshake()
        good = await place.secured(authority)
        await good.send_all(get("/health").encode())
        assert (await answer(good))[0] == 200


async def test_refusals_over_tls_arrive(tmp_path: Path, authority: trustme.CA) -> None:
    certificate, key = issue(authority, tmp_path)
    async with serving(tls_certificate=certificate, tls_key=key, max_connections=1) as place:
        first = await place.secured(authority)
        second = await place.secured(authority)
        await second.send_all(get("/health").encode())
        assert (await answer(second))[0] == 503
        await first.send_all(b"x" * 20_000)
        assert (await answer(first))[0] == 431


async def test_what_the_kernel_takes_in_part_arrives_whole() -> None:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    sender, receiver = trio.SocketStream(ours), trio.SocketStream(theirs)
    websocket = WebSocket(sender, b"", Settings())
    payload = os.urandom(1_000_000)
    received = bytearray()
    with trio.fail_after(TIMEOUT):
        async with sender, receiver:

            async def send() -> None:
                for size in (1_000_000, 300, 5):
                    await websocket.send(payload[:size])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while len(received) < 1_000_000 + 10 + 300 + 4 + 5 + 2:
                    received += await receiver.receive_some(10_000)
            await receiver.aclose()
            with pytest.raises(ConnectionLostError):
                await websocket.send(payload)
    assert received[:10] == b"\x82\x7f" + (1_000_000).to_bytes(8, "big")
    assert received[10:1_000_010] == payload
    assert received[1_000_010:] == b"\x82\x7e\x01\x2c" + payload[:300] + b"\x82\x05" + payload[:5]


async def test_what_is_sent_at_once_arrives_whole_and_in_order() -> None:
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sender, receiver = trio.SocketStream(ours), trio.SocketStream(theirs)
    websocket = WebSocket(sender, b"", Settings())
    expected, received = bytearray(), bytearray()
    with trio.fail_after(TIMEOUT):
        async with sender, receiver, trio.open_nursery() as nursery:
            with websocket.kept_alive(nursery, Alarms(nursery)):
                for number in range(1000):
                    if not websocket.is_free:
                        break
                    message = bytes([number % 256]) * 1000
                    websocket.send_at_once(message)
                    expected += b"\x82\x7e\x03\xe8" + message
                assert 0 < number < 999, "the kernel does not take for ever"
                assert not websocket.send_in_passing(b"\x8a\x00")
                while len(received) < len(expected):
                    received += await receiver.receive_some(10_000)
                await trio.testing.wait_all_tasks_blocked()
                assert websocket.is_free
                await websocket.send("last")
                expected += b"\x81\x04last"
                while len(received) < len(expected):
                    received += await receiver.receive_some(10_000)
                await receiver.aclose()
                websocket.send_at_once(b"nobody")  # who reads will notice
                websocket.send_at_once(b"nobody")
    assert received == expected


@pytest.mark.parametrize("ends", ["by itself", "by us"])
async def test_the_last_words_come_after_what_the_kernel_did_not_take(ends: str) -> None:
    async with serving() as place:
        stream = await place.connect()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = await place.v1(stream)
        (session,) = place.supervisor.registry
        [theirs] = [each for each in gc.get_objects() if type(each) is WebSocket]
        theirs._stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # type: ignore[attr-defined]
        total = 0
        while theirs.is_free:
            await place.terminal.print(b"x" * 1000)
            total += 1000
            await trio.testing.wait_all_tasks_blocked(0.01)
        if ends == "by itself":
            place.terminal.exit(3)
        else:
            session.end(EndReason.IDLE)
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.acknowledges = False
        assert (await client.closed())[0] != 1006
        assert client.output == b"x" * total
        assert client.messages[-1]["type"] == ("exit" if ends == "by itself" else "error")


async def test_output_in_all_sizes_between_notices() -> None:
    random = Random(1)
    pieces = [random.randbytes(random.choice((1, 2, 80, 1000, 1024, 1025, 5000))) for _ in range(400)]
    whole = b"".join(pieces)
    async with serving() as place, trio.open_nursery() as nursery:
        client = await place.v1()
        (session,) = place.supervisor.registry

        async def produce() -> None:
            for number, piece in enumerate(pieces):
                await place.terminal.print(piece)
                if number % 40 == 0:
                    session.tell_notice(f"notice {number}")
                if number % 7 == 0:
                    await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(produce)
        assert await client.expect_output(len(whole)) == whole
        while len([each for each in client.messages if each["type"] == "notice"]) < 10:
            await client.next()


async def test_without_a_descriptor_to_spare_it_waits_and_goes_on() -> None:
    async with serving() as place:
        clients = [trio.socket.socket() for _ in range(3)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        fillers: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(client.fileno() for client in clients) + 1, hard))
        try:
            with suppress(OSError):
                while True:
                    fillers.append(os.dup(0))
            with structlog.testing.capture_logs() as logs:
                for client in clients:
                    await client.connect(("127.0.0.1", place.gateway.house.port))
                while not any(entry["event"] == "no connection can be accepted" for entry in logs):
                    await trio.sleep(0.01)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for each in fillers:
                os.close(each)
        for client in clients:
            await client.send(get("/health").encode())
            assert (await client.recv(4096)).startswith(b"HTTP/1.1 200")
            client.close()
