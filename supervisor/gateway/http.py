"""The little HTTP that one port needs: read a request head, answer with a whole body, or let the connection
become a WebSocket.

A head is read byte-bounded and parsed by h11. Requests have no bodies here, so heads follow each other.
"""

import base64
import binascii
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import attrs
import h11
import trio
from wsproto.utilities import generate_accept_token

MAX_HEAD = 16 * 1024  # bytes of request line and headers; browsers send well under 4 KiB
READ_SIZE = 16 * 1024
MAX_QUERY_FIELDS = 32


class HttpError(Exception):
    """The request cannot be served; `status`, `headers` and the text go to the client, and the connection
    closes.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


@attrs.frozen
class Request:
    """One request head.

    Attributes:
        method: as sent, `GET` for instance.
        path: percent-encoded path of the target, without the query.
        query: fields of the query; of repeated names the last one.
        headers: names in lower case.
        minor_version: of HTTP/1.x.
    """

    method: str
    path: str
    query: dict[str, str] = attrs.field(repr=False)
    headers: tuple[tuple[bytes, bytes], ...] = attrs.field(repr=False)
    minor_version: int

    def header(self, name: str) -> str | None:
        """Return the value of a header that may occur once, or None.

        Raises:
            HttpError: it occurs more than once, so two readers could disagree about it (RFC 9110, section
                5.3).
        """
        values = [value for key, value in self.headers if key == name.encode()]
        if len(values) > 1:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"More than one {name} header.")
        return values[0].decode("latin-1") if values else None

    @property
    def cookies(self) -> str:
        """All cookies as one header has them."""
        return "; ".join(value.decode("latin-1") for name, value in self.headers if name == b"cookie")

    def elements(self, name: str) -> set[str]:
        """Return the elements of a comma-separated header that may be repeated."""
        joined = b",".join(value for key, value in self.headers if key == name.encode()).decode("latin-1")
        return {part.strip() for part in joined.split(",") if part.strip()}

    def _has(self, name: str, element: str) -> bool:
        return element in {each.lower() for each in self.elements(name)}

    @property
    def is_websocket_upgrade(self) -> bool:
        """Whether it asks for a WebSocket (RFC 6455, section 4.2.1)."""
        return self._has("upgrade", "websocket") and self._has("connection", "upgrade")

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return self.minor_version >= 1 and not self._has("connection", "close")


class HeadReader:
    """Reads request heads from a stream, one after another.

    Attributes:
        rest: bytes that arrived after the last head; after an upgrade they belong to the WebSocket.
    """

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self.rest = bytearray()

    async def next_request(self) -> Request | None:
        """Return the next request, or None when the client has closed. The caller sets the deadline; nothing
        is lost when it passes.

        Raises:
            HttpError: the head is malformed or too large, or announces a body.
        """
        searched = 0
        while (end := self._find_end(searched)) < 0:
            if len(self.rest) > MAX_HEAD:
                raise _too_large()
            searched = max(0, len(self.rest) - 3)
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                return None
            self.rest += data
        if end > MAX_HEAD:
            raise _too_large()
        raw = bytes(self.rest[: end + 4])
        del self.rest[: end + 4]
        return _parse(raw)

    def _find_end(self, searched: int) -> int:
        while self.rest.startswith(b"\r\n"):  # empty lines before a request count for nothing (RFC 9112, 2.2)
            del self.rest[:2]
        return self.rest.find(b"\r\n\r\n", searched)


def _too_large() -> HttpError:
    return HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too large.")


def _parse(raw: bytes) -> Request:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD + 4)
    try:
        parser.receive_data(raw)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(HTTPStatus(error.error_status_hint), "This is not an HTTP/1.1 request.") from error
    if not isinstance(event, h11.Request):
        raise HttpError(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    names = {name for name, _ in headers}
    if b"transfer-encoding" in names or any(n == b"content-length" and v.strip() != b"0" for n, v in headers):
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Requests with a body are not accepted here.")
    target = event.target.decode("latin-1")
    try:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "The request's target is malformed.") from error
    minor = int(event.http_version.split(b".")[1])
    return Request(event.method.decode(), parts.path, query, headers, minor)


def upgrade_response(key: str, subprotocol: str | None) -> bytes:
    """Return the answer that turns the connection into a WebSocket (RFC 6455, section 4.2.2).

    Raises:
        HttpError: `key` is not one.
    """
    try:
        nonce = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise HttpError(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64.")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {generate_accept_token(key.encode()).decode()}",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    return _head(lines)


def response(
    status: HTTPStatus,
    body: bytes = b"",
    content_type: str = "text/plain; charset=utf-8",
    headers: Iterable[tuple[str, str]] = (),
    *,
    keep_alive: bool = False,
    head_only: bool = False,
) -> bytes:
    """Return a whole HTTP/1.1 response; `head_only` leaves the body out but keeps its length (HEAD)."""
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        # A 304 speaks of the body that the client has (RFC 9110, section 8.6).
        *([f"Content-Length: {len(body)}"] if status is not HTTPStatus.NOT_MODIFIED else []),
        f"Content-Type: {content_type}",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "Cross-Origin-Resource-Policy: same-origin",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return _head(lines) if head_only else _head(lines) + body


def _head(lines: Iterable[str]) -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
