"""Fixtures of the browser tests: one headless Chromium, and tabs that fail their test when they misbehave."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright

from benchmarks.browser import ARGUMENTS
from browser.standin import PAGE, Standin, standin

SCRIPTS = [(Path(__file__).parent / name).read_text() for name in ("recorder.js", "audit.js")]
TIMEOUT = 20.0  # seconds for anything that a page is waited for
expect.set_options(timeout=TIMEOUT * 1000)


class Tab:
    """A page under test, with the questions that the tests ask of it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("console", lambda message: self._console(message.type, message.text))
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", self._request)

    def _console(self, kind: str, text: str) -> None:
        # The browser itself reports a connection that failed, which is what many tests are about; its own
        # request for the page's icon may come as late as that.
        expected = ("WebSocket connection to", "Failed to load resource: net::ERR_CONNECTION_")
        if kind in {"error", "warning"} and not any(each in text for each in expected):
            self.problems.append(f"{kind}: {text}")

    def _request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob"} and address.hostname not in {"127.0.0.1", "localhost"}:
            self.problems.append(f"asked a third party: {request.url}")

    def check(self) -> None:
        """Fail for errors, violations of the content policy, and requests to anywhere else."""
        if not self.page.is_closed() and self.page.url != "about:blank":
            self.problems += self.page.evaluate("window.recorder.violations")
        assert self.problems == []

    def wait_for(self, what: str, condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
        """Wait until `condition()` is true, letting the page's events in; `what` names it in the failure."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout} s; the screen shows:\n{self.screen}")
            self.page.wait_for_timeout(20)

    @property
    def state(self) -> str:
        """`connecting`, `connected`, `waiting` or `ended`."""
        return self.page.locator("body").get_attribute("data-state") or ""

    def wait_for_state(self, state: str) -> None:
        """Wait until the page says that it is in `state`."""
        self.wait_for(f"state {state}", lambda: self.state == state)

    @property
    def lines(self) -> list[str]:
        """The lines on the terminal's screen, without trailing spaces."""
        rows: list[str] = self.page.locator(".xterm-rows > div").all_text_contents()
        return [row.replace("\xa0", " ").rstrip() for row in rows]

    @property
    def screen(self) -> str:
        """The same as one text, without trailing empty lines."""
        return "\n".join(self.lines).rstrip("\n")

    def wait_for_text(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until `text` is on the terminal's screen."""
        self.wait_for(f"{text!r} on the screen", lambda: text in self.screen, timeout)

    def type(self, text: str) -> None:
        """Type into the terminal, as by keys."""
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.keyboard.type(text)

    def paste(self, text: str) -> None:
        """Paste into the terminal, as the browser's own paste command does."""
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.evaluate(
            """(text) => {
                const clipboardData = new DataTransfer();
                clipboardData.setData("text/plain", text);
                const options = { clipboardData, bubbles: true, cancelable: true };
                document.activeElement.dispatchEvent(new ClipboardEvent("paste", options));
            }""",
            text,
        )

    @property
    def connections(self) -> list[dict[str, Any]]:
        """What has crossed each WebSocket so far, without the bytes themselves."""
        value: list[dict[str, Any]] = self.page.evaluate(
            "recorder.connections.map(({ live, abort, ...rest }) => rest)"
        )
        return value

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """Return all messages of type `kind` that the page has sent."""
        return [message for each in self.connections for message in each["sent"] if message["type"] == kind]

    def received(self, kind: str) -> list[dict[str, Any]]:
        """Return all messages of type `kind` that the page has received."""
        return [
            message for each in self.connections for message in each["messages"] if message["type"] == kind
        ]

    def hide(self, hidden: bool = True) -> None:
        """Make the page believe that its tab went to the background, or came back."""
        self.page.evaluate(
            """(hidden) => {
                Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )


OpenTab = Callable[..., Tab]


# Not for the whole session: Playwright keeps an event loop in this thread for as long as it runs.
@pytest.fixture(scope="package")
def _browsers() -> Iterator[Callable[[str], Browser]]:
    with ExitStack() as stack:

        @cache
        def launch(path: str) -> Browser:
            playwright = stack.enter_context(sync_playwright())
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            stack.callback(browser.close)
            return browser

        yield launch


@pytest.fixture
def browser(chromium: str, _browsers: Callable[[str], Browser]) -> Browser:
    """A headless Chromium."""
    assert (PAGE / "vendor" / "xterm.mjs").is_file(), (
        "the page's assets are missing; `make test` sets them up"
    )
    return _browsers(chromium)


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[OpenTab]:
    """Opens tabs, checked after the test: `open_tab(url, context=None, **options of Browser.new_context)`."""
    tabs: list[Tab] = []
    contexts: list[BrowserContext] = []

    def open_tab(url: str, context: BrowserContext | None = None, **options: Any) -> Tab:
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1000, "height": 600}, **options})
            for script in SCRIPTS:
                context.add_init_script(script)
            contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.set_default_timeout(TIMEOUT * 1000)
        tabs.append(tab)
        tab.page.goto(url)
        return tab

    yield open_tab
    try:
        for tab in tabs:
            tab.check()
    finally:
        for context in contexts:
            context.close()


@pytest.fixture
def server() -> Iterator[Standin]:
    """A stand-in that does what the test's script says."""
    with standin() as running:
        yield running
