"""Ends an engine of the project's own, and clears away what one left that did not end in order.

An engine with `--live-restore` that is killed leaves its containers running, each under a shim that waits for
the next engine. Ending the engine for good means that there is none, so whatever still runs in its containers
is ended here, and the file systems that they stood on are unmounted.
"""

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from supervisor.errors import ConfigurationError
from supervisor.provision import addresses, daemon, firewall, remapping
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.host import run
from supervisor.provision.processes import all_processes, end_process

_END_GRACE: Final = 30.0  # seconds; an engine without containers ends within one
_DEATH_GRACE: Final = 10.0  # seconds for processes that were killed to be gone
_POLL: Final = 0.02
_COMMAND_DEADLINE: Final = 30.0
_SHIM: Final = "containerd-shim"  # the kernel keeps 15 bytes of a name


async def end(paths: EnginePaths, network_bridges: list[str]) -> None:
    """End the engine at `paths`, and remove what it left in its run directory.

    When set-up started it, its bridges and firewall rules go, too. What others made is left alone.

    Args:
        paths: which.
        network_bridges: further devices to remove: those of its networks, which it makes again at its next
            start. Those within its own address block are found without.

    Raises:
        ConfigurationError: it does not end.
    """
    pid = daemon.running_pid(paths)
    if pid is not None and not await end_process(pid, str(paths.data), _END_GRACE):
        raise ConfigurationError(
            f"the engine (pid {pid}) does not end; it says in {paths.log}:\n{daemon.last_words(paths)}"
        )
    await daemon.end_containerd(paths)
    await _end_shims(paths)
    if mark := daemon.read_mark(paths):
        bridges = list(dict.fromkeys([paths.bridge, *network_bridges, *await _bridges_in_block(paths)]))
        for device in filter(daemon.device_exists, bridges):
            await run(["ip", "link", "delete", "dev", device], timeout=_COMMAND_DEADLINE)
        await firewall.clean(bridges, mark.chains_before)
    for leftover in (paths.socket, paths.pid_file, paths.mark_file):
        leftover.unlink(missing_ok=True)
    while points := _left_mounted(paths):  # one may have covered another
        for point in points:
            await run(["umount", str(point)], timeout=_COMMAND_DEADLINE)
    for root in _exec_roots(paths):
        if not mounts_below(root):
            shutil.rmtree(root, ignore_errors=True)


def _exec_roots(paths: EnginePaths) -> list[Path]:
    """Return the exec root, and those beside it that the engine made while it remapped users (UID.GID)."""
    return [paths.exec_root, *paths.exec_root.parent.glob(f"{paths.exec_root.name}.[0-9]*.[0-9]*")]


async def _end_shims(paths: EnginePaths) -> None:
    """Kill what runs in containers without an engine, then what held them. An engine elsewhere, whose
    processes are seen from here, may well have the same paths: its network namespace is another one.
    """
    namespace = Path("/proc/self/ns/net").stat().st_ino
    shims = [
        info.pid
        for info in all_processes()
        if info.name.startswith(_SHIM)
        and info.network_namespace == namespace
        and daemon.names(info, f"{paths.exec_root}/")
    ]
    for shim in shims:
        # The first processes of its containers: with them, the kernel ends all the others there.
        await _kill(_children(shim))
        await _kill([shim])


async def _kill(pids: list[int]) -> None:
    """Kill these processes and wait until they are gone.

    Raises:
        ConfigurationError: one stays, as a process does that waits for a disk.
    """
    for pid in pids:
        with suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                with trio.move_on_after(_DEATH_GRACE) as waiting:
                    await trio.lowlevel.wait_readable(handle)
            finally:
                os.close(handle)
            if waiting.cancelled_caught:
                raise ConfigurationError(f"process {pid}, left by the engine, does not end")


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []


async def _bridges_in_block(paths: EnginePaths) -> list[str]:
    """Return the bridges of networks that the engine made in its address block: it cannot be asked now."""
    block = addresses.read_block(paths.address_file)
    if block is None:
        return []
    routes = await addresses.host_routes()
    return [
        route.device for route in routes if route.device.startswith("br-") and route.network.subnet_of(block)
    ]


def _left_mounted(paths: EnginePaths) -> list[Path]:
    """Return what must be unmounted, innermost first.

    An engine mounts its data root on itself (with remapped users a directory in the one that was named) and
    each container's root file system in there, and leaves that behind when it crashes or fails to start; in
    its run directory are its containers' network namespaces. A disk that somebody mounted at a data root
    stays.
    """
    roots = [paths.data, *remapping.remapped_roots(paths)]
    found = [point for root in roots for point, on_itself in _mounts(root) if point == root and on_itself]
    found += [point for point in mounts_below(paths.data) if point not in roots]
    for root in _exec_roots(paths):
        found += mounts_below(root)
    return sorted(found, key=lambda point: len(point.parts), reverse=True)


def _mounts(directory: Path) -> list[tuple[Path, bool]]:
    """Return where something is mounted, in `directory` and on it, as far as paths lead there: not what is
    covered by something else. And whether it is a directory that is mounted on itself (proc(5),
    /proc/pid/mountinfo).
    """
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    by_id = {fields[0]: fields for fields in lines}
    return [
        (point, _is_on_itself(fields, by_id.get(fields[1])))
        for fields in lines
        if (point := Path(fields[4])).is_relative_to(directory) and fields[0] == _mount_id(point)
    ]


def _mount_id(path: Path) -> str | None:
    """Return the id of the mount that `path` leads to, None when there is no such path."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        words = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
    finally:
        os.close(descriptor)
    return words[words.index("mnt_id:") + 1]


def _is_on_itself(mount: list[str], below: list[str] | None) -> bool:
    """Return whether a line of mountinfo is that of a directory mounted on itself; `below` is the line of
    what it is mounted on.
    """
    _, _, device, root, point, *_ = mount
    if below is None or device != below[2]:
        return False
    return Path(root) == Path(below[3]) / Path(point).relative_to(below[4])


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points in `directory`, itself excepted."""
    return [point for point, _ in _mounts(directory) if point != directory]
