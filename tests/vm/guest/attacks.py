"""The attack suite on a kernel that has it all: AppArmor, user namespaces, egress, cgroup version 2."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from supervisor.attacks.attack import Attack, Stage
from supervisor.attacks.catalog import CATALOG
from supervisor.attacks.run import chosen
from supervisor.measures import Measure
from vm.guest.installed import OUT, PROGRAM, USUAL, WORKBENCH, require, run, say

SMOKE: Final = ("host-interrupts", "map-code-in-tmp", "run-from-memory", "core-pattern", "signal-gate")
"""Of each kind one: those that AppArmor and one other measure stop, those that user namespaces do. Only
AppArmor stops the last one here, since Landlock learned of signals with Linux 6.12.
"""
TAKES_A_SHELL: Final = frozenset(
    {"write-programs", *(each.name for each in CATALOG if each.stage is Stage.KEYBOARD)}
)
"""What takes an image with a /usr/bin, or with a bash that does what the restricted shell does not. The
default image has neither, so there these attacks do not count.
"""
EXPOSED: Final = frozenset({"server"})
"""What nothing stops here: Landlock alone stops it, in a version that this kernel, Linux 6.1, does not have:
TCP takes 6.7. `tests/attacks` has it on kernels that do.
"""


def attack_a_few() -> None:
    """Try a few attacks."""
    _attack("attacks", chosen(SMOKE), may_be_silent=())


def attack_all() -> None:
    """Try all of them, as an operator would, in the default image; and in the workbench those that take a
    shell. Each must count in one of both.
    """
    counted = _attack("attacks", CATALOG, may_be_silent=TAKES_A_SHELL)
    say(run(*PROGRAM, "apparmor", "install", settings=WORKBENCH).strip())
    counted |= _attack("attacks-workbench", chosen(TAKES_A_SHELL), may_be_silent=(), settings=WORKBENCH)
    silent = {each.name for each in CATALOG} - counted
    all_of_them = f"{len(counted)} of {len(CATALOG)} count in one image or the other"
    require(holds=not silent, what=f"attacks: {all_of_them}; those that do not: {_list(silent)}")


def _attack(
    kept: str,
    attacks: Collection[Attack],
    *,
    may_be_silent: Collection[str],
    settings: Mapping[str, str] = USUAL,
) -> set[str]:
    """Try attacks in all ways; keep the tables. Returns the names of those that count.

    Args:
        kept: name of the files with the tables, without what it ends in.
        attacks: all of them are tried without being named, as operators do.
        may_be_silent: those that need not succeed here without what stops them.
        settings: that differ from those of the installation.
    """
    names = {each.name for each in attacks}
    only = [] if len(attacks) == len(CATALOG) else [f"--only={name}" for name in sorted(names)]
    report = OUT / f"{kept}.json"
    command: list[str | Path] = [*PROGRAM, "attack", "--no-setup", "--report", report, *only]
    table = run(*command, allowed=(0, 1), settings=settings, log=OUT / f"{kept}.log")
    (OUT / f"{kept}.txt").write_text(table)
    say(f"terminal-supervisor attack:\n{table.strip()}")
    found: dict[str, Any] = json.loads(report.read_text())
    rows = {row["name"]: row for row in found["attacks"]}
    require(holds=rows.keys() == names, what=f"{kept}: {len(rows)} of {len(CATALOG)} tried")
    require(holds=not found["failed"], what=f"{kept}: all that count are stopped, by each measure alone")
    counted = {name for name, row in rows.items() if row["counts"]}
    silent = names - counted
    require(holds=silent <= set(may_be_silent), what=f"{kept}: all count, but for {_list(silent)}")
    exposed = set(found["exposed"])
    require(holds=exposed <= EXPOSED, what=f"{kept}: stopped by nothing here: {_list(exposed)}")
    impossible = {measure for row in rows.values() for measure in row["untried"]} - {Measure.LANDLOCK}
    require(holds=not impossible, what=f"{kept}: tried with all measures")
    for measure in (Measure.APPARMOR, Measure.USERNS):
        credited = {each.name for each in attacks if measure in each.stopped_by}
        tried = {name for name, row in rows.items() if measure in row["alone"]}
        require(holds=tried == credited, what=f"{kept}: {len(tried)} that {measure} stops alone")
    keys = found["echo"]["meanwhile"]["keys"]
    require(holds=keys > 50, what=f"{kept}: another session went on working, {keys} keys")
    return counted


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
