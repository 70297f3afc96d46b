"""The attack suite on a kernel that has it all: AppArmor, user namespaces, egress, cgroup version 2."""

import json
import subprocess
from typing import Any, Final

from supervisor.attacks.catalog import CATALOG
from supervisor.measures import Measure
from vm.guest.installed import OUT, PROGRAM, require, say

LIMIT: Final = 1800.0  # seconds
RARE: Final = {Measure.APPARMOR, Measure.USERNS}
"""What hosts of developers and of continuous integration often lack."""
MAY_NOT_COUNT: Final = {"write-programs"}
"""What takes more than the default image has, which is no /usr/bin."""


def attack() -> None:
    """Try those attacks that something stops that other hosts lack, in all ways; keep the tables.
    `tests/attacks` has the others.
    """
    attacks = [each for each in CATALOG if each.stopped_by & RARE]
    names = {each.name for each in attacks}
    done = subprocess.run(
        [
            *(*PROGRAM, "attack", "--no-setup", "--report", OUT / "attacks.json"),
            *(f"--only={name}" for name in sorted(names)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    (OUT / "attacks.txt").write_text(done.stdout)
    say(f"terminal-supervisor attack: exit status {done.returncode}\n{done.stdout}")
    require(holds=done.returncode == 0, what="attacks: all that count are stopped, by each measure alone")
    report: dict[str, Any] = json.loads((OUT / "attacks.json").read_text())
    rows = {row["name"]: row for row in report["attacks"]}
    require(holds=rows.keys() == names, what=f"attacks: {len(rows)} of {len(CATALOG)} tried")
    silent = {name for name, row in rows.items() if not row["counts"]}
    require(holds=silent <= MAY_NOT_COUNT, what=f"attacks: all count, but for {silent or 'none'}")
    require(holds=not report["exposed"], what=f"attacks: succeed here: {report['exposed']}")
    impossible = {measure for row in rows.values() for measure in row["untried"]} - {Measure.LANDLOCK}
    require(holds=not impossible, what="attacks: tried with all measures")
    credited = {each.name for each in attacks if Measure.APPARMOR in each.stopped_by}
    tried = {name for name, row in rows.items() if Measure.APPARMOR in row["alone"]}
    require(
        holds=bool(credited) and tried == credited, what=f"attacks: {len(tried)} that AppArmor stops alone"
    )
    require(holds=report["echo"]["meanwhile"]["keys"] > 50, what="attacks: another session went on working")
