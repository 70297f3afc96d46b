"""How a command and an address are told in a report that others will read: without what lets somebody in."""

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

SECRETS = ("--token", "--secret")
SHORTEST = len("--to")  # of what argparse takes for one of them
MASK = "***"


def masked(words: Sequence[str]) -> list[str]:
    """Return the words of a command, where credentials are replaced by `***`. `env:NAME` is none."""
    shown: list[str] = []
    hidden = False  # whether the word is the value of the one before
    for word in words:
        name, equals, value = word.partition("=")
        secret = len(name) >= SHORTEST and any(each.startswith(name) for each in SECRETS)
        if hidden:
            shown.append(_mask(word))
        elif equals and name.startswith("--"):
            shown.append(f"{name}={_mask(value) if secret else without_credentials(value)}")
        else:
            shown.append(without_credentials(word))
        hidden = not hidden and secret and not equals
    return shown


def without_credentials(text: str) -> str:
    """Return an address without user, password, values of its query and fragment; other text as it is."""
    if "://" not in text:
        return text
    parts = urlsplit(text)
    user, at, place = parts.netloc.rpartition("@")
    query = "&".join(_field(each) for each in parts.query.split("&")) if parts.query else ""
    return urlunsplit(
        (
            parts.scheme,
            f"{MASK}@{place}" if at and user else place,
            parts.path,
            query,
            MASK if parts.fragment else "",
        )
    )


def _field(field: str) -> str:
    name, equals, _ = field.partition("=")
    return f"{name}={MASK}" if equals else MASK


def _mask(value: str) -> str:
    return value if value.startswith("env:") else MASK
