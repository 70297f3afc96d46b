"""The world outside, for attacks on egress: a network namespace with the addresses of `outside`, connected to
this machine, or to another namespace, and to nothing else. What a run left that was killed is removed by the
next one, which would meet its routes and its rules.
"""

import fcntl
import os
import re
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio

from supervisor.attacks import outside
from supervisor.attacks.outside import METADATA, NAME_SERVERS, PRIVATE, SERVERS, UNLISTED

UPLINK = ("198.51.100.1", "198.51.100.2")
"""This machine's address and the other one on the link between them (RFC 5737)."""
_PUBLIC = tuple(address for address in (*SERVERS, *NAME_SERVERS) if address not in {METADATA, PRIVATE})
_NOWHERE = "203.0.113.1"
_NAMESPACES = Path("/run/netns")  # where ip-netns(8) keeps them
_LOCK = Path("/run/terminal-supervisor-attacks.lock")  # ip-netns(8) locks its directory itself
_TAG = "ts-out-"


def ip(*arguments: str) -> None:
    """Run ip(8)."""
    subprocess.run(["ip", *arguments], check=True, timeout=20)


def set_kernel(prefix: list[str], setting: str) -> None:
    """Set a kernel's setting, `name=value`, by way of a command."""
    subprocess.run([*prefix, "sysctl", "-qw", setting], check=True, timeout=20)


@contextmanager
def namespace(name: str) -> Generator[list[str]]:
    """A network namespace; yields the prefix of commands that run in it."""
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield ["nsenter", f"--net=/run/netns/{name}", "--"]
    finally:
        ip("netns", "delete", name)


def connect_outside(
    name: str,
    machine: list[str],
    on_machine: list[str],
    device: str = "up0",
    routed: Iterable[str] = (*SERVERS, *NAME_SERVERS),
) -> None:
    """Give the world outside its addresses, and the machine its routes to those that are `routed`."""
    ip(*on_machine, "address", "add", f"{UPLINK[0]}/24", "dev", device)
    ip(*on_machine, "link", "set", device, "up")
    ip("-n", name, "address", "add", f"{UPLINK[1]}/24", "dev", "eth0")
    ip("-n", name, "link", "set", "eth0", "up")
    ip("-n", name, "route", "add", "default", "via", UPLINK[0])
    for address in (*SERVERS, *NAME_SERVERS):
        ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")
    for address in routed:
        ip(*on_machine, "route", "add", f"{address}/32", "via", UPLINK[1])
    set_kernel(machine, "net.ipv4.ip_forward=1")


@asynccontextmanager
async def serving(prefix: list[str], certificate: Path | None = None) -> AsyncGenerator[list[str]]:
    """Run the world outside; yields what arrives there, line by line, as it grows."""
    arrived: list[str] = []
    command = [
        *prefix,
        sys.executable,
        str(Path(outside.__file__)),
        *([str(certificate)] if certificate else []),
    ]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout
    ready = trio.Event()

    async def read() -> None:
        rest = b""
        async for chunk in output:
            *lines, rest = (rest + chunk).split(b"\n")
            arrived.extend(line.decode() for line in lines)
            ready.set()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            with trio.fail_after(20):
                await ready.wait()
            yield arrived
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await trio.aclose_forcefully(output)
        if process.stdin is not None:
            await trio.aclose_forcefully(process.stdin)


@asynccontextmanager
async def world_outside(bridges: str) -> AsyncGenerator[list[str]]:
    """The world outside, next to this machine; yields what has arrived there.

    Only addresses for documentation get a route here. What is special, the metadata service and a private
    address, is reached from `bridges` alone, by translation to one of those: this machine's own packets to
    the real ones go where they always went.

    Args:
        bridges: prefix of the names of devices whose packets may go there.
    """
    tag = f"{_TAG}{secrets.token_hex(3)}"
    with _own_namespace(tag) as prefix, _rules(tag, bridges):
        ip("link", "add", tag, "type", "veth", "peer", "name", "eth0", "netns", tag)
        try:
            connect_outside(tag, [], [], tag, _PUBLIC)
            async with serving(prefix) as arrived:
                yield arrived
        finally:
            ip("link", "delete", tag)


@contextmanager
def _own_namespace(tag: str) -> Generator[list[str]]:
    """A namespace that counts as a leftover once this process is dead; what others left is removed."""
    with ExitStack() as stack:
        with _locked():
            _remove_leftovers()
            prefix = stack.enter_context(namespace(tag))
            stack.enter_context(_flock(_NAMESPACES / tag, fcntl.LOCK_SH))
        try:
            yield prefix
        finally:
            with _locked():
                stack.close()


@contextmanager
def _locked() -> Generator[None]:
    """Keep other runs from making and removing namespaces meanwhile."""
    _LOCK.touch(0o600)
    with _flock(_LOCK, fcntl.LOCK_EX):
        yield


@contextmanager
def _flock(path: Path, operation: int) -> Generator[None]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers() -> None:
    """Remove the worlds that nobody holds: their namespaces, links, and with these routes, and rules."""
    for path in _NAMESPACES.iterdir() if _NAMESPACES.exists() else ():
        if re.fullmatch(rf"{_TAG}[0-9a-f]{{6}}", path.name) is None:
            continue
        with suppress(BlockingIOError), _flock(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for command in (
                ("ip", "link", "delete", path.name),
                ("ip", "netns", "delete", path.name),
                ("nft", "delete", "table", "inet", _table(path.name)),
            ):
                # It may have been killed before it had made them all.
                with suppress(subprocess.TimeoutExpired):
                    subprocess.run(command, check=False, timeout=20, stderr=subprocess.DEVNULL)


def _table(tag: str) -> str:
    return f"ts-attack-{tag}"


@contextmanager
def _rules(device: str, bridges: str) -> Generator[None]:
    """Drop, wherever it comes from, what is for the world outside and does not go there."""
    chains = f"""
        chain translation {{
            type nat hook prerouting priority dstnat; policy accept;
            iifname "{bridges}*" ip daddr {{ {METADATA}, {PRIVATE} }} dnat ip to {UNLISTED}
        }}
        chain leaving {{
            type filter hook postrouting priority 300; policy accept;
            ip daddr {{ {", ".join((*_PUBLIC, _NOWHERE))} }} oifname != {{ "lo", "{device}" }} drop
            iifname "{bridges}*" oifname != {{ "{device}", "{bridges}*" }} drop
        }}"""
    with nft_table(_table(device), chains):
        yield


@contextmanager
def nft_table(name: str, chains: str) -> Generator[None]:
    """Have a table of nftables, family inet, with these chains; it goes on leaving."""
    rules = f"table inet {name} {{{chains}\n}}"
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", name], check=True, timeout=20)
