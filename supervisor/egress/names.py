"""The allow list: which host names are on it.

An entry is a name (`ably.com`: that name alone) or a star and a name (`*.ably.com`: every name below it, at
any depth, but not itself).
"""

from collections.abc import Iterable
from typing import final


@final
class AllowList:
    """Tells listed names from others.

    Args:
        entries: as `Settings.egress_domains` has them.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self.entries = tuple(entries)
        self._names = frozenset(entry for entry in self.entries if not entry.startswith("*."))
        self._parents = frozenset(entry[2:] for entry in self.entries if entry.startswith("*."))

    def __repr__(self) -> str:
        return f"<AllowList {', '.join(self.entries)}>"

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        name = name.lower()
        if name in self._names:
            return True
        labels = name.split(".")
        return any(".".join(labels[start:]) in self._parents for start in range(1, len(labels)))

    @property
    def zones(self) -> tuple[str, ...]:
        """The names at or below which all listed names are: what a resolver can be told."""
        return tuple(sorted(self._names | self._parents))
