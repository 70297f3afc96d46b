"""Units of figures, and what they are worth in each other: 0.1 s are 100 ms, a core is 100 % of one."""

import re

_KINDS: tuple[dict[str, float], ...] = (
    {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0},
    {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    {"B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9},
    {"us/MB": 1e-6, "ms/MB": 1e-3, "s/MB": 1.0},
    {"1/s": 1.0, "/s": 1.0, "/min": 1 / 60},
    {"cores": 1.0, "core": 1.0, "%": 0.01},
    {"times": 1.0},
)
KNOWN = tuple(unit for kind in _KINDS for unit in kind)


def plain(unit: str) -> str:
    """Return a figure's unit without what it is counted by: `KB per session`, `% of a core`."""
    return re.split(" per | of ", unit, maxsplit=1)[0]


def worth(unit: str, other: str) -> float | None:
    """Return how many of `other` one `unit` is; None where one cannot be the other."""
    one, two = plain(unit), plain(other)
    if one == two:
        return 1.0
    for kind in _KINDS:
        if one in kind and two in kind:
            return kind[one] / kind[two]
    return None
