"""The parts that do no I/O: names, TLS hellos, rules, packets, events, configuration."""

import contextlib
import json
import os
import struct
import time
from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from egress.visitor import client_hello
from supervisor.egress import keeper_files
from supervisor.egress.client_hello import LARGEST, HelloError, server_name
from supervisor.egress.denials import parse_packet
from supervisor.egress.events import EVENTS_AT_ONCE, EgressEvent, Throttle
from supervisor.egress.keeper import Keeper, plan_as_json
from supervisor.egress.keeper_files import (
    LEFT_OVER_AFTER,
    dead_keepers,
    give_up,
    remove_dead_keeper,
    socket_path,
    take,
)
from supervisor.egress.names import AllowList
from supervisor.egress.resolver import configuration, host_servers, refused_name
from supervisor.egress.rules import Plan, ruleset
from supervisor.errors import ConfigurationError
from supervisor.settings.load import load_settings

PLAN = Plan(
    network="n",
    bridge="br-1",
    gateway="10.0.0.1",
    domains=("*.listed.example", "exact.example"),
    ports=(443,),
)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("a.listed.example", True),
        ("b.a.listed.example", True),
        ("A.Listed.EXAMPLE", True),
        ("listed.example", False),
        ("evillisted.example", False),
        ("listed.example.evil.example", False),
        ("exact.example", True),
        ("a.exact.example", False),
        (".listed.example", True),
        ("", False),
        ("example", False),
    ],
)
def test_names_on_the_list(name: str, listed: bool) -> None:
    assert (name in AllowList(PLAN.domains)) is listed


@pytest.mark.parametrize(
    "entry",
    ["*", "*.com", "com", "a.*.com", "*a.com", "1.2.3.4", "Ably.com", "a..b", "a/b.com", "-a.com", "x" * 300],
)
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="EGRESS_DOMAINS"):
        load_settings({"EGRESS_DOMAINS": f"ably.com,{entry}"})


def test_settings_of_egress() -> None:
    given = {
        "EGRESS_DOMAINS": "ably.com, *.a-b.c_d.example",
        "EGRESS_PORTS": "443,8443",
        "EGRESS_DNS_SERVERS": "192.0.2.1",
    }
    settings = load_settings(given)
    assert settings.egress_domains == ("ably.com", "*.a-b.c_d.example")
    assert settings.egress_ports == (443, 8443)
    assert settings.network != "none"
    assert load_settings({"EGRESS_DOMAINS": ""}).network == "none"
    for wrong in (
        {"EGRESS_PORTS": "53"},
        {"EGRESS_PORTS": ""},
        {"EGRESS_PORTS": "x"},
        {"EGRESS_DNS_SERVERS": "ns.example"},
    ):
        with pytest.raises(ConfigurationError, match="EGRESS_"):
            load_settings(wrong)


def test_the_server_name_is_read_however_the_bytes_come() -> None:
    hello = client_hello("api.listed.example", (43, b"\2\3\4"))
    for end in range(len(hello)):
        assert server_name(hello[:end]) is None
    assert server_name(hello) == "api.listed.example"
    assert server_name(hello + b"more") == "api.listed.example"
    body = hello[5:]
    pieces = [body[:1], body[1:3], body[3:50], body[50:]]
    assert (
        server_name(b"".join(b"\x16\3\1" + struct.pack("!H", len(p)) + p for p in pieces))
        == "api.listed.example"
    )


@pytest.mark.parametrize(
    ("received", "complaint"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "not TLS"),
        (b"\x16", None),
        (b"\x17\3\3\0\5hello", "not TLS"),
        (b"\x16\3\1\0\0", "not TLS"),
        (b"\x16\3\1\0\4\2\0\0\0", "does not begin"),
        (client_hello(""), "without a server name"),
        (client_hello("a.example", (0, b"\0\4\0\0\1b")), "several"),
        (client_hello("a.example", (0xFE0D, b"x")), "encrypted"),
        (b"\x16\3\1\0\5\1\0\0\1\0", "broken"),
        ((b"\x16\3\1\0\1\1" + b"\x16\3\1\0\1\xff" * 20), "too many pieces"),
    ],
)
def test_what_is_no_hello(received: bytes, complaint: str | None) -> None:
    if complaint is None:
        assert server_name(received) is None
    else:
        with pytest.raises(HelloError, match=complaint):
            server_name(received)


def test_a_hello_is_not_waited_for_without_end() -> None:
    record = b"\x16\3\1\x40\0" + b"\1\xff\xff\xff" + bytes(16380)
    with pytest.raises(HelloError, match="not that large"):
        server_name((record + b"\x16\3\1\x40\0" + bytes(16384))[:LARGEST])


@given(st.binary(max_size=400), st.integers(0, 200))
def test_hostile_bytes_are_a_hello_error_or_nothing(noise: bytes, position: int) -> None:
    hello = bytearray(client_hello("api.listed.example"))
    hello[position : position + len(noise)] = noise
    with contextlib.suppress(HelloError):
        server_name(bytes(hello))


def test_rules_decide_in_this_order() -> None:
    text = ruleset(PLAN, 7)
    order = [
        "iifname !=",
        "nfproto ipv6 goto deny",
        "ct status dnat accept",
        "goto ask",
        "@forbidden",
        "@answered_1 tcp",
        "@answered_2 tcp",
        "goto deny\n",
    ]
    decide = text[text.index("chain decide") :]
    positions = [decide.rindex(part, 0, decide.index("chain ask")) for part in order]
    assert positions == sorted(positions)
    assert text.index("delete table inet terminal-supervisor-br-1") < text.index("chain decide")


def test_a_plan_travels_as_json() -> None:
    assert Plan(**json.loads(json.dumps(plan_as_json(PLAN)))) == PLAN


async def test_who_sees_a_keepers_socket_can_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a supervisor that starts at that moment says that nobody keeps the egress."""
    monkeypatch.setattr(keeper_files, "DIRECTORY", tmp_path)
    path = socket_path(PLAN.network)
    there: list[bool] = []
    monkeypatch.setattr(os, "chown", lambda *_arguments: there.append(path.exists()))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(Keeper(PLAN)._listen)
            assert there == [False], "it was there before anybody listened"
            async with await trio.open_unix_socket(str(path)) as stream:
                assert b"plan" in await stream.receive_some()
            nursery.cancel_scope.cancel()
    assert not path.exists()


def test_what_dead_keepers_left_is_removed_and_what_living_ones_have_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_files, "DIRECTORY", tmp_path)

    def left() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    dead, living = take("dead"), take("living")
    assert dead is not None
    assert living is not None
    for name in ("dead.log", "dead.sock", "dead.dnsmasq.conf", "dead.dnsmasq.pid", "living.log"):
        (tmp_path / name).write_text("")
    assert take("living") is None, "there is one already"
    os.close(dead)
    taken = take("next")
    assert taken is not None
    assert left() == {"living.lock", "living.log", "next.lock"}
    for lock in (living, taken):
        os.close(lock)


def test_the_resolver_knows_listed_names_only() -> None:
    lines = configuration(PLAN, ["192.0.2.1", "192.0.2.2"], Path("/pid")).splitlines()
    assert "address=/#/" in lines
    assert "no-resolv" in lines
    assert "server=/listed.example/192.0.2.1" in lines
    assert "server=/exact.example/192.0.2.2" in lines
    table = "4#inet#terminal-supervisor-br-1#"
    assert f"nftset=/exact.example/{table}answered_1,{table}answered_2" in lines
    assert "cache-size=0" in lines


def test_programs_may_remember_no_answer_for_longer_than_it_is_let_through() -> None:
    assert "max-ttl=300" in configuration(PLAN, [], Path("/pid")).splitlines()
    short = attrs.evolve(PLAN, address_life=9.5)
    assert "max-ttl=9" in configuration(short, [], Path("/pid")).splitlines()


def test_the_hosts_servers(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    assert host_servers(file) == ("127.0.0.1",)
    file.write_text(
        "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\nnameserver fe80::1%eth0 \n"
    )
    assert host_servers(file) == ("192.0.2.1", "fe80::1%eth0")


def test_refused_names_are_read_off_the_log() -> None:
    line = b"dnsmasq: 3 10.1.2.3/40000 config evil.example is NXDOMAIN"
    event = refused_name(line)
    assert event is not None
    assert (event.source, event.name, event.denied) == ("10.1.2.3", "evil.example", True)
    assert refused_name(b"dnsmasq: 3 10.1.2.3/40000 query[A] evil.example from 10.1.2.3") is None


def ipv4(protocol: int, destination: bytes, payload: bytes) -> bytes:
    return b"\x45" + bytes(8) + bytes([protocol]) + bytes(2) + b"\x0a\1\2\3" + destination + payload


def test_packets_are_read() -> None:
    event = parse_packet(ipv4(6, b"\xa9\xfe\xa9\xfe", b"\x30\x39\0\x50"))
    assert event == EgressEvent("10.1.2.3", "169.254.169.254", "tcp", 80, "a private or special address")
    event = parse_packet(ipv4(17, b"\xcb\0\x71\1", b"\x30\x39\0\x35"))
    assert event is not None
    assert event.reason.startswith("another resolver")
    event = parse_packet(
        b"\x60" + bytes(5) + b"\x06\0" + bytes(15) + b"\1" + bytes(15) + b"\2" + b"\0\1\1\xbb"
    )
    assert event == EgressEvent("::1", "::2", "tcp", 443, "IPv6")
    asks = b"\x60" + bytes(5) + b"\x3a\xff" + bytes(15) + b"\1" + b"\xff" + bytes(15)
    event = parse_packet(asks + b"\x87" + bytes(7) + bytes(15) + b"\3", hardware="02:42:0a:01:02:03")
    assert event == EgressEvent("::1", "::3", "icmpv6", 0, "IPv6", hardware="02:42:0a:01:02:03")
    assert event.sender == "02:42:0a:01:02:03"
    event = parse_packet(ipv4(6, b"\xcb\0\x71\1", b"\x30\x39\1\xbb"), "as told", "02:42:0a:01:02:03")
    assert event == EgressEvent("10.1.2.3", "203.0.113.1", "tcp", 443, "as told")
    assert event.sender == "10.1.2.3"


@given(st.binary(max_size=100))
def test_hostile_packets_break_nothing(packet: bytes) -> None:
    parse_packet(packet)


async def test_events_are_throttled_for_each_session_alone(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    noisy = EgressEvent("10.1.2.3", "203.0.113.1", "tcp", 80, "no")
    told = [event for _ in range(100) if (event := throttle.passed(noisy))]
    assert len(told) == EVENTS_AT_ONCE
    assert throttle.passed(attrs.evolve(noisy, source="10.1.2.4")) is not None
    await trio.sleep(1)
    later = throttle.passed(noisy)
    assert later is not None
    assert later.untold == 100 - EVENTS_AT_ONCE


def test_the_files_of_a_dead_keeper_are_found_once_nobody_reads_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_files, "DIRECTORY", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    dead, living = take("dead"), take("living")
    assert dead is not None
    assert living is not None
    (tmp_path / "dead.log").write_text("why")
    (tmp_path / "older.dnsmasq.conf").write_text("")
    os.close(dead)
    assert dead_keepers() == [], "all of it is new"
    long_ago = time.time() - LEFT_OVER_AFTER - 1
    for path in tmp_path.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert dead_keepers() == ["dead", "older"]
    assert {path.name for path in tmp_path.glob("dead.*")} == {"dead.lock", "dead.log"}, (
        "to find is not to remove"
    )
    assert not remove_dead_keeper("living")
    assert remove_dead_keeper("dead")
    assert remove_dead_keeper("older")
    assert {path.name for path in tmp_path.iterdir()} == {"living.lock"}
    give_up("living", living)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert dead_keepers() == []
