"""Installs the project in the machine and tries it there: a strict start and a session, then attacks."""

from vm.guest.attacks import attack
from vm.guest.installed import FAILURES, install, keep_journal, require, say
from vm.guest.smoke import smoke

if __name__ == "__main__":
    try:
        install()
        for part in (smoke, attack):  # the first installs the profiles of AppArmor
            say(f"--- {part.__name__}")
            try:
                part()
            except (Exception, SystemExit) as error:  # the other one is tried all the same
                require(holds=False, what=f"{part.__name__}: {error!r}")
    finally:
        keep_journal()
    say(f"failures: {'; '.join(FAILURES) or 'none'}")
    raise SystemExit(len(FAILURES) > 0)
