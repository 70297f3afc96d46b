"""Asciicast v2: what a recording looks like on disk, line by line. No I/O.

The first line is a header, each further one an event, `[seconds since the start, code, text]`: `o` output,
`i` input, `r` a new size (`COLSxROWS`), `m` a marker with a label. Text is UTF-8 and so is the file. Source:
https://docs.asciinema.org/manual/asciicast/v2/.

Nothing that a client sends becomes part of a header: no environment, no command, no id.
"""

import codecs
import json
from collections.abc import Iterator
from typing import Any, Final, Literal, cast

import attrs

VERSION: Final = 2
MAX_LINE: Final = 1 << 20
"""Bytes of a line; those of this encoder have at most a twentieth of that."""
MAX_NUMBER: Final = 10**12
"""Beyond all times and sizes."""
PIECE: Final = 8 * 1024
"""Bytes of output or input in one event. What comes at once is several events at one time."""

Code = Literal["o", "i", "r", "m"]

_to_json = json.JSONEncoder(ensure_ascii=False).encode
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class FormatError(ValueError):
    """A line is not what the format has there."""


@attrs.frozen
class Header:
    """What a recording says of itself.

    Attributes:
        width, height: of the terminal at the start.
        timestamp: of the start, seconds since the epoch.
        title: for people.
    """

    width: int
    height: int
    timestamp: int
    title: str = ""


@attrs.frozen
class Event:
    """Something that happened `time` seconds after the start. Codes that this module does not know may occur
    in recordings of others."""

    time: float
    code: str
    data: str


def header_line(header: Header) -> bytes:
    """Return the first line."""
    return (_to_json({"version": VERSION, **attrs.asdict(header)}) + "\n").encode()


def parse_header(line: bytes) -> Header:
    """Return what the first line says.

    Raises:
        FormatError: it is not that of an asciicast v2.
    """
    values = _parse(line)
    known = cast("dict[str, Any]", values) if isinstance(values, dict) else {}
    if known.get("version") != VERSION:
        raise FormatError("no asciicast of version 2")
    numbers = [known.get("width"), known.get("height"), known.get("timestamp", 0)]
    if not all(isinstance(each, int | float) and 0 <= each <= MAX_NUMBER for each in numbers):
        raise FormatError("width, height and timestamp must be numbers")
    width, height, timestamp = (int(cast("float", each)) for each in numbers)
    return Header(width, height, timestamp, str(known.get("title") or ""))


def parse_event(line: bytes) -> Event:
    """Return what a further line says.

    Raises:
        FormatError: it is no event.
    """
    match _parse(line):
        case [int() | float() as time, str() as code, str() as data] if 0 <= time <= MAX_NUMBER:
            return Event(float(time), code, data)
        case _:
            raise FormatError("no event: [seconds, code, text]")


def _parse(line: bytes) -> Any:
    if len(line) > MAX_LINE:
        raise FormatError(f"longer than {MAX_LINE} bytes")
    if not line.endswith(b"\n"):
        raise FormatError("the line has no end")
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise FormatError("no JSON") from None


class EventEncoder:
    """Turns what happens in one session into lines.

    Code points that come in pieces are put together, and bytes that are not UTF-8 become U+FFFD. So all
    output events joined are the same for every way of cutting the output. Time never goes back.

    Args:
        tails: of the encoder before, whose recording this one continues.
        time: seconds since the start that the recording has reached.
    """

    def __init__(self, tails: tuple[bytes, bytes] = (b"", b""), time: float = 0.0) -> None:
        self.time = time
        self._decoders = {"o": _utf8_decoder("replace"), "i": _utf8_decoder("replace")}
        for decoder, tail in zip(self._decoders.values(), tails, strict=True):
            decoder.decode(tail)

    @property
    def tails(self) -> tuple[bytes, bytes]:
        """Beginnings of code points whose rest is still to come: of output, of input."""
        output, entered = (decoder.getstate()[0] for decoder in self._decoders.values())
        return output, entered

    def encode(self, time: float, code: Code, data: bytes) -> Iterator[bytes]:
        """Return the lines for what happened at `time`: none when all of it is held back.

        Args:
            time: seconds since the start.
            code: see above.
            data: bytes as they came; for `r` and `m` the text. What is held back comes before a marker.
        """
        if code == "m":
            yield from self.flush()
        self.time = max(self.time, time)
        if decoder := self._decoders.get(code):
            for position in range(0, len(data), PIECE):
                if text := decoder.decode(data[position : position + PIECE]):
                    yield self._line(code, text)
        else:
            yield self._line(code, data.decode())

    def flush(self) -> Iterator[bytes]:
        """Return the lines for what is held back, which will not be completed."""
        for code, decoder in self._decoders.items():
            text = decoder.decode(b"", final=True)
            decoder.reset()
            if text:
                yield self._line(code, text)

    def _line(self, code: str, text: str) -> bytes:
        return f'[{self.time:.6f}, "{code}", {_to_json(text)}]\n'.encode()
