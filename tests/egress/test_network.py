"""What gets out of a session and what does not, by packets, between network namespaces: each thing that is
denied is shown to work when nothing denies it.
"""

import functools
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
import trustme

from egress.world import GATEWAY, SESSIONS, VISITOR, World, world
from supervisor.attacks.outside import (
    CDN,
    ENDPOINT,
    FOREIGN_RESOLVER,
    HOST_RESOLVER,
    METADATA,
    PRIVATE,
    UNLISTED,
)
from supervisor.attacks.world import ip, set_kernel
from supervisor.egress.events import EgressEvent
from supervisor.egress.keeper_files import DIRECTORY, socket_path
from supervisor.egress.rules import ANSWERED, FORBIDDEN, NOT_REDIRECTED, RELAY_PORT, RESOLVER_PORT
from supervisor.egress.watch import EgressWatch, stop_keeper
from supervisor.errors import ConfigurationError, SandboxError

pytestmark = pytest.mark.netns

LISTED, CDN_NAME, TENANT = "api.listed.example", "cdn.listed.example", "tenant.other.example"
ASK = tuple(
    ("dns", GATEWAY, 53, name)
    for name in (LISTED, CDN_NAME, "inward.listed.example", "private.listed.example")
)

# What a session might try, and what it gets where nothing is filtered.
ATTACKS = {
    "an unlisted site, TLS": (("tls", UNLISTED, 443, "unlisted.example"), f"outside {UNLISTED} 443"),
    "an unlisted site that claims a listed name": (("tls", UNLISTED, 443, LISTED), f"outside {UNLISTED} 443"),
    "an unlisted site, plain": (("tcp", UNLISTED, 80, ""), f"outside {UNLISTED} 80"),
    "an unlisted site, UDP": (("udp", UNLISTED, 443, ""), f"outside {UNLISTED} 443"),
    "an unlisted site, ping": (("icmp", UNLISTED, 0, ""), "echo"),
    "another port of the endpoint": (("tcp", ENDPOINT, 7007, ""), f"outside {ENDPOINT} 7007"),
    "the endpoint by UDP": (("udp", ENDPOINT, 443, ""), f"outside {ENDPOINT} 443"),
    "the endpoint without TLS": (("tcp", ENDPOINT, 443, ""), f"outside {ENDPOINT} 443"),
    "the endpoint without a name": (("tls", ENDPOINT, 443, ""), f"outside {ENDPOINT} 443"),
    "a CDN's other tenant": (("tls", CDN, 443, TENANT), f"outside {CDN} 443"),
    "a foreign resolver": (("dns", FOREIGN_RESOLVER, 53, "unlisted.example"), UNLISTED),
    "a foreign resolver by TCP": (("dns-tcp", FOREIGN_RESOLVER, 53, "unlisted.example"), UNLISTED),
    "the host's resolver": (("dns", HOST_RESOLVER, 53, LISTED), ENDPOINT),
    "the metadata service": (("tcp", METADATA, 80, ""), f"outside {METADATA} 80"),
    "the metadata service, by a listed name": (("tls", METADATA, 443, LISTED), f"outside {METADATA} 443"),
    "a private address, by a listed name": (("tls", PRIVATE, 443, LISTED), f"outside {PRIVATE} 443"),
    "the host itself": (("tcp", GATEWAY, 7007, ""), "machine"),
    "the host by another of its addresses": (("tcp", "198.51.100.1", 7007, ""), "machine"),
    "another session": (("tcp", SESSIONS[1], 7007, ""), "machine"),
}
LISTENER = """
import socket, sys
address = sys.argv[1]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
listener = socket.create_server((address, 7007), family=family)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"machine")
"""


async def nftables_denied(scene: World, watch: EgressWatch) -> int:
    """How many packets the rules have denied."""
    command = [*scene.machine, "nft", "list", "counter", "inet", watch.plan.table, "denied"]
    done = await trio.run_process(command, capture_stdout=True)
    return int(done.stdout.split(b"packets ")[1].split()[0])


async def line(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        received += await stream.receive_some(1) or b"\n"
    return received


async def listen(nursery: trio.Nursery, prefix: list[str], address: str = "0.0.0.0") -> None:
    """Have somebody answer on port 7007 in a namespace."""
    command = [*prefix, sys.executable, "-c", LISTENER, address]
    running = functools.partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
    process: trio.Process = await nursery.start(running)
    assert process.stdout is not None
    assert await line(process.stdout) == b"ready\n"


async def test_nothing_gets_out_but_listed_names(scene: World) -> None:
    attempts = [attack for attack, _ in ATTACKS.values()]
    events: list[EgressEvent] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await listen(nursery, scene.machine)
            await listen(nursery, scene.sessions[1])
            open_results = await scene.attempts(*attempts)
            assert dict(zip(ATTACKS, open_results, strict=True)) == {
                name: answer for name, (_, answer) in ATTACKS.items()
            }
            async with scene.kept(scene.plan()) as watch:
                watch.listen(events.append)
                # All addresses that DNS has for listed names are in the set now.
                assert await scene.attempts(*ASK) == [ENDPOINT, CDN, METADATA, PRIVATE]
                scene.arrived.clear()
                results = dict(zip(ATTACKS, await scene.attempts(*attempts), strict=True))
                assert all(not result or result.startswith("-") for result in results.values()), results
                assert scene.arrived == []
                allowed = (("tls", ENDPOINT, 443, LISTED), ("tls", CDN, 443, CDN_NAME))
                assert await scene.attempts(*allowed) == [f"outside {ENDPOINT} 443", f"outside {CDN} 443"]
            nursery.cancel_scope.cancel()
    assert {event.source for event in events} == {SESSIONS[0]}
    reached = {(event.destination, event.port, event.name) for event in events if not event.denied}
    assert reached == {(ENDPOINT, 443, LISTED), (CDN, 443, CDN_NAME)}
    denied = {(event.destination, event.port) for event in events if event.denied}
    assert {(METADATA, 80), (UNLISTED, 80), (FOREIGN_RESOLVER, 53), (SESSIONS[1], 7007), (CDN, 443)} <= denied
    assert TENANT in {event.name for event in events if event.denied}


async def test_ipv6_goes_nowhere(scene: World) -> None:
    machine, session, away = f"ts-{scene.tag}-machine", f"ts-{scene.tag}-s0", f"ts-{scene.tag}-outside"
    for name, device, address in (
        (machine, "sessions", "fd00:7::1"),
        (session, "eth0", "fd00:7::2"),
        (machine, "up0", "fd00:8::1"),
        (away, "eth0", "fd00:8::2"),
    ):
        ip("-n", name, "address", "add", f"{address}/64", "dev", device, "nodad")
    ip("-n", session, "route", "add", "default", "via", "fd00:7::1")
    ip("-n", away, "route", "add", "default", "via", "fd00:8::1")
    set_kernel(scene.machine, "net.ipv6.conf.all.forwarding=1")
    attempts = (("tcp", "fd00:7::1", 7007, ""), ("tls", "fd00:8::2", 7007, LISTED))
    others = (("icmp", "fd00:8::2", 0, ""), ("tcp", "fd00:7::9", 7007, ""))
    shown = await trio.run_process(
        ["ip", "-n", session, "-json", "link", "show", "eth0"], capture_stdout=True
    )
    device = json.loads(shown.stdout)[0]["address"]
    events: list[EgressEvent] = []
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            await listen(nursery, scene.machine, "::")
            await listen(nursery, scene.outside, "::")
            # The links' own addresses are good only after a second or two (RFC 4862, 5.4).
            while await scene.attempts(*attempts) != ["machine", "machine"]:
                await trio.sleep(0.1)
            async with scene.kept(scene.plan()) as watch:
                watch.listen(events.append)
                results = await scene.attempts(*attempts, *others)
                assert all(result.startswith("-") for result in results), results
                wanted = {
                    ("fd00:7::1", "tcp", 7007),
                    ("fd00:8::2", "tcp", 7007),
                    ("fd00:8::2", "icmpv6", 0),
                    # Nobody has it, so all that the session can send is the question who does.
                    ("fd00:7::9", "icmpv6", 0),
                }
                while not wanted <= {(event.destination, event.protocol, event.port) for event in events}:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    # The source is the session's own choice; its device is not.
    assert {(event.denied, event.hardware) for event in events} == {(True, device)}


async def test_what_a_kernel_sends_unasked_by_ipv6_is_no_denial(scene: World) -> None:
    session = f"ts-{scene.tag}-s0"
    events: list[EgressEvent] = []
    with trio.fail_after(40):
        async with scene.kept(scene.plan()) as watch:
            watch.listen(events.append)
            denied = await nftables_denied(scene, watch)
            # It looks whether somebody has that address, and tells routers (RFC 4862, 5.4; RFC 3810).
            ip("-n", session, "address", "add", "fd00:7::2/64", "dev", "eth0")
            while await nftables_denied(scene, watch) < denied + 2:
                await trio.sleep(0.02)
            assert await scene.attempts(("tcp", UNLISTED, 80, ""))
            while not events:
                await trio.sleep(0.01)
    assert {event.destination for event in events} == {UNLISTED}


async def test_an_answer_that_nobody_waits_for_any_more_is_no_denial(scene: World) -> None:
    """The session's kernel says so, by ICMP, to the resolver."""
    client = f"""
import socket, sys
sys.path.insert(0, {str(VISITOR.parent)!r})
from visitor import question
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.sendto(question("{LISTED}"), ("{GATEWAY}", 53))
"""
    events: list[EgressEvent] = []
    with trio.fail_after(40):
        async with scene.kept(scene.plan()) as watch:
            watch.listen(events.append)
            denied = await nftables_denied(scene, watch)
            await trio.run_process([*scene.sessions[0], sys.executable, "-c", client])
            while await nftables_denied(scene, watch) <= denied:
                await trio.sleep(0.02)
            assert await scene.attempts(("tcp", UNLISTED, 80, ""))
            while not any(event.destination == UNLISTED for event in events):
                await trio.sleep(0.01)
    assert {event.destination for event in events} == {UNLISTED}


async def test_names_that_are_not_listed_do_not_exist(scene: World) -> None:
    events: list[EgressEvent] = []
    secret = "c2VjcmV0.unlisted.example"
    with trio.fail_after(30):
        async with scene.kept(scene.plan()) as watch:
            watch.listen(events.append)
            asked = [
                ("dns", GATEWAY, 53, secret),
                ("dns-tcp", GATEWAY, 53, secret),
                ("dns", GATEWAY, 53, "localhost"),
            ]
            assert await scene.attempts(*asked) == ["NXDOMAIN"] * 3
            assert await scene.attempts(("dns-tcp", GATEWAY, 53, LISTED)) == [ENDPOINT]
    assert not any("unlisted" in line for line in scene.arrived)
    assert {event.name for event in events} >= {secret, "localhost"}


async def test_the_hosts_own_servers_are_asked_for_listed_names_only(scene: World, tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {HOST_RESOLVER}\n")
    script = f'mount --bind {resolv_conf} /etc/resolv.conf && exec "$@"'
    within = ("unshare", "--mount", "sh", "-c", script, "sh")
    asked = [("dns", GATEWAY, 53, LISTED), ("dns", GATEWAY, 53, "unlisted.example")]
    with trio.fail_after(30):
        async with scene.kept(scene.plan(dns_servers=()), within=within) as watch:
            assert await scene.attempts(*asked) == [ENDPOINT, "NXDOMAIN"]
            assert not any("unlisted" in line for line in scene.arrived)
            resolv_conf.write_text(f"nameserver {FOREIGN_RESOLVER}\n")
            while watch.problem is None:
                await trio.sleep(0.01)
            await watch.wait_ready()
            assert await scene.attempts(*asked) == [ENDPOINT, "NXDOMAIN"]
            assert f"dns {FOREIGN_RESOLVER} {LISTED}" in scene.arrived


async def test_private_addresses_are_let_through_only_without_their_rule(scene: World) -> None:
    attack = ("tls", METADATA, 443, "inward.listed.example")
    with trio.fail_after(30):
        async with scene.kept(scene.plan(check_interval=60)) as watch:
            assert await scene.attempts(ASK[2]) == [METADATA]
            assert (await scene.attempts(attack))[0].startswith("-")
            await scene.nft(f"flush set inet {watch.plan.table} forbidden")
            assert await scene.attempts(attack) == [f"outside {METADATA} 443"]
    assert "169.254.0.0/16" in FORBIDDEN


async def test_an_address_is_let_through_only_while_the_set_has_it(scene: World) -> None:
    attempt = ("tls", ENDPOINT, 443, LISTED)
    with trio.fail_after(30):
        async with scene.kept(scene.plan()) as watch:
            assert (await scene.attempts(attempt))[0].startswith("-")
            assert await scene.attempts(ASK[0]) == [ENDPOINT]
            assert await scene.attempts(attempt) == [f"outside {ENDPOINT} 443"]
            for name in ANSWERED:
                await scene.nft(f"flush set inet {watch.plan.table} {name}")
            assert (await scene.attempts(attempt))[0].startswith("-")
            # The resolver remembers nothing: each answer is in the set again.
            assert await scene.attempts(ASK[0]) == [ENDPOINT]
            assert await scene.attempts(attempt) == [f"outside {ENDPOINT} 443"]


async def test_each_answer_lets_its_address_through_for_its_life_and_packets_do_not(scene: World) -> None:
    life = 4.0  # more than twice what a refused attempt takes
    attempt = ("tls", ENDPOINT, 443, LISTED)
    passed = [f"outside {ENDPOINT} 443"]
    with trio.fail_after(60):
        async with scene.kept(scene.plan(address_life=life)):
            began = asked = trio.current_time()
            # Longer than any answer is good for: what counts is the last one.
            in_time = 0.0
            while in_time < began + 2.5 * life:
                asked = trio.current_time()
                assert await scene.attempts(ASK[0]) == [ENDPOINT]
                while trio.current_time() < asked + life:
                    result = await scene.attempts(attempt)
                    if trio.current_time() < asked + life:  # else it says nothing
                        assert result == passed, trio.current_time() - began
                        in_time = trio.current_time()
            while await scene.attempts(attempt) == passed:
                pass
            # A refused attempt gives up after its own time.
            assert trio.current_time() > asked + life
            assert trio.current_time() < asked + 2 * life + 10


async def test_an_address_that_cannot_be_forgotten_is_a_problem(scene: World) -> None:
    with trio.fail_after(40):
        async with scene.kept(scene.plan(address_life=0.5, check_interval=60)) as watch:
            await scene.nft(f"delete table inet {watch.plan.table}")
            while watch.problem is None:
                await trio.sleep(0.02)
            assert "still let through" in watch.problem


async def test_what_the_first_chain_lets_through_is_denied_and_told_by_the_others(scene: World) -> None:
    attempts = (("tcp", GATEWAY, 7007, ""), ("tcp", UNLISTED, 80, ""))
    events: list[EgressEvent] = []
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            await listen(nursery, scene.machine)
            async with scene.kept(scene.plan(check_interval=60)) as watch:
                watch.listen(events.append)
                await scene.nft(f"flush chain inet {watch.plan.table} decide")
                results = await scene.attempts(*attempts)
                assert all(result.startswith("-") for result in results), results
                while {(event.destination, event.port) for event in events} != {
                    (GATEWAY, 7007),
                    (UNLISTED, 80),
                }:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert all(event.denied and event.source == SESSIONS[0] for event in events)


async def test_resolver_and_relay_serve_nobody_else(scene: World) -> None:
    with trio.fail_after(30):
        async with scene.kept(scene.plan()):
            for port in (RESOLVER_PORT, RELAY_PORT):
                attempt = ("tcp", GATEWAY, port, "")
                assert (await scene.attempts(attempt))[0].startswith("-")
            program = f"import socket; socket.create_connection(('{GATEWAY}', {RELAY_PORT}), 1)"
            command = [*scene.outside, sys.executable, "-c", program]
            done = await trio.run_process(command, capture_stderr=True, check=False)
            assert b"timed out" in done.stderr or b"refused" in done.stderr


async def test_real_tls_passes_both_ways(capable: None, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate.pem"
    authority = trustme.CA()
    authority.issue_cert(LISTED).private_key_and_cert_chain_pem.write_to_path(certificate)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    size = 3_000_000
    client = f"""
import socket, ssl, threading
context = ssl.create_default_context(cafile={str(tmp_path / "authority.pem")!r})
plain = socket.create_connection(("{ENDPOINT}", 8443), 10)
with context.wrap_socket(plain, server_hostname="{LISTED}") as tls:
    threading.Thread(target=lambda: tls.sendall(bytes({size}))).start()
    count = 0
    while count < {size}:
        count += len(tls.recv(65536))
    print(tls.version(), count)
"""
    with trio.fail_after(60):
        async with world(certificate=certificate) as scene, scene.kept(scene.plan()):
            assert await scene.attempts(ASK[0]) == [ENDPOINT]
            done = await trio.run_process(
                [*scene.sessions[0], sys.executable, "-c", client], capture_stdout=True
            )
    assert done.stdout.decode().split() == ["TLSv1.3", str(size)]
    assert ssl.HAS_TLSv1_3


@pytest.mark.parametrize(
    ("flush", "reason"),
    [
        # Nobody tracks connections meanwhile, so the next packet looks like a first one.
        ("flush ruleset", "a port or an address that is not listed"),
        ("delete table inet terminal-supervisor-sessions", NOT_REDIRECTED),
    ],
)
async def test_rules_that_are_flushed_come_back_and_cut_what_was_opened_meanwhile(
    scene: World, flush: str, reason: str
) -> None:
    client = f"""
import socket, sys
with socket.create_connection(("{UNLISTED}", 443), 5) as connection:
    print("connected", flush=True)
    sys.stdin.readline()
    connection.settimeout(1)
    connection.sendall(b"hello")
    try:
        print(connection.recv(100).decode())
    except TimeoutError:
        print("cut")
"""
    events: list[EgressEvent] = []
    with trio.fail_after(40):
        async with scene.kept(scene.plan(check_interval=1)) as watch:
            watch.listen(events.append)
            # As an engine's rules do, these have the kernel track connections.
            await scene.nft(
                "table inet others { chain tracked { type filter hook input priority 0; ct state new\n}\n}\n"
            )
            await scene.nft(flush)
            process = await trio.lowlevel.open_process(
                [*scene.sessions[0], sys.executable, "-c", client],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdin is not None
            async with process.stdout, process.stdin:
                # Without the rules it gets out.
                assert await line(process.stdout) == b"connected\n"
                while watch.problem is None:
                    await trio.sleep(0.02)
                assert "flushed or changed" in watch.problem
                with pytest.raises(SandboxError):
                    watch.require_ready()
                await process.stdin.send_all(b"\n")
                assert await line(process.stdout) == b"cut\n"
            await process.wait()
            while (SESSIONS[0], UNLISTED, reason) not in {
                (event.source, event.destination, event.reason) for event in events
            }:
                await trio.sleep(0.01)
            await watch.wait_ready()
            watch.require_ready()


async def test_one_rule_less_is_noticed(scene: World) -> None:
    with trio.fail_after(30):
        async with scene.kept(scene.plan()) as watch:
            await scene.nft(f"flush chain inet {watch.plan.table} passage")
            while watch.problem is None:
                await trio.sleep(0.02)
            await watch.wait_ready()


def resolver_pid(network: str) -> int:
    return int((DIRECTORY / f"{network}.dnsmasq.pid").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_resolver_that_ends_or_hangs_is_no_resolver(scene: World, end: signal.Signals) -> None:
    with trio.fail_after(40):
        async with scene.kept(scene.plan()) as watch:
            first = resolver_pid(watch.plan.network)
            os.kill(first, end)
            while watch.problem is None:
                await trio.sleep(0.01)
            assert "resolver" in watch.problem
            with pytest.raises(SandboxError, match="not safe"):
                watch.require_ready()
            await watch.wait_ready()
            assert resolver_pid(watch.plan.network) != first
            assert await scene.attempts(ASK[0]) == [ENDPOINT]


async def test_without_its_keeper_nothing_gets_out_and_nobody_is_ready(scene: World) -> None:
    plan = scene.plan()
    attempts = (ASK[0], ("tls", ENDPOINT, 443, LISTED), ("tcp", UNLISTED, 80, ""))
    with trio.fail_after(40):
        async with scene.kept(plan) as watch:
            assert await scene.attempts(ASK[0]) == [ENDPOINT]
            orphan = resolver_pid(plan.network)
            os.kill(watch.keeper, signal.SIGKILL)
            while watch.problem is None:
                await trio.sleep(0.01)
            results = await scene.attempts(*attempts)
            assert all(not result or result.startswith("-") for result in results[1:]), results
            # Whoever takes over gets rid of what the killed one left, and serves.
            async with scene.kept(plan):
                assert resolver_pid(plan.network) != orphan
                assert not alive(orphan)
                assert await scene.attempts(*attempts[:2]) == [ENDPOINT, f"outside {ENDPOINT} 443"]


async def test_another_plan_for_the_same_network_is_refused(scene: World) -> None:
    with trio.fail_after(30):
        async with scene.kept(scene.plan()):
            other = EgressWatch(scene.plan(domains=("other.example",)), starts=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(other.run)
                with pytest.raises(ConfigurationError, match="domains"):
                    await other.wait_ready()
                nursery.cancel_scope.cancel()


async def test_a_keeper_ends_with_its_last_watcher_or_when_it_is_told(scene: World) -> None:
    plan = scene.plan()
    with trio.fail_after(40):
        async with scene.kept(plan) as watch:
            pid = watch.keeper
        while alive(pid):
            await trio.sleep(0.02)
        assert set(DIRECTORY.glob(f"{plan.network}.*")) == set()
        async with scene.kept(plan, "--stay") as watch:
            assert await stop_keeper(plan.network)
        assert not await stop_keeper(plan.network)


async def test_what_a_killed_keeper_left_is_removed_by_the_next_one_of_any_network(scene: World) -> None:
    dead, other = scene.plan(), scene.plan(network=f"ts-test-{scene.tag}-other")
    with trio.fail_after(40):
        async with scene.kept(dead) as watch:
            orphan = resolver_pid(dead.network)
            os.kill(watch.keeper, signal.SIGKILL)
            while watch.problem is None:
                await trio.sleep(0.01)
            left = set(DIRECTORY.glob(f"{dead.network}.*"))
            assert {socket_path(dead.network), DIRECTORY / f"{dead.network}.lock"} < left
            async with scene.kept(other):
                assert set(DIRECTORY.glob(f"{dead.network}.*")) == set()
                assert not alive(orphan)


async def test_one_session_cannot_use_up_the_resolver(scene: World) -> None:
    flood = [("dns", GATEWAY, 53, LISTED)] * 150
    with trio.fail_after(60):
        async with scene.kept(scene.plan()):
            results = await scene.attempts(*flood)
            assert sum(result == ENDPOINT for result in results) >= 100
            began = time.monotonic()
            assert await scene.attempts(ASK[0], session=1) == [ENDPOINT]
            assert time.monotonic() - began < 5
            assert any(result.startswith("-") for result in results)
