"""The output that a session keeps: a window over an endless byte stream, addressed by absolute offsets.

Bytes are numbered from 0 in the order in which the program wrote them. The newest `capacity` bytes can be
read again, by any number of readers, each at its own offset; that one store serves scrollback, resume and
every viewer's backlog, so that a viewer costs no buffer of its own. Blocks are allocated as output arrives:
an idle session costs next to nothing.
"""

BLOCK = 64 * 1024  # bytes at most, allocated as they are needed: a flood arrives in pieces of this size


class Scrollback:
    """A bounded, append-only byte store.

    Attributes:
        capacity: bytes that stay readable.
        end: absolute offset one past the newest byte, which is the number of bytes ever written.

    Args:
        capacity: see above.
        beginning: absolute offset of the first byte that will be appended; what was before is not here.
    """

    def __init__(self, capacity: int, beginning: int = 0) -> None:
        if capacity < 1:
            raise ValueError("capacity must be at least 1 byte")
        self.capacity = capacity
        self.end = beginning
        self._beginning = beginning
        # Number of the first block kept; block k holds the offsets k*BLOCK to (k+1)*BLOCK - 1.
        self._first = beginning // BLOCK
        self._blocks: list[bytearray] = [bytearray(beginning % BLOCK)] if beginning % BLOCK else []

    def __repr__(self) -> str:
        return f"<Scrollback {self.start}..{self.end} of at most {self.capacity} bytes>"

    @property
    def start(self) -> int:
        """Absolute offset of the oldest byte that can still be read."""
        return max(self._beginning, self.end - self.capacity)

    def append(self, data: bytes) -> None:
        """Add `data` at the end; what falls out of the window is forgotten."""
        position = 0
        with memoryview(data) as whole:
            while position < len(data):
                if self.end % BLOCK == 0:
                    self._blocks.append(bytearray())
                piece = whole[position : position + BLOCK - self.end % BLOCK]
                self._blocks[-1] += piece
                position += len(piece)
                self.end += len(piece)
                while self._first < self.start // BLOCK:
                    del self._blocks[0]
                    self._first += 1

    def read(self, offset: int, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes from `offset` on (`b""` at the end).

        Raises:
            ValueError: `offset` is not within `start` to `end`.
        """
        if not self.start <= offset <= self.end:
            raise ValueError(f"offset {offset} is outside of {self.start}..{self.end}")
        stop = min(self.end, offset + max_bytes)
        pieces: list[memoryview] = []
        while offset < stop:
            block = self._blocks[offset // BLOCK - self._first]
            within = offset % BLOCK
            piece = memoryview(block)[within : within + stop - offset]
            pieces.append(piece)
            offset += len(piece)
        data = b"".join(pieces)  # the one copy
        for piece in pieces:
            piece.release()  # or the block could not grow
        return data
