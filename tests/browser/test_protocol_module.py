"""protocol.js by itself: pure functions, called in the browser that will run them."""

from typing import Any

import pytest

from browser.conftest import OpenTab, Tab
from browser.standin import Standin
from browser.test_stream import idle

pytestmark = pytest.mark.browser


@pytest.fixture
def tab(server: Standin, open_tab: OpenTab) -> Tab:
    server.script = idle
    return open_tab(server.url)


def call(tab: Tab, expression: str, argument: object = None) -> Any:
    """Return the value of `expression`, in which `p` is the module and `a` the argument."""
    function = f"async (a) => {{ const p = await import('/assets/protocol.js'); return {expression}; }}"
    return tab.page.evaluate(function, argument)


def test_back_off_doubles_to_a_limit_with_jitter(tab: Tab) -> None:
    attempts = "[0, 1, 2, 3, 4, 5, 99, 5000]"
    assert call(tab, f"{attempts}.map((n) => p.backOff(n, 'now', () => 1))") == [0.5, 1, 2, 4, 8, 8, 8, 8]
    assert call(tab, f"{attempts}.map((n) => p.backOff(n, 'now', () => 0))") == [
        0.375,
        0.75,
        1.5,
        3,
        6,
        6,
        6,
        6,
    ]
    assert call(tab, f"{attempts}.map((n) => p.backOff(n, 'later', () => 1))") == [
        15,
        30,
        60,
        60,
        60,
        60,
        60,
        60,
    ]


def test_messages(tab: Tab) -> None:
    assert call(tab, "p.parseMessage(a)", '{"type":"pong","id":1}') == {"type": "pong", "id": 1}
    for text in ['{"no":"type"}', '{"type":7}', "[]", "null", "7", "{", ""]:
        assert call(tab, "p.parseMessage(a)", text) is None


def test_counter(tab: Tab) -> None:
    script = """(() => {
        const c = new p.OutputCounter();
        const seen = [c.resumeAt];
        const take = (n) => {
            const { history, live, end } = c.take(new Uint8Array(n));
            return [history.length, live.length, end];
        };
        c.hello({ offset: 1000, replay: 10, window: 400 });
        seen.push(c.resumeAt, take(4), c.replaying, take(8), c.replaying, c.resumeAt);
        seen.push(take(97), c.rendered(1099), take(1), c.rendered(1100), c.rendered(1100), c.rendered(1050));
        c.gap({ to: 5000 });
        seen.push(c.resumeAt, c.rendered(1100), c.rendered(5000), take(3));
        c.discard();
        seen.push(c.resumeAt);
        return seen;
    })()"""
    assert call(tab, script) == [
        None,
        *[None, [4, 0, 1000], True, [6, 2, 1002], False, 1002],
        *[[0, 97, 1099], None, [0, 1, 1100], 1100, None, None],
        *[5000, None, 5000, [0, 3, 5003]],
        None,
    ]


ANSWERS = [
    *[
        "\x1b[?1;2c",
        "\x1b[>0;276;0c",
        "\x1b[0n",
        "\x1b[12;80R",
        "\x1b[?12;80R",
        "\x1b[?2026;2$y",
        "\x1b[4;1$y",
    ],
    *["\x1b[8;24;80t", "\x1b[I", "\x1b[O", "\x1bP1$r0m\x1b\\", "\x1bP>|xterm.js(6)\x1b\\"],
    *["\x1b]10;rgb:ffff/0000/0000\x1b\\", "\x1b]4;1;rgb:00/00/00\x07", "\x1b[0n\x1b[1;1R"],
]
KEYS = [
    *[
        "a",
        "\r",
        "\x1b",
        "\x1b[A",
        "\x1bOA",
        "\x1b[1;5C",
        "\x1b[3~",
        "\x1b[15~",
        "\x1b[200~x\x1b[201~",
        "\x1b[Z",
    ],
    *["\x1b[M !!", "\x1b[<0;1;1M", "\x1b\r", "\x1bc", "ls\x1b[0n", "日本", ""],
]


def test_automatic_answers_are_told_from_keys(tab: Tab) -> None:
    assert call(tab, "a.filter((data) => !p.isAutomaticAnswer(data))", ANSWERS) == []
    assert call(tab, "a.filter((data) => p.isAutomaticAnswer(data))", KEYS) == []


def test_window_size(tab: Tab) -> None:
    sizes = [[80, 24], [2, 1], [1, 24], [80, 0], [2000, 1500], [None, 24]]
    assert call(tab, "a.map(([cols, rows]) => p.windowSize(cols, rows))", sizes) == [
        {"cols": 80, "rows": 24},
        {"cols": 2, "rows": 1},
        None,
        None,
        {"cols": 1000, "rows": 1000},
        None,
    ]


def test_useless_fragments(tab: Tab) -> None:
    broken = ["", "#", "#config=e30", "#signature=00", "#config=e30&signature=xyz"]
    broken += ["#config=%&signature=00", "#config=!!&signature=00"]
    assert call(tab, "a.map(p.readFragment)", broken) == [None] * len(broken)


def test_pieces_of_input(tab: Tab) -> None:
    script = "[...p.chunks(Uint8Array.of(1, 2, 3, 4, 5), 2)].map((piece) => [...piece])"
    assert call(tab, script) == [[1, 2], [3, 4], [5]]
    assert call(tab, "[...p.binaryStringBytes(a)]", "\x1b[M\xff\x80") == [27, 91, 77, 255, 128]


def test_words_for_people(tab: Tab) -> None:
    assert call(tab, "[59, 1000, 99_000, 100_000, 3_600_000, 3_900_000, -5].map(p.describeDuration)") == [
        *["1 s", "1 s", "99 s", "2 min", "1 h", "1 h 5 min", "0 s"]
    ]
    assert call(tab, "[1, 1023, 1024, 1_500_000].map(p.describeBytes)") == [
        "1 byte",
        "1023 bytes",
        "1 KiB",
        "1.4 MiB",
    ]
    exits = [[0, None], [3, None], [None, 15], [None, 42]]
    assert call(tab, "a.map(([code, signal]) => p.describeExit({ code, signal }))", exits) == [
        "The command ended.",
        "The command ended with exit status 3.",
        "The command was ended by signal TERM.",
        "The command was ended by signal 42.",
    ]
