"""Whose a container is: the labels that all objects of ours carry at the engine, and the names that they get.

One engine may serve several supervisors, of this host and of others, one after another and at the same time.
The labels tell them apart, so that each removes what is its own and never touches what is another's. Labels
cannot be changed once a container exists, so they say nothing about the session in it, which may be decided
later.
"""

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path

import attrs

from supervisor import __version__

PRODUCT = "terminal-supervisor"
LABEL_PRODUCT = PRODUCT
"""Label of everything that is ours; its value is the object's role."""
LABEL_INSTANCE = f"{PRODUCT}.instance"
LABEL_MACHINE = f"{PRODUCT}.machine"
LABEL_BOOT = f"{PRODUCT}.boot"
LABEL_NAMESPACE = f"{PRODUCT}.namespace"
LABEL_DEADLINE = f"{PRODUCT}.deadline"
LABEL_VERSION = f"{PRODUCT}.version"

_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_NAMESPACE_FILE = Path("/proc/self/ns/net")
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen
class Identity:
    """One supervisor process, among all that ever spoke to the same engine.

    Attributes:
        instance: random, new with each process.
        machine: of this host, the same across reboots. Derived from the machine id, which machine-id(5) asks
            not to expose.
        boot: of this boot of the kernel.
        namespace: network namespace of the supervisor; whether an instance lives can be told from within it.
    """

    instance: str
    machine: str
    boot: str
    namespace: str

    def labels(self, role: str, lifetime: float) -> dict[str, str]:
        """Return the labels of a new object.

        Args:
            role: what the object is for: `session`, `self-test`, `probe`, `network`.
            lifetime: seconds after which nothing can have a use for it any more. The label is absolute:
                seconds since the epoch.
        """
        return {
            LABEL_PRODUCT: role,
            LABEL_INSTANCE: self.instance,
            LABEL_MACHINE: self.machine,
            LABEL_BOOT: self.boot,
            LABEL_NAMESPACE: self.namespace,
            LABEL_DEADLINE: str(int(time.time() + lifetime)),
            LABEL_VERSION: __version__,
        }

    def new_name(self, role: str = "session") -> str:
        """Return a container name that nobody has and nobody can guess."""
        return f"ts-{role}-{self.instance[:8]}-{secrets.token_hex(8)}"


def unowned_labels(role: str, lifetime: float) -> dict[str, str]:
    """Return the labels of an object that no supervisor owns: what set-up makes, and removes itself unless it
    is killed. See `Identity.labels`.
    """
    return {LABEL_PRODUCT: role, LABEL_DEADLINE: str(int(time.time() + lifetime)), LABEL_VERSION: __version__}


def this_process() -> Identity:
    """Return a new identity for this process. Call it once per supervisor.

    A host without a machine id (a container's root file system often has none) gets one that lasts until it
    reboots: what an earlier boot left at a shared engine is then told by its deadline alone.
    """
    boot = _BOOT_ID_FILE.read_text().strip()
    seed = next((found for path in _MACHINE_ID_FILES if (found := _machine_id(path))), boot)
    machine = hmac.new(seed.encode(), PRODUCT.encode(), hashlib.sha256).hexdigest()[:32]
    return Identity(secrets.token_hex(16), machine, boot, network_namespace())


def network_namespace() -> str:
    """Return what tells this network namespace from others of this boot: device and inode (namespaces(7))."""
    status = _NAMESPACE_FILE.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _machine_id(path: Path) -> str | None:
    if not path.exists():
        return None
    text = path.read_text().strip()
    return text if re.fullmatch(r"[0-9a-f]{32}", text) else None
