import ipaddress
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision.addresses import (
    AddressPlan,
    Route,
    choose,
    parse_routes,
    read_block,
    write_block,
)

Network = ipaddress.IPv4Network


def routes(*networks: str) -> list[Route]:
    return [Route(Network(network), "eth0") for network in networks]


def test_a_quiet_host_gets_the_first_block() -> None:
    plan = choose(routes("0.0.0.0/0", "192.168.1.0/24", "172.17.0.0/16"))
    assert plan.block == Network("10.213.0.0/16")
    assert str(plan.bridge) == "10.213.0.1/24"
    assert str(plan.pool) == "10.213.128.0/17"
    assert not plan.bridge.network.overlaps(plan.pool)


@pytest.mark.parametrize(
    ("taken", "block"),
    [
        (["10.213.7.0/24"], "10.214.0.0/16"),
        (["10.208.0.0/12"], "10.224.0.0/16"),
        (["10.0.0.0/8"], "172.31.0.0/16"),
        (["10.0.0.0/8", "172.24.0.0/13"], "172.23.0.0/16"),
    ],
)
def test_what_is_routed_is_avoided(taken: list[str], block: str) -> None:
    assert choose(routes(*taken)).block == Network(block)


def test_the_block_of_the_last_start_is_kept_while_it_is_free() -> None:
    earlier = Network("10.240.0.0/16")
    assert choose(routes("10.1.0.0/16"), earlier).block == earlier
    assert choose(routes("10.240.3.0/24"), earlier).block == Network("10.213.0.0/16")


def test_a_host_that_routes_everything_is_told_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="set DOCKER_HOST"):
        choose(routes("10.0.0.0/8", "172.16.0.0/12"))


def test_routes_are_read_as_ip_prints_them() -> None:
    entries: list[dict[str, Any]] = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "10.8.0.0/24", "dev": "tun0", "table": "51820"},
        {"dst": "10.9.0.1", "dev": "wg0"},
        {"type": "local", "dst": "10.213.0.1", "dev": "eth0", "table": "local"},
        {"type": "broadcast", "dst": "10.213.0.255", "dev": "eth0", "table": "local"},
        {"type": "blackhole", "dst": "10.213.0.0/17", "flags": []},
        {"dst": "10.11.0.0/16", "nexthops": [{"dev": "a"}, {"dev": "b"}]},
    ]
    assert parse_routes(entries) == [
        Route(Network("0.0.0.0/0"), "eth0"),
        Route(Network("10.8.0.0/24"), "tun0"),
        Route(Network("10.9.0.1/32"), "wg0"),
        Route(Network("10.213.0.0/17"), ""),
        Route(Network("10.11.0.0/16"), "a,b"),
    ]


def test_the_block_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "addresses.json"
    assert read_block(file) is None
    write_block(file, AddressPlan(Network("10.220.0.0/16")))
    assert read_block(file) == Network("10.220.0.0/16")
    for nonsense in ("", "[]", '{"block": "10.0.0.1/8"}', '{"other": 1}'):
        file.write_text(nonsense)
        assert read_block(file) is None
