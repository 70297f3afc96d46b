"""The two programs of this host that egress needs."""

import os
import shutil
from typing import Final

from supervisor.errors import ConfigurationError

PACKAGES: Final = {"nft": "nftables", "dnsmasq": "dnsmasq-base"}
"""The programs, and the Debian packages that bring them."""

# People who are root by way of su often lack the directories of administrators' programs.
_SEARCH_PATH: Final = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
)


def missing_programs() -> list[str]:
    """Return which of them are not here."""
    return [name for name in PACKAGES if shutil.which(name, path=_SEARCH_PATH) is None]


def missing_programs_text() -> str:
    """Return what is missing and how to get it; empty when nothing is."""
    if missing := missing_programs():
        packages = " ".join(PACKAGES[each] for each in missing)
        return f"this host has no {' and no '.join(missing)} (apt-get install {packages})"
    return ""


def program(name: str) -> str:
    """Return the path of one of them.

    Raises:
        ConfigurationError: it is not here, or others are not either; the text says what to install.
    """
    if text := missing_programs_text():
        raise ConfigurationError(f"egress cannot be filtered: {text}")
    path = shutil.which(name, path=_SEARCH_PATH)
    assert path is not None
    return path
