"""Installs the project in the machine, then tries the parts that are named; those after a failure, too."""

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from vm.guest.attacks import attack_a_few, attack_all
from vm.guest.check import check
from vm.guest.installed import FAILURES, install, keep_journal, require, say
from vm.guest.smoke import smoke
from vm.guest.suites import run_suites

PARTS: Final[Mapping[str, Callable[[], None]]] = MappingProxyType(
    {
        "smoke": smoke,  # installs the profiles of AppArmor that the next ones need
        "check": check,
        "attacks": attack_all,
        "a-few-attacks": attack_a_few,
        "suites": run_suites,
    }
)


def attempt(name: str) -> None:
    """Run a part; what it dies of is a failure."""
    say(f"--- {name}")
    try:
        PARTS[name]()
    except (Exception, SystemExit) as error:
        require(holds=False, what=f"{name}: {error!r}")


if __name__ == "__main__":
    try:
        install()
        for each in sys.argv[1:]:
            attempt(each)
    finally:
        keep_journal()
    say(f"failures: {'; '.join(FAILURES) or 'none'}")
    raise SystemExit(len(FAILURES) > 0)
