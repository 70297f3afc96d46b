"""What a session has shown, for an operator's own terminal: it draws there, and does nothing else.

`supervisor.protocol.replay` takes out what makes a terminal answer or act. Here goes, besides, what only the
session's user needs: modes of keyboard and mouse. What is left can be undone (`RESTORE`).
"""

import re
from typing import Final, final

from supervisor.protocol.replay import sanitize_replay

DRAWING_MODES: Final = frozenset({5, 6, 7, 12, 25, 45, 47, 69, 1047, 1048, 1049, 2026})
"""Private modes that change what is drawn: reverse video, origin, wrapping, cursor, screens, margins, frames.
Source: xterm's ctlseqs."""

RESTORE: Final = (
    b"\x1b\\"  # the end of a string that was not ended
    b"\x1b[?1049l\x1b[!p\x1b[?5;6;12;45;69;2026l\x1b[?7;25h\x1b[4;20l\x1b[0 q\x1b[0m\x1b(B\x0f"
    b"\x1b7\x1b[r\x1b8"  # resetting margins takes the cursor home, unless it is saved
    b"\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\"
)
"""Takes a terminal back to what it was: its screen, modes, colours and character set."""

# In what `sanitize_replay` returns, sequences have one form only.
_MODES: Final = re.compile(rb"\x1b\[\?([0-9;]*)([hl])")
_KEYBOARD: Final = re.compile(rb"\x1b\[[<>=][0-9;:]*[mnu]|\x1b[=>]")


@final
class SafeOutput:
    """Makes output safe as it comes, in whatever pieces."""

    def __init__(self) -> None:
        self._waiting = b""

    def feed(self, data: bytes) -> bytes:
        """Return what can be shown now; the beginning of a sequence waits for its rest."""
        self._waiting += data
        replay = sanitize_replay(self._waiting, trimmed=False)
        self._waiting = self._waiting[replay.live_offset :]
        return _MODES.sub(_drawing_modes, _KEYBOARD.sub(b"", replay.data))


def _drawing_modes(found: re.Match[bytes]) -> bytes:
    modes = [mode for mode in found[1].split(b";") if mode.isdigit() and int(mode) in DRAWING_MODES]
    return b"\x1b[?" + b";".join(modes) + found[2] if modes else b""
