"""The attacks as a table for docs/security.md: `python -m supervisor.attacks.markdown` prints it."""

import sys
from typing import Final

from supervisor.attacks.attack import DEFENCES, HABITS, Attack
from supervisor.attacks.catalog import CATALOG

BEGIN: Final = "<!-- attacks: made by `python -m supervisor.attacks.markdown` -->"
END: Final = "<!-- end of attacks -->"


def table() -> str:
    """Return the section from `BEGIN` to `END`."""
    lines = [BEGIN, "| attack | what it wants | each of these stops it alone |", "|---|---|---|"]
    lines += [f"| `{each.name}` | {_wants(each)} | {_defences(each)} |" for each in CATALOG]
    lines += ["", "What is no measure with a switch:", ""]
    lines += [f"- `{habit}`: {sentence}" for habit, sentence in HABITS.items()]
    return "\n".join([*lines, END])


def _wants(attack: Attack) -> str:
    return f"{attack.wants} ({attack.bounded})" if attack.bounded else attack.wants


def _defences(attack: Attack) -> str:
    return ", ".join(str(each) for each in DEFENCES if each in attack.stopped_by)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
