"""What a session has shown so far, for a client whose screen is empty."""

import re
from functools import partial
from typing import Final, NamedTuple

import trio

from supervisor.protocol.replay import sanitize_replay
from supervisor.session.session import Session

INLINE: Final = 64 * 1024
"""Bytes of history that are rewritten on the spot, which takes a millisecond or two; a whole scrollback of
nothing but escape sequences takes half a second, and everybody else would wait for it."""


CLEAR: Final = b"\x1bc"
"""RIS: empties the screen and what is above it, so that a history is not shown twice."""


_SCREENS: Final = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")


class History(NamedTuple):
    """Bytes that restore an empty screen, and the absolute offset at which live output goes on.

    Attributes:
        full_screen: whether a program fills the screen, or may do so where the beginning is lost. What it has
            drawn can be restored in part only; it is to be asked to draw again.
    """

    data: bytes
    offset: int
    full_screen: bool


async def read_history(session: Session) -> History:
    """Return the history of `session`, rewritten so that no terminal answers to it or acts on it."""
    start, end = session.scrollback.start, session.scrollback.end
    rewrite = partial(sanitize_replay, session.scrollback.read(start, end - start), trimmed=start > 0)
    if end - start <= INLINE:
        replay = rewrite()
    else:
        replay = await trio.to_thread.run_sync(rewrite, abandon_on_cancel=True)
    switches = _SCREENS.findall(replay.data)
    full_screen = switches[-1] == b"h" if switches else start > 0
    return History(replay.data, start + replay.live_offset, full_screen)
