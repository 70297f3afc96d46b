import io
import tarfile
from pathlib import Path

import pytest

from supervisor.provision.archive import EPOCH, BuildContext, clean_rootfs, is_wanted


def entry(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def archive(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return path


def cleaned(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes], libraries_only: bool) -> tarfile.TarFile:
    source = archive(tmp_path / "raw.tar", *entries)
    clean_rootfs(source, tmp_path / "clean.tar", libraries_only=libraries_only)
    return tarfile.open(tmp_path / "clean.tar")


SYSTEM = [
    entry("./usr/bin/", type=tarfile.DIRTYPE, mode=0o755),
    entry("./bin", type=tarfile.SYMTYPE, linkname="usr/bin"),
    entry("./usr/bin/su", b"program", mode=0o4755),
    entry("./usr/bin/wall", b"program", mode=0o2755),
    entry("./usr/bin/ping", b"program", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": "x"}),
    entry("./usr/bin/apt-get", b"program", mode=0o755),
    entry("./usr/bin/perl", b"program", mode=0o755),
    entry("./usr/bin/perl5.40", type=tarfile.LNKTYPE, linkname="./usr/bin/perl"),
    entry("./usr/bin/dpkg-link", type=tarfile.LNKTYPE, linkname="./usr/bin/apt-get"),
    entry("./usr/lib/x86_64-linux-gnu/libc.so.6", b"library", mode=0o755),
    entry("./usr/lib/x86_64-linux-gnu/gconv/BIG5.so", b"library"),
    entry("./usr/share/terminfo/x/xterm", b"terminal"),
    entry("./usr/share/doc/libc6/copyright", b"licence"),
    entry("./usr/share/doc/libc6/README", b"text"),
    entry("./etc/passwd", b"root"),
    entry("./etc/resolv.conf", b"nameserver"),
    entry("./etc/os-release", b"Debian"),
    entry("./dev/sda", type=tarfile.BLKTYPE, mode=0o660),
    entry("./var/lib/dpkg/status", b"packages"),
    entry("./var/pipe", type=tarfile.FIFOTYPE),
]


def test_no_privileged_bit_device_or_capability_survives(tmp_path: Path) -> None:
    with cleaned(tmp_path, *SYSTEM, libraries_only=False) as tar:
        for member in tar:
            assert member.mode & 0o6000 == 0, member.name
            assert not member.pax_headers
            assert member.isreg() or member.isdir() or member.issym() or member.islnk()
            assert member.mtime == EPOCH
        names = tar.getnames()
    assert {"usr/bin/su", "usr/bin/wall", "usr/bin/ping", "usr/bin/perl", "usr/bin/perl5.40", "bin"} <= set(
        names
    )
    assert not {name for name in names if "dpkg" in name or "apt" in name}
    assert not {"etc/passwd", "etc/resolv.conf", "var/pipe", "usr/share/doc/libc6/README"} & set(names)


def test_libraries_only_means_no_program(tmp_path: Path) -> None:
    with cleaned(tmp_path, *SYSTEM, libraries_only=True) as tar:
        files = {member.name for member in tar if not member.isdir()}
    assert files == {
        "bin",
        "etc/os-release",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
        "usr/share/doc/libc6/copyright",
        "usr/share/terminfo/x/xterm",
    }


def test_every_directory_is_there_before_what_is_in_it(tmp_path: Path) -> None:
    with cleaned(tmp_path, *SYSTEM, libraries_only=True) as tar:
        seen: set[str] = set()
        for member in tar:
            parent = member.name.rpartition("/")[0]
            assert not parent or parent in seen, member.name
            assert member.name not in seen
            seen.add(member.name)
        assert tar.getmember("tmp").mode == 0o1777


@pytest.mark.parametrize(
    "name",
    [
        *("usr/bin/apt", "usr/bin/dpkg-deb", "sbin/apk", "usr/local/bin/npm", "usr/sbin/update-passwd"),
        *("etc/apt/sources.list", "var/lib/apt/lists/x", "var/cache/x", "usr/share/man/man1/ls.1", "proc/1"),
        *("usr/local/lib/node_modules/npm/index.js", ".dockerenv", "etc/shadow-", "run/lock/x"),
    ],
)
def test_unwanted(name: str) -> None:
    assert not is_wanted(name, libraries_only=False)


@pytest.mark.parametrize(
    "name",
    ["usr/bin/env", "usr/local/bin/node", "etc/ssl/certs/ca.crt", "usr/share/doc/x/copyright", "opt/x"],
)
def test_wanted(name: str) -> None:
    assert is_wanted(name, libraries_only=False)
    assert is_wanted(name, libraries_only=True) == name.endswith("copyright")


def test_the_same_context_is_the_same_bytes(tmp_path: Path) -> None:
    def packed(when: int) -> bytes:
        tree = tmp_path / str(when)
        (tree / "bin").mkdir(parents=True)
        (tree / "bin/tool").write_text("#!/bin/sh\n")
        (tree / "bin/tool").chmod(0o700)
        (tree / "bin/link").symlink_to("tool")
        (tree / "text").write_text("text")
        context = BuildContext()
        context.add("cli", tree)
        context.add("home/appuser", None)
        context.add("gate", b"program", program=True)
        context.add("commands", b"ably\n")
        result = io.BytesIO()
        context.pack(result)
        return result.getvalue()

    first, second = packed(1), packed(2)
    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        modes = {member.name: member.mode for member in tar if not member.issym()}
        assert all(member.uid == member.gid == 0 and member.uname == "" for member in tar)
    assert modes == {
        "cli": 0o755,
        "cli/bin": 0o755,
        "cli/bin/tool": 0o755,
        "cli/text": 0o644,
        "home/appuser": 0o755,
        "gate": 0o755,
        "commands": 0o644,
    }
