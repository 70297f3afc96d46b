"""Address ranges for an engine of the project's own: ones that collide with no route of this host.

An engine needs a network for its bridge and a pool for the networks made later. Both come out of one /16,
taken from the private ranges, with those first that home networks, companies, clouds and other engines use
least.
"""

import ipaddress
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from supervisor.errors import ConfigurationError
from supervisor.provision.host import run

_COMMAND_DEADLINE = 30.0  # seconds; `ip` answers at once or never


@attrs.frozen
class AddressPlan:
    """Addresses of one engine.

    Attributes:
        block: the /16 that everything comes from.
    """

    block: ipaddress.IPv4Network

    @property
    def bridge(self) -> ipaddress.IPv4Interface:
        """Address and network of the engine's default bridge: the first /24 of the block."""
        return ipaddress.IPv4Interface(f"{self.block.network_address + 1}/24")

    @property
    def pool(self) -> ipaddress.IPv4Network:
        """Where networks made later get their /24 from: the upper half of the block."""
        return list(self.block.subnets(prefixlen_diff=1))[1]


@attrs.frozen
class Route:
    """A destination that this host sends to some device."""

    network: ipaddress.IPv4Network
    device: str


def _blocks() -> Iterator[ipaddress.IPv4Network]:
    """Candidate blocks, the least used first: 10.213, then the upper tens, then 172.16/12 from its top."""
    seconds = [213, *range(214, 255), *range(212, 128, -1)]
    yield from (ipaddress.IPv4Network(f"10.{second}.0.0/16") for second in seconds)
    yield from (ipaddress.IPv4Network(f"172.{second}.0.0/16") for second in range(31, 16, -1))


def choose(routes: Iterable[Route], preferred: ipaddress.IPv4Network | None = None) -> AddressPlan:
    """Return a plan that overlaps none of `routes` (default routes do not count): `preferred` when it is
    free.

    Raises:
        ConfigurationError: this host routes everything that could be used.
    """
    taken = [route.network for route in routes if route.network.prefixlen > 0]
    for block in [preferred, *_blocks()] if preferred else _blocks():
        if not any(block.overlaps(network) for network in taken):
            return AddressPlan(block)
    raise ConfigurationError(
        "no address range is free for an engine of the project's own: this host has routes to all of "
        "10.0.0.0/8 and "
        "172.16.0.0/12 that could be used. Start a Docker Engine yourself and set DOCKER_HOST"
    )


async def host_routes() -> list[Route]:
    """Return the IPv4 routes of this network namespace, all tables, those of single own addresses left out.

    Raises:
        ConfigurationError: `ip` (iproute2) is missing or fails.
    """
    text = await run(["ip", "-json", "-4", "route", "show", "table", "all"], timeout=_COMMAND_DEADLINE)
    return parse_routes(json.loads(text or "[]"))


def parse_routes(entries: Iterable[dict[str, Any]]) -> list[Route]:
    """Return what `ip -json route` says as routes (broadcast and local entries say nothing new)."""
    routes: list[Route] = []
    for entry in entries:
        if entry.get("type") in {"broadcast", "local", "multicast"}:
            continue
        destination = "0.0.0.0/0" if entry["dst"] == "default" else entry["dst"]
        device = entry.get("dev") or ",".join(hop.get("dev", "") for hop in entry.get("nexthops", []))
        routes.append(Route(ipaddress.IPv4Network(destination, strict=False), device))
    return routes


def read_block(path: Path) -> ipaddress.IPv4Network | None:
    """Return the block that an earlier start wrote to `path`, or None; a file that makes no sense counts as
    none.
    """
    try:
        return ipaddress.IPv4Network(json.loads(path.read_text())["block"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write_block(path: Path, plan: AddressPlan) -> None:
    """Remember `plan` for the next start: networks that the engine has made keep their addresses."""
    path.write_text(json.dumps({"block": str(plan.block)}) + "\n")
