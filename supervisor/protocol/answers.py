"""Tells what a terminal says by itself from what a person types.

Programs ask terminals things, and the answers come as input. They are not activity: a program that asks for
the cursor's position every second must not keep an idle session alive, so where an answer looks like a rare
key (a report of row 1 is Shift-F3), it counts as an answer. Keys and the mouse are activity, since a program
cannot press them.
"""

import re
from typing import Final

# By what is asked; sources: xterm's ctlseqs, VT510, the kitty keyboard and graphics protocols.
_ANSWER: Final = re.compile(
    rb"""
      \x1b\[
      (?: \?? [0-9]{1,5} ; [0-9;]{1,12} R   # cursor position (DSR 6)
        | \?? [0-9;]{1,32} n                # status, printer, keyboard, colours (DSR)
        | [?>=] [0-9;]{0,64} c              # device attributes (DA)
        | \?? [0-9;]{1,16} \$ y             # mode (DECRQM)
        | [23] ; [0-9;]{1,32} x             # parameters (DECREQTPARM)
        | [0-9;]{1,32} t                    # window, also reported by itself
        | \? [0-9]{1,5} u                   # keyboard flags (kitty)
        | > [0-9;]{1,16} m                  # key modifiers (XTQMODKEYS)
        | [IO]                              # focus in, focus out
      )
    | \x1b/Z                                # identification of a VT52
    | \x1b[P_] [^\x1b]* \x1b\\              # settings, version, capabilities, checksums; images (kitty)
    | \x1b\] [^\x07\x1b]* (?: \x07 | \x1b\\ )  # colours, clipboard, title
    """,
    re.VERBOSE,
)


def is_automatic(data: bytes) -> bool:
    """Whether the whole of `data` consists of answers that a terminal gives without anybody touching it; true
    for no data.
    """
    position = 0
    while position < len(data):
        answer = _ANSWER.match(data, position)
        if answer is None:
            return False
        position = answer.end()
    return True
