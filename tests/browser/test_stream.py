"""The page's side of the stream: counts, acknowledgements, resumes, replays, with a misbehaving server."""

import pytest
from playwright.sync_api import expect

from browser.conftest import OpenTab, Tab
from browser.standin import Peer, Script, Standin

pytestmark = pytest.mark.browser

WINDOW = 16384
TEXT = "héllo wörld €uro 日本 🎉 ─│ end"


def idle(peer: Peer) -> None:
    """Be a server with nothing to say."""
    peer.expect("auth")
    peer.hello()
    peer.hear_until_gone()


def test_characters_split_at_every_byte(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        for byte in TEXT.encode():
            peer.output(bytes([byte]))
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("end")
    assert TEXT in tab.screen
    assert "�" not in tab.screen


def test_authenticates_with_size_and_nothing_else_at_first(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    (auth,) = tab.sent("auth")
    assert set(auth) == {"type", "cols", "rows", "environmentVariables"}
    assert auth["environmentVariables"] == {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    assert auth["cols"] > 80
    assert auth["rows"] > 20


def test_acknowledges_at_least_each_quarter_window(server: Standin, open_tab: OpenTab) -> None:
    chunk, chunks = 1000, 200

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(offset=5_000_000_000, window=WINDOW)
        sent = acknowledged = 5_000_000_000
        for number in range(chunks):
            while sent + chunk > acknowledged + WINDOW:
                offset = peer.expect("ack")["offset"]
                assert acknowledged < offset <= sent
                acknowledged = offset
            peer.output(f"{number:05d}".encode() + b"." * (chunk - 7) + b"\r\n")
            sent += chunk
        while sent - acknowledged >= WINDOW // 4:
            acknowledged = peer.expect("ack")["offset"]
        peer.output(b"all acknowledged")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("all acknowledged")
    assert len(tab.sent("ack")) <= chunk * chunks // (WINDOW // 4) + 1


def test_dropped_connection_resumes_at_the_exact_byte(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        data = "Grüße aus €".encode()
        cut = {0: 3, 3: 14}  # in the middle of ü, in the middle of €
        auth = peer.expect("auth")
        offset = auth.get("offset", 0)
        peer.hello("the-session", resumed="sessionId" in auth, offset=offset)
        if offset < len(data):
            peer.output(data[offset : cut.get(offset)])
            peer.vanish()
        else:
            peer.output(b" - complete")
            peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("Grüße aus € - complete")
    auths = tab.sent("auth")
    assert [auth.get("offset") for auth in auths] == [None, 3, 14, 15]
    assert [auth.get("sessionId") for auth in auths] == [None] + ["the-session"] * 3


def test_drop_in_the_middle_of_a_replay_asks_for_it_again(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        first = "sessionId" not in peer.expect("auth")
        peer.hello("s", resumed=not first, offset=1000, replay=19)
        peer.output(b"\x1bcold old o")
        if first:
            peer.vanish()
        peer.output(b"ld old..new")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("old old old old..new")
    assert "offset" not in tab.sent("auth")[-1]
    assert tab.connections[-1]["liveBytes"] == 3


def test_reload_asks_for_a_replay(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        if peer.expect("auth").get("sessionId") == "kept":
            history = b"\x1bcfrom the history\r\n"
            peer.hello("kept", resumed=True, offset=5, replay=len(history))
            peer.output(history)
        else:
            peer.hello("kept")
            peer.output(b"first")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("first")
    tab.page.reload()
    tab.wait_for_text("from the history")
    assert "offset" not in tab.sent("auth")[0]


def test_duplicated_tab_presents_the_same_session(server: Standin, open_tab: OpenTab) -> None:
    sessions = []

    def script(peer: Peer) -> None:
        sessions.append(peer.expect("auth").get("sessionId"))
        peer.hello("shared")
        peer.tell({"type": "viewers", "writers": len(sessions), "viewers": 0})
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    with tab.page.context.expect_page() as opened:
        tab.page.evaluate(
            """() => document.body.append(Object.assign(document.createElement("a"), {
                href: "/", target: "_blank", rel: "opener", id: "duplicate", textContent: "duplicate",
            }))"""
        )
        tab.page.locator("#duplicate").click(force=True)
    opened.value.wait_for_selector("#viewers:visible")
    assert opened.value.locator("#viewers").text_content() == "2 viewers"
    assert sessions == [None, "shared"]


def test_gap_is_shown_counted_and_acknowledged(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        resumed = "offset" in peer.expect("auth")
        if resumed:
            peer.hello(resumed=True, offset=2_000_003)
            peer.output(b"\r\nand on")
            peer.hear_until_gone()
            return
        peer.hello(window=WINDOW)
        peer.output(b"before\x1b]0;torn")
        peer.tell({"type": "gap", "from": 13, "to": 2_000_000})
        assert peer.expect("ack")["offset"] == 2_000_000
        peer.output(b"abc")
        peer.vanish()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("and on")
    assert "[1.9 MiB of output not shown]" in tab.screen
    assert tab.sent("auth")[-1]["offset"] == 2_000_003


QUERIES = (
    b"\x1b[c\x1b[>c\x1b[=c\x1b[5n\x1b[6n\x1b[?6n\x1b[?1$p\x1bP$qm\x1b\\"
    b"\x1b]10;?\x07\x1b]4;1;?\x1b\\\x1b[?1004h\x1b[18t"
)


def test_history_is_not_answered_but_the_present_is(server: Standin, open_tab: OpenTab) -> None:
    heard = []

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(replay=len(QUERIES) + 2, offset=50, resumed=True)
        peer.output(b"\x1bc" + QUERIES)
        peer.output(b"\x1b[?1004lready\r\n")
        peer.expect("ping")  # the test's own, once the history is on the screen
        heard.append(bytes(peer.input))
        peer.output(b"\x1b[6n")
        while not peer.input.endswith(b"R"):
            peer.hear()
        heard.append(bytes(peer.input))
        peer.output(b"answered")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("ready")
    tab.page.evaluate("dispatchEvent(new Event('online'))")
    tab.wait_for_text("answered")
    assert heard == [b"", b"\x1b[2;1R"]


def test_keys_typed_during_a_replay_are_sent(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(replay=1_000, offset=50, resumed=True)
        peer.output(b"\x1bc" + b"x" * 500)
        while peer.input != b"ls\x1b[A":
            peer.hear()
        peer.output(b"y" * 498 + b"\r\ntyped")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("xxx")
    tab.type("ls")
    tab.page.keyboard.press("ArrowUp")
    tab.wait_for_text("typed")


def test_hidden_page_neither_stalls_the_program_nor_hoards_its_output(
    server: Standin, open_tab: OpenTab
) -> None:
    total = 8 * 1024 * 1024

    def script(peer: Peer) -> None:
        auth = peer.expect("auth")
        if "sessionId" in auth:
            assert "offset" not in auth
            peer.hello("h", resumed=True, offset=total + 5, replay=10)
            peer.output(b"\x1bcreplayed")
            peer.hear_until_gone()
            return
        peer.hello("h", window=WINDOW)
        peer.output(b"hello")
        peer.expect("ping")
        sent = acknowledged = 5
        while sent < total:
            while sent + 4096 > acknowledged + WINDOW:
                acknowledged = peer.expect("ack")["offset"]
            peer.output(b"-" * 4094 + b"\r\n")
            sent += 4096
        peer.tell({"type": "viewers", "writers": 7, "viewers": 0})
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("hello")
    # A stuck terminal stands for the browser's slow timers in hidden pages.
    tab.page.evaluate(
        "() => { window.real = setTimeout; window.setTimeout = (f, ms = 0) => real(f, Math.max(ms, 2000)); }"
    )
    tab.hide()
    tab.page.evaluate("dispatchEvent(new Event('online'))")
    tab.wait_for(
        "all output sent", lambda: tab.page.locator("#viewers").text_content() == "7 viewers", timeout=60
    )
    tab.page.evaluate("() => { window.setTimeout = real; }")
    tab.hide(hidden=False)
    tab.wait_for("a second connection", lambda: len(tab.connections) == 2)
    tab.wait_for_text("replayed")


def test_silent_server_is_given_up(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        auth = peer.expect("auth")
        peer.hello("q", offset=auth.get("offset", 0))
        peer.output(b"back" if "offset" in auth else b"here")
        if "offset" not in auth:
            peer.expect("ping")  # and no pong
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("here")
    tab.page.evaluate("dispatchEvent(new Event('online'))")
    tab.wait_for_text("hereback")


def test_large_paste_arrives_in_order_in_pieces(server: Standin, open_tab: OpenTab) -> None:
    text = "".join(f"{number:07d}\n" for number in range(131_072))  # 1 MiB
    sizes = []

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        while len(peer.input) < len(text):
            sizes.append(len(peer.hear()))
        assert peer.input == text.replace("\n", "\r").encode()
        peer.output(b"intact")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    tab.paste(text)
    tab.wait_for_text("intact")
    assert max(sizes) <= 65536


def test_paste_is_bracketed_when_the_program_asks(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.output(b"\x1b[?2004hready")
        while not peer.input.endswith(b"\x1b[201~"):
            peer.hear()
        assert peer.input == "\x1b[200~ä\rb\x1b[201~".encode()
        peer.output(b" bracketed")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("ready")
    tab.paste("ä\nb")
    tab.wait_for_text("ready bracketed")


def test_legacy_mouse_reports_are_raw_bytes(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.output(b"\x1b[?1000hready")
        while len(peer.input) < 12:
            peer.hear()
        peer.output(f" {peer.input[4] > 127} {len(peer.input)}".encode())
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url, viewport={"width": 1400, "height": 600})
    tab.wait_for_text("ready")
    tab.page.mouse.click(1250, 200)  # beyond column 95, whose code no longer fits ASCII
    tab.wait_for_text("ready True 12")


def losing(expected: bytes) -> Script:
    """A session whose connection is lost at the key "!", and which must get `expected` from the next one."""

    def script(peer: Peer) -> None:
        auth = peer.expect("auth")
        peer.hello("k", resumed="offset" in auth, offset=auth.get("offset", 0))
        if "offset" not in auth:
            peer.output(b"one")
            while not peer.input.endswith(b"!"):
                peer.hear()
            peer.vanish()
            return
        while len(peer.input) < len(expected):
            peer.hear()
        assert peer.input == expected
        peer.output(b" two")
        peer.hear_until_gone()

    return script


def lose(server: Standin, tab: Tab) -> None:
    tab.wait_for_text("one")
    server.answers = False
    tab.type("!")
    tab.wait_for_state("waiting")


def test_keys_typed_while_the_connection_is_lost_for_a_moment_are_sent(
    server: Standin, open_tab: OpenTab
) -> None:
    server.script = losing(b"ls -l\rb")
    tab = open_tab(server.url)
    lose(server, tab)
    tab.type("ls -l")
    server.answers = True
    tab.type("\n")  # which also has the page try again at once
    tab.wait_for_state("connected")
    tab.type("b")
    tab.wait_for_text("one two")


@pytest.mark.parametrize("why", ["late", "much"])
def test_keys_do_not_queue_up_for_a_lost_connection(server: Standin, open_tab: OpenTab, why: str) -> None:
    """All of them or none: half of a line does harm. And it is said."""
    server.script = losing(b"b")
    tab = open_tab(server.url)
    lose(server, tab)
    tab.type("rm -r")
    if why == "late":
        tab.page.evaluate(
            "() => { const now = performance.now.bind(performance); performance.now = () => now() + 5000; }"
        )
        tab.type("f")
    else:
        tab.page.keyboard.insert_text("f" * 1025)
    expect(tab.page.locator("#note")).to_have_text("Not connected: what you type is not sent")
    tab.type("oo")
    server.answers = True
    tab.page.locator("#panel-action").click()
    tab.wait_for_state("connected")
    tab.type("b")
    tab.wait_for_text("one two")
