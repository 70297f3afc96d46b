"""Runs a command with the confinement of the unit file, as far as that can be had without a running systemd:

    unshare --mount --propagation slave python confined.py --files UNIT COMMAND…

What the file says is read from the file: capabilities, paths, system calls, with the groups of system calls
that the installed systemd knows. The rest of its settings has one meaning each here, which the file must ask
for; what is looked up and not there is an error. /tmp is another one, but for this checkout and its
interpreter, should they be there. Not done here: ProtectHome (an interpreter may live there),
RestrictSUIDSGID, RestrictRealtime, the control group of devices.

Sources: systemd.exec(5), the manual of systemd 252; seccomp_rule_add_array(3); mount(8); setpriv(1).
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Final

Unit = dict[str, list[str]]
"""Words of each setting, in all its lines."""

ALLOW: Final = 0x7FFF0000  # SCMP_ACT_ALLOW
_ERRNO: Final = 0x00050000  # SCMP_ACT_ERRNO(0)
_EPERM, _ENOSYS = 1, 38
_EQUAL, _MASKED_EQUAL = 4, 7  # enum scmp_compare
_NEW_USER: Final = 0x10000000
_NEW_OTHERS: Final = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000 | 0x80
_WRITE, _EXECUTE, _SHM_EXECUTE = 2, 4, 0o100000
_FAMILIES: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty", "pts", "shm")
_API: Final = ("/dev", "/proc", "/sys")
Rule = tuple[int, int, int, int]
"""Number of an argument, comparison, value (or mask), value under the mask."""


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def read_unit(path: Path) -> Unit:
    """Return the settings of section Service."""
    unit: Unit = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            unit.setdefault(name, []).extend(value.split())
    return unit


def setpriv(unit: Unit) -> list[str]:
    """Return the command that runs another with the unit's capabilities and no way to get more."""
    names = [name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"]]
    bounding = ",".join(["-all", *(f"+{name}" for name in names)])
    assert unit["NoNewPrivileges"] == ["yes"]
    return ["setpriv", "--inh-caps=-all", f"--bounding-set={bounding}", "--no-new-privs", "--"]


def calls_of(names: Sequence[str]) -> set[str]:
    """Return the system calls that `names` stand for, groups of them included."""
    found: set[str] = set()
    for name in names:
        if name.startswith("@"):
            listing = subprocess.run(
                ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
            ).stdout
            words = [line.strip() for line in listing.splitlines()[1:]]
            found |= calls_of([word for word in words if word and not word.startswith("#")])
        else:
            found.add(name)
    return found


def rules(unit: Unit) -> dict[str, list[Rule]]:
    """Return the calls that are let through only with arguments that meet one of these."""
    assert unit["RestrictNamespaces"] == ["user"]
    assert unit["MemoryDenyWriteExecute"] == unit["LockPersonality"] == ["yes"]
    no_code = [(2, _MASKED_EQUAL, _EXECUTE, 0)]
    return {
        "socket": [(0, _EQUAL, _FAMILIES[name], 0) for name in unit["RestrictAddressFamilies"]],
        "clone": [(0, _MASKED_EQUAL, _NEW_OTHERS, 0)],
        "unshare": [(0, _MASKED_EQUAL, _NEW_OTHERS, 0)],
        "setns": [(1, _EQUAL, _NEW_USER, 0)],
        "mmap": [(2, _MASKED_EQUAL, _WRITE | _EXECUTE, value) for value in (0, _WRITE, _EXECUTE)],
        "mprotect": no_code,
        "pkey_mprotect": no_code,
        "shmat": [(2, _MASKED_EQUAL, _SHM_EXECUTE, 0)],
        "personality": [(0, _EQUAL, 0, 0), (0, _EQUAL, 0xFFFFFFFF, 0)],
    }


def filter_calls(unit: Unit) -> None:
    """Have the kernel refuse what the unit does not let through, from now on.

    Raises:
        OSError: it cannot be done.
    """
    assert unit["SystemCallErrorNumber"] == ["EPERM"]
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | _EPERM))

    def add(action: int, call: str, *conditions: Rule) -> None:
        number = library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # another architecture's
            return
        array = (_Comparison * len(conditions))(*(_Comparison(*each) for each in conditions))
        status = library.seccomp_rule_add_array(context, action, number, len(conditions), array)
        if status < 0:
            raise OSError(-status, f"a rule for {call}")

    limited = rules(unit)
    for call in calls_of(unit["SystemCallFilter"]) - {"clone3"}:
        for rule in limited.get(call, [()]):
            add(ALLOW, call, *([rule] if rule else []))
    add(_ERRNO | _ENOSYS, "clone3")  # its flags cannot be seen; libraries go on with clone
    if status := library.seccomp_load(context):
        raise OSError(-status, "the filter of system calls")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _mounts() -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted({line.split(" ")[4].encode().decode("unicode_escape") for line in lines})


def _within(path: str, places: Sequence[str]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def arrange_files(unit: Unit) -> None:
    """Make this process's mount namespace the unit's."""
    asked = [unit[name][0] for name in ("ProtectSystem", "PrivateTmp", "PrivateDevices")]
    assert asked == ["strict", "yes", "yes"]
    own = [f"/run/{unit['RuntimeDirectory'][0]}", f"/var/lib/{unit['StateDirectory'][0]}"]
    writable = [*own, *unit["ReadWritePaths"]]
    # With a hyphen: if it is there.
    read_only = [
        path.removeprefix("-") for path in unit["ReadOnlyPaths"] if path[0] == "/" or Path(path[1:]).exists()
    ]
    for path in [*own, *read_only]:
        if path not in _mounts():
            _mount("--rbind", path, path)
    for path in ("/tmp", "/var/tmp"):
        _private(path, {str(Path(__file__).parents[2]), sys.prefix, str(Path(sys.executable).parent)})
        writable.append(path)
    _private_devices()
    for path in _mounts():
        if not _within(path, writable) and (_within(path, read_only) or not _within(path, _API)):
            # What lies under another mount is not there any more.
            subprocess.run(["mount", "-o", "remount,bind,ro", path], check=Path(path).exists())


def _private(path: str, kept: Set[str]) -> None:
    """Mount an empty directory over `path`, and those of `kept` in it that are there."""
    opened = {place: os.open(place, os.O_PATH) for place in sorted(kept) if _within(place, [path])}
    _mount("-t", "tmpfs", "tmpfs", path)
    for place, descriptor in opened.items():
        if not Path(place).exists():  # not within one of the others
            Path(place).mkdir(parents=True)
            # As it is: what the link reads like is the new, empty directory.
            _mount("--no-canonicalize", "--rbind", f"/proc/{os.getpid()}/fd/{descriptor}", place)
        os.close(descriptor)


def _private_devices() -> None:
    fresh = Path("/tmp/dev")
    fresh.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=0755,nosuid,noexec", "tmpfs", str(fresh))
    for name in _DEVICES:
        old, new = Path("/dev", name), fresh / name
        if old.is_dir():
            new.mkdir()
        else:
            new.touch()
        _mount("--rbind", str(old), str(new))
    (fresh / "ptmx").symlink_to("pts/ptmx")
    (fresh / "fd").symlink_to("/proc/self/fd")
    _mount("--rbind", str(fresh), "/dev")


def main(arguments: Sequence[str]) -> None:
    """Do it in two steps: mounts take what `setpriv` takes away, and a filter without root needs that."""
    step, path, *command = arguments
    unit = read_unit(Path(path))
    if step == "--filter":
        filter_calls(unit)
        os.execvp(command[0], command)
    arrange_files(unit)
    again = [*setpriv(unit), sys.executable, __file__, "--filter", path, *command]
    os.execvp(again[0], again)


if __name__ == "__main__":
    main(sys.argv[1:])
