"""HTTP/1.1 as the engine's client needs it, without any input or output: bytes in, head and body out.

Only the response side needs care, and it is strict: what RFC 9112 calls malformed raises `ValueError`,
because guessing where a message ends is how two answers get mixed up. Head, chunk lines and trailers are
bounded; body pieces are handed out as they come, never collected. The tests hold it against h11 on random
cuts of the same bytes; it takes a third of h11's time, which would be the largest part of a call.
"""

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

MAX_HEAD = 64 * 1024
"""Bytes of a response head, or of trailers. Docker's heads are below 1 KiB."""
MAX_CHUNK_LINE = 256
"""Bytes of a chunk's size line, extensions included."""

Headers = list[tuple[bytes, bytes]]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t \x21-\x7e\x80-\xff]*))?")
# Name, colon, value without the blanks around it, and the end of the line.
_FIELD = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*((?:[\x21-\x7e\x80-\xff\t ]*[\x21-\x7e\x80-\xff])?)[\t ]*\r\n"
)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[^\r\n\0]*)?")


class Head(NamedTuple):
    """Status line and header fields of a response; the names are lower case."""

    status: int
    headers: Headers

    def get(self, name: bytes) -> bytes:
        """Return the value of the field `name` (lower case), several joined by commas, b"" for none."""
        return b", ".join(value for key, value in self.headers if key == name)


def request_head(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a request's head.

    Raises:
        ValueError: a byte in it would end a line or a word early.
    """
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    lines += [b"%b: %b" % field for field in headers]
    head = b"\r\n".join(lines)
    ends = len(lines) - 1
    if (
        b" " in target
        or not target.isascii()
        or head.count(b"\r") != ends
        or head.count(b"\n") != ends
        or b"\0" in head
    ):
        # Without the fields: there may be credentials in them.
        raise ValueError(f"not a request that can be sent: {method!r} {target!r}")
    return head + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Return `data` (not empty: that would end the body) as one chunk of a request body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class ResponseParser:
    """Parses one response after the other from one connection.

    Feed it with `receive`; ask `head()`, then `body()` until it returns b"" and `complete` is true. `head()`
    and `body()` return None when more bytes are needed. All raise `ValueError` for what is not HTTP, end of
    file too early included.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._eof = False
        self._state: Literal["head", "length", "chunk-line", "chunk", "trailers", "until-eof", "done"] = (
            "head"
        )
        self._remaining = 0
        self._keep_alive = True
        self.started = False
        """True once any byte of the present response has arrived."""

    @property
    def complete(self) -> bool:
        """The present response has been parsed to its end."""
        return self._state == "done"

    @property
    def reusable(self) -> bool:
        """Another request may follow on this connection: the response is complete, nothing came after it,
        nobody wants to close.
        """
        return self.complete and self._keep_alive and not self._buffer and not self._eof

    def next_response(self) -> None:
        """Begin with the next response. Only valid when `reusable`."""
        if not self.reusable:
            raise RuntimeError("this connection cannot be used again")
        self._state = "head"
        self.started = False

    def receive(self, data: bytes | bytearray) -> None:
        """Take bytes from the connection; empty means end of file."""
        if data:
            self._buffer += data
            self.started = True
        else:
            self._eof = True

    def trailing(self) -> bytes:
        """Take the bytes that came after the response: after a 101 they belong to the new protocol."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def head(self, method: bytes = b"GET") -> Head | None:
        """Parse the head of the response to a request with this `method`; 1xx other than 101 are skipped."""
        while True:
            block = self._take_block()
            if block is None:
                return None
            head = self._parse_head(block, method)
            if head.status == 101 or head.status >= 200:
                return head

    def body(self) -> bytes | None:
        """Return what there is of the body, b"" at its end."""
        pieces: list[bytes] = []
        while piece := self._next():
            pieces.append(piece)
        return b"".join(pieces) if pieces else piece

    def _next(self) -> bytes | None:
        """Return a piece of the body, which ends where its chunk does; b"" at its end."""
        while self._state not in ("done", "head"):
            if self._state == "chunk-line":
                if not self._chunk_line():
                    return None
            elif self._state == "trailers":
                if not self._trailers():
                    return None
            else:
                return self._piece()
        return b""

    def _take_block(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise ValueError(f"the head is longer than {MAX_HEAD} bytes")
            if self._eof:
                raise ValueError("the connection ended where an answer should be")
            return None
        block = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 4]
        return block

    def _parse_head(self, block: bytes, method: bytes) -> Head:
        first, _, rest = block.partition(b"\r\n")
        line = _STATUS_LINE.fullmatch(first)
        if line is None:
            raise ValueError(f"not a status line: {first[:80]!r}")
        status = int(line[2])
        head = Head(status, _fields(rest))
        if 100 <= status < 200:
            if status == 101:
                self._state = "done"
                self._keep_alive = False
            return head
        tokens = {token.strip() for token in head.get(b"connection").lower().split(b",")}
        self._keep_alive = b"close" not in tokens and (line[1] == b"1" or b"keep-alive" in tokens)
        self._frame(head, method)
        return head

    def _frame(self, head: Head, method: bytes) -> None:
        """Decide where the body ends (RFC 9112 section 6.3)."""
        coding = head.get(b"transfer-encoding").lower()
        lengths = {value for name, value in head.headers if name == b"content-length"}
        if method == b"HEAD" or head.status in (204, 304):
            self._state = "done"
        elif coding:
            if coding != b"chunked" or lengths:
                raise ValueError(f"transfer-encoding {coding!r} with content-length {lengths!r}")
            self._state = "chunk-line"
        elif lengths:
            length = lengths.pop()
            if lengths or not _DIGITS.fullmatch(length):
                raise ValueError("not one content-length")
            self._remaining = int(length)
            self._state = "length" if self._remaining else "done"
        else:
            self._state = "until-eof"
            self._keep_alive = False

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise ValueError("a line of the body's framing is too long")
            if self._eof:
                raise ValueError("the connection ended in the middle of an answer")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _chunk_line(self) -> bool:
        line = self._line(MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a chunk size: {line[:40]!r}")
        # A chunk's data is followed by CRLF, which is counted in and cut off again.
        self._remaining = int(match[1], 16) + 2
        self._state = "chunk" if self._remaining > 2 else "trailers"
        return True

    def _trailers(self) -> bool:
        line = self._line(MAX_HEAD)
        if line is None:
            return False
        if line == b"":
            self._state = "done"
        else:
            _fields(line + b"\r\n")
        return True

    def _piece(self) -> bytes | None:
        if self._state == "until-eof":
            if self._buffer:
                return self.trailing()
            if self._eof:
                self._state = "done"
                return b""
            return None
        tail = 2 if self._state == "chunk" else 0
        size = min(len(self._buffer), self._remaining - tail)
        if size:
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._remaining -= size
            if self._remaining == 0:
                self._state = "done"
            elif tail and len(self._buffer) >= 2 and self._remaining == 2:
                self._end_of_chunk()
            return piece
        if tail and self._remaining == 2 and len(self._buffer) >= 2:
            self._end_of_chunk()
            return self._next()
        if self._eof:
            raise ValueError("the connection ended in the middle of an answer")
        return None

    def _end_of_chunk(self) -> None:
        if not self._buffer.startswith(b"\r\n"):
            raise ValueError("a chunk is longer than it says")
        del self._buffer[:2]
        self._state = "chunk-line"


def _fields(block: bytes) -> Headers:
    """Return the header fields of `block`, in which each line has its end."""
    fields: Headers = []
    end = 0
    for field in _FIELD.finditer(block):
        if field.start() != end:
            break
        end = field.end()
        fields.append((field[1].lower(), field[2]))
    if end != len(block):
        raise ValueError(f"not a header field: {block[end : end + 80]!r}")
    return fields
