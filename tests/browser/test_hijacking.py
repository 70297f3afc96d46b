"""Cross-site WebSocket hijacking, tried with a real browser: a page of somebody else's, in the browser of a
person who is let in here, opens a WebSocket to this server. The browser sends that person's cookie along.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from browser.conftest import OpenTab
from browser.serving import PROMPT, serving

pytestmark = [pytest.mark.browser, pytest.mark.netns]

ATTACK: Final = """([url, protocols, first]) => new Promise((resolve) => {
    const socket = new WebSocket(url, protocols);
    let opened = false;
    socket.onopen = () => { opened = true; socket.send(JSON.stringify(first)); };
    socket.onmessage = ({ data }) => { resolve({ opened, data: String(data) }); socket.close(); };
    socket.onclose = ({ code }) => resolve({ opened, code });
})"""
PROTOCOLS: Final = {
    "terminal-supervisor.v1": (["terminal-supervisor.v1"], {"type": "auth"}),
    "the existing client's": ([], {"type": "auth", "apiKey": "app.key:secret", "accessToken": "a.b.c"}),
}


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><link rel=icon href=data:,><title>Look at these kittens</title>")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def elsewhere() -> Iterator[int]:
    """Serve a page on a port of its own while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Page)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_pages_of_other_origins_get_no_session_by_a_visitors_cookie(
    chromium: str, open_tab: OpenTab, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        friend, stranger = (stack.enter_context(elsewhere()) for _ in range(2))
        log = tmp_path / "audit.log"
        server = stack.enter_context(
            serving("demo", ALLOWED_ORIGINS=f"http://127.0.0.1:{friend}", SECURITY_AUDIT_LOG=str(log))
        )
        tab = open_tab(server.next_url())  # leaves the cookie in this browser
        tab.wait_for_text(PROMPT, timeout=60)
        host = tab.page.url.removeprefix("http://").rstrip("/")
        started = log.read_text().count("session started")

        def tried(origin: str, protocol: str, path: str = "/ws") -> dict[str, Any]:
            page = open_tab(f"http://{origin}/", context=tab.page.context).page
            protocols, first = PROTOCOLS[protocol]
            answer: dict[str, Any] = page.evaluate(ATTACK, [f"ws://{host}{path}", protocols, first])
            return answer

        # Another port of the same host is the same site to a browser: the cookie is sent, SameSite or not.
        for origin in (f"127.0.0.1:{stranger}", f"localhost:{stranger}", f"localhost:{friend}"):
            for protocol in PROTOCOLS:
                for path in ("/ws", "/"):
                    assert tried(origin, protocol, path) == {"opened": False, "code": 1006}, (
                        origin,
                        protocol,
                    )
        assert log.read_text().count("session started") == started
        # It was the origin: the same page with the same cookie comes in where the operator allows it.
        answer = tried(f"127.0.0.1:{friend}", "terminal-supervisor.v1")
        assert '"hello"' in answer["data"]
        tab.type("echo still $((6 * 7))\n")
        tab.wait_for_text("still 42")
