"""The port: accept, read a head, and send each visitor where they belong.

One port serves the page, `/health` and the WebSocket. Every connection is a task of its own whose errors end
that connection and nothing else. Nobody gets past the head without a Host header of ours, which is what
defeats DNS rebinding.
"""

import json
from functools import partial
from http import HTTPStatus

import trio

from supervisor.admission.origin import host_allowed, invalid_entries, origin_allowed
from supervisor.admission.token import set_cookie
from supervisor.errors import ConfigurationError
from supervisor.gateway.ably import AblySpeaker
from supervisor.gateway.house import House
from supervisor.gateway.http import HeadReader, HttpError, Request, response
from supervisor.gateway.pages import Pages
from supervisor.gateway.stream import MeteredStream
from supervisor.gateway.tls import Tls
from supervisor.gateway.v1 import V1Speaker
from supervisor.gateway.viewer import Speaker, converse
from supervisor.gateway.websocket import accept_websocket
from supervisor.observability.log import get_logger
from supervisor.protocol.v1 import SUBPROTOCOL

log = get_logger(__name__)

BACKLOG = 512
BUSY = response(HTTPStatus.SERVICE_UNAVAILABLE, b"Too many connections.\n", headers=[("Retry-After", "10")])


class Gateway:
    """The listening side of the supervisor.

    Attributes:
        url: where the page is, once `run` has started.
    """

    def __init__(self, house: House, pages: Pages) -> None:
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
        self._connections = 0
        self._accepting = trio.CancelScope()
        self._idle = trio.Event()

    def __repr__(self) -> str:
        return f"<Gateway {self.url} {self._connections} connections>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        settings = self.settings
        try:
            listeners = await trio.open_tcp_listeners(settings.port, host=settings.host, backlog=BACKLOG)
        except OSError as error:
            raise ConfigurationError(
                f"HOST={settings.host} PORT={settings.port}: cannot listen there: {error.strerror or error}"
            ) from error
        port = listeners[0].socket.getsockname()[1]
        self.house.port = port
        scheme = "https" if self.tls else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        self.url = f"{scheme}://{host}:{port}/"
        async with trio.open_nursery() as nursery:
            if self.tls:
                nursery.start_soon(self.tls.watch)
            await nursery.start(self._accept, listeners, nursery)
            task_status.started()

    async def _accept(
        self,
        listeners: list[trio.SocketListener],
        nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with self._accepting:
            serve = partial(trio.serve_listeners, self._handle, listeners, handler_nursery=nursery)
            async with trio.open_nursery() as accepting:
                await accepting.start(serve)
                task_status.started()
        for listener in listeners:
            await listener.aclose()

    async def drain(self) -> None:
        """Stop accepting, and return when the connections that were there are gone."""
        self._accepting.cancel()
        if self._connections:
            await self._idle.wait()

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            if self._connections >= self.settings.max_connections:
                with trio.move_on_after(1):
                    await stream.send_all(BUSY)
                return
            self._connections += 1
            try:
                wrapped = self.tls.wrap(stream) if self.tls else stream
                await self._serve(wrapped)
            finally:
                self._connections -= 1
                if not self._connections:
                    self._idle.set()
                    self._idle = trio.Event()
        except* (trio.BrokenResourceError, trio.ClosedResourceError) as gone:
            log.debug("connection broke", error=str(gone.exceptions[0]))
        except* Exception as error:
            log.error("connection failed", exc_info=error)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = HeadReader(stream)
        keep_alive = True
        while keep_alive:
            request: Request | None = None
            with trio.move_on_after(self.settings.handshake_timeout) as scope:
                try:
                    request = await reader.next_request()
                    if request is None:
                        return
                    if request.is_websocket_upgrade:
                        self._check_upgrade(request)
                        break
                    keep_alive = request.keep_alive
                    answer = self._answer(request)
                except HttpError as error:
                    keep_alive = False
                    answer = response(error.status, f"{error}\n".encode())
                await stream.send_all(answer)
            if scope.cancelled_caught:
                return
        else:
            return
        assert request is not None
        await self._upgrade(stream, request, bytes(reader.rest))

    # ------------------------------------------------------------------ pages

    def _answer(self, request: Request) -> bytes:
        if request.method not in {"GET", "HEAD"}:
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are served here.")
        head_only = request.method == "HEAD"
        keep_alive = request.keep_alive
        if request.path == "/health":
            body = json.dumps({"status": "ok"}).encode() + b"\n"
            return response(
                HTTPStatus.OK, body, "application/json", keep_alive=keep_alive, head_only=head_only
            )
        host = self._checked_host(request)
        if request.path == "/":
            return self._page(request, host, keep_alive=keep_alive, head_only=head_only)
        tag = request.header("if-none-match")
        asset = self.pages.asset(request.path, tag, keep_alive=keep_alive, head_only=head_only)
        if asset is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        return asset

    def _page(self, request: Request, host: str, *, keep_alive: bool, head_only: bool) -> bytes:
        websocket_origin = f"{'wss' if self.tls else 'ws'}://{host}"
        if self.house.needs_token:
            token = request.query.get("token")
            if token is not None and not head_only and (cookie := self.house.redeem(token)):
                headers = [
                    ("Location", "/"),
                    ("Set-Cookie", set_cookie(cookie, self.house.port, tls=self.house.tls)),
                    ("Cache-Control", "no-store"),
                ]
                return response(HTTPStatus.SEE_OTHER, headers=headers, keep_alive=keep_alive)
            if not self.house.has_token(request):
                return self.pages.refusal(websocket_origin, head_only=head_only)
        return self.pages.index(websocket_origin, keep_alive=keep_alive, head_only=head_only)

    def _checked_host(self, request: Request) -> str:
        host = request.header("host") or ""
        if not host_allowed(host, self.settings):
            raise HttpError(
                HTTPStatus.MISDIRECTED_REQUEST, "This server does not answer to that Host; see ALLOWED_HOSTS."
            )
        return host

    # ------------------------------------------------------------------ WebSocket

    def _check_upgrade(self, request: Request) -> None:
        """Raise HttpError unless the upgrade is well formed (RFC 6455, section 4.2.1) and from a page that
        may ask."""
        host = self._checked_host(request)
        if request.method != "GET" or request.minor_version < 1 or not request.header("sec-websocket-key"):
            raise HttpError(HTTPStatus.BAD_REQUEST, "This is not a WebSocket handshake.")
        if request.header("sec-websocket-version") != "13":
            raise HttpError(HTTPStatus.UPGRADE_REQUIRED, "WebSocket version 13 is spoken here.")
        origin = request.header("origin")
        if not origin_allowed(origin, host, self.settings):
            raise HttpError(
                HTTPStatus.FORBIDDEN, "Pages of that origin may not connect; see ALLOWED_ORIGINS."
            )

    async def _upgrade(self, stream: trio.abc.Stream, request: Request, rest: bytes) -> None:
        metered = MeteredStream(stream, request.raw, rest, self.settings.max_auth_message_size + len(rest))
        offered = request.tokens("sec-websocket-protocol")
        speaks_v1 = SUBPROTOCOL in offered
        async with accept_websocket(metered, self.settings, SUBPROTOCOL if speaks_v1 else None) as websocket:
            speaker: Speaker = (
                V1Speaker(self.house, request) if speaks_v1 else AblySpeaker(self.house, request)
            )
            await converse(websocket, speaker, self.house)
