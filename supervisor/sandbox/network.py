"""The network of the session containers: a bridge on which they cannot reach each other.

It is made when it is missing and never changed: a network of this name with other options belongs to
somebody, who may rely on them, and must not be taken for a safe one. Whether its options have the effect that
they promise is `isolation`'s business.
"""

from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor import __version__
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.reaping.pending import CONFLICT, NOT_FOUND
from supervisor.sandbox.identity import LABEL_PRODUCT, LABEL_VERSION
from supervisor.settings import Settings

NO_NETWORK: Final = "none"
OPTIONS: Final = {
    "com.docker.network.bridge.enable_icc": "false",
    "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
}
SECURITY_LABEL: Final = {"security-level": "restricted"}
_CALL_TIMEOUT = 30.0  # seconds; making a bridge takes a few hundred milliseconds
_ATTEMPTS = 3


@attrs.frozen
class NetworkFacts:
    """The network as it is.

    Attributes:
        name: in settings and at the engine.
        id: at the engine; empty for `none`.
    """

    name: str
    id: str


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
    for _ in range(_ATTEMPTS):
        try:
            network = await docker.networks.get(name, timeout=_CALL_TIMEOUT)
            shown = await network.show(timeout=_CALL_TIMEOUT)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
        else:
            if problems := differences(name, shown):
                raise ConfigurationError(
                    f"the network {name} (DOCKER_NETWORK_NAME) exists and is not one for sessions:\n  "
                    + "\n  ".join(problems)
                    + f"\nRemove it (docker network rm {name}) to have it made anew, or choose another name"
                )
            return NetworkFacts(name, str(shown["Id"]))
        try:
            await docker.networks.create(_configuration(name), timeout=_CALL_TIMEOUT)
        except DockerError as error:
            if error.status != CONFLICT:
                raise
    raise ConfigurationError(
        f"the network {name} (DOCKER_NETWORK_NAME) appears and disappears: who else uses it?"
    )


def _configuration(name: str) -> dict[str, Any]:
    return {
        "Name": name,
        "Driver": "bridge",
        "Internal": False,
        "Attachable": False,
        "EnableIPv6": False,
        "Options": dict(OPTIONS),
        "Labels": {**SECURITY_LABEL, LABEL_PRODUCT: "network", LABEL_VERSION: __version__},
    }


def differences(name: str, shown: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a network, by what the engine says of it."""
    options: Mapping[str, str] = shown.get("Options") or {}
    labels: Mapping[str, str] = shown.get("Labels") or {}
    # The engine also finds networks by the beginning of their id.
    compared: list[tuple[str, Any, Any]] = [
        ("name", name, shown.get("Name")),
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
