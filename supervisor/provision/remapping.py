"""Whether the project's own engine maps the users of containers to others of this host, and what that takes.

It takes a kernel that gives user namespaces (user_namespaces(7)), a data root that those others can reach
(root file systems are in it), and a user whose subordinate ids they are (subuid(5), subgid(5)). `dockerd
--userns-remap=default` makes that user by itself, but only with tools that it knows and where both files are
there, and it gives no ids to a user that it finds without. So set-up does it beforehand: what cannot be is
known before the engine starts, and by its reason.
"""

import grp
import itertools
import pwd
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from supervisor.admission.host_limits import INOTIFY, KEY_BYTES, KEY_SIZE, KEYS, PROC, ample_keys
from supervisor.errors import ConfigurationError
from supervisor.provision.daemon import EnginePaths, read_mark
from supervisor.provision.host import CommandError, Need, require, run
from supervisor.provision.kernel_limits import raise_to
from supervisor.provision.report import Step

USER: Final = "dockremap"
"""Whose subordinate ids containers get: the user that `--userns-remap=default` means (dockerd(8))."""
IDS: Final = 65_536
"""How many ids containers need; the last but one is that of `nobody`."""

_NEEDS: Final = (
    Need("useradd", ("passwd",), "to make the user whose ids containers get"),
    Need("usermod", ("passwd",), "to give that user ids for containers"),
)
_FIRST: Final = 100_000  # SUB_UID_MIN of login.defs(5)
_COMMAND_DEADLINE: Final = 30.0  # seconds
_FILES: Final = {"uid": Path("/etc/subuid"), "gid": Path("/etc/subgid")}
_LIMIT: Final = Path("/proc/sys/user/max_user_namespaces")
_CONTAINERS: Final = 250  # for which the kernel's limits are raised before anybody names a capacity
_FOR_ALL: Final = {
    INOTIFY: 8192,  # `shares.INSTANCES` for each, and some
    KEYS: ample_keys(_CONTAINERS),
    KEY_BYTES: ample_keys(_CONTAINERS) * KEY_SIZE,
}


async def of_next(paths: EnginePaths, wish: str, step: Step) -> bool:
    """Return whether the engine that is about to start at `paths` maps users: like one that crashed, or else
    as in `is_to_be`.
    """
    if crashed := read_mark(paths):
        # Containers that outlived it are found again by its like alone.
        if wish not in {"auto", str(crashed.remaps).lower()}:
            step.notice(f"started again as it was, ENGINE_USERNS_REMAP={wish} counts after `make down`")
        return crashed.remaps
    remaps = await is_to_be(paths, wish, step)
    if remaps:
        raise_shares(step)
    if leaves_images(paths, remap=remaps):
        others = "others of this host" if remaps else "this host's"
        step.notice(
            f"containers' users are {others} from now on, and images are kept apart for that: they are made "
            f"again; those of before stay in {paths.data} until `make clean`"
        )
    return remaps


async def is_to_be(paths: EnginePaths, wish: str, step: Step) -> bool:
    """Return whether the engine at `paths` is to map users by `wish` (`true`, `false`, or `auto` for where it
    can), and see to all that it needs for that. Takes root.

    Raises:
        ConfigurationError: it must, and cannot; the text says why.
    """
    if wish == "false":
        return False
    try:
        await make_possible(paths, step.progress)
    except ConfigurationError as error:
        if wish == "true":
            raise ConfigurationError(f"ENGINE_USERNS_REMAP=true, but no user namespaces: {error}") from error
        step.notice(f"no user namespaces, containers' users are this host's: {error}")
        return False
    return True


async def make_possible(paths: EnginePaths, progress: Callable[[str], object]) -> None:
    """See to all that the engine at `paths` needs to remap users. Takes root.

    Raises:
        ConfigurationError: it cannot be had; the text says why.
    """
    if closed := closed_parents(paths):
        raise ConfigurationError(
            f"they could not reach {paths.data}, where root file systems are: "
            f"chmod o+x {' '.join(str(each) for each in closed)}"
        )
    await _try_kernel()
    await _ensure_user(progress)
    for kind, file in _FILES.items():
        ranges = [(first, count) for owner, first, count in _entries(file) if owner in _names()]
        if sum(count for _, count in ranges) < IDS:
            raise ConfigurationError(f"{file} gives {USER} fewer than the {IDS} ids that containers need")
        here = Path(f"/proc/self/{kind}_map")
        if not all(has_range(here.read_text(), *each) for each in ranges):
            raise ConfigurationError(
                f"this is a container itself, without some of the ids that {file} gives {USER} (see {here})"
            )


def closed_parents(paths: EnginePaths) -> list[Path]:
    """Return the directories above the data root that others may not pass. Those that are not there yet,
    set-up will make, and open.
    """
    return [each for each in paths.data.parents if each.exists() and not each.stat().st_mode & stat.S_IXOTH]


async def _try_kernel() -> None:
    if _LIMIT.exists() and int(_LIMIT.read_text()) == 0:
        raise ConfigurationError("this host allows no user namespaces (sysctl user.max_user_namespaces is 0)")
    # In short what runtimes do for a container. Inside of another container, either part may be refused.
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true"]
    try:
        await run(command, timeout=_COMMAND_DEADLINE)
    except CommandError as error:
        raise ConfigurationError(f"the kernel gives no user namespaces here: {error}") from error


async def _ensure_user(progress: Callable[[str], object]) -> None:
    """Have the user, and for it ids that nobody else has; those that it has already, it keeps."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        await require(_NEEDS, progress)
        options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent"]
        await run(["useradd", *options, "--shell=/usr/sbin/nologin", USER], timeout=_COMMAND_DEADLINE)
    entries = {kind: _entries(file) for kind, file in _FILES.items()}
    all_entries = itertools.chain.from_iterable(entries.values())
    of_others = [(begin, count) for owner, begin, count in all_entries if owner not in _names()]
    first = free_range([*of_others, *_of_accounts()])
    for kind, file in _FILES.items():
        if any(owner in _names() for owner, _, _ in entries[kind]):
            continue
        await require(_NEEDS, progress)
        _make_file(file)
        ids = f"{first}-{first + IDS - 1}"
        await run(["usermod", f"--add-sub{kind}s", ids, USER], timeout=_COMMAND_DEADLINE)


def _make_file(file: Path) -> None:
    """Make `file`, if it is not there: usermod(8) would refuse."""
    if not file.exists():
        try:
            file.touch()
            file.chmod(0o644)
        except OSError as error:
            raise ConfigurationError(f"{file} cannot be made: {error}") from error


def _names() -> tuple[str, str]:
    """Return what the user is called in the files of subordinate ids: by name, or by number."""
    return USER, str(pwd.getpwnam(USER).pw_uid)


def _entries(file: Path) -> list[tuple[str, int, int]]:
    """Return owner, first id and number of ids of each line that makes sense (subuid(5))."""
    text = file.read_text() if file.exists() else ""
    found = re.findall(r"^([^:\s]+):(\d+):(\d+)\s*$", text, re.MULTILINE)
    return [(owner, int(first), int(count)) for owner, first, count in found]


def _of_accounts() -> list[tuple[int, int]]:
    """Return the ids of this host's own users and groups, each as a range."""
    ids = [each.pw_uid for each in pwd.getpwall()] + [each.gr_gid for each in grp.getgrall()]
    return [(each, 1) for each in ids]


def free_range(taken: Iterable[tuple[int, int]]) -> int:
    """Return the first of `IDS` ids that are in no range of `taken` (first id and number of ids of each)."""
    first = _FIRST
    for begin, count in sorted(taken):
        if begin < first + IDS and first < begin + count:
            first = begin + count
    return first


def has_range(id_map: str, first: int, count: int) -> bool:
    """Return whether `id_map`, of a process, has these ids of its user namespace in one line
    (user_namespaces(7), "User and group ID mappings").
    """
    lines = [[int(field) for field in line.split()] for line in id_map.splitlines()]
    return any(begin <= first and first + count <= begin + length for begin, _, length in lines)


def remapped_roots(paths: EnginePaths) -> list[Path]:
    """Return the root directories that the engine has had while it remapped users (UID.GID)."""
    inside = paths.data.iterdir() if paths.data.is_dir() else ()
    return [each for each in inside if re.fullmatch(r"\d+\.\d+", each.name)]


def leaves_images(paths: EnginePaths, *, remap: bool) -> bool:
    """Return whether the engine, when started so, finds none of the images that it had: those of remapped
    users are apart from others.
    """
    plain, remapped = (paths.data / "image").is_dir(), bool(remapped_roots(paths))
    return plain and not remapped if remap else remapped and not plain


def raise_shares(step: Step, proc: Path = PROC) -> None:
    """See to it that the kernel's users to whom it charges what all containers with remapped users take (the
    host's root and the containers') may have enough of it; tell what was done.
    """
    for name, value in _FOR_ALL.items():
        if told := raise_to(name, value, proc):
            step.notice(told)
