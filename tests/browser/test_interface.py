"""The page around the terminal: sizes, keyboard, screen reader, colours, links, clipboard."""

import pytest
from playwright.sync_api import expect

from browser.conftest import OpenTab, Tab
from browser.standin import Peer, Script, Standin
from browser.test_stream import idle

pytestmark = pytest.mark.browser


def says(text: bytes) -> Script:
    """Return a script that shows `text` and then listens."""

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.output(text)
        peer.hear_until_gone()

    return script


def overflow(tab: Tab) -> list[str]:
    """Return what sticks out of the window sideways."""
    found: list[str] = tab.page.evaluate("audit.overflow()")
    return found


def poor_contrast(tab: Tab) -> list[list[object]]:
    """Return what is hard to read."""
    found: list[list[object]] = tab.page.evaluate("audit.contrast(4.5)")
    return found


def test_resizes_are_told_once_things_settle(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    before = tab.sent("auth")[0]
    for width in range(990, 590, -20):
        tab.page.set_viewport_size({"width": width, "height": 500})
    tab.wait_for("the new size", lambda: any(each["cols"] < 75 for each in tab.sent("resize")))
    sizes = tab.sent("resize")
    assert sizes[-1]["rows"] < before["rows"]
    assert len(sizes) < 12


def test_tiny_window_never_tells_less_than_two_by_one(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    tab.page.set_viewport_size({"width": 60, "height": 60})
    tab.page.wait_for_timeout(300)
    assert all(each["cols"] >= 2 and each["rows"] >= 1 for each in tab.sent("resize"))


def test_hidden_tab_tells_no_size(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    tab.hide()
    count = len(tab.sent("resize"))
    tab.page.set_viewport_size({"width": 600, "height": 500})
    tab.page.wait_for_timeout(300)
    assert len(tab.sent("resize")) == count
    tab.hide(hidden=False)
    tab.wait_for("the new size", lambda: len(tab.sent("resize")) > count)


@pytest.mark.parametrize("width", [320, 360, 600, 961, 1200])
def test_nothing_sticks_out(server: Standin, open_tab: OpenTab, width: int) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(isolated=False)
        peer.tell({"type": "viewers", "writers": 12, "viewers": 3})
        peer.tell({"type": "warning", "kind": "maxDuration", "endsInMs": 58_000, "message": "Soon over."})
        peer.output(b"x" * 300)
        peer.expect("leave")
        peer.close(4000, "user-exit")

    server.script = script
    tab = open_tab(server.url, viewport={"width": width, "height": 640}, has_touch=width < 500)
    tab.wait_for_text("xxx")
    assert overflow(tab) == []
    if width < 961:
        tab.page.get_by_role("button", name="Menu").click()
        assert overflow(tab) == []
    tab.page.get_by_role("button", name="End session").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="End session").click()
    tab.wait_for_state("ended")
    assert overflow(tab) == []


def test_extra_keys_on_a_phone(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        while not peer.input.endswith(b"\x04"):
            peer.hear()
        assert peer.input == b"\x1b\t\x03\x1b[A\x04"
        peer.output(b"\x1b[?1happlication")
        while not peer.input.endswith(b"D"):
            peer.hear()
        assert peer.input.endswith(b"\x04\x1bOD")
        peer.output(b" keys")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    tab.wait_for_state("connected")
    keys = tab.page.get_by_role("group", name="Extra keys")
    for name in ("Esc", "Tab", "Control C", "Up", "Ctrl"):
        keys.get_by_role("button", name=name, exact=True).tap()
    expect(keys.get_by_role("button", name="Ctrl", exact=True)).to_have_attribute("aria-pressed", "true")
    tab.type("d")
    expect(keys.get_by_role("button", name="Ctrl", exact=True)).to_have_attribute("aria-pressed", "false")
    tab.wait_for_text("application")
    keys.get_by_role("button", name="Left").tap()
    tab.wait_for_text("application keys")


def test_keyboard_alone(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        while peer.input != b"a\t\x1bz":
            peer.hear()
        peer.output(b"heard")
        peer.expect("leave")
        peer.close(4000, "user-exit")

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    keyboard = tab.page.keyboard
    focused = tab.page.locator(":focus")
    expect(focused).to_have_attribute("aria-label", "Terminal input")
    keyboard.type("a\t")  # Tab and Escape are the program's
    keyboard.press("Escape")
    keyboard.press("Control+Shift+ArrowUp")
    expect(focused).to_have_text("Copy")
    names = []
    for _ in range(6):
        keyboard.press("Tab")
        names.append(focused.get_attribute("aria-label") or (focused.text_content() or "").strip())
    assert names == ["Smaller text", "Larger text", "Screen reader", "Keys", "New session", "End session"]
    outline = focused.evaluate("(element) => getComputedStyle(element).outlineStyle")
    assert outline == "solid"
    keyboard.press("Escape")
    expect(focused).to_have_attribute("aria-label", "Terminal input")
    keyboard.type("z")
    tab.wait_for_text("heard")
    keyboard.press("Control+Shift+ArrowUp")
    for _ in range(6):
        keyboard.press("Tab")
    keyboard.press("Enter")
    expect(focused).to_have_text("Cancel")
    keyboard.press("Tab")
    keyboard.press("Enter")
    tab.wait_for_state("ended")
    expect(focused).to_have_attribute("aria-label", "Terminal input")


def test_keyboard_on_a_narrow_window(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url, viewport={"width": 360, "height": 640})
    tab.wait_for_state("connected")
    focused = tab.page.locator(":focus")
    tab.page.keyboard.press("Control+Shift+ArrowUp")
    expect(focused).to_have_text("Menu")
    expect(focused).to_have_attribute("aria-expanded", "true")
    tab.page.keyboard.press("Tab")
    expect(focused).to_have_text("Copy")
    tab.page.keyboard.press("Escape")
    expect(focused).to_have_attribute("aria-label", "Terminal input")
    expect(tab.page.get_by_role("button", name="Menu")).to_have_attribute("aria-expanded", "false")


def test_accessibility_tree(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(isolated=False)
        peer.output(b"the prompt")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url)
    tab.wait_for_text("the prompt")
    expect(tab.page.locator("body")).to_match_aria_snapshot(
        """
        - banner:
          - heading "Terminal Supervisor" [level=1]
          - status "Connection": Connected
          - group "Terminal tools":
            - button "Copy"
            - group "Text size":
              - button "Smaller text"
              - button "Larger text"
            - button "Screen reader"
            - button "Keys"
            - button "New session"
            - button "End session"
        - note: /No isolation.*/
        - main "Terminal":
          - textbox "Terminal input"
          - status "Note"
          - region "Session state":
            - status
        """
    )
    assert tab.page.evaluate("audit.unnamed()") == []


def test_screen_reader_mode_shows_the_lines_to_readers(server: Standin, open_tab: OpenTab) -> None:
    server.script = says(b"line one\r\nline two\r\n$ ")
    tab = open_tab(server.url)
    tab.wait_for_text("line two")
    button = tab.page.get_by_role("button", name="Screen reader")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(tab.page.get_by_role("listitem").filter(has_text="line two")).to_be_attached()
    expect(tab.page.get_by_role("status", name="Note")).to_have_text("Screen reader mode on")
    tab.page.reload()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(tab.page.get_by_role("listitem").filter(has_text="line two")).to_be_attached()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(server: Standin, open_tab: OpenTab, scheme: str) -> None:
    palette = b" ".join(b"\x1b[%dmcolour%d" % (code, code) for code in [*range(30, 38), *range(90, 98)])

    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello(isolated=False)
        peer.tell({"type": "viewers", "writers": 2, "viewers": 0})
        peer.tell({"type": "warning", "kind": "idle", "endsInMs": 58_000, "message": ""})
        peer.output(palette + b"\x1b[38;2;20;20;20mdim\x1b[38;2;250;250;250mpale\x1b[0m end")
        peer.expect("leave")
        peer.close(4000, "user-exit")

    server.script = script
    tab = open_tab(server.url, color_scheme=scheme)
    tab.wait_for_text("end")
    poor = poor_contrast(tab)
    tab.page.get_by_role("button", name="End session").click()
    poor += poor_contrast(tab)
    tab.page.get_by_role("dialog").get_by_role("button", name="End session").click()
    tab.wait_for_state("ended")
    tab.page.wait_for_timeout(300)  # the panel fades in
    poor += poor_contrast(tab)
    assert poor == []


def test_colours_follow_the_system(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url, color_scheme="light")
    tab.wait_for_state("connected")
    background = "getComputedStyle(document.querySelector('.xterm-scrollable-element')).backgroundColor"
    assert tab.page.evaluate(background) == "rgb(251, 251, 253)"
    tab.page.emulate_media(color_scheme="dark")
    tab.wait_for("dark colours", lambda: tab.page.evaluate(background) == "rgb(17, 21, 28)")


def test_reduced_motion(server: Standin, open_tab: OpenTab) -> None:
    server.script = says(b"still")
    tab = open_tab(server.url, reduced_motion="reduce")
    tab.wait_for_text("still")
    expect(tab.page.locator(".xterm-cursor")).not_to_have_class("xterm-cursor-blink")


def test_text_size_is_kept(server: Standin, open_tab: OpenTab) -> None:
    server.script = idle
    tab = open_tab(server.url)
    tab.wait_for_state("connected")
    cols = tab.sent("auth")[0]["cols"]
    tab.page.get_by_role("button", name="Larger text").click()
    tab.page.get_by_role("button", name="Larger text").click()
    tab.wait_for("fewer columns", lambda: tab.sent("resize")[-1]["cols"] < cols)
    fewer = tab.sent("resize")[-1]["cols"]
    tab.page.reload()
    tab.wait_for_state("connected")
    assert tab.sent("auth")[0]["cols"] == fewer


def test_links(server: Standin, open_tab: OpenTab) -> None:
    server.script = says(
        b"https://plain.example/a?b=c\r\n"
        b"\x1b]8;;javascript:alert(1)\x07script\x1b]8;;\x07\r\n"
        b"\x1b]8;;file:///etc/passwd\x07file\x1b]8;;\x07\r\n"
        b"\x1b]8;;https://hidden.example/\x07https://shown.example/\x1b]8;;\x07\r\nend"
    )
    tab = open_tab(server.url)
    tab.wait_for_text("end")
    box = tab.page.locator(".xterm-screen").bounding_box()
    assert box is not None
    row = tab.page.locator(".xterm-rows > div").first.bounding_box()
    assert row is not None

    def click(line: int) -> None:
        # The pointer has to rest on the text before xterm.js knows that it is a link.
        x, y = box["x"] + 20, box["y"] + (line + 0.5) * row["height"]
        tab.page.mouse.move(x, y)
        tab.page.mouse.move(x + 3, y)
        tab.page.wait_for_timeout(150)
        tab.page.mouse.click(x + 3, y)

    opened = "recorder.opened"
    click(0)
    tab.wait_for("an open link", lambda: tab.page.evaluate(opened))
    assert tab.page.evaluate(opened) == [["https://plain.example/a?b=c", "_blank", "noopener,noreferrer"]]
    click(1)
    click(2)
    click(3)
    dialog = tab.page.get_by_role("dialog", name="Open this link?")
    expect(dialog).to_contain_text("https://hidden.example/")
    dialog.get_by_role("button", name="Cancel").click()
    assert len(tab.page.evaluate(opened)) == 1


def test_program_cannot_reach_the_clipboard(server: Standin, open_tab: OpenTab) -> None:
    def script(peer: Peer) -> None:
        peer.expect("auth")
        peer.hello()
        peer.output(b"\x1b]52;c;ZXZpbA==\x07\x1b]52;c;?\x07done")
        peer.hear_until_gone()

    server.script = script
    tab = open_tab(server.url, permissions=["clipboard-read", "clipboard-write"])
    tab.page.evaluate("navigator.clipboard.writeText('mine')")
    tab.wait_for_text("done")
    assert tab.page.evaluate("navigator.clipboard.readText()") == "mine"
    assert tab.connections[0]["inputBytes"] == 0


def test_copy(server: Standin, open_tab: OpenTab) -> None:
    server.script = says(b"one\r\ntwo words\r\n" + b"w" * 200 + b"\r\nlast")
    tab = open_tab(server.url, permissions=["clipboard-read", "clipboard-write"])
    tab.wait_for_text("last")
    tab.page.get_by_role("button", name="Copy").click()
    expect(tab.page.locator("#note")).to_have_text("Copied everything")
    assert tab.page.evaluate("navigator.clipboard.readText()") == f"one\ntwo words\n{'w' * 200}\nlast\n"
    row = tab.page.locator(".xterm-rows > div").nth(1).bounding_box()
    assert row is not None
    tab.page.mouse.dblclick(row["x"] + 5, row["y"] + 5)
    tab.page.keyboard.press("Control+Shift+C")
    expect(tab.page.locator("#note")).to_have_text("Copied the selection")
    assert tab.page.evaluate("navigator.clipboard.readText()") == "two"
    assert tab.connections[0]["inputBytes"] == 0


def test_works_without_storage(server: Standin, open_tab: OpenTab) -> None:
    server.script = says(b"works")
    tab = open_tab("about:blank")
    tab.page.add_init_script(
        "for (const name of ['sessionStorage', 'localStorage']) "
        "Object.defineProperty(window, name, { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    tab.page.goto(server.url)
    tab.wait_for_text("works")
