import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.observability.redaction import (
    MAX_ITEMS,
    MAX_LINES,
    MAX_TEXT,
    REDACTED,
    safe_lines,
    safe_text,
    safe_value,
)

API_KEY = "xVLyHw.A-pwh7:5WEB4HEAT3pOqWp9"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1g"
HEX = "3f0c" * 16
COOKIE = "terminal-supervisor-8080=dGhpcyBpcyBhIGNvb2tpZSB2YWx1ZQ"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (API_KEY, REDACTED),
        (f"key {API_KEY}, and more", f"key {REDACTED}, and more"),
        (f"({API_KEY})({API_KEY})", f"({REDACTED})({REDACTED})"),
        (JWT, REDACTED),
        (f"Bearer {JWT}", f"Bearer {REDACTED}"),
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {REDACTED}"),
        (f"signature {HEX}.", f"signature {REDACTED}."),
        (HEX.upper(), REDACTED),
        (f"Cookie: a=b; {COOKIE}; c=d", f"Cookie: {REDACTED}"),
        (f"set-cookie: {COOKIE}; Path=/\nnext", f"set-cookie: {REDACTED}\\x0anext"),
        (f"sent {COOKIE}; c=d", f"sent {COOKIE.partition('=')[0]}={REDACTED}; c=d"),
        ("GET /?token=abcdefgh&x=1", f"GET /?token={REDACTED}&x=1"),
        ('{"apiKey": "whatever", "x": 1}', f'{{"apiKey": "{REDACTED}", "x": 1}}'),
        ("access_token='abcd'", f"access_token='{REDACTED}'"),
        ("password = hunter2", f"password = {REDACTED}"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, shown: str) -> None:
    assert safe_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "session started",
        "127.0.0.1:8080",
        "http://localhost:8080/health?x=1",
        "[::1]:8080",
        "3f0c" * 3,
        "3f0c" * 17,
        "supervisor.session.session:123",
        "terminal-supervisor-sandbox:latest",
        "2026-11-22T16:44:59.744683Z",
        "the token was refused",
        "żółć 漢字 😀",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\rc", "a\\x0ab\\x0dc"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u2028b\ufeff\u200b", "a\\u2028b\\ufeff\\u200b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_made_visible(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_long_texts_are_cut() -> None:
    shown = safe_text("x" * 10_000)
    assert shown == "x" * MAX_TEXT + "… (10000 characters)"
    # A secret across the cut is still recognised.
    assert "eyJ" not in safe_text("x " * (MAX_TEXT // 2 - 10) + JWT)


def test_tracebacks_keep_their_lines_and_both_ends() -> None:
    text = "Traceback\n  line\x1b\n" + f"ValueError: {API_KEY}"
    assert safe_lines(text) == f"Traceback\n  line\\x1b\nValueError: {REDACTED}"
    shown = safe_lines("first\n" + "middle\n" * 20_000 + "last")
    assert shown.startswith("first\n")
    assert shown.endswith("\nlast")
    assert len(shown) < MAX_LINES + 200


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("api_key", "x", REDACTED),
        ("apiKey", "x", REDACTED),
        ("API-KEY", ["x"], REDACTED),
        ("accessToken", "x", REDACTED),
        ("token", b"x", REDACTED),
        ("Set-Cookie", "x", REDACTED),
        ("config", {"apiKey": "x"}, REDACTED),
        ("environment", {"A": "x"}, REDACTED),
        ("api_key", None, None),
        ("session", "q3Zk0fT1mYVnB2cD8eW5xw", "q3Zk0fT1…"),
        ("sessionId", "q3Zk0fT1mYVnB2cD8eW5xw", "q3Zk0fT1…"),
        ("session", "short", "short"),
        ("sessions", 3, 3),
        ("input", "ls -l\r", "<6 characters>"),
        ("data", b"ls", "<2 bytes>"),
        ("anything", b"\x00" * 9, "<9 bytes>"),
        ("number", 1, 1),
        ("number", 1.5, 1.5),
        ("number", float("nan"), "nan"),
        ("number", 2**64, "<large integer>"),
        ("flag", True, True),
        ("nothing", None, None),
        ("error", ValueError(f"bad {API_KEY}"), f"ValueError: bad {REDACTED}"),
        ("items", ("a\n", 1, {"token": "x", "b": {2}}), ["a\\x0a", 1, {"token": REDACTED, "b": [2]}]),
        ("object", object, "<class 'object'>"),
    ],
)
def test_values(key: str, value: object, shown: object) -> None:
    assert safe_value(key, value) == shown


def test_containers_are_bounded() -> None:
    assert safe_value("x", list(range(1000))) == [*range(MAX_ITEMS), f"… ({1000 - MAX_ITEMS} more)"]
    table = safe_value("x", {str(number): 1 for number in range(1000)})
    assert isinstance(table, Mapping)
    assert len(table) == MAX_ITEMS + 1
    assert table["…"] == 1000 - MAX_ITEMS
    deep: Any = "end"
    for _ in range(1000):
        deep = [deep]
    assert safe_value("x", deep) == [[[["<1 items>"]]]]
    circle: list[Any] = []
    circle.append(circle)
    json.dumps(safe_value("x", circle))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), VALUES)
def test_everything_becomes_plain_json(key: str, value: object) -> None:
    text = json.dumps(safe_value(key, value), allow_nan=False, ensure_ascii=False)
    assert text.isprintable() or not any(ord(character) < 0x20 for character in text)
    text.encode()


@given(st.text(max_size=40), st.sampled_from([API_KEY, JWT, HEX]), st.text(max_size=40))
def test_a_secret_between_words_never_shows(before: str, secret: str, after: str) -> None:
    assert secret not in safe_text(f"{before} {secret} {after}")


@pytest.mark.parametrize("piece", ["a.", "a-", "token   ", "eyJa.", "0", "a.b:", "bearer ", "\x1b", "'"])
def test_cost_does_not_grow_with_what_is_logged(piece: str) -> None:
    text = piece * (10_000_000 // len(piece))
    start = time.process_time()
    safe_text(text)
    assert time.process_time() - start < 0.2  # measured: under 5 ms
