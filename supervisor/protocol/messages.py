"""What clients of either protocol can say to a running session, and strict JSON for how they say it.

Python's `json` accepts more than JSON and costs more than its input should: constants such as NaN, repeated
keys (where two parsers can disagree on which one counts), integers of a million digits, nesting until the
interpreter gives up. Messages come from strangers, so `parse_object` takes none of that, and its errors never
repeat what was sent.
"""

import json
from typing import Final, TypeAlias

import attrs

from supervisor.errors import PeerError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

MAX_COLUMNS: Final = 1000
"""Largest width and height of a window; larger ones cost memory in every program that draws."""

MAX_INTEGER: Final = 2**53 - 1
"""Largest integer that JavaScript counts exactly (Number.MAX_SAFE_INTEGER)."""

MAX_DEPTH: Final = 8
"""Levels of nesting in a message; the deepest message of either protocol has two."""

_MAX_NUMBER_LENGTH: Final = 32


@attrs.frozen
class Input:
    """Bytes for the terminal, as typed."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Resize:
    """A new size of the client's window, 1 to 1000 each."""

    cols: int
    rows: int


@attrs.frozen
class Ignored:
    """A control message that has no effect: a size out of range, or a message that this server has no use
    for.
    """


def size_or_none(cols: object, rows: object) -> Resize | None:
    """Return the window size, or None when one of the values is not an integer from 1 to 1000."""
    if not (is_integer(cols, 1, MAX_COLUMNS) and is_integer(rows, 1, MAX_COLUMNS)):
        return None
    assert isinstance(cols, int)
    assert isinstance(rows, int)
    return Resize(cols, rows)


def is_integer(value: object, low: int, high: int) -> bool:
    """Whether `value` is an integer (true and false are not) from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def parse_object(text: str) -> dict[str, Json]:
    """Return the JSON object that `text` is.

    Raises:
        PeerError: it is not exactly one JSON object, nests too deeply, repeats a key, or holds a number that
            is out of bounds or a text that is not valid Unicode. The message never contains anything from
            `text`.
    """
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_number,
        )
        _check_depth_and_text(value)
    except RecursionError:
        raise PeerError("a message nests too deeply") from None
    except ValueError:
        raise PeerError("a message is not valid JSON") from None
    if not isinstance(value, dict):
        raise PeerError("a message is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise PeerError("a message repeats a key")
    return result


def _no_constant(name: str) -> Json:
    raise PeerError("a message holds a number that JSON does not have")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise PeerError("a message holds a number that is too long")
    return int(digits)


def _number(digits: str) -> float:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise PeerError("a message holds a number that is too long")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise PeerError("a message holds a number that is too large")
    return value


def _check_depth_and_text(root: Json) -> None:
    """Walk the value level by level, so that hostile nesting costs a loop and no stack."""
    level: list[Json] = [root]
    for _ in range(MAX_DEPTH + 1):
        deeper: list[Json] = []
        for value in level:
            if isinstance(value, str):
                if not _encodable(value):
                    raise PeerError("a message holds text that is not valid Unicode")
            elif isinstance(value, dict):
                deeper.extend(value.keys())
                deeper.extend(value.values())
            elif isinstance(value, list):
                deeper.extend(value)
        if not deeper:
            return
        level = deeper
    raise PeerError("a message nests too deeply")


def _encodable(text: str) -> bool:
    # JSON can spell lone surrogates (RFC 8259, section 8.2), which have no UTF-8 form: no signature, variable
    # or key has one.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
