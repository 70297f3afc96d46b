"""`docker/syscalls.txt`: the names of the system calls that Linux has on x86-64 and arm64.

Engines take a misspelt name in a seccomp profile for a call that their kernel lacks, so the names are checked
against this list. It is made from the kernel's headers that the package `ziglang` brings along:
`python -m supervisor.provision.syscalls > docker/syscalls.txt`.
"""

import importlib.util
import re
import sys
from pathlib import Path

_HEAD = "# System calls of Linux on x86-64 and arm64, made by supervisor/provision/syscalls.py.\n"
_HEADERS = ("x86-linux-any", "aarch64-linux-any")


def syscall_names() -> set[str]:
    """Return the names in the headers of both machines.

    Raises:
        ModuleNotFoundError: `ziglang` is not installed.
    """
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package ziglang has the headers: uv sync --group zig")
    include = Path(spec.origin).parent / "lib/libc/include"
    names: set[str] = set()
    for header in _HEADERS:
        text = (include / header / "asm/unistd_64.h").read_text()
        names |= set(re.findall(r"^#define __NR_([a-z0-9_]+)\s+\d+", text, re.MULTILINE))
    return names


if __name__ == "__main__":
    sys.stdout.write(_HEAD + "\n".join(sorted(syscall_names())) + "\n")
