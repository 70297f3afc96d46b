"""Compiles the small static C programs that go into the containers: the gate and the restricted shell.

The C compiler of this host is used when there is one that can link statically, else the `ziglang` package
(Clang with musl, which also compiles for machines other than this one). What was compiled is remembered in a
digest file beside the program, so that a second set-up has nothing to do.
"""

import functools
import hashlib
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from supervisor.errors import ConfigurationError

_COMPILE_DEADLINE = 600.0  # seconds; zig builds its C library on first use, which takes a minute on two cores

_COMMON_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,-z,noexecstack")

# Hosted programs are position independent, so that the kernel loads them at a random address.
_HOSTED_FLAGS = ("-fPIE", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2")

# Without a C library there is nobody to relocate the program or to seed a stack canary. (It defines memcpy,
# memmove, memset and memcmp itself: compilers call them even so.)
_FREESTANDING_FLAGS = (
    "-ffreestanding",
    "-nostdlib",
    "-static",
    "-fno-pie",
    "-no-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none",
    "-Os",
)

_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}


def docker_directory() -> Path:
    """Return the directory of the image's sources: in the checkout, or in the installed package."""
    package = Path(__file__).parents[1]
    installed = package / "_docker"
    return installed if installed.is_dir() else package.parent / "docker"


def machine_name(target: str | None = None) -> str:
    """Return `x86_64` or `aarch64` for `target` in the kernel's or Docker's spelling; None is this host.

    Raises:
        ConfigurationError: the programs have not been ported to that machine.
    """
    name = target or platform.machine()
    machine = _MACHINES.get(name.lower())
    if machine is None:
        raise ConfigurationError(f"machine {name!r}: only x86_64 (amd64) and aarch64 (arm64) are supported")
    return machine


def compile_static(
    sources: Sequence[Path], destination: Path, *, freestanding: bool, target: str | None = None
) -> Path:
    """Compile `sources` to the static program `destination` and return it; nothing to do when up to date.

    Args:
        sources: `.c` files, and the headers that they include (a change to those compiles anew).
        destination: where the program goes (mode 0755), replaced atomically; its directory is made when
            missing. The digest of sources and flags is kept beside it, with `.digest` appended to the name.
        freestanding: without a C library; the program has its own `_start`, at a fixed address.
        target: machine to compile for, `x86_64` or `aarch64` (or `amd64`, `arm64`); None is this host's.

    Raises:
        ConfigurationError: this host has no usable compiler, or the compiler refused; the text says why.
    """
    machine = machine_name(target)
    flags = (*_COMMON_FLAGS, *(_FREESTANDING_FLAGS if freestanding else _HOSTED_FLAGS))
    digest_file = destination.with_name(destination.name + ".digest")
    digest = _digest(sources, flags, machine)
    if destination.exists() and digest_file.exists() and digest_file.read_text() == digest:
        return destination
    command = [*_compiler(machine, freestanding), *flags]
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".compile-") as scratch:
        program = Path(scratch) / destination.name
        inputs = [str(source) for source in sources if source.suffix == ".c"]
        complaint = _run([*command, *inputs, "-o", str(program)])
        if complaint is not None:
            raise ConfigurationError(f"could not compile {destination.name} with {command[0]}: {complaint}")
        program.chmod(0o755)
        # The digest must never promise more than the program: the old one goes first, the new one comes last.
        digest_file.unlink(missing_ok=True)
        program.replace(destination)
        written = Path(scratch) / digest_file.name
        written.write_text(digest)
        written.replace(digest_file)
    return destination


def _digest(sources: Sequence[Path], flags: Sequence[str], machine: str) -> str:
    result = hashlib.sha256(repr((machine, tuple(flags))).encode())
    for source in sources:
        content = source.read_bytes()
        result.update(f"\0{source.name}\0{len(content)}\0".encode() + content)
    return result.hexdigest()


def _compiler(machine: str, freestanding: bool) -> list[str]:
    # Code and constants may share pages, which makes the smallest programs a third of the size. (Zig's linker
    # does not know the option, and does so anyway.)
    linking = ["-Wl,-z,noseparate-code"] if freestanding else ["-static-pie"]
    refusal = "there is no cc for another machine than this one"
    if machine == machine_name():
        compiler = shutil.which("cc")
        refusal = "there is no cc" if compiler is None else _refusal(compiler)
        if compiler is not None and not refusal:
            return [compiler, *linking]
    if importlib.util.find_spec("ziglang") is None:
        raise ConfigurationError(
            f"no C compiler for static {machine} programs: {refusal}, and the Python package ziglang is not "
            "there either; install gcc and libc6-dev, or run: uv pip install ziglang"
        )
    # zig spells static-pie "-static -pie".
    linking = [] if freestanding else ["-static", "-pie"]
    return [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine}-linux-musl", *linking]


@functools.cache
def _refusal(compiler: str) -> str:
    """Return why `compiler` cannot make static programs (many hosts lack the static libc), or nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "probe.c"
        source.write_text(
            "#include <unistd.h>\n#include <linux/types.h>\nint main(void) { return getpid() < 0; }\n"
        )
        complaint = _run([compiler, "-fPIE", "-static-pie", str(source), "-o", str(source.with_suffix(""))])
    return (
        "" if complaint is None else f"{compiler} cannot link a static program ({complaint.splitlines()[-1]})"
    )


def _run(command: Sequence[str]) -> str | None:
    """Run a compiler; return what it complained about, or None when it succeeded."""
    try:
        result = subprocess.run(  # noqa: S603 - a fixed command with our own file names, no shell
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COMPILE_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no result within {_COMPILE_DEADLINE:g} s"
    if result.returncode == 0:
        return None
    return result.stderr.strip() or f"exit status {result.returncode}"
