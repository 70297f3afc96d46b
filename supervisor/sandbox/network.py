"""The network of the session containers: a bridge on which they cannot reach each other.

It is made when it is missing and never changed: a network of this name with other options belongs to
somebody, who may rely on them, and must not be taken for a safe one. Whether its options have the effect that
they promise is `isolation`'s business.
"""

import fcntl
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from supervisor import __version__
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.reaping.engine_health import NEED_TIMEOUT, Need
from supervisor.reaping.pending import CONFLICT, NOT_FOUND
from supervisor.sandbox.identity import LABEL_PRODUCT, LABEL_VERSION
from supervisor.sandbox.lifeline import runtime_directory
from supervisor.settings import Settings

NO_NETWORK: Final = "none"
ICC: Final = "com.docker.network.bridge.enable_icc"
BRIDGE_NAME: Final = "com.docker.network.bridge.name"
OPTIONS: Final = {
    ICC: "false",
    "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
}
SECURITY_LABEL: Final = {"security-level": "restricted"}
_CALL_TIMEOUT = 30.0  # seconds; making a bridge takes a few hundred milliseconds
_LOCK_TIMEOUT = 120.0
_LOCK_PAUSE = 0.05

JSON = dict[str, Any]


@attrs.frozen
class NetworkFacts:
    """The network as it is.

    Attributes:
        name: in settings and at the engine.
        id: at the engine; empty for `none`, like all that follows.
        bridge: its device on the engine's host.
        gateway: the bridge's own IPv4 address.
    """

    name: str
    id: str
    bridge: str = ""
    gateway: str = ""


async def ensure_network(docker: Docker, settings: Settings) -> NetworkFacts:
    """Return the network of `settings`, making it when there is none of that name.

    Two supervisors may do this at the same time: one makes it, the other finds it.

    Raises:
        ConfigurationError: there is one of that name with other options; all that differ are named.
        DockerError: the engine refuses.
    """
    name = settings.network
    if name == NO_NETWORK:
        return NetworkFacts(name, "")
    async with _alone():
        found = await _of_name(docker, name)
        if not found:
            try:
                await docker.networks.create(configuration(name), timeout=_CALL_TIMEOUT)
            except DockerError as error:
                if error.status != CONFLICT:  # made by a supervisor of another host or user in this moment
                    raise
            found = await _of_name(docker, name)
    if len(found) != 1:
        raise ConfigurationError(
            f"the engine has {len(found)} networks called {name} (DOCKER_NETWORK_NAME): remove them by their "
            f"ids ({', '.join(network['Id'][:12] for network in found)}) to have one made anew"
        )
    (shown,) = found
    if problems := differences(shown):
        raise ConfigurationError(
            f"the network {name} (DOCKER_NETWORK_NAME) exists and is not one for sessions (isolation):\n  "
            + "\n  ".join(problems)
            + f"\nRemove it (docker network rm {name}) to have it made anew, or choose another name"
        )
    return facts(name, shown)


def facts(name: str, shown: Mapping[str, Any]) -> NetworkFacts:
    """Return what matters of a network, by what the engine says of it."""
    # What the engine calls a bridge that nobody gave a name.
    options: Mapping[str, str] = shown.get("Options") or JSON()
    addresses: JSON = shown.get("IPAM") or JSON()
    bridge = options.get(BRIDGE_NAME) or f"br-{shown['Id'][:12]}"
    configurations: list[dict[str, str]] = addresses.get("Config") or []
    gateway = next((each["Gateway"] for each in configurations if "Gateway" in each), "")
    return NetworkFacts(name, str(shown["Id"]), bridge, gateway)


def network_need(docker: Docker, network: NetworkFacts) -> Need:
    """Return what looks whether `network` is still there, and as it was verified. One that was made anew
    under its name is another one: nothing has proved yet that it isolates."""

    async def look() -> str | None:
        if not network.id:
            return None
        try:
            await docker.networks.get(network.id, timeout=NEED_TIMEOUT)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            return f"the network {network.name} ({network.id[:12]}) is gone; one is made at the next start"
        return None

    return look


async def _of_name(docker: Docker, name: str) -> list[JSON]:
    # The engine's filter also finds names that only contain this one.
    found = await docker.networks.list(filters={"name": [name]}, timeout=_CALL_TIMEOUT)
    return [network for network in found if network["Name"] == name]


@asynccontextmanager
async def _alone() -> AsyncGenerator[None]:
    """Keep other supervisors of this user out.

    Engines before API 1.44 make two networks of one name when they are asked at the same time, and can use
    neither then.
    """
    descriptor = os.open(runtime_directory(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = trio.current_time() + _LOCK_TIMEOUT
        while not _locked(descriptor):
            if trio.current_time() > deadline:
                raise ConfigurationError(
                    f"another supervisor has been making its network for {_LOCK_TIMEOUT:g} s: does it hang?"
                )
            await trio.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def configuration(name: str) -> JSON:
    """Return the body of the call that makes a network for sessions."""
    return {
        "Name": name,
        "Driver": "bridge",
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": False,
        "Options": dict(OPTIONS),
        "Labels": {**SECURITY_LABEL, LABEL_PRODUCT: "network", LABEL_VERSION: __version__},
    }


def differences(shown: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a network, by what the engine says of it."""
    options: Mapping[str, str] = shown.get("Options") or {}
    labels: Mapping[str, str] = shown.get("Labels") or {}
    compared: list[tuple[str, Any, Any]] = [
        ("driver", "bridge", shown.get("Driver")),
        ("IPv6", False, bool(shown.get("EnableIPv6"))),
        ("attachable", False, bool(shown.get("Attachable"))),
        *[(f"option {key}", value, options.get(key)) for key, value in OPTIONS.items()],
        *[(f"label {key}", value, labels.get(key)) for key, value in SECURITY_LABEL.items()],
    ]
    return [
        f"{what}: {'not set' if actual is None else actual} instead of {expected}"
        for what, expected, actual in compared
        if actual != expected
    ]
