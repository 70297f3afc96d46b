"""The port: accept, read a head, and send each visitor where they belong.

One port serves the page, `/health`, `/ready` and the WebSocket. Every connection is a task of its own whose
errors end that connection and nothing else.
"""

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus

import trio

from supervisor.admission.address import Address, Client
from supervisor.admission.door import Presence, Refusal
from supervisor.admission.origin import invalid_entries
from supervisor.admission.proxy_protocol import Header
from supervisor.errors import ConfigurationError, SupervisorError
from supervisor.gateway.answers import Answers
from supervisor.gateway.house import House
from supervisor.gateway.http import HeadReader, HttpError, Request, response
from supervisor.gateway.pages import Pages
from supervisor.gateway.stream import linger, send_steadily
from supervisor.gateway.threshold import Threshold, too_many
from supervisor.gateway.tls import Tls
from supervisor.gateway.viewer import Speaker, converse
from supervisor.gateway.websocket import ConnectionLostError, WebSocket
from supervisor.observability import metrics
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason

log = get_logger(__name__)

BACKLOG = 512
ACCEPTS_PER_TURN = 16
"""Connections that are accepted at most, one of them to be served, until everybody else has had a turn: a
flood waits at the door, in the kernel, while the sessions that are open go on."""
ACCEPT_PAUSE = 0.1  # seconds, while this process or host has no descriptor or memory for another connection
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
GONE = (ConnectionLostError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Gateway:
    """The listening side of the supervisor.

    Attributes:
        url: where the page is, once `run` has started.
        listening: its sockets, from then on. They outlive a pause, so that nobody who connects meanwhile is
            refused.

    Args:
        house, pages: what there is to visit.
        listening: sockets that listen already, of an earlier process; owned from now on.
    """

    def __init__(self, house: House, pages: Pages, listening: Sequence[socket.socket] = ()) -> None:
        self.house = house
        self.settings = house.settings
        self.pages = pages
        if problems := invalid_entries(self.settings):
            raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems))
        self.tls = (
            Tls(self.settings.tls_certificate, self.settings.tls_key)
            if self.settings.tls_certificate
            else None
        )
        self.url = ""
        self.listening: list[socket.socket] = list(listening)
        self._resumed = trio.Event()
        self._connections = 0
        self._threshold = Threshold(house, tls=self.tls is not None)
        self._answers = Answers(house, pages, tls=self.tls is not None)
        self._accepting = trio.CancelScope()
        self._gone = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<Gateway {self.url} {self._connections} connections>"

    @property
    def connections(self) -> int:
        """How many connections are open, of all kinds."""
        return self._connections

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        with ExitStack() as stack:
            if not self.listening:
                self.listening = await self._listen()
            for each in self.listening:
                stack.enter_context(each)
            self.house.port = self.listening[0].getsockname()[1]
            self.url = self._url()
            async with trio.open_nursery() as nursery:
                if self.tls:
                    nursery.start_soon(self.tls.watch)
                await nursery.start(self._accept, nursery)
                task_status.started()
                while True:
                    await self._resumed.wait()
                    await nursery.start(self._accept, nursery)

    async def _listen(self) -> list[socket.socket]:
        settings = self.settings
        try:
            listeners = await trio.open_tcp_listeners(settings.port, host=settings.host, backlog=BACKLOG)
        except OSError as error:
            raise ConfigurationError(
                f"HOST={settings.host} PORT={settings.port}: cannot listen there: {error.strerror or error}"
            ) from error
        return [socket.socket(fileno=listener.socket.detach()) for listener in listeners]

    def _url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return (
            f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{self.house.port}/"
        )

    async def _accept(self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        self._resumed = trio.Event()
        if not self.listening:
            task_status.started()
            return  # told to stop just when it was to accept again
        with trio.CancelScope() as self._accepting:
            async with trio.open_nursery() as accepting:
                for each in self.listening:
                    accepting.start_soon(self._accept_from, each, nursery)
                task_status.started()

    async def _accept_from(self, listening: socket.socket, nursery: trio.Nursery) -> None:
        """Accept until cancelled, a few at a time; whoever is refused without having been read costs no task.

        Error handling: as `trio.serve_listeners`: a connection that is gone already counts for nothing, and
        where there is no room for another one it waits.
        """
        listening = listening.dup()  # which may be given to another process meanwhile
        listening.setblocking(False)
        with listening:
            while True:
                await trio.lowlevel.wait_readable(listening)
                for _ in range(ACCEPTS_PER_TURN):
                    try:
                        accepted, _ = listening.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        if error.errno in _NO_ROOM:
                            log.warning("no connection can be accepted", problem=str(error))
                            await trio.sleep(ACCEPT_PAUSE)
                        break
                    if self._accepted(accepted, nursery):
                        break

    async def drain(self, reason: EndReason) -> None:
        """Stop accepting, and return when the connections that were there are gone; who has no session is
        told `reason`. Who connects from now on waits, for `resume` or for another process that has the
        sockets.
        """
        self._accepting.cancel()
        self.house.close(reason)
        while self._connections:
            await self._gone.park()

    def stop_listening(self) -> None:
        """Have whoever connects from now on refused."""
        while self.listening:
            self.listening.pop().close()

    def resume(self) -> None:
        """Accept again."""
        self.house.reopen()
        self._resumed.set()

    def _accepted(self, accepted: socket.socket, nursery: trio.Nursery) -> bool:
        """Have a connection served, and return true; or have done with it."""
        try:
            local: str = accepted.getsockname()[0]
            peer = self.house.door.addresses.client(accepted.getpeername()[0])
        except OSError:
            accepted.close()  # reset before it was accepted
            return False
        proxied = self.settings.proxy_protocol and self.house.door.addresses.trusts(peer)
        refusal = self._threshold.knock(peer, self._connections, announced=proxied)
        if refusal and not self._threshold.has_time():
            self._threshold.turn_away_in_passing(accepted, refusal)
            return False
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        nursery.start_soon(
            self._attend,
            self.tls.wrap(stream) if self.tls else stream,
            local,
            peer,
            stream if proxied else None,
            refusal,
        )
        return True

    async def serve(
        self,
        stream: trio.abc.Stream,
        address: str | None = None,
        peer: Client | None = None,
        *,
        announced_on: trio.SocketStream | None = None,
    ) -> None:
        """Serve one connection until it ends, whatever carries it, and close it.

        Args:
            stream: to the client.
            address: of this host, at which the connection arrived.
            peer: who is at the other end; nobody in particular, for a stream that no network carries.
            announced_on: the stream below, when a PROXY header comes first on it.

        Error handling: what goes wrong ends this connection, is logged, and is never raised.
        """
        peer = peer or Client()
        refusal = self._threshold.knock(peer, self._connections, announced=announced_on is not None)
        await self._attend(stream, address, peer, announced_on, refusal)

    async def _attend(
        self,
        stream: trio.abc.Stream,
        address: str | None,
        peer: Client,
        announced_on: trio.SocketStream | None,
        refusal: Refusal | None,
    ) -> None:
        try:
            if refusal:
                await self._threshold.turn_away(stream, refusal)
            else:
                await self._serve_counted(stream, address, peer, announced_on)
        except* (*GONE, SupervisorError) as gone:  # errors of a dialogue come here when it is cancelled, too
            log.debug("connection broke", error=repr(gone.exceptions[0]))
        except* Exception as error:
            log.error("connection failed", exc_info=error)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_counted(
        self,
        stream: trio.abc.Stream,
        address: str | None,
        peer: Client,
        announced_on: trio.SocketStream | None,
    ) -> None:
        self._connections += 1
        refusal: Refusal | None = None
        try:
            with self.house.door.presence(peer) as presence:
                if announced_on:
                    announced = await self._announced(announced_on)
                    peer = self.house.door.addresses.client(announced) if announced else peer
                    refusal = presence.admit(peer) if peer.direct else None
                elif peer.direct:
                    presence.come(peer)  # it has knocked
                if refusal:
                    await self._threshold.turn_away(stream, refusal)
                elif upgrade := await self._answer_requests(stream, address, presence):
                    speaker, rest, refusal = upgrade
                    websocket = WebSocket(stream, rest, self.settings)
                    await converse(websocket, speaker, self.house, presence, refusal)
        finally:
            self._connections -= 1
            self._gone.unpark_all()

    async def _announced(self, stream: trio.SocketStream) -> Address | None:
        """Read a PROXY header; return the address in it."""
        header = Header()
        with trio.fail_after(self.settings.handshake_timeout):
            while header.wanted:
                data = await stream.receive_some(header.wanted)
                if not data:
                    raise ConnectionLostError
                header.feed(bytes(data))
        return header.address

    async def _answer_requests(
        self, stream: trio.abc.Stream, address: str | None, presence: Presence
    ) -> tuple[Speaker, bytes, Refusal | None] | None:
        """Answer requests until one asks for a WebSocket and has got its answer; return the speaker that the
        client asked for, what has been read already, and why it is going to be refused. None when the
        connection is done.
        """
        timeout = self.settings.handshake_timeout
        door, peer = self.house.door, presence.client
        reader = HeadReader(stream)
        while True:
            request: Request | None = None
            try:
                with self.house.patience(timeout) as patience:
                    request = await reader.next_request()
                if patience.cancelled_caught and reader.rest:
                    raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")
                if request is None:
                    return None
                if refusal := presence.admit(door.addresses.behind(peer, request.headers)):
                    raise too_many(refusal)
                if request.is_websocket_upgrade:
                    refusal = door.upgrade(presence.client)
                    if refusal and not refusal.told:
                        raise too_many(refusal)
                    answer, speaker = self._answers.upgrade(request, address)
                    await send_steadily(stream, answer, timeout)
                    return speaker, bytes(reader.rest), refusal
                if refusal := door.request(presence.client):
                    raise too_many(refusal)
                answer, keep_alive = self._answers.answer(request, address, presence), request.keep_alive
            except HttpError as error:
                metrics.http_refusals.labels(str(error.status.value)).inc()
                head_only = request is not None and request.method == "HEAD"
                answer = response(
                    error.status, f"{error}\n".encode(), headers=error.headers, head_only=head_only
                )
                keep_alive = False
            await send_steadily(stream, answer, timeout)
            if not keep_alive:
                await linger(stream)
                return None
