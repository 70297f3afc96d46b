"""Tar archives for the engine: root file systems made clean on their way into a base image, and build
contexts.

Nothing here depends on the time or on this host's users, so that the same inputs give the same archive.
"""

import io
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import attrs

EPOCH = 1577836800
"""Time of all files in archives: 2020-01-01. (Zero confuses programs that take it for "unknown".)"""

# Directories every container needs, whatever the archive had: name and mode.
_MOUNT_POINTS = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o555,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
}

# Not needed to run anything: devices (the engine makes them), this build's own traces, documentation, the
# package manager.
_UNWANTED = re.compile(
    r"""
    dev/.+ | \.dockerenv | boot/.* | media/.* | mnt/.* | srv/.* | proc/.+ | sys/.+ | run/.+ | tmp/.+
    | etc/(hostname|resolv\.conf|hosts|mtab|machine-id|fstab)
    | etc/(passwd|group|shadow|gshadow|subuid|subgid)-?
    | etc/(apt|dpkg|apk|yum.*|dnf|cron.*|update-motd\.d|logrotate\.d|pam\.d|security|skel)(/.*)?
    |
    (usr/(local/)?)?s?bin/(apt|dpkg|deb-|debconf|dselect|apk|yum|dnf|microdnf|rpm|pip|npm|npx|yarn|corepack)[^/]*
    | usr/(sbin|bin)/(add|del|remove)-shell | usr/s?bin/update-(rc\.d|passwd|alternatives) |
    usr/lib/(apt|dpkg)(/.*)? | usr/share/(dpkg|debconf|perl5/Debconf|perl5/Dpkg)(/.*)? |
    usr/lib/[^/]+/libapt-[^/]* | lib/apk(/.*)? | usr/local/lib/node_modules/(npm|corepack)(/.*)? |
    usr/share/(man|info|locale|lintian|bug|doc-base|groff|linda|gdb|gcc|bash-completion|menu|pixmaps|dict)(/.*)?
    | usr/share/doc/[^/]+/(?!copyright).* | var/(cache|log|backups|spool|mail|tmp)/.+ |
    var/lib/(apt|dpkg|debconf|rpm|pam|systemd)(/.*)?
    """,
    re.VERBOSE,
)

# All that a program needs that brings its own code: the C and C++ libraries, terminal descriptions, the name
# of the system.
_LIBRARIES_ONLY = re.compile(
    r"""
    (bin|sbin|lib|lib32|lib64|libx32) | (usr/)?lib/[^/]+-linux-gnu[^/]*/[^/]+\.so[^/]* |
    (usr/)?lib(64)?/ld-linux[^/]* | (usr/)?lib/terminfo/.* | usr/share/terminfo/.* | usr/lib/locale/.* |
    etc/(os-release|debian_version|nsswitch\.conf|host\.conf) | usr/lib/os-release |
    usr/share/common-licenses/.* | usr/share/doc/[^/]+/copyright
    """,
    re.VERBOSE,
)


def is_wanted(name: str, libraries_only: bool) -> bool:
    """Return whether the file `name` (relative, no leading `./`) belongs in a sandbox."""
    if _UNWANTED.fullmatch(name):
        return False
    return not libraries_only or _LIBRARIES_ONLY.fullmatch(name) is not None


def clean_rootfs(source: Path, destination: Path, *, libraries_only: bool) -> None:
    """Copy the root file system archive `source` to `destination` without what a sandbox must not or need not
    have.

    No set-user-id or set-group-id bit, extended attribute (and so no file capability) or device is copied, no
    package manager, no documentation but licences. Users and groups are left out too: the image brings its
    own.

    Args:
        source: tar archive of a root file system, compressed or not.
        destination: where the new one goes, uncompressed.
        libraries_only: copy libraries, terminal descriptions and licences only: no program at all.
    """
    kept: set[str] = set()
    with tarfile.open(source) as old, tarfile.open(destination, "w", format=tarfile.PAX_FORMAT) as new:
        for name, mode in _MOUNT_POINTS.items():
            _add_directory(new, kept, name, mode)
        for member in old:
            name = str(PurePosixPath(member.name)).removeprefix("/")
            if name in {".", ""} or name in kept:
                continue
            if member.isdir():
                # With libraries only, directories are added as their files come.
                if not libraries_only and is_wanted(name, False):
                    _add_parents(new, kept, name)
                    _add_directory(new, kept, name, member.mode & 0o1777)
                continue
            if not is_wanted(name, libraries_only) or not (
                member.isreg() or member.issym() or member.islnk()
            ):
                continue
            if member.islnk():
                target = str(PurePosixPath(member.linkname)).removeprefix("/")
                if target not in kept:
                    continue
                member.linkname = target
            _add_parents(new, kept, name)
            kept.add(name)
            member.name = name
            member.mode &= 0o1777
            member.mtime = EPOCH
            member.pax_headers = {}
            member.uname = member.gname = ""
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def _add_parents(archive: tarfile.TarFile, kept: set[str], name: str) -> None:
    for parent in reversed(PurePosixPath(name).parents[:-1]):
        if str(parent) not in kept:
            _add_directory(archive, kept, str(parent), 0o755)


def _add_directory(archive: tarfile.TarFile, kept: set[str], name: str, mode: int) -> None:
    if name in kept:
        return
    kept.add(name)
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, mode, EPOCH
    archive.addfile(info)


@attrs.define
class BuildContext:
    """What a Dockerfile's COPY instructions see: files by their name in the context."""

    files: dict[str, bytes | Path | None] = attrs.field(factory=dict[str, bytes | Path | None])
    _programs: set[str] = attrs.field(factory=set[str])

    def add(self, name: str, content: bytes | Path | None, *, program: bool = False) -> None:
        """Put a file, or a directory with all in it, into the context.

        Args:
            name: where.
            content: its bytes, or the path of a file or directory to copy; None for an empty directory.
            program: make a file executable.
        """
        self.files[name] = content
        if program:
            self._programs.add(name)

    def pack(self, archive: BinaryIO) -> None:
        """Write the context to `archive` as a tar archive. All belongs to root, with the same time."""
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as new:
            for name, content in sorted(self.files.items()):
                if content is None:
                    _add_directory(new, set(), name, 0o755)
                elif isinstance(content, bytes):
                    info = tarfile.TarInfo(name)
                    info.size, info.mtime = len(content), EPOCH
                    info.mode = 0o755 if name in self._programs else 0o644
                    new.addfile(info, io.BytesIO(content))
                else:
                    new.add(content, arcname=name, filter=self._normalise)

    def _normalise(self, info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = EPOCH
        if not info.issym():
            program = info.isdir() or info.mode & 0o111 or info.name in self._programs
            info.mode = 0o755 if program else 0o644
        return info
