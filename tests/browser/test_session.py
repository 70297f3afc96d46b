"""A person's way through a session: the real page, the real server, a real shell in a real container."""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from browser.conftest import OpenTab, Tab
from browser.serving import PROMPT, Server, relayed, serving

pytestmark = [pytest.mark.browser, pytest.mark.engine]


@pytest.fixture(scope="module")
def _running(_docker_host: str | None) -> Iterator[Server | None]:
    if _docker_host is None:
        yield None
        return
    with serving(DOCKER_HOST=_docker_host) as server:
        yield server


@pytest.fixture
def shell_server(docker_host: str, chromium: str, _running: Server | None) -> Server:
    """The server that the tests of this module share."""
    assert docker_host
    assert chromium
    assert _running is not None
    return _running


@pytest.fixture
def tab(shell_server: Server, open_tab: OpenTab) -> Tab:
    """A tab with a prompt in it."""
    tab = open_tab(shell_server.next_url())
    tab.wait_for_text(PROMPT, timeout=60)
    return tab


def run(tab: Tab, command: str, result: str, timeout: float = 20) -> None:
    """Type a command and wait for its result."""
    tab.type(f"{command}\n")
    tab.wait_for_text(result, timeout)


def lively(tab: Tab, number: int) -> bool:
    """Return whether connection `number` is the newest and has received a good deal of output."""
    connections = tab.connections
    return len(connections) == number and connections[-1]["liveBytes"] > 20_000


def test_prompt_and_typing(tab: Tab) -> None:
    assert tab.page.url.endswith("/"), "the token stayed in the address"
    run(tab, "echo six times seven is $((6 * 7))", "six times seven is 42")
    run(tab, "echo $TERM $COLORTERM", "xterm-256color truecolor")
    assert tab.lines.count(PROMPT) == 1
    # It says what this host goes without, and nothing where that is nothing.
    note = tab.page.get_by_role("note")
    if without := os.environ["HARDENING_WITHOUT"]:
        for name in without.split(","):
            expect(note).to_contain_text(name)
    else:
        expect(note).to_be_hidden()


def test_keys_reach_the_program_as_a_terminal_sends_them(tab: Tab) -> None:
    tab.type("echo abd")
    tab.page.keyboard.press("ArrowLeft")
    tab.type("c")
    tab.page.keyboard.press("Control+A")
    tab.page.keyboard.press("Control+E")
    tab.page.keyboard.press("Enter")
    tab.wait_for_text("\nabcd\n")
    # A shell ignores the key between fork and exec, so the program says when it is there.
    run(tab, "sh -c 'echo go''ing; exec sleep 100'", "going")
    tab.page.keyboard.press("Control+C")
    tab.wait_for_text("^C")
    run(tab, "echo status $?", "status 130")


@pytest.mark.parametrize("echo", [False, True])
def test_paste_of_a_megabyte_arrives_intact(tab: Tab, echo: bool) -> None:
    text = "".join(f"line {number:05d} {'äö€'[number % 3]} {'.' * 49}\n" for number in range(16_384))
    data = text.encode()
    assert len(data) > 1024 * 1024
    stty = "echo" if echo else "-echo"
    run(tab, f"stty {stty}; echo wait''ing; sum=$(head -c {len(data)} | sha256sum)", "waiting")
    tab.paste(text)
    # Asked for afterwards: a terminal under load echoes input later than what the program has said since.
    tab.type("clear; echo $sum\n")
    tab.wait_for_text(hashlib.sha256(data).hexdigest(), timeout=60)


def test_resize_reaches_the_program(tab: Tab) -> None:
    def told() -> dict[str, int]:
        last = [*tab.sent("auth"), *tab.sent("resize")][-1]
        return {"cols": last["cols"], "rows": last["rows"]}

    tab.type("stty size\n")
    # What the page says above the terminal, after the hello, takes some of its room.
    tab.wait_for("the size", lambda: f"\n{told()['rows']} {told()['cols']}\n" in tab.screen)
    before = told()
    tab.type("trap 'echo win''ch $(stty size)' WINCH\n")
    tab.page.set_viewport_size({"width": 700, "height": 400})
    tab.wait_for("the new size", lambda: told() != before)
    tab.wait_for_text(f"winch {told()['rows']} {told()['cols']}")


def test_characters_written_byte_by_byte(tab: Tab) -> None:
    text = "é€🎉日─"
    octal = " ".join(f"\\\\{byte:03o}" for byte in text.encode())
    run(tab, f"for byte in {octal}; do printf $byte; sleep 0.02; done; echo ' all'", f"{text} all")


def test_flood_and_control_c(tab: Tab, record_testsuite_property: Callable[[str, object], None]) -> None:
    tab.type("yes 'a flood of output that never ends by itself'\n")
    tab.wait_for("5 MB", lambda: tab.connections[-1]["liveBytes"] > 5_000_000, timeout=60)
    started = time.monotonic()
    tab.page.keyboard.press("Control+C")
    tab.wait_for("the prompt", lambda: tab.screen.endswith(PROMPT), timeout=30)
    seconds = time.monotonic() - started
    record_testsuite_property("prompt back after Ctrl-C, seconds", round(seconds, 3))
    run(tab, "echo still here", "still here")


def test_reload_finds_the_session_again(tab: Tab) -> None:
    run(tab, "marker=kept; printf '\\033[1;32mcolour\\033[0m\\n'", "\ncolour\n")
    tab.page.reload()
    tab.wait_for_text("\ncolour\n")
    expect(tab.page.get_by_text("colour", exact=True).first).to_have_class("xterm-bold xterm-fg-2")
    run(tab, "echo $marker", "\nkept\n")
    assert tab.received("hello")[0]["resumed"]


def test_reload_answers_no_old_questions(tab: Tab) -> None:
    run(
        tab,
        "printf '\\033[6n\\033[c\\033]10;?\\007'; sleep 0.3; read -rsn 200 -t 0.3; clear; echo as''ked",
        "asked\n",
    )
    tab.page.reload()
    tab.wait_for_text("asked\n")
    run(tab, "echo typed", "\ntyped\n")
    assert tab.connections[0]["inputBytes"] == len("echo typed\r")


def test_dropped_connection_resumes_byte_exact(shell_server: Server, open_tab: OpenTab) -> None:
    expected = "".join(f"{number}\r\n" for number in range(1000, 81_000)).encode()
    with relayed(shell_server.next_url()) as (relay, url):
        tab = open_tab(url)
        tab.wait_for_text(PROMPT, timeout=60)
        tab.type("for i in {1..80}; do seq ${i}000 ${i}999; sleep 0.1; done; echo com''plete\n")
        for number in range(1, 4):
            tab.wait_for(f"output on connection {number}", partial(lively, tab, number))
            relay.cut()
        tab.wait_for_text("complete", timeout=60)
        stream = base64.b64decode(tab.page.evaluate("recorder.stream()"))
        connections = tab.connections
        assert len(connections) == 4
        start = stream.index(b"1000\r\n")
        received = stream[start : start + len(expected)]
        assert hashlib.sha256(received).digest() == hashlib.sha256(expected).digest()
        position = 0
        for connection in connections:
            (hello,) = (message for message in connection["messages"] if message["type"] == "hello")
            assert (hello["offset"], hello["replay"]) == (position, 0)
            position += connection["liveBytes"]
        assert tab.received("gap") == []
        tab.check()
        tab.page.close()


def test_two_tabs_share_one_session(tab: Tab) -> None:
    run(tab, "echo from the first", "\nfrom the first\n")
    with tab.page.context.expect_page() as opened:
        tab.page.evaluate(
            """() => document.body.append(Object.assign(document.createElement("a"), {
                href: "/", target: "_blank", rel: "opener", id: "duplicate", textContent: "duplicate",
            }))"""
        )
        tab.page.locator("#duplicate").click(force=True)
    second = Tab(opened.value)
    second.wait_for_text("\nfrom the first\n")
    for each in (tab, second):
        expect(each.page.locator("#viewers")).to_have_text("2 viewers")
    run(second, "echo from the second", "\nfrom the second\n")
    tab.wait_for_text("\nfrom the second\n")
    second.check()
    second.page.close()
    expect(tab.page.locator("#viewers")).to_be_hidden()


def test_exit_and_a_new_session(tab: Tab) -> None:
    run(tab, "old=1; exit 3", "exit 3")
    tab.wait_for_state("ended")
    panel = tab.page.get_by_role("region", name="Session state")
    expect(panel).to_contain_text("Session ended")
    expect(panel).to_contain_text("The command ended with exit status 3. Press Enter to start a new session.")
    tab.page.keyboard.press("Enter")
    tab.wait_for_state("connected")
    tab.wait_for("a clean prompt", lambda: tab.screen == PROMPT, timeout=60)
    run(tab, "echo new${old}", "\nnew\n")


def test_end_session(tab: Tab) -> None:
    tab.page.get_by_role("button", name="End session").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="End session").click()
    tab.wait_for_state("ended")
    expect(tab.page.get_by_role("button", name="Start new session")).to_be_visible()


def test_token_works_once(shell_server: Server, open_tab: OpenTab) -> None:
    url = shell_server.next_url()
    tab = open_tab(url)
    tab.wait_for_state("connected")
    for stranger_url in (url, url.split("?")[0], f"{url}x"):
        stranger = open_tab(stranger_url)
        expect(stranger.page.get_by_role("heading")).to_have_text("This terminal needs its token")
        stranger.problems = [each for each in stranger.problems if "403" not in each]


def test_lost_cookie_is_explained(shell_server: Server, open_tab: OpenTab) -> None:
    with relayed(shell_server.next_url()) as (relay, url):
        tab = open_tab(url)
        tab.wait_for_text(PROMPT, timeout=60)
        tab.page.context.clear_cookies()
        relay.cut()
        tab.wait_for_state("ended")
        expect(tab.page.locator("#panel")).to_contain_text("Not signed in")
        expect(tab.page.locator("#panel")).to_contain_text("Open the address that the server printed")
        tab.check()
        tab.page.close()


def test_phone(shell_server: Server, open_tab: OpenTab) -> None:
    tab = open_tab(
        shell_server.next_url(), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True
    )
    tab.wait_for_text(PROMPT, timeout=60)
    run(tab, "echo $((1 + 1)) small", "\n2 small\n")
    assert tab.page.evaluate("audit.overflow()") == []
    tab.page.get_by_role("button", name="Menu").tap()
    assert tab.page.evaluate("audit.overflow()") == []


def test_full_screen_program(tab: Tab) -> None:
    tab.type("vi /tmp/note\n")
    tab.wait_for_text('"/tmp/note" [New')
    tab.type("ihello vi")
    tab.page.keyboard.press("Escape")
    tab.page.reload()  # in the middle of the alternate screen
    tab.wait_for_text("hello vi")
    tab.type(":wq\n")
    tab.wait_for("the prompt", lambda: tab.screen.rstrip().endswith("ready>"))  # vi drops what comes earlier
    run(tab, "cat /tmp/note; echo", "\nhello vi\n")


def test_idle_timeout_is_announced(docker_host: str, open_tab: OpenTab) -> None:
    times = {"TERMINAL_IDLE_TIMEOUT_MS": "6000", "TIMEOUT_WARNING_MS": "5000"}
    with serving(DOCKER_HOST=docker_host, **times) as server:
        tab = open_tab(server.next_url())
        tab.wait_for_text(PROMPT, timeout=60)
        warning = tab.page.locator("#warning")
        expect(warning).to_contain_text("Press any key to keep this session.")
        tab.type("x")
        expect(warning).to_be_hidden()
        tab.wait_for_state("ended")
        expect(tab.page.locator("#panel")).to_contain_text("Session ended")
        tab.check()
        tab.page.close()


def test_signed_config(docker_host: str, open_tab: OpenTab) -> None:
    secret = "a secret of the tests"
    config = json.dumps({"apiKey": "app.key:secret", "timestamp": int(time.time() * 1000)})
    signature = hmac.new(secret.encode(), config.encode(), hashlib.sha256).hexdigest()
    with serving(DOCKER_HOST=docker_host, TERMINAL_SERVER_SIGNING_SECRET=secret) as server:
        url = server.next_url()
        tab = open_tab(f"{url}#config={quote(config, safe='')}&signature={signature}")
        tab.wait_for_text(PROMPT, timeout=60)
        assert tab.page.url == url
        run(tab, "echo $ABLY_API_KEY", "\napp.key:secret\n")
        tab.page.reload()
        tab.wait_for_text("\napp.key:secret\n")
        forged = open_tab(f"{url}#config={quote(config, safe='')}&signature={'0' * 64}")
        forged.wait_for_state("ended")
        expect(forged.page.locator("#panel")).to_contain_text("Not signed in")
        for each in (tab, forged):
            each.check()
            each.page.close()


def test_demo_says_that_there_is_no_isolation(open_tab: OpenTab) -> None:
    with serving("demo") as server:
        tab = open_tab(server.next_url())
        tab.wait_for_text(PROMPT)
        expect(tab.page.get_by_role("note")).to_contain_text("No isolation")
        tab.check()
        tab.page.close()
