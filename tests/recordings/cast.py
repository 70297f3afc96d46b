"""A reader of asciicast v2 that allows nothing which the format does not have, and knows nothing of ours."""

import json
import re
from pathlib import Path
from typing import Any

import attrs

HEADER = {"version": int, "width": int, "height": int, "timestamp": int, "title": str}


@attrs.frozen
class Cast:
    header: dict[str, Any]
    events: list[tuple[float, str, str]]

    def text(self, code: str) -> str:
        return "".join(data for _, each, data in self.events if each == code)

    def all(self, code: str) -> list[str]:
        return [data for _, each, data in self.events if each == code]


def parse(content: bytes) -> Cast:
    """Return what `content` holds, which must be whole lines."""
    first, *lines, rest = content.split(b"\n")
    assert rest == b"", f"an unfinished line: {rest[:80]!r}"
    header = json.loads(first.decode("utf-8"), object_pairs_hook=_without_repetition)
    assert {name: type(value) for name, value in header.items()} == HEADER
    assert header["version"] == 2
    return Cast(header, list(_events(lines)))


def read(path: Path) -> Cast:
    return parse(path.read_bytes())


def files(directory: Path, pattern: str = "*") -> list[Path]:
    return sorted(directory.glob(pattern))


def only(directory: Path, pattern: str = "*") -> Path:
    [path] = files(directory, pattern)
    return path


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def _events(lines: list[bytes]) -> Any:
    last = 0.0
    for line in lines:
        time, code, data = json.loads(line.decode("utf-8"))
        assert type(time) is float
        assert time >= last, "time goes back"
        last = time
        assert type(data) is str
        data.encode("utf-8")  # no lone surrogates
        assert code in {"o", "i", "r", "m"}
        if code == "r":
            assert re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", data)
        if code in {"o", "i"}:
            assert data, "nothing happened"
        yield time, code, data
