"""Content digests: how set-up knows that something made earlier is still what its inputs ask for.

Times of files never count (a fresh clone has new ones); names, modes and bytes do.
"""

import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Hash(Protocol):
    """What hashlib's objects are."""

    def update(self, data: bytes, /) -> None:
        """Go on with `data`."""
        ...


def digest(parts: Mapping[str, str | bytes | Path]) -> str:
    """Return the SHA-256 (hexadecimal) of named inputs: texts, bytes, files or whole directories.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    total = hashlib.sha256()
    for name in sorted(parts):
        part = parts[name]
        if isinstance(part, Path):
            _add_tree(total, name, part)
        else:
            _add(total, name, part.encode() if isinstance(part, str) else part)
    return total.hexdigest()


def _add(total: Hash, name: str, content: bytes) -> None:
    total.update(f"{name}\0{len(content)}\0".encode() + content)


def _add_tree(total: Hash, name: str, path: Path) -> None:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        _add(total, f"{name} link", str(path.readlink()).encode())
    elif stat.S_ISDIR(mode):
        for entry in sorted(path.iterdir()):
            _add_tree(total, f"{name}/{entry.name}", entry)
    else:
        _add(total, f"{name} {'x' if mode & 0o111 else '-'}", path.read_bytes())
