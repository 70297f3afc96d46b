"""Stage `KEYBOARD`: keys that are to have the restricted shell run what it does not list.

Without the shell there is a bash in its place, in which the same keys have their effect. The container is a
session's in all other respects. It has two programs on its `PATH`: `listed`, which is on the shell's list,
and `unlisted`, which says that it ran.
"""

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
import trio

from supervisor.attacks.attack import Attack, Defence, Habit, Outcome
from supervisor.attacks.cell import LIFETIME, started
from supervisor.sandbox.containers import HardenedContainers
from supervisor.sandbox.image import PROGRAMS
from supervisor.sandbox.leaving import claimed
from supervisor.sandbox.policy import Mount
from supervisor.sandbox.terminal import LeaseRequest, Terminal

_SHELL: Final = ("/usr/local/bin/restricted-shell", "--allow", "listed")
_BASH: Final = ("/bin/bash", "--norc", "--noprofile", "-i")
_EFFECT: Final = re.compile(rb"OWNED: [^\r\n]*")  # nobody types it
_QUIET: Final = 0.3  # seconds of silence after which nothing more is expected
_ANEW: Final = b"\x15"  # Ctrl-U: what is left on the line goes
_SEQUENCE: Final = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_KEYS: Final = {"enter": "\r", "edit": "\x18\x05", "expand": "\x1b\x05", "programs": PROGRAMS}


@attrs.frozen
class Keyboard:
    """The stage. `possible` are the defences that sessions have here."""

    containers: HardenedContainers
    tools: Sequence[Mount]
    possible: frozenset[Defence]

    async def __call__(self, on: AbstractSet[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        """Try `attacks` with the restricted shell, if it is `on`, or without; see `cell.Try`."""
        environment = {
            "PATH": f"{PROGRAMS}:/usr/bin:/bin",
            "TERM": "dumb",
            "EDITOR": "unlisted",
            "X": "$(unlisted)",
        }
        command = _SHELL if Habit.SHELL in on else _BASH
        request = LeaseRequest("attack", command, environment, lifetime=LIFETIME, hangup_grace=0)
        outcomes: dict[str, Outcome] = {}
        with trio.fail_after(LIFETIME):
            async with (
                started(self.containers, self.possible, self.tools) as gate,
                claimed(gate, request) as terminal,
            ):
                await _read(terminal)
                for attack in attacks:
                    await terminal.send_all(attack.argument.format_map(_KEYS).encode())
                    shown = await _read(terminal)
                    effect = _EFFECT.search(shown)
                    text = (effect[0] if effect else _SEQUENCE.sub(b"", shown).strip()[-80:]).decode(
                        errors="replace"
                    )
                    outcomes[attack.name] = Outcome(effect is not None, " ".join(text.split()))
                    await terminal.send_all(_ANEW)
                    await _read(terminal)
        return outcomes


async def _read(terminal: Terminal) -> bytes:
    """Return what is shown until nothing more comes."""
    shown = b""
    while True:
        with trio.move_on_after(_QUIET):
            if data := await terminal.receive_some():
                shown += data
                continue
        return shown
