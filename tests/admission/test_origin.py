from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.origin import (
    Authority,
    Origin,
    host_allowed,
    invalid_entries,
    origin_allowed,
    parse_authority,
    parse_origin,
)
from supervisor.settings import Settings

LOCAL = Settings()
PUBLIC = Settings(
    host="203.0.113.7",
    signing_secret="a signing secret",
    insecure_plain_ws=True,
    allowed_hosts=("Term.Example.COM", "other.example:8443", "[2001:db8::1]", "2001:DB8:0::2"),
    allowed_origins=("https://App.Example.com", "http://dev.example:3000/", "https://[2001:db8::9]:8443"),
)
TLS = Settings(
    host="203.0.113.7",
    signing_secret="a signing secret",
    tls_certificate=Path("x.pem"),
    allowed_hosts=("term.example",),
)
ANY = Settings(host="0.0.0.0", signing_secret="a signing secret", insecure_plain_ws=True)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost", "localhost", None),
        ("LocalHost:8080", "localhost", 8080),
        ("localhost.:8080", "localhost", 8080),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("127.0.0.1.", "127.0.0.1", None),
        ("[::1]:65535", "::1", 65535),
        ("[0:0:0:0:0:0:0:1]", "::1", None),
        ("[2001:DB8::0001]", "2001:db8::1", None),
        ("[::ffff:127.0.0.1]:80", "127.0.0.1", 80),
        ("a-b.c_d.example", "a-b.c_d.example", None),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
    ],
)
def test_authorities(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "localhost..", ".localhost", "a..b", "-a", "a-", "localhost:", "localhost:0",
        "localhost:65536", "localhost:080800", "localhost:+80", "localhost:8080:8080",
        "localhost:\uff18\uff10",
        "user@localhost", "localhost@evil.example", "localhost,evil.example", "localhost evil.example",
        " localhost", "localhost\n", "localhost\r\n", "localhost\x00", "localhost/", "localhost#",
        "localhost?", "http://localhost", "[::1", "::1", "[::1]x", "[::1]:", "[]", "[localhost]",
        "[127.0.0.1]", "[::1%lo]", "[::1%25lo]", "[v1.x]", "127.1", "127.0.0.1.5", "0x7f.0.0.1",
        "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.256", "1", "example.1", "bücher.example",
        "loc\u00adalhost", "localhost\u3002", "*", "*.example.com", "%6cocalhost",
    ],
)  # fmt: skip
def test_no_authorities(text: str) -> None:
    assert parse_authority(text) is None
    assert not host_allowed(text, LOCAL, ["127.0.0.1"])


def test_a_label_has_at_most_63_characters() -> None:
    assert parse_authority("a" * 63 + ".example") is not None
    assert parse_authority("a" * 64 + ".example") is None


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost", Origin("http", "localhost", 80)),
        ("https://Example.COM.", Origin("https", "example.com", 443)),
        ("HTTPS://example.com:443", Origin("https", "example.com", 443)),
        ("http://[::1]:8080", Origin("http", "::1", 8080)),
        ("chrome-extension://abcdef", Origin("chrome-extension", "abcdef", None)),
    ],
)
def test_origins(text: str, origin: Origin) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "NULL", "localhost", "//localhost", "http:localhost", "http:/localhost", "http://",
        "http:///", "http://localhost/", "http://localhost/x", "http://user@localhost",
        "http://localhost:8080@evil.example", "http://localhost\\@evil.example", "http://localhost#",
        "http://localhost?", "http://localhost http://localhost", "http://localhost,http://localhost",
        "http://localhost:8080\n", " http://localhost", "http://[::1", "http://::1", "http://127.1",
        "file://", "data:text/html,x", "javascript://localhost%0aalert(1)", "http://localhost:99999",
        "1http://localhost", "http://*", "*",
    ],
)  # fmt: skip
def test_no_origins(text: str) -> None:
    assert parse_origin(text) is None
    for settings in (LOCAL, PUBLIC, TLS):
        assert not origin_allowed(text, "localhost:8080", settings)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST.:1", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080"]
)
@pytest.mark.parametrize("settings", [LOCAL, PUBLIC, TLS, ANY])
def test_loopback_is_always_answered(host: str, settings: Settings) -> None:
    assert host_allowed(host, settings)


@pytest.mark.parametrize(
    "host",
    [
        None, "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example",
        "127.0.0.1.nip.io", "localhostx", "xlocalhost", "foo.localhost", "0.0.0.0:8080", "[::]:8080",
        "10.0.0.1", "203.0.113.8", "169.254.169.254", "[fe80::1]", "[::ffff:10.0.0.1]", "128.0.0.1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("settings", [LOCAL, PUBLIC, ANY])
def test_other_names_are_not_answered(host: str | None, settings: Settings) -> None:
    assert not host_allowed(host, settings)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("203.0.113.7", True),
        ("203.0.113.7:9999", True),
        ("term.example.com", True),
        ("TERM.example.com.:8080", True),
        ("x.term.example.com", False),
        ("term.example.com.evil.example", False),
        ("other.example:8443", True),
        ("other.example", False),
        ("other.example:443", False),
        ("[2001:db8::1]:8080", True),
        ("[2001:db8::2]", True),
        ("[2001:db8::3]", False),
        ("app.example.com", False),
    ],
)
def test_names_that_the_operator_lists(host: str, allowed: bool) -> None:
    assert host_allowed(host, PUBLIC) == allowed


def test_addresses_that_connections_arrive_at() -> None:
    assert host_allowed("10.0.0.5:8080", ANY, ["10.0.0.5"])
    assert host_allowed("[fe80::5]:8080", ANY, ["fe80::5%eth0"])
    assert host_allowed("10.0.0.5", ANY, ["::ffff:10.0.0.5"])
    assert not host_allowed("10.0.0.6", ANY, ["10.0.0.5"])
    assert not host_allowed("0.0.0.0", ANY, ["0.0.0.0", "::"])
    assert not host_allowed("[::]", ANY, ["0.0.0.0", "::"])


@pytest.mark.parametrize(
    ("origin", "host", "settings", "allowed"),
    [
        # no browser
        (None, "localhost:8080", LOCAL, True),
        # the server's own page
        ("http://localhost:8080", "localhost:8080", LOCAL, True),
        ("http://LOCALHOST:8080", "localhost.:8080", LOCAL, True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", LOCAL, True),
        ("http://[::1]:8080", "[::1]:8080", LOCAL, True),
        ("http://[0:0::1]:8080", "[::1]:8080", LOCAL, True),
        ("http://localhost", "localhost", LOCAL, True),
        ("http://localhost:80", "localhost", LOCAL, True),
        ("http://localhost", "localhost:80", LOCAL, True),
        # … behind a proxy that does TLS
        ("https://term.example.com", "term.example.com", PUBLIC, True),
        ("https://term.example.com", "term.example.com:443", PUBLIC, True),
        # another port, name or scheme
        ("http://localhost:3000", "localhost:8080", LOCAL, False),
        ("http://localhost", "localhost:8080", LOCAL, False),
        ("http://127.0.0.1:8080", "localhost:8080", LOCAL, False),
        ("http://[::1]:8080", "localhost:8080", LOCAL, False),
        ("http://evil.example:8080", "localhost:8080", LOCAL, False),
        ("http://localhost.evil.example:8080", "localhost:8080", LOCAL, False),
        ("http://localhost:8080.evil.example", "localhost:8080", LOCAL, False),
        ("http://localhost:8080@evil.example", "localhost:8080", LOCAL, False),
        ("ws://localhost:8080", "localhost:8080", LOCAL, False),
        ("ftp://localhost:8080", "localhost:8080", LOCAL, False),
        ("chrome-extension://localhost:8080", "localhost:8080", LOCAL, False),
        ("file://localhost:8080", "localhost:8080", LOCAL, False),
        ("null", "localhost:8080", LOCAL, False),
        ("", "localhost:8080", LOCAL, False),
        ("http://localhost:8080", None, LOCAL, False),
        ("http://localhost:8080", "bad host", LOCAL, False),
        # a server that does TLS itself has no page on http
        ("https://term.example:8080", "term.example:8080", TLS, True),
        ("http://term.example:8080", "term.example:8080", TLS, False),
        ("http://term.example", "term.example", TLS, False),
        # the operator's list
        ("https://app.example.com", "term.example.com", PUBLIC, True),
        ("https://APP.example.com:443", "term.example.com", PUBLIC, True),
        ("http://dev.example:3000", "term.example.com", PUBLIC, True),
        ("https://[2001:db8::9]:8443", "term.example.com", PUBLIC, True),
        ("http://app.example.com", "term.example.com", PUBLIC, False),
        ("https://app.example.com:8443", "term.example.com", PUBLIC, False),
        ("https://sub.app.example.com", "term.example.com", PUBLIC, False),
        ("https://app.example.com.evil.example", "term.example.com", PUBLIC, False),
        ("https://evilapp.example.com", "term.example.com", PUBLIC, False),
    ],
)
def test_origins_that_may_open_a_websocket(
    origin: str | None, host: str | None, settings: Settings, allowed: bool
) -> None:
    assert origin_allowed(origin, host, settings) == allowed


def test_null_is_never_an_origin() -> None:
    settings = Settings(allowed_origins=("null", "*", ""))
    assert not origin_allowed("null", "localhost:8080", settings)
    assert not origin_allowed("https://evil.example", "localhost:8080", settings)


def test_slips_of_the_pen_are_told() -> None:
    assert invalid_entries(PUBLIC) == []
    problems = invalid_entries(
        Settings(allowed_hosts=("http://x", "ok.example"), allowed_origins=("x.example", "*"))
    )
    assert problems == [
        "ALLOWED_HOSTS: 'http://x' is not a host or host:port",
        "ALLOWED_ORIGINS: 'x.example' is not an origin such as https://example.com",
        "ALLOWED_ORIGINS: '*' is not an origin such as https://example.com",
    ]


@given(st.text(alphabet="lochast127.0:[]f%@/\\ \n", max_size=24))
def test_only_loopback_names_pass_by_default(host: str) -> None:
    if host_allowed(host, LOCAL):
        authority = parse_authority(host)
        assert authority is not None
        assert authority.host in ("localhost", "::1") or authority.host.startswith("127.")
