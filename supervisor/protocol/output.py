"""Output for the existing client: bytes of the terminal become text frames of whole code points that nothing
can hide a message in.

The client decodes each frame by itself, so a code point must not be split over two. It obeys control messages
that arrive in the same kind of frame as output, so a program that prints one must not be believed: no frame
begins with NUL, and the marker `ABLY_CTRL:` never appears whole, in a frame or across frames. Both measures
leave the picture on the screen as it is. NUL is a filler that may be taken out of any stream without loss
(ECMA-48), so all are taken out. The marker is broken by SYN before its colon: the letters before it have
ended any escape sequence, so the terminal is in text, where it ignores SYN, or in a string such as a title.

Everything is one pass of `bytes` and `str` methods, so the time is linear in the output whatever it holds.
"""

import codecs
from typing import Final

MARKER: Final = "ABLY_CTRL:"
BREAK: Final = "\x16"
"""SYN. Unlike DEL, xterm.js ignores it without a complaint, and leaves it out of titles."""

BROKEN_MARKER: Final = MARKER[:-1] + BREAK + MARKER[-1]

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class OutputEncoder:
    """Turns one connection's output into frames.

    The result joined is the same for every way of cutting the output into pieces, as long as nobody flushes
    in between.

    Args:
        plain: the client takes control messages without a prefix, as frames that are one JSON object. Then a
            frame that begins like an object gets a SYN in front, which JSON does not allow and terminals
            ignore.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._decoder = _utf8_decoder("replace")
        self._matched = 0  # characters of MARKER that the output so far ends in, less than all

    def __repr__(self) -> str:
        return f"<OutputEncoder pending={self.pending}>"

    @property
    def pending(self) -> int:
        """Bytes held back, 0 to 3: the beginning of a code point. Flush them when nothing follows soon."""
        return len(self._decoder.getstate()[0])

    def encode(self, data: bytes) -> str:
        """Return the next frame; empty when there is nothing to send yet. Bytes that are not UTF-8 become
        U+FFFD.
        """
        return self._frame(self._decoder.decode(data))

    def flush(self) -> str:
        """Return what was held back, as it is: an incomplete code point is U+FFFD, like any byte that is not
        UTF-8.
        """
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return self._frame(text)

    def _frame(self, text: str) -> str:
        text = text.replace("\x00", "")
        if not text:
            return ""
        text = self._break_marker(text)
        if self._plain and text.lstrip(" \t\r\n").startswith("{"):
            return BREAK + text
        return text

    def _break_marker(self, text: str) -> str:
        """Break every marker in `text`, the one included that earlier output began.

        The marker's first letter occurs in it once, so no two can overlap, and whatever does not continue one
        can only begin one anew.
        """
        head = ""
        if self._matched:
            rest = MARKER[self._matched :]
            if len(text) < len(rest) and rest.startswith(text):
                self._matched += len(text)
                return text
            if text.startswith(rest):
                head, text = rest[:-1] + BREAK + rest[-1], text[len(rest) :]
        text = text.replace(MARKER, BROKEN_MARKER)
        self._matched = _longest_overlap(text)
        return head + text


def _longest_overlap(text: str) -> int:
    """Return how many characters of MARKER, less than all, `text` ends in."""
    start = text.rfind(MARKER[0], max(0, len(text) - len(MARKER) + 1))
    return len(text) - start if start >= 0 and MARKER.startswith(text[start:]) else 0
