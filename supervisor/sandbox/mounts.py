"""Judges the mounts that a container shows against the policy: what can be written to, and what of the host's
kernel can be seen or set.

An engine may say that it hid and protected what it was asked to, and not have done so; the table of mounts
(mountinfo, proc(5)) says what is the case.
"""

from collections.abc import Iterator
from typing import Final

from supervisor.sandbox.policy import MASKED_PATHS, READONLY_PATHS, SHM_SIZE, Difference, HardeningPolicy
from supervisor.sandbox.seen import Mount, Seen
from supervisor.settings.knob import KIB

# What may be mounted writable besides the policy's tmpfs: the kernel's own, which root's rights guard in a
# container without root, and /dev/null over what is hidden.
_WRITABLE: Final = frozenset(
    {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console", "/sys/fs/cgroup"}  # noqa: S108
)
# What runtimes promise of the kernel's own file systems, by their points: devices are in /dev alone, programs
# and rights in none, and nothing in /sys can be set.
_PROMISED: Final = {
    "/proc": frozenset({"nosuid", "nodev", "noexec"}),
    "/dev": frozenset({"nosuid"}),
    "/dev/pts": frozenset({"nosuid", "noexec"}),
    "/sys": frozenset({"ro", "nosuid", "nodev", "noexec"}),
    "/sys/fs/cgroup": frozenset({"nosuid", "nodev", "noexec"}),
}
_KERNELS: Final = frozenset({"proc", "sysfs"})
# A remapped root may not make device nodes (user_namespaces(7)), so runtimes mount the host's in their place.
_DEVICES: Final = frozenset(f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero"))


def read_only(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    """What can be written to, seen or set, and should not."""
    root = seen.mount("/")
    if root is None or "ro" not in root.options:
        yield Difference("mount /", "ro", root and sorted(root.options))
    for mount in seen.mounts:
        if "ro" in mount.options or mount.point in _WRITABLE or mount.point in policy.tmpfs:
            continue
        if mount.point in MASKED_PATHS and mount.root == "/null":
            continue
        if seen.remapped and _of_unmapped_users(mount):
            continue
        yield Difference(f"mount {mount.point}", "ro", sorted(mount.options))
    if policy.runtime.kind.own_kernel:
        return  # its /proc shows nothing of this host, and nothing in it sets anything here
    yield from _kernels_own(seen)


def _kernels_own(seen: Seen) -> Iterator[Difference]:
    """What of the host's kernel can be seen or set, and should not."""
    for point, promised in _PROMISED.items():
        mount = seen.mount(point)
        if mount is None:
            yield Difference(f"mount {point}", sorted(promised), None)
            continue
        # In the first version it is a mere directory of hierarchies, which are looked at one by one. Engines
        # that map users mount the second one writable (moby, daemon/oci_linux.go, "clear the readonly flag
        # for the cgroups mount"): their root, which sessions are not, is nobody on the host.
        needs = mount.kind == "cgroup2" and not seen.remapped
        wanted = promised | {"ro"} if needs else promised
        if not wanted <= mount.options:
            yield Difference(f"mount {point}", sorted(wanted), sorted(mount.options))
    for path in sorted(seen.there.intersection(MASKED_PATHS)):
        mount = seen.mount_of(path)
        if mount is None or mount.kind in _KERNELS:
            yield Difference(path, "hidden", mount and mount.kind)
    for path in sorted(seen.there.intersection(READONLY_PATHS)):
        mount = seen.mount_of(path)
        if mount is None or "ro" not in mount.options:
            yield Difference(path, "read-only", mount and sorted(mount.options))


def _of_unmapped_users(mount: Mount) -> bool:
    """Return whether a writable mount is one that runtimes make for remapped users, who own nothing in it:
    devices, and the hierarchies of cgroup v1.
    """
    if mount.point in _DEVICES:
        return mount.root == mount.point.removeprefix("/dev")
    return mount.kind == "cgroup" and mount.point.startswith("/sys/fs/cgroup/")


def tmpfs(policy: HardeningPolicy, seen: Seen) -> Iterator[Difference]:
    """What is not as it should be of the file systems that can be written to."""
    shm = f"noexec,nosuid,nodev,size={SHM_SIZE}"
    for point, text in {**policy.tmpfs, "/dev/shm": shm}.items():  # noqa: S108
        mount = seen.mount(point)
        if mount is None or mount.kind != "tmpfs":
            yield Difference(f"mount {point}", "tmpfs", mount and mount.kind)
            continue
        wanted = {"noexec", "nosuid", "nodev"} - policy.runtime.kind.unshown
        if not wanted <= mount.options:
            yield Difference(f"mount {point}", sorted(wanted), sorted(mount.options))
        size = int(text.partition("size=")[2].partition(",")[0])
        if not {f"size={size // KIB}k", f"size={size}"} & mount.details:
            yield Difference(f"size of {point}", f"size={size // KIB}k", sorted(mount.details))
