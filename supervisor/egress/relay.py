"""The relay: lets TLS connections through whose handshake asks for a listed name.

The rules redirect to it what goes to an address of a listed name. Such an address may serve others too (a
CDN's), so the relay reads the client's first message, and only then connects: to the very address that the
session asked for, which the kernel remembers, not to one that a name resolves to now. From there on it
copies bytes. What it cannot see is what is said inside: whoever serves a listed name decides that.

Resource handling: connections are bounded, all together and for each session; each holds two sockets and
moves 64 KB at a time. Silent peers are noticed by TCP keepalive.
"""

import collections
import socket
import struct
from collections.abc import Callable
from typing import Final, final

import trio

from supervisor.egress.client_hello import HelloError, server_name
from supervisor.egress.events import EgressEvent
from supervisor.egress.names import AllowList
from supervisor.egress.rules import RELAY_PORT, Plan
from supervisor.errors import ConfigurationError
from supervisor.observability.log import get_logger

_log = get_logger("egress")

MOST_CONNECTIONS: Final = 4096
MOST_PER_SESSION: Final = 64
HELLO_TIMEOUT: Final = 10.0
"""Seconds for a client to say whom it wants."""
CONNECT_TIMEOUT: Final = 20.0
_CHUNK = 64 * 1024
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST, linux/netfilter_ipv4.h
_FREEBIND = 15  # IP_FREEBIND, ip(7)
_ADDRESS = struct.Struct("!HH4s8x")  # sockaddr_in, its family in the host's order


@final
class Relay:
    """Serves one network.

    Args:
        plan: whose.
        on_event: called with each connection that is let through or refused.
    """

    def __init__(self, plan: Plan, on_event: Callable[[EgressEvent], object]) -> None:
        self._plan = plan
        self._listed = AllowList(plan.domains)
        self._on_event = on_event
        self._sessions: collections.Counter[str] = collections.Counter()

    def __repr__(self) -> str:
        return f"<Relay {self._sessions.total()} connections of {len(self._sessions)} sessions>"

    async def run(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        """Serve until cancelled.

        Raises:
            ConfigurationError: it cannot listen.
        """
        listener = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The bridge may come and go with its engine.
        listener.setsockopt(socket.IPPROTO_IP, _FREEBIND, 1)
        try:
            await listener.bind((self._plan.gateway, RELAY_PORT))
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise ConfigurationError(
                f"the relay cannot listen on {self._plan.gateway}:{RELAY_PORT}: {error.strerror}"
            ) from error
        await trio.serve_listeners(self._serve, [trio.SocketListener(listener)], task_status=task_status)

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            source = str(client.socket.getpeername()[0])
            if self._sessions.total() >= MOST_CONNECTIONS or self._sessions[source] >= MOST_PER_SESSION:
                self._on_event(EgressEvent(source, "", "tcp", 0, "too many connections"))
                return
            self._sessions[source] += 1
            try:
                await self._admit(client, source)
            finally:
                self._sessions[source] -= 1
                if not self._sessions[source]:
                    del self._sessions[source]
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as group:
            _log.debug("a relayed connection broke", problems=[repr(error) for error in group.exceptions])
        finally:
            with trio.CancelScope(shield=True):  # closing a TCP socket does not wait
                await client.aclose()

    async def _admit(self, client: trio.SocketStream, source: str) -> None:
        destination, port = _original_destination(client)

        def deny(reason: str, name: str = "") -> None:
            self._on_event(EgressEvent(source, destination, "tls", port, reason, name))

        if (destination, port) == (self._plan.gateway, RELAY_PORT):
            deny("the relay itself")
            return
        received = b""
        name: str | None = None
        try:
            with trio.fail_after(HELLO_TIMEOUT):
                while name is None:
                    chunk = await client.receive_some(_CHUNK)
                    if not chunk:
                        deny("closed without a TLS client hello")
                        return
                    received += chunk
                    name = server_name(received)
        except HelloError as error:
            deny(str(error))
            return
        except trio.TooSlowError:
            deny("no TLS client hello in time")
            return
        if name not in self._listed:
            deny("a server name that is not listed", name)
            return
        server = trio.SocketStream(trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM))
        async with server:
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    await server.socket.connect((destination, port))
            except (OSError, trio.TooSlowError) as error:
                _log.info(
                    "a listed server cannot be reached", name=name, address=destination, problem=str(error)
                )
                return
            self._on_event(EgressEvent(source, destination, "tls", port, name=name))
            for stream in (client, server):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE.items():
                    stream.setsockopt(socket.IPPROTO_TCP, option, value)
            await server.send_all(received)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_copy, client, server)
                nursery.start_soon(_copy, server, client)


async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
    """Copy until the end, and pass the end on: the other direction may go on."""
    async for chunk in source:
        await target.send_all(chunk)
    await target.send_eof()


def _original_destination(client: trio.SocketStream) -> tuple[str, int]:
    """Return whom the session connected to, before the rules redirected it.

    Raises:
        OSError: the connection was not redirected: it came from elsewhere.
    """
    address = client.socket.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
    _family, port, packed = _ADDRESS.unpack(address)
    return socket.inet_ntoa(packed), port
