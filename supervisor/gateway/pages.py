"""The web page's files: read once at start, served from memory with strict security headers."""

import hashlib
import mimetypes
from http import HTTPStatus
from pathlib import Path

import attrs

from supervisor.errors import ConfigurationError
from supervisor.gateway.http import response

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_ASSETS = (".js", ".mjs", ".css", ".svg", ".png", ".woff2")

_REFUSAL = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Terminal: a token is needed</title><link rel="stylesheet" href="/assets/style.css">
<link rel="icon" href="/assets/favicon.svg" type="image/svg+xml">
<main class="refusal"><h1>This terminal needs its token</h1>
<p>Open the address that the server printed when it started. It holds a token that works once, so that no
other page or program on this machine can use the terminal.</p>
<p>Used it already? The server prints the next one each time a token is used.</p></main></html>
"""


@attrs.frozen
class Asset:
    """One file: its bytes, media type, and a tag that changes with its content."""

    body: bytes = attrs.field(repr=False)
    content_type: str
    tag: str


class Pages:
    """All that a browser may ask for besides the WebSocket.

    Raises:
        ConfigurationError: files are missing because set-up has not run.
    """

    def __init__(self, root: Path = PAGE) -> None:
        vendor = root / "vendor"
        if not vendor.is_dir():
            raise ConfigurationError(
                f"the page's assets are missing ({vendor}); run `terminal-supervisor setup` once"
            )
        self._index = _asset(root / "index.html")
        self._policy = (root / "csp.txt").read_text().strip()
        self._assets = {
            f"/assets/{file.relative_to(root).as_posix()}": _asset(file)
            for folder in (root, vendor)
            for file in sorted(folder.iterdir())
            if file.suffix in _ASSETS
        }

    def _headers(self, websocket_origin: str) -> list[tuple[str, str]]:
        return [
            ("Content-Security-Policy", self._policy.replace("{ws}", websocket_origin)),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
            ("X-Frame-Options", "DENY"),
        ]

    def index(self, websocket_origin: str, *, keep_alive: bool, head_only: bool) -> bytes:
        """Return the page itself; `websocket_origin` (`ws://host:port`) is where its script may connect
        to."""
        headers = [*self._headers(websocket_origin), ("Cache-Control", "no-store")]
        asset = self._index
        return response(
            HTTPStatus.OK, asset.body, asset.content_type, headers, keep_alive=keep_alive, head_only=head_only
        )

    def refusal(self, websocket_origin: str, *, keep_alive: bool, head_only: bool) -> bytes:
        """Return the page for somebody who comes without a token."""
        headers = [*self._headers(websocket_origin), ("Cache-Control", "no-store")]
        return response(
            HTTPStatus.FORBIDDEN,
            _REFUSAL.encode(),
            "text/html; charset=utf-8",
            headers,
            keep_alive=keep_alive,
            head_only=head_only,
        )

    def asset(self, path: str, tag: str | None, *, keep_alive: bool, head_only: bool) -> bytes | None:
        """Return the response for an asset (304 when the client has it already), or None when there is
        none."""
        asset = self._assets.get(path)
        if asset is None:
            return None
        headers = [("ETag", asset.tag), ("Cache-Control", "no-cache")]
        if tag == asset.tag:
            return response(HTTPStatus.NOT_MODIFIED, b"", asset.content_type, headers, keep_alive=keep_alive)
        return response(
            HTTPStatus.OK, asset.body, asset.content_type, headers, keep_alive=keep_alive, head_only=head_only
        )


def _asset(file: Path) -> Asset:
    body = file.read_bytes()
    content_type = _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if content_type.startswith("text/") and "charset" not in content_type:
        content_type += "; charset=utf-8"
    return Asset(body, content_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
