"""A flood in a real browser: `python -m benchmarks.browser '{"page": …, "megabytes": …, "repeats": …}'`.

Opens the server's own page in headless Chromium and prints, as JSON, how fast a flood went through it, what
was lost on the way, and how soon after Ctrl-C the prompt could be seen. All times are taken within the page,
by its own clock. A process of its own, because Playwright brings an event loop of another kind.
"""

import json
import re
import shutil
import sys
import time
from typing import Any

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses to run as root without
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 60.0  # seconds for any step
FLOOD_BEFORE_INTERRUPT = 3_000_000  # bytes
FILE, FILE_SIZE = "/tmp/bench.page", 1_000_000
PROMPT = "prompt>"

# Notes what arrives, what the page acknowledges (which it does when xterm.js has parsed it), and when a
# prompt can be seen after a key.
WATCH = """
(() => {
  const seen = { bytes: 0, acked: 0, kept: null, start: null, size: 0, pressed: 0, visible: 0 };
  window.seen = seen;
  const Native = WebSocket;
  window.WebSocket = class extends Native {
    constructor(...all) {
      super(...all);
      this.addEventListener("message", ({ data }) => {
        if (typeof data === "string") {
          const message = JSON.parse(data);
          if (message.type === "hello") seen.bytes = message.offset - message.replay;
          return;
        }
        seen.bytes += data.byteLength;
        if (!seen.kept) return;
        seen.kept.push(data.slice(0));
        if (seen.start === null) {
          const text = seen.kept.map((each) => new TextDecoder("latin1").decode(each)).join("");
          const place = text.indexOf("<ready>");
          if (place >= 0) {
            seen.skip = place + 7;
            seen.start = seen.bytes - text.length + seen.skip;
            seen.began = performance.now();
          }
        }
      });
    }
    send(data) {
      if (typeof data === "string" && data.includes('"ack"')) {
        seen.acked = JSON.parse(data).offset;
        if (seen.start !== null && !seen.ended && seen.acked >= seen.start + seen.size)
          seen.ended = performance.now();
      }
      super.send(data);
    }
  };
  seen.digest = async () => {
    const whole = new Uint8Array(await new Blob(seen.kept).arrayBuffer());
    const part = whole.subarray(seen.skip, seen.skip + seen.size);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", part));
    return [part.length, Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")];
  };
  seen.screen = () =>
    Array.from(document.querySelectorAll(".xterm-rows > div"), (row) => row.textContent)
      .join("\\n").replaceAll("\\xa0", " ").trimEnd();
  addEventListener("keydown", (event) => {
    if (!event.ctrlKey || event.key !== "c") return;
    seen.pressed = performance.now();
    const look = () => {
      if (seen.screen().endsWith("prompt>")) seen.visible = performance.now();
      else requestAnimationFrame(look);
    };
    look();
  }, true);
})();
"""


def _type(page: Page, text: str) -> None:
    page.locator(".xterm-helper-textarea").focus()
    page.keyboard.insert_text(text)
    page.keyboard.press("Enter")


def _wait(page: Page, condition: str) -> None:
    # Not Playwright's own waiting, which the page's content policy forbids.
    deadline = time.monotonic() + TIMEOUT
    while not page.evaluate(f"Boolean({condition})"):
        if time.monotonic() > deadline:
            raise SystemExit(
                f"not within {TIMEOUT:g} s: {condition}; {page.evaluate('seen.screen()')[-200:]!r}"
            )
        page.wait_for_timeout(20)


def flood(page: Page, megabytes: int) -> dict[str, Any]:
    """Print a file again and again; return the rate, and how many bytes did not come through it."""
    repeats = max(1, megabytes * 1_000_000 // FILE_SIZE)
    size = repeats * FILE_SIZE
    again = f"for i in $(seq {repeats}); do cat {FILE}; done"

    # Lines of letters and digits, no two alike; then its digest, of which only the result is shown whole.
    _type(page, f"head -c 760000 /dev/urandom | base64 -w 78 | sed 's/$/\\r/' | head -c {FILE_SIZE} >{FILE}")
    _type(page, f"clear; printf 'digest '; ({again}) | sha256sum")
    _wait(page, "/digest [0-9a-f]{64}/.test(seen.screen())")
    digest = re.search("digest ([0-9a-f]{64})", page.evaluate("seen.screen()"))
    assert digest is not None

    page.evaluate(f"seen.size = {size}; seen.kept = []")
    # The page acknowledges in steps, so something has to follow.
    padding = "head -c 400000 /dev/zero | tr '\\0' ' '"
    _type(page, f"stty raw -echo; printf '<%s>' ready; {again}; {padding}; stty sane; clear")
    _wait(page, "seen.ended")
    _wait(page, "seen.screen().endsWith('prompt>')")
    came, found = page.evaluate("seen.digest()")
    seconds = page.evaluate("(seen.ended - seen.began) / 1000")
    page.evaluate("seen.kept = null")
    if found != digest[1]:
        raise SystemExit(f"what arrived is not what was sent: {came} of {size} bytes, digest {found}")
    return {"rate": size / 1e6 / seconds, "bytes": size, "discarded": size - came}


def interrupt(page: Page) -> float:
    """Flood, press Ctrl-C, return the milliseconds until the prompt can be seen."""
    before = page.evaluate("seen.visible = 0; seen.bytes")
    _type(page, "clear; yes 'a flood of output that never ends by itself'")
    _wait(page, f"seen.bytes > {before + FLOOD_BEFORE_INTERRUPT}")
    page.keyboard.press("Control+c")
    _wait(page, "seen.visible")
    return float(page.evaluate("seen.visible - seen.pressed"))


def main(order: dict[str, Any]) -> None:
    """Measure, and print."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            page = browser.new_page(viewport={"width": 1000, "height": 600})
            page.add_init_script(WATCH)
            began = time.perf_counter()
            page.goto(order["page"])
            _wait(page, "seen.screen().endsWith('$')")
            opened = (time.perf_counter() - began) * 1000
            _type(page, f"PS1='{PROMPT[:3]}''{PROMPT[3:]} '; clear")
            _wait(page, "seen.screen() === 'prompt>'")
            result = flood(page, order["megabytes"])
            times = [interrupt(page) for _ in range(order["repeats"])]
            version = f"Chromium {browser.version}"
        finally:
            browser.close()
    print(json.dumps(result | {"interrupts": times, "opened": opened, "version": version}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
