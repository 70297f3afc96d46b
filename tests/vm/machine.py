"""Runs a script as root in a throw-away Debian 12 machine: AppArmor, cgroup version 2, nftables, an engine.

The machine is emulated (qemu, TCG), so it takes no rights of the host and no KVM, and is many times slower
than the host. Nothing in it is late for that: its clock counts instructions, a nanosecond each, while it has
something to do. So times that are right for a host of 1 GHz are right for it, however busy the host is. It
has no network card. Every run starts from the same disk; what a run writes to it is forgotten.
"""

import contextlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import trio

from supervisor.provision.host import find_program
from vm.disk import Disk

MEMORY: Final = 2048  # MiB
CPUS: Final = 1  # they would take turns: instructions are counted one after the other
_OUT_SIZE: Final = 1 << 31  # bytes that a script may hand back; sparse
_POWER_OFF_GRACE: Final = 5.0  # seconds from the script's status to the machine's end
_LAST_WORDS_GRACE: Final = 5.0  # seconds to read what it said before its end
_CONSOLE_LINES: Final = 30  # shown where the machine ended without a status
_LEFT_OUT: Final = {"__pycache__", "node_modules"}  # of what is shared
_KERNEL_ARGUMENTS: Final = (
    "console=ttyS0 quiet loglevel=4 root=/dev/nvme0n1 rw rootfstype=ext4 apparmor=1 security=apparmor "
    "systemd.unified_cgroup_hierarchy=1 systemd.unit=vm.service systemd.show_status=0 "
    "random.trust_cpu=1 panic=-1 oops=panic edd=off mitigations=off"
)


class MachineError(Exception):
    """The machine ended without the script's status, or did not end in time. The text has its last words."""


async def run_in_machine(
    disk: Disk,
    script: Path,
    arguments: Sequence[str] = (),
    *,
    share: Iterable[tuple[Path, str]] = (),
    out: Path | None = None,
    timeout: float,
    on_output: Callable[[bytes], object] = lambda _: None,
    options: Sequence[str] = (),
) -> int:
    """Run `script` in a machine of its own and return its exit status.

    Args:
        disk: from `ensure_disk`.
        script: an executable file, which is run as root in /vm/share.
        arguments: its arguments.
        share: files and directories of this host, and where below /vm/share they are.
        out: directory that gets what the script leaves in /vm/out.
        timeout: seconds for all of it; starting takes 15 to 30 on a quiet host.
        on_output: gets the script's output, standard output and error together, as it comes.
        options: further arguments of qemu.

    Raises:
        MachineError: there was no status in time.

    Resource handling: the machine is killed on leaving, however that is.
    """
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-vm-") as scratch:
        here = Path(scratch)
        await trio.to_thread.run_sync(_pack, here / "in.img", script, arguments, tuple(share))
        with (here / "out.img").open("wb") as file:
            file.truncate(_OUT_SIZE)
        status = b""

        async def take_status(listener: trio.SocketListener) -> None:
            nonlocal status
            async with await listener.accept() as stream:
                async for chunk in stream:
                    status += chunk
                    # It powers itself off, and its disks are complete then.
                    running.deadline = min(running.deadline, trio.current_time() + _POWER_OFF_GRACE)

        with trio.move_on_after(timeout) as scope:
            async with (
                _listening(here / "output") as output,
                _listening(here / "status") as ending,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(_pass_on, output, on_output)
                nursery.start_soon(take_status, ending)
                with trio.CancelScope() as running:
                    await _run_qemu(disk, here, options)
                # What it said last is in the sockets still; when it never started, nobody has connected.
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS_GRACE
        if not status.strip().isdigit():
            console = here / "console"
            lines = console.read_text(errors="replace").splitlines() if console.exists() else []
            why = f"did not end within {timeout:g} s" if scope.cancelled_caught else "ended without a status"
            raise MachineError(f"the machine {why}; its console:\n" + "\n".join(lines[-_CONSOLE_LINES:]))
        if out is not None:
            await trio.to_thread.run_sync(_unpack, here / "out.img", out)
        return int(status)


def _pack(file: Path, script: Path, arguments: Sequence[str], share: Sequence[tuple[Path, str]]) -> None:
    listed = file.with_name("arguments")
    listed.write_text("".join(f"{argument}\0" for argument in arguments))
    with tarfile.open(file, "w", dereference=False) as archive:
        archive.add(listed, "arguments")
        archive.add(script.resolve(), "script", filter=_executable)
        for source, name in share:
            archive.add(source, f"share/{name}", filter=_of_root)
    with file.open("r+b") as stream:  # a disk has whole sectors
        size = stream.seek(0, 2)
        stream.truncate(size + -size % 4096)


def _unpack(file: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file) as archive:
        archive.extractall(out, filter="data")


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if Path(member.name).name in _LEFT_OUT:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _executable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode = 0o755
    return member


@contextlib.asynccontextmanager
async def _listening(path: Path) -> AsyncGenerator[trio.SocketListener]:
    """Listen at `path`: qemu connects to it when it starts."""
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    with socket:
        await socket.bind(str(path))
        socket.listen(1)
        yield trio.SocketListener(socket)


async def _run_qemu(disk: Disk, here: Path, options: Sequence[str]) -> None:
    """Run the machine to its end. What qemu itself complains about goes to this process's standard error."""
    drives = {
        "root": f"file={disk.image},snapshot=on",
        "in": f"file={here / 'in.img'},readonly=on",
        "out": f"file={here / 'out.img'},cache=unsafe",
    }
    command = [
        find_program("qemu-system-x86_64") or "qemu-system-x86_64",
        *("-accel", "tcg,thread=single", "-icount", "shift=0"),
        *("-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"),
        *("-machine", "pc", "-smp", str(CPUS), "-m", str(MEMORY), "-nodefaults", "-no-user-config"),
        *("-no-reboot", "-display", "none", "-kernel", str(disk.kernel), "-append", _KERNEL_ARGUMENTS),
        *("-serial", f"file:{here / 'console'}", "-device", "virtio-serial-pci"),
    ]
    for name, drive in drives.items():
        command += ["-drive", f"if=none,id={name},format=raw,{drive}"]
        command += ["-device", f"nvme,drive={name},serial={name}"]
    for name in ("output", "status"):
        command += ["-chardev", f"socket,id={name},path={here / name}"]
        command += ["-device", f"virtserialport,chardev={name},name={name}"]
    await trio.run_process(
        [*command, *options],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        # Its temporary files (what the machine writes to its disk) go when the directory goes.
        env={"TMPDIR": str(here)},
        deliver_cancel=_kill,
    )


async def _kill(process: trio.Process) -> None:
    process.kill()


async def _pass_on(listener: trio.SocketListener, on_output: Callable[[bytes], object]) -> None:
    async with await listener.accept() as stream:
        async for chunk in stream:
            on_output(bytes(chunk))
