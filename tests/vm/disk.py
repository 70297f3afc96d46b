"""The disk of a throw-away machine: Debian 12 with its own kernel, made of what the registries have.

Everything that takes a registry is in it: Debian's packages, and the locked Python packages that the program
and its tests need, so that the machine itself has no network. Made once for the same inputs and kept under
`.state/vm/`, named by their digest; what is in the archives on the day of making does not count.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.provision.base import KEYRING, SOURCES
from supervisor.provision.digest import digest
from supervisor.provision.host import Need, find_program, require, run

ROOT: Final = Path(__file__).parents[2]
GUEST: Final = Path(__file__).parent / "guest"
CACHE: Final = ROOT / ".state/vm"

SUITE: Final = "bookworm"
KERNEL: Final = "linux-image-cloud-amd64"
"""A kernel without drivers for real machines."""
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "kmod", "procps", "iproute2", "ca-certificates"),
    *("docker.io", "iptables", "nftables", "dnsmasq-base", "apparmor", "apparmor-utils"),
    *("python3", "util-linux"),
)
PYTHON: Final = "3.11"
"""Of that suite."""
SIZE: Final = "8G"
"""Of the disk; it is sparse."""
_DEADLINE: Final = 900.0  # seconds for each of the commands
_FORMAT: Final = "2"  # part of the digest: raise it when the making changes

NEEDS: Final = (
    Need("qemu-system-x86_64", ("qemu-system-x86",), "the machine with all measures"),
    Need("mmdebstrap", ("mmdebstrap", "debian-archive-keyring"), "makes that machine's disk"),
    Need("mke2fs", ("e2fsprogs",), "makes that machine's disk"),
)

# What a machine that lives for minutes, and has neither network nor a past, must not start.
_MASKED: Final = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer"),
    *("fstrim.timer", "systemd-networkd-wait-online.service"),
)


@attrs.frozen
class Disk:
    """A disk, and the kernel that starts from it. Machines do not write to it."""

    directory: Path

    @property
    def image(self) -> Path:
        """The root file system, as a raw disk."""
        return self.directory / "root.img"

    @property
    def kernel(self) -> Path:
        """What qemu loads."""
        return self.directory / "vmlinuz"


async def ensure_disk(progress: Callable[[str], object]) -> Disk:
    """Return the disk of this checkout, made now unless it is there. Takes about two minutes.

    Raises:
        ConfigurationError: it cannot be made here; the text says why.
    """
    if platform.machine() != "x86_64" or os.geteuid() != 0:
        raise ConfigurationError("the machine with all measures needs root on an x86-64 host")
    await require(NEEDS, progress)
    parts: dict[str, str | Path] = {
        "format": _FORMAT,
        "packages": " ".join((SUITE, KERNEL, *PACKAGES)),
        "masked": " ".join(_MASKED),
        "run": GUEST / "run",
        "unit": GUEST / "vm.service",
        "python": ROOT / "uv.lock",
    }
    disk = Disk(CACHE / digest(parts)[:16])
    if disk.directory.exists():
        return disk
    shutil.rmtree(CACHE, ignore_errors=True)
    CACHE.mkdir(parents=True)
    # Not below .state, which may be on a file system that has no device nodes.
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-vm-") as scratch:
        root, made = Path(scratch) / "root", Path(scratch) / "made"
        made.mkdir()
        await _debian(root, progress)
        await _kernel(root, made, progress)
        progress("Python packages")
        await _python_packages(root, Path(scratch) / "requirements.txt")
        _arrange(root)
        progress("file system")
        file = made / disk.image.name
        await run(
            ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root, file, SIZE],
            timeout=_DEADLINE,
        )
        # Sparse files stay so only within one file system, or when copied with care.
        await run(["cp", "-r", "--sparse=always", made, CACHE / "new"], timeout=_DEADLINE)
    (CACHE / "new").rename(disk.directory)
    return disk


async def _debian(root: Path, progress: Callable[[str], object]) -> None:
    # The kernel's package is unpacked and not installed: installing it would make an initial RAM disk.
    download = f"""
        export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
        package=$(apt-cache depends {KERNEL} | awk '/Depends: linux-image-/ {{ print $2; exit }}')
        cd "$1/var/tmp" && apt-get -q -o APT::Sandbox::User=root download "$package" &&
            dpkg-deb -x linux-image-*.deb kernel && rm linux-image-*.deb
    """
    await run(
        [
            "mmdebstrap",
            "--variant=minbase",
            "--architectures=amd64",
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "locale", "doc")),
            f"--customize-hook={download}",
            "--format=directory",
            SUITE,
            root,
            *(f"deb [signed-by={KEYRING}] {source.format(suite=SUITE)}" for source in SOURCES),
        ],
        timeout=_DEADLINE,
        on_line=lambda line: progress(line.removeprefix("I: ")),
    )


async def _kernel(root: Path, made: Path, progress: Callable[[str], object]) -> None:
    unpacked = root / "var/tmp/kernel"
    (version,) = [path.name for path in (unpacked / "lib/modules").iterdir()]
    progress(f"kernel {version}")
    shutil.move(unpacked / f"boot/vmlinuz-{version}", made / "vmlinuz")
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    shutil.move(unpacked / "lib/modules" / version, root / "usr/lib/modules" / version)
    shutil.rmtree(unpacked)
    await run(["chroot", root, "depmod", version], timeout=_DEADLINE)


async def _python_packages(root: Path, requirements: Path) -> None:
    """Install what the lock file says, as wheels for the machine's Python, whatever this host's is."""
    uv = _find_uv()
    locked = await run(
        [uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-default-groups", "--group", "test"],
        timeout=_DEADLINE,
        cwd=ROOT,
    )
    requirements.write_text(locked)
    place = f"usr/local/lib/python{PYTHON}/dist-packages"
    await run(
        [
            *(uv, "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--python-version", PYTHON, "--python-platform", "x86_64-manylinux_2_36"),
            *("--target", root / place, "-r", requirements),
        ],
        timeout=_DEADLINE,
        cwd=ROOT,
        environment={"UV_SYSTEM_CERTS": os.environ.get("UV_SYSTEM_CERTS", "true")},
    )
    # Here, where it takes seconds, and once.
    await run(["chroot", root, "python3", "-m", "compileall", "-qq", f"/{place}"], timeout=_DEADLINE)


def _find_uv() -> Path:
    """Return the uv that made .venv (.ci/bootstrap), or another one."""
    for place in (ROOT / ".state/uv/bin/uv", ROOT / ".state/uv-target/bin/uv"):
        if place.exists():
            return place
    if found := find_program("uv"):
        return Path(found)
    raise ConfigurationError("there is no uv here; `make test` gets one")


def _arrange(root: Path) -> None:
    etc = root / "etc"
    (etc / "hostname").write_text("vm\n")
    (etc / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 vm\n")
    (etc / "fstab").write_text("/dev/nvme0n1 / ext4 defaults 0 0\n")
    for name in ("resolv.conf", "machine-id"):
        (etc / name).unlink(missing_ok=True)
    (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    # An empty one would count as the first boot, which enables every unit.
    (etc / "machine-id").write_text("5e55105e55105e55105e55105e551055\n")
    units = etc / "systemd/system"
    for name in _MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    # Whoever tests an engine starts it.
    for enabled in (*units.glob("*.wants/docker.*"), *units.glob("*.wants/containerd.*")):
        enabled.unlink()
    shutil.copy(GUEST / "vm.service", units)
    (root / "vm/share").mkdir(parents=True)
    shutil.copy(GUEST / "run", root / "vm/run")
