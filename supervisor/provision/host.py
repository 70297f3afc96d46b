"""This host, as set-up sees it: its programs, its package manager, and commands run with a deadline.

Only root on Debian or Ubuntu gets packages installed; everybody else gets one error that names all that is
missing.
"""

import collections
import functools
import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import trio

from supervisor.errors import ConfigurationError

# People who are not root, or are by way of su, often lack the directories of administrators' programs.
SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
)
_KEPT_LINES = 15  # of a failed command's output, for its error
_APT_DEADLINE = 900.0  # seconds
_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = (
    "#!/bin/sh\n"
    "# Temporary, by terminal-supervisor's set-up: do not start services on installation.\n"
    "exit 101\n"
)


class CommandError(ConfigurationError):
    """A command of set-up failed. The text has its last lines of output, `output` all that was kept."""

    def __init__(self, message: str, output: str) -> None:
        super().__init__(message)
        self.output = output


def find_program(name: str) -> str | None:
    """Return the path of program `name`, administrators' directories included."""
    return shutil.which(name, path=SEARCH_PATH)


async def run(
    command: Sequence[str | Path],
    *,
    timeout: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    on_line: Callable[[str], object] = lambda _: None,
) -> str:
    """Run `command` without input and return what it printed (standard output and error together).

    Args:
        command: program and arguments; the program is found as by `find_program`.
        timeout: seconds after which it is killed.
        cwd: working directory.
        environment: variables besides this process's own.
        on_line: called with each line as it comes, for progress.

    Raises:
        CommandError: it is not there, failed, or took too long.

    Resource handling: a cancelled command is terminated, and killed when it does not go.
    """
    argv = [str(part) for part in command]
    name = " ".join(argv[:3])
    program = find_program(argv[0])
    if program is None:
        raise CommandError(f"{argv[0]}: no such program on this host", "")
    lines: list[str] = []

    async def collect(stream: trio.abc.ReceiveStream) -> None:
        rest = b""
        async for chunk in stream:
            *complete, rest = (rest + chunk.replace(b"\r", b"\n")).split(b"\n")
            for line in complete:
                note(line)
        note(rest)

    def note(line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            lines.append(text)
            on_line(text)

    full_environment = {**os.environ, "PATH": SEARCH_PATH, **(environment or {})}
    running = functools.partial(
        trio.run_process,
        [program, *argv[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=full_environment,
        check=False,
    )
    status: int | None = None
    with trio.move_on_after(timeout) as scope:
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(running)
            assert process.stdout is not None
            await collect(process.stdout)
        status = process.returncode
    tail = "\n".join(collections.deque(lines, _KEPT_LINES))
    if scope.cancelled_caught:
        raise CommandError(f"{name} ... did not end within {timeout:g} s. Its last lines:\n{tail}", tail)
    if status != 0:
        raise CommandError(f"{name} ... failed (status {status}):\n{tail}", tail)
    return "\n".join(lines)


@attrs.frozen
class Need:
    """A program or file that a step of set-up needs.

    Attributes:
        program: its name; any of several, separated by `|`. What has a `/` in it is a pattern of paths.
        packages: the Debian packages that bring it.
        purpose: what for, in a few words, for the error.
    """

    program: str
    packages: tuple[str, ...]
    purpose: str

    @property
    def met(self) -> bool:
        """Whether the program is there."""
        return any(
            glob.glob(name) if "/" in name else find_program(name)  # noqa: PTH207 - a pattern from the root
            for name in self.program.split("|")
        )


def can_install() -> bool:
    """Whether set-up may install packages here: root, on Debian or a relative."""
    return os.geteuid() == 0 and find_program("apt-get") is not None and Path("/etc/debian_version").exists()


async def require(needs: Sequence[Need], progress: Callable[[str], object]) -> list[str]:
    """See to it that all `needs` are met, by installing what is missing; return the packages that were
    installed.

    Raises:
        ConfigurationError: something is missing and cannot be installed; the text names everything missing at
            once.
    """
    missing = [need for need in needs if not need.met]
    if not missing:
        return []
    packages = list(dict.fromkeys(package for need in missing for package in need.packages))
    if not can_install():
        raise ConfigurationError(_missing_text(missing, packages))
    await apt_install(packages, progress)
    still = [need for need in missing if not need.met]
    if still:
        raise ConfigurationError(
            "installed, and still not there: "
            + ", ".join(f"{need.program} ({need.purpose})" for need in still)
        )
    return packages


def _missing_text(missing: Sequence[Need], packages: Sequence[str]) -> str:
    lines = [f"  {need.program.split('|')[0]}: {need.purpose}" for need in missing]
    return (
        "this host lacks programs that set-up needs, and set-up can install them only as root on Debian "
        "or Ubuntu:\n"
        + "\n".join(lines)
        + f"\nOn Debian or Ubuntu:  sudo apt-get install {' '.join(packages)}"
    )


async def apt_install(packages: Sequence[str], progress: Callable[[str], object]) -> None:
    """Install Debian packages, without what they only recommend, and without starting services where no
    systemd runs.

    Raises:
        CommandError: apt failed, even with fresh lists.
    """
    environment = {
        "DEBIAN_FRONTEND": "noninteractive",
        # needrestart would restart other people's services, and ask first.
        "NEEDRESTART_SUSPEND": "1",
    }
    progress(f"installing {' '.join(packages)}")
    complaint = ""
    try:
        await run(
            ["apt-get", "-q", "update"], timeout=_APT_DEADLINE, environment=environment, on_line=progress
        )
    except CommandError as error:
        complaint = f"\n(before that, apt-get update said: {error})"
    command = ["apt-get", "-q", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    policy = forbid_service_starts()
    try:
        await run([*command, *packages], timeout=_APT_DEADLINE, environment=environment, on_line=progress)
    except CommandError as error:
        raise CommandError(f"{error}{complaint}", error.output) from None
    finally:
        if policy:
            _POLICY.unlink(missing_ok=True)


def forbid_service_starts() -> bool:
    """Keep packages from starting daemons where no systemd would supervise them; return whether a policy was
    put.

    The Docker package's SysV script would start an engine that nobody ends. A policy that exists is left
    alone, one of ours that an interrupted set-up left behind is taken over. See policy-rc.d in
    invoke-rc.d(8).
    """
    if Path("/run/systemd/system").exists():
        return False
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        return False
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    return True
