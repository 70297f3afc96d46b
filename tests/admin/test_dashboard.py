"""The dashboard shows metrics that exist, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.core import CollectorRegistry
from prometheus_client.metrics_core import Metric

from admin.stage import stage
from supervisor.admin.collector import LiveNumbers
from supervisor.observability.metrics import PREFIX, REGISTRY

DASHBOARD = Path(__file__).parents[2] / "dashboards/terminal-supervisor.json"
DOCUMENT = Path(__file__).parents[2] / "docs/operators.md"
# Of provider docker alone, which this test does without.
OF_CONTAINERS = {
    *("pool_size", "pool_waiting", "leases_total", "cleanup_held", "cleanup_due", "cleanup_oldest_seconds"),
    "containers",
    "budget",
}


def expressions() -> list[str]:
    board: Any = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def samples(family: Metric) -> set[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    return {family.name.removeprefix(PREFIX) + ending for ending in endings}


async def existing() -> set[str]:
    async with stage() as s:
        live = CollectorRegistry()
        live.register(LiveNumbers(s.supervisor.view))
        families = [*REGISTRY.collect(), *live.collect()]
    return set().union(*(samples(family) for family in families)) | OF_CONTAINERS


async def test_every_metric_of_the_dashboard_exists() -> None:
    names = {name for each in expressions() for name in re.findall(rf"{PREFIX}(\w+)", each)}
    assert len(names) > 30
    assert names <= await existing()


async def test_every_metric_is_documented_and_no_other() -> None:
    metrics = DOCUMENT.read_text().partition("## Metrics")[2]
    cells = "".join(line.split("|")[1] for line in metrics.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`(\w+)[`{]", cells))
    plain = {re.sub("_(total|bucket|sum|count)$", "", name) for name in await existing()}
    process = {name for name in plain if name.startswith("process_")}
    more = {
        "pool_replaced",
        "pool_memory_bytes",
        "pool_cpu_seconds",
        "cleanup_removed",
        "cleanup_failed_attempts",
        "reconciler_removed",
    }
    assert (plain - process) | more == documented
