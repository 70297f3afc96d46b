"""What a request gets: the page and its assets, `/health` and `/ready`, or the switch to a WebSocket.

Nobody gets the page or a WebSocket without a Host header of ours, which is what defeats DNS rebinding.
"""

import json
from http import HTTPStatus
from typing import final

from supervisor.admission.door import Presence
from supervisor.admission.origin import host_allowed, origin_allowed
from supervisor.admission.token import set_cookie
from supervisor.gateway.ably import AblySpeaker
from supervisor.gateway.house import House
from supervisor.gateway.http import HttpError, Request, response, upgrade_response
from supervisor.gateway.pages import Pages
from supervisor.gateway.v1 import V1Speaker
from supervisor.gateway.viewer import Speaker
from supervisor.protocol.v1 import SUBPROTOCOL


@final
class Answers:
    """Answers requests one by one, without I/O.

    Args:
        house, pages: what there is to visit.
        tls: whether this port speaks TLS itself.
    """

    def __init__(self, house: House, pages: Pages, *, tls: bool) -> None:
        self._house = house
        self._pages = pages
        self._tls = tls

    def answer(self, request: Request, address: str | None, presence: Presence) -> bytes:
        """Return the answer to a request that asks for no WebSocket.

        Args:
            request: what was asked.
            address: of this host, at which it arrived.
            presence: of who asks: a wrong token counts against them.

        Raises:
            HttpError: it is refused, or there is nothing.
        """
        if request.method not in {"GET", "HEAD"}:
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are served here.", [("Allow", "GET, HEAD")]
            )
        head_only = request.method == "HEAD"
        keep_alive = request.keep_alive
        if request.path in {"/health", "/ready"}:
            well = request.path == "/health" or self._house.ready
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            body = json.dumps({"status": "ok" if well else "unavailable"}).encode() + b"\n"
            return response(status, body, "application/json", keep_alive=keep_alive, head_only=head_only)
        host = self._checked_host(request, address)
        if request.path == "/":
            return self._page(request, host, presence, keep_alive=keep_alive, head_only=head_only)
        tag = request.header("if-none-match")
        asset = self._pages.asset(request.path, tag, keep_alive=keep_alive, head_only=head_only)
        if asset is None:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is nothing here.")
        return asset

    def _page(
        self, request: Request, host: str, presence: Presence, *, keep_alive: bool, head_only: bool
    ) -> bytes:
        websocket_origin = f"{'wss' if self._tls else 'ws'}://{host}"
        if self._house.needs_token:
            token = request.query.get("token")
            if token is not None and not head_only and (cookie := self._house.redeem(token)):
                headers = [
                    ("Location", "/"),
                    ("Set-Cookie", set_cookie(cookie, self._house.port, tls=self._house.tls)),
                    ("Cache-Control", "no-store"),
                ]
                return response(HTTPStatus.SEE_OTHER, headers=headers, keep_alive=keep_alive)
            if not self._house.has_token(request):
                if token is not None:
                    presence.failed()
                return self._pages.refusal(websocket_origin, keep_alive=keep_alive, head_only=head_only)
        return self._pages.index(websocket_origin, keep_alive=keep_alive, head_only=head_only)

    def _checked_host(self, request: Request, address: str | None) -> str:
        host = request.header("host") or ""
        if not host_allowed(host, self._house.settings, [address] if address else []):
            raise HttpError(
                HTTPStatus.MISDIRECTED_REQUEST, "This server does not answer to that Host; see ALLOWED_HOSTS."
            )
        return host

    def upgrade(self, request: Request, address: str | None) -> tuple[bytes, Speaker]:
        """Return the answer to a well-formed upgrade (RFC 6455, section 4.2.1) from a page that may ask, and
        who speaks then.

        Raises:
            HttpError: it is something else.
        """
        host = self._checked_host(request, address)
        if request.method != "GET" or request.minor_version < 1:
            raise HttpError(HTTPStatus.BAD_REQUEST, "A WebSocket handshake is a GET request of HTTP/1.1.")
        if request.header("sec-websocket-version") != "13":
            raise HttpError(
                HTTPStatus.UPGRADE_REQUIRED,
                "WebSocket version 13 is spoken here.",
                [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            )
        if not origin_allowed(request.header("origin"), host, self._house.settings):
            raise HttpError(
                HTTPStatus.FORBIDDEN, "Pages of that origin may not connect; see ALLOWED_ORIGINS."
            )
        key, has_token = request.header("sec-websocket-key") or "", self._house.has_token(request)
        if SUBPROTOCOL in request.elements("sec-websocket-protocol"):
            return upgrade_response(key, SUBPROTOCOL), V1Speaker(self._house, has_token)
        return upgrade_response(key, None), AblySpeaker(self._house, has_token)
