"""`terminal-supervisor check`: every measure holds, and who has seen it."""

import json
from typing import Any, Final

from supervisor.measures import Measure
from vm.guest.installed import OUT, PROGRAM, require, run, say

REPORT: Final = OUT / "check.json"


def check() -> None:
    """Have every measure shown; keep the table, and the same for programs."""
    command = (*PROGRAM, "check", "--no-setup", "--report", REPORT)
    table = run(*command, allowed=(0, 1), log=OUT / "check.log")
    (OUT / "check.txt").write_text(table)
    say(f"terminal-supervisor check:\n{table.strip()}")
    status: dict[str, Any] = json.loads(REPORT.read_text())
    rows = status["measures"]
    require(holds=rows.keys() == set(Measure), what=f"check: tells of {len(rows)} measures")
    required = {name for name, row in rows.items() if row["required"]}
    require(holds=required == rows.keys() and not status["without"], what="check: all are required")
    seen = {name for name, row in rows.items() if row["applied"] and row["verified"]}
    require(holds=seen == rows.keys() and status["initialized"], what="check: all were seen to hold")
    require(holds=all(f"\n{name} " in table for name in rows), what="check: the table has them")
