"""What /proc says: of the machine that figures come from, and of the processes that they are about."""

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def describe() -> dict[str, Any]:
    """Return what the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        "",
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo")), 0)
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "memory_mb": memory // 1024,
        "system": " ".join(platform.uname()[0:3:2]),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@attrs.frozen
class Usage:
    """What processes have used so far: CPU in seconds, resident memory in bytes, open descriptors."""

    cpu: float = 0.0
    memory: int = 0
    descriptors: int = 0


def usage(pids: Iterable[int]) -> Usage:
    """Add up what `pids` use; those that are gone count nothing."""
    cpu, memory, descriptors = 0.0, 0, 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            descriptors += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        cpu += (int(fields[11]) + int(fields[12])) / TICK
        memory += resident * PAGE
    return Usage(cpu, memory, descriptors)


def proportional(pids: Iterable[int]) -> int:
    """Return the memory of `pids` in bytes, where a page that several processes have counts as its share."""
    total = 0
    for pid in pids:
        for line in _lines(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def available() -> int:
    """Return the bytes of memory that programs of this machine may still have."""
    return next(int(line.split()[1]) for line in _lines("/proc/meminfo") if "MemAvailable" in line) * 1024


def with_argument(mark: str) -> set[int]:
    """Return the live processes that have `mark` as an argument: what a session started, wherever it runs."""
    wanted, found = mark.encode(), set[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if wanted in arguments:
                found.add(int(entry.name))
    return found


def alive(pids: Sequence[int]) -> bool:
    """Return whether any of them is there and no zombie."""
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
        except OSError:
            continue
    return False
