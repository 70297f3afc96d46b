"""Whose connection it is: addresses as proxies write them, chains of proxies, and those who make them up."""

import ipaddress
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.address import (
    AddressBook,
    Client,
    counting_key,
    forwarded_for,
    parse_address,
    parse_networks,
    x_forwarded_for,
)
from supervisor.admission.proxy_protocol import MAX_BLOCK, MAX_LINE, SIGNATURE, Header
from supervisor.errors import ConfigurationError, PeerError
from supervisor.settings import Settings


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:8080", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2.1:", None),
        ("192.0.2.1:x", None),
        ("192.0.2.01", None),
        ("192.0.2", None),
        ("0x7f000001", None),
        ("[192.0.2.1]", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]x", None),
        ("2001:db8::1]", None),
        ("192.0.2.1, 192.0.2.2", None),
        ("\u0661.2.3.4", None),
    ],
)
def test_addresses(text: str, address: str | None) -> None:
    parsed = parse_address(text)
    assert (None if parsed is None else str(parsed)) == address


@given(st.text(max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    parse_address(text)
    for entry in forwarded_for([text]) + x_forwarded_for([text]):
        parse_address(entry)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_survives_every_way_of_writing_it(address: Any, port: int) -> None:
    meant = getattr(address, "ipv4_mapped", None) or address
    bracketed = f"[{address}]" if address.version == 6 else str(address)
    for text in (str(address), bracketed if address.version == 6 else str(address), f"{bracketed}:{port}"):
        assert parse_address(text) == meant
    assert x_forwarded_for([f"203.0.113.9, {address}"])[-1] == str(address)
    assert (
        forwarded_for([f'for=203.0.113.9, for="{bracketed}:{port}";proto=https'])[-1] == f"{bracketed}:{port}"
    )


def test_ipv6_counts_by_64() -> None:
    def key(text: str) -> bytes:
        address = parse_address(text)
        assert address
        return counting_key(address)

    assert key("2001:db8::1") == key("2001:db8::ffff:1")
    assert key("2001:db8:0:1::1") != key("2001:db8::1")
    assert key("192.0.2.1") == key("::ffff:192.0.2.1")
    assert key("192.0.2.1") != key("192.0.2.2")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0"])
def test_networks_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXY_IPS"):
        parse_networks("TRUSTED_PROXY_IPS", [text])


# ---------------------------------------------------------------------- chains

PROXIES = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


def resolve(peer: str, *headers: tuple[str, str], header: Any = "x-forwarded-for") -> tuple[str, int]:
    """Return the client's address and how often somebody claimed one without the right."""
    book = AddressBook(Settings(trusted_proxy=True, trusted_proxies=PROXIES, trusted_proxy_header=header))
    raw = [(name.encode(), value.encode()) for name, value in headers]
    client = book.behind(book.client(peer), raw)
    assert client.direct
    return str(client), book.spoofed


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # the left is the client's own invention
        ("203.0.113.7, 10.0.0.5", "203.0.113.7"),  # two proxies of ours
        ("127.0.0.1, 203.0.113.7, 10.0.0.5, fd00::7", "203.0.113.7"),
        ("10.1.1.1, 10.0.0.5", "10.1.1.1"),  # everybody is a proxy of ours
        ("203.0.113.7, unknown", "10.0.0.9"),  # what is not known may not be guessed further left
        ("203.0.113.7,", "10.0.0.9"),
        ("203.0.113.7, junk, 10.0.0.5", "10.0.0.5"),
        ("[2001:db8::7]:1234", "2001:db8::7"),
        (", ".join(["203.0.113.7"] + ["10.0.0.5"] * 5000), "10.0.0.5"),
    ],
)
def test_the_right_most_hop_that_is_not_ours(value: str, client: str) -> None:
    assert resolve("10.0.0.9", ("x-forwarded-for", value)) == (client, 0)
    assert resolve("8.8.8.8", ("x-forwarded-for", value)) == ("8.8.8.8", 1)


def test_several_headers_are_one_list() -> None:
    headers = (("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.7"))
    assert resolve("10.0.0.9", *headers) == ("203.0.113.7", 0)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ('for=6.6.6.6, For="[2001:db8::7]:80";proto=https;by=10.0.0.1', "2001:db8::7"),
        ("proto=https;for=203.0.113.7", "203.0.113.7"),
        ('for="unknown"', "10.0.0.9"),
        ("proto=https", "10.0.0.9"),
        ("for=203.0.113.7;for=6.6.6.6", "10.0.0.9"),
        ('for="203.0.113.7', "10.0.0.9"),
        ('by="a,for=6.6.6.6";for=203.0.113.7', "203.0.113.7"),
        ('by="a\\",for=6.6.6.6";for=203.0.113.7', "203.0.113.7"),
    ],
)
def test_forwarded(value: str, client: str) -> None:
    assert resolve("10.0.0.9", ("forwarded", value), header="forwarded")[0] == client
    assert resolve("8.8.8.8", ("forwarded", value), header="forwarded") == ("8.8.8.8", 1)


def test_only_the_header_that_the_proxies_write_counts() -> None:
    spoofed = ("forwarded", "for=6.6.6.6")
    assert resolve("10.0.0.9", spoofed, ("x-forwarded-for", "203.0.113.7")) == ("203.0.113.7", 1)
    assert resolve("10.0.0.9", spoofed) == ("10.0.0.9", 1)
    assert resolve("10.0.0.9", spoofed, header="none") == ("10.0.0.9", 1)


def test_nobody_is_trusted_unless_named() -> None:
    book = AddressBook(Settings())
    peer = book.client("127.0.0.1")
    assert not peer.exempt
    assert book.behind(peer, [(b"x-forwarded-for", b"1.2.3.4")]) == peer
    assert book.spoofed == 1
    assert book.client(None) == Client()
    assert book.client(None).exempt


def test_exempt_networks_are_named_by_the_operator() -> None:
    book = AddressBook(
        Settings(
            exempt_networks=("127.0.0.0/8", "2001:db8::/32"),
            trusted_proxy=True,
            trusted_proxies=("127.0.0.1",),
        )
    )
    assert book.client("127.9.9.9").exempt
    assert book.client("2001:db8:1::1").exempt
    assert not book.client("2001:db9::1").exempt
    # Not those who come through an exempt proxy.
    assert not book.behind(book.client("127.0.0.1"), [(b"x-forwarded-for", b"203.0.113.7")]).exempt


@given(
    st.lists(
        st.sampled_from(["10.0.0.5", "6.6.6.6", "203.0.113.7", "unknown", "", "fd00::1", "x"]), max_size=8
    )
)
def test_nothing_left_of_the_client_matters(hops: list[str]) -> None:
    seen = ", ".join([*hops, "203.0.113.7", "10.0.0.5"])
    assert resolve("10.0.0.9", ("x-forwarded-for", seen))[0] == "203.0.113.7"


@pytest.mark.parametrize(
    "changes",
    [
        {"trusted_proxy": True},
        {"proxy_protocol": True},
        {"trusted_proxies": ("10.0.0.1/8",), "trusted_proxy": True},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="TRUSTED_PROXY"):
        AddressBook(Settings(**changes))


# ---------------------------------------------------------------------- PROXY headers


def v2(command: int = 0x21, family: int = 0x11, body: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


V4 = ipaddress.ip_address("203.0.113.7").packed + ipaddress.ip_address("10.0.0.1").packed + b"\0\x50\0\x51"
V6 = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("fd00::1").packed + b"\0\x50\0\x51"


def read_header(data: bytes, piece: int = 1000) -> tuple[str | None, bytes]:
    """Return the address and what has not been taken."""
    header = Header()
    while header.wanted:
        size = min(header.wanted, piece)
        if not data:
            raise EOFError
        header.feed(data[:size])
        data = data[size:]
    return (None if header.address is None else str(header.address)), data


@pytest.mark.parametrize("piece", [1, 5, 1000])
@pytest.mark.parametrize(
    ("raw", "address"),
    [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 fd00::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (v2(body=V4), "203.0.113.7"),
        (v2(body=V4 + b"\x04\0\x01x"), "203.0.113.7"),
        (v2(family=0x21, body=V6), "2001:db8::7"),
        (v2(0x20, 0x00), None),
        (v2(0x20, 0x11, V4), None),
        (v2(family=0x31, body=b"\0" * 216), None),
    ],
)
def test_proxy_headers_leave_what_follows(raw: bytes, address: str | None, piece: int) -> None:
    assert read_header(raw + b"GET / HTTP/1.1\r\n", piece) == (address, b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 203.0.113.x 10.0.0.1 4711 443\r\n",
        b"PROXY UDP4 203.0.113.7 10.0.0.1 4711 443\r\n",
        b"PROXY " + b"x" * MAX_LINE,
        v2(0x11, body=V4),
        v2(0x22, body=V4),
        v2(body=V4[:-1]),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_BLOCK + 1),
    ],
)
def test_what_is_no_proxy_header(raw: bytes) -> None:
    with pytest.raises(PeerError):
        read_header(raw)


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_any_bytes_are_a_header_or_an_error(data: bytes, first: bool, second: bool) -> None:
    prefix = b"PROXY " if first else SIGNATURE if second else b""
    with suppress(PeerError, EOFError):
        read_header(prefix + data)
