"""What the page says and does when a connection or a session ends, and how it says who may come in."""

import base64
import json
import threading
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from browser.conftest import OpenTab
from browser.standin import Peer, Script, Standin
from browser.test_stream import idle

pytestmark = pytest.mark.browser


def closing(code: int, reason: str, message: str = "") -> Script:
    """Return a script that closes the first connection and is patient with later ones."""
    first = threading.Event()

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello("s")
        if first.is_set():
            peer.output(b"again")
            peer.hear_until_gone()
        else:
            first.set()
            peer.output(b"once")
            peer.close(code, reason, message)

    return script


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1002, "protocol", "Connection refused"),
        (1003, "data", "Connection refused"),
        (1007, "utf8", "Connection refused"),
        (1009, "too-large", "Too much at once"),
        (4000, "user-exit", "Session ended"),
        (4002, "idle", "Session ended"),
        (4004, "ended", "Session ended"),
        (4008, "policy", "Disconnected"),
    ],
)
def test_gives_up_and_says_why(
    server: Standin, open_tab: OpenTab, code: int, reason: str, title: str
) -> None:
    server.script = closing(code, reason, "In the server's words.")
    tab = open_tab(server.url)
    tab.wait_for_state("ended")
    expect(tab.page.locator("#status-text")).to_have_text(title)
    expect(tab.page.locator("#panel")).to_contain_text(
        "In the server's words. Press Enter to start a new session."
    )
    tab.type("\n")
    tab.wait_for_text("again")
    assert "once" not in tab.screen
    assert all("sessionId" not in auth for auth in tab.sent("auth"))


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4010, 4999])
def test_reconnects_by_itself(server: Standin, open_tab: OpenTab, code: int) -> None:
    server.script = closing(code, "x")
    tab = open_tab(server.url)
    tab.wait_for_text("onceagain")
    assert tab.sent("auth")[-1]["sessionId"] == "s"


@pytest.mark.parametrize(
    ("code", "title"), [(1013, "No sandbox"), (4003, "Too many requests"), (4009, "No free session")]
)
def test_comes_back_later(server: Standin, open_tab: OpenTab, code: int, title: str) -> None:
    server.script = closing(code, "x", "Please wait a little.")
    tab = open_tab(server.url)
    tab.wait_for_state("waiting")
    expect(tab.page.locator("#panel")).to_contain_text(title)
    expect(tab.page.locator("#panel")).to_contain_text("Please wait a little.")
    expect(tab.page.locator("#status")).to_contain_text("Trying again in 1")
    tab.page.get_by_role("button", name="Try now").click()
    tab.wait_for_text("onceagain")


def test_backs_off_while_the_server_is_away(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    server.answers = False
    server.next_peer().vanish()
    tab.wait_for("three attempts", lambda: len(tab.connections) >= 4)
    assert tab.state in {"waiting", "connecting"}
    expect(tab.page.get_by_role("button", name="Try now")).to_be_visible()
    assert "Reconnecting" in tab.page.title()
    server.answers = True
    tab.page.evaluate("dispatchEvent(new Event('online'))")
    tab.wait_for_state("connected")
    assert tab.page.title() == "Terminal Supervisor"


def test_exit_status_is_told(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.tell({"type": "exit", "code": None, "signal": 9})
        peer.close(4000, "user-exit")

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("ended")
    expect(tab.page.locator("#panel")).to_contain_text("The command was ended by signal KILL.")


def test_refused_credentials_get_advice(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.close(4001, "credentials", "These credentials are not accepted.")

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("ended")
    expect(tab.page.locator("#panel")).to_contain_text("Open the address that the server printed last")
    expect(tab.page.get_by_role("button", name="Try again")).to_be_visible()
    tab.page.goto(f"{server.url}#config=e30&signature=00")
    tab.page.reload()
    tab.wait_for_state("ended")
    expect(tab.page.locator("#panel")).to_contain_text(
        "These credentials are not accepted. Go back to the page"
    )


def test_remembered_session_of_other_credentials_is_let_go(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        if peer.expect("auth").get("sessionId") == "old":
            peer.close(4001, "credentials")
        else:
            peer.hello("new")
            peer.output(b"welcome")
            peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("welcome")
    tab.page.evaluate("sessionStorage.setItem('terminal-supervisor.session', '\"old\"')")
    tab.page.reload()
    tab.wait_for_text("welcome")
    assert [auth.get("sessionId") for auth in tab.sent("auth")] == ["old", None]


def test_another_session_in_place_of_a_lost_one_starts_on_an_empty_screen(
    server: Standin, open_tab: OpenTab
) -> None:
    def script(peer: Peer) -> None:
        if "sessionId" in peer.expect("auth"):
            peer.hello("two")
            peer.output(b"second")
            peer.hear_until_gone()
        else:
            peer.hello("one")
            peer.output(b"first \xc3")  # and half a character
            peer.vanish()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("second")
    assert tab.screen == "second"
    expect(tab.page.locator("#note")).to_contain_text("The earlier session has ended")


CONFIG = '{"apiKey":"ä.b:c/+= &#%","timestamp":1}'


@pytest.mark.parametrize(
    "form",
    [
        quote(CONFIG, safe=""),
        base64.urlsafe_b64encode(CONFIG.encode()).decode().rstrip("="),
        quote(base64.b64encode(CONFIG.encode()).decode()),
    ],
)
def test_signed_config_in_the_fragment(server: Standin, open_tab: OpenTab, form: str) -> None:
    server.script = idle
    tab = open_tab(f"{server.url}?lang=en&token=used#config={form}&signature=00ff")
    tab.wait_for_state("connected")
    (auth,) = tab.sent("auth")
    assert (auth["config"], auth["signature"]) == (CONFIG, "00ff")
    assert tab.page.url == f"{server.url}?lang=en"
    tab.page.reload()
    tab.wait_for_state("connected")
    assert tab.sent("auth")[0]["config"] == CONFIG
    assert json.dumps(CONFIG) not in tab.page.content()


def test_leave_asks_first(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.expect("leave")
        peer.close(4000, "user-exit", "You left the session.")

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    tab.page.get_by_role("button", name="End session").click()
    dialog = tab.page.get_by_role("dialog", name="End this session?")
    dialog.get_by_role("button", name="Cancel").click()
    assert tab.sent("leave") == []
    tab.page.get_by_role("button", name="End session").click()
    dialog.get_by_role("button", name="End session").click()
    tab.wait_for_state("ended")
    expect(tab.page.get_by_role("button", name="Start new session")).to_be_visible()
    expect(tab.page.get_by_role("button", name="End session")).to_be_disabled()


def test_new_session_leaves_the_old_one(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        assert "sessionId" not in peer.expect("auth")
        peer.hello()
        peer.output(b"fresh")
        peer.expect("leave")
        peer.close(4000, "user-exit")

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("fresh")
    tab.page.get_by_role("button", name="New session").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Start new session").click()
    tab.wait_for("a second session", lambda: len(tab.received("hello")) == 2)
    tab.wait_for_text("fresh")
    assert tab.screen == "fresh"


def test_timeout_warning_counts_down_and_goes(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.tell({"type": "warning", "kind": "idle", "endsInMs": 58_000, "message": "Nobody types."})
        while not peer.input:
            peer.hear()
        peer.tell({"type": "warningCleared", "kind": "idle"})
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    warning = tab.page.locator("#warning")
    expect(warning).to_contain_text("Press any key to keep this session. It ends in")
    expect(warning).to_contain_text("57 s")
    expect(warning.get_by_role("alert")).not_to_contain_text("57")
    tab.type("x")
    expect(warning).to_be_hidden()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"isolated": False}, "No isolation: programs in this terminal run directly on the server's host"),
        ({"isolated": False, "notice": "Mind the step."}, "Mind the step."),
        ({"isolated": True, "notice": "Maintenance at noon."}, "Maintenance at noon."),
    ],
)
def test_notice(server: Standin, open_tab: OpenTab, fields: dict[str, Any], text: str) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(**fields)
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    expect(tab.page.get_by_role("note")).to_contain_text(text)


def test_isolated_session_shows_no_notice(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    expect(tab.page.get_by_role("note")).to_be_hidden()
