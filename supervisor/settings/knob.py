"""How a setting is declared: how its text is read, what is allowed, and how a value is written again.

Used as names in the declarations (`supervisor.settings.gateway` and its neighbours), so that each of those
reads as a row of a table.
"""

import ipaddress
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import attrs

from supervisor.measures import parse_opt_outs

KIB = 1024
MIB = 1024 * KIB
MINUTE = 60.0
MAX_PATH = 512

_SIZE_UNITS = {"": 1, "k": KIB, "m": MIB, "g": 1024 * MIB}


def parse_size(text: str) -> int:
    """Return the bytes that `text` means: a number, with `k`, `m` or `g` for powers of 1024 (as Docker writes
    sizes)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError("must be a size such as 256m or 268435456")
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def milliseconds(text: str) -> float:
    """Return seconds."""
    return float(text) / 1000


def boolean(text: str) -> bool:
    """Return whether `text` says yes."""
    if text.lower() in {"1", "true", "yes", "on"}:
        return True
    if text.lower() in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("must be true or false")


def words(text: str) -> tuple[str, ...]:
    """Return the words of a command, quoted as in a shell."""
    return tuple(shlex.split(text))


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def as_is(text: str) -> str:
    """Return `text`."""
    return text


def path(text: str) -> Path | None:
    """Return the path, with `~` for a home directory; None for none."""
    return Path(text).expanduser() if text else None


@attrs.frozen
class Between:
    """A check: what is allowed is a range of numbers."""

    low: float
    high: float

    def __call__(self, value: float) -> bool:
        """Return whether `value` is wrong."""
        return not self.low <= value <= self.high


@attrs.frozen
class OneOf:
    """A check: what is allowed is a list of words."""

    words: tuple[str, ...]

    def __call__(self, value: str) -> bool:
        """Return whether `value` is wrong."""
        return value not in self.words


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that makes None of nothing."""
    return lambda text: parse(text) if text else None


def if_any(low: float, high: float) -> Callable[[Any], str | None]:
    """Return a check: what is allowed is nothing, 0, or a range of numbers."""
    return lambda value: None if not value or low <= value <= high else f"must be 0, or {low:g} to {high:g}"


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list with commas."""
    return tuple(int(part) for part in listed(text))


def ports(values: tuple[int, ...]) -> str | None:
    """Return what is wrong with `ports`, if anything is."""
    wrong = [port for port in values if not 1 <= port <= 65535 or port == 53]
    if wrong or not values:
        return "must be numbers from 1 to 65535, one at least, and not 53"
    return None


def absolute(value: Path | None) -> str | None:
    """Return what is wrong with the path of a directory, if anything is."""
    if value is None or (value.is_absolute() and len(str(value)) <= MAX_PATH):
        return None
    return f"must be an absolute path of at most {MAX_PATH} characters"


_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})+")


def domains(entries: tuple[str, ...]) -> str | None:
    """Return what is wrong with names that sessions may connect to, if anything is."""
    for entry in entries:
        if len(entry) > 253 or not _DOMAIN.fullmatch(entry) or entry.rpartition(".")[2].isdigit():
            return f"{entry!r} is no name (ably.com), nor all below one (*.ably.com), in small letters"
    return None


def addresses(values: tuple[str, ...]) -> str | None:
    """Return what is wrong with addresses, if anything is."""
    try:
        for value in values:
            ipaddress.ip_address(value)
    except ValueError as error:
        return str(error)
    return None


def opt_outs(names: tuple[str, ...]) -> str | None:
    """Return what is wrong with the names of measures, if anything is."""
    try:
        parse_opt_outs(names)
    except ValueError as error:
        return str(error)
    return None


def one_of(*allowed_words: str) -> OneOf:
    """Return a check: what is allowed is a list of words."""
    return OneOf(allowed_words)


def matches(pattern: str, meaning: str) -> Callable[[Any], str | None]:
    """Return a check: what is allowed is all of a pattern, which means `meaning`."""
    return lambda value: None if re.fullmatch(pattern, value) else f"must be {meaning}"


def setting(
    env: str,
    default: Any,
    parse: Callable[[str], Any],
    doc: str,
    check: Callable[[Any], str | bool | None] | None = None,
    secret: bool = False,
) -> Any:
    """Declare a field of a class of settings.

    Args:
        env: variable.
        default: value.
        parse: makes a value of the variable's text; raises `ValueError`, with what it must be.
        doc: one sentence.
        check: returns what is wrong with a value: a text, or true where `allowed` says it; else nothing.
        secret: whether it is never shown.
    """
    metadata = {"env": env, "parse": parse, "doc": doc, "check": check, "secret": secret}
    return attrs.field(default=default, repr=not secret, metadata=metadata)


def allowed(field: "attrs.Attribute[Any]") -> str:
    """Return what a setting may be, in the units of its variable; empty where its sentence says it."""
    match field.metadata["check"]:
        case Between(low, high):
            return f"{written(field, low)} to {written(field, high)}"
        case OneOf(words):
            return f"one of {', '.join(words)}"
        case _:
            return "true or false" if field.metadata["parse"] is boolean else ""


def written(field: "attrs.Attribute[Any]", value: Any) -> str:
    """Return a value as it is written in the field's variable; parsing it gives the value again."""
    name, parse = field.metadata["env"], field.metadata["parse"]
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        words = [str(word) for word in cast("tuple[object, ...]", value)]
        return shlex.join(words) if name.endswith("COMMAND") else ",".join(words)
    if parse is milliseconds:
        return f"{value * 1000:.0f}"
    if parse is parse_size:
        for unit, letter in ((MIB, "m"), (KIB, "k")):
            if value and value % unit == 0:
                return f"{value // unit}{letter}"
    return f"{value:g}" if isinstance(value, float) else str(value)
