"""The scenarios: each answers one question, with numbers and never a judgement."""

from benchmarks.scenarios import cleanup, echo, flood, idle, page, soak, start, storms, users
from benchmarks.scenarios.scenario import Scenario

_MODULES = (start, echo, flood, page, idle, storms, cleanup, users, soak)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for module in _MODULES for scenario in module.SCENARIOS
}
USUAL = ("start", "start-together", "echo", "echo-idle", "echo-flood", "output-raw", "interrupt", "paste")
"""What runs unless others are named: what can be asked of every target."""
