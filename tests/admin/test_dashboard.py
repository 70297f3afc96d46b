"""The dashboard shows metrics that exist, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.core import CollectorRegistry
from prometheus_client.metrics_core import Metric

from admin.stage import stage
from supervisor.admin.collector import LiveNumbers
from supervisor.observability.metrics import PREFIX, REGISTRY, engine_call_label

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


def documented_labels() -> dict[str, set[str]]:
    metrics = DOCUMENT.read_text().partition("## Metrics")[2]
    found = re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", metrics)
    return {name: set(labels.split(",")) - {""} for name, labels in found}


async def real_labels() -> dict[str, set[str]]:
    async with stage() as s:
        live: list[Any] = [*LiveNumbers(s.supervisor.view).collect(), *REGISTRY.collect()]
    counted: list[Any] = list(REGISTRY._collector_to_names)
    labels: dict[str, set[str]] = {}
    for each in (*counted, *live):
        if name := getattr(each, "_name", None) or getattr(each, "name", None):
            of_samples = {label for sample in getattr(each, "samples", []) for label in sample.labels} - {
                "le"
            }
            known = labels.setdefault(name.removeprefix(PREFIX).removesuffix("_total"), set())
            known |= {*getattr(each, "_labelnames", ()), *of_samples}
    return labels


async def test_labels_are_documented_as_they_are() -> None:
    real, documented = await real_labels(), documented_labels()
    assert len(real.keys() & documented.keys()) > 40
    assert {name: real[name] for name in real.keys() & documented.keys()} == {
        name: documented[name] for name in real.keys() & documented.keys()
    }


def test_the_dashboard_asks_for_labels_that_the_metrics_have() -> None:
    documented, asked = documented_labels(), 0
    board: Any = json.loads(DASHBOARD.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            [name] = {
                re.sub("_(total|bucket|sum|count)$", "", each)
                for each in re.findall(rf"{PREFIX}(\w+)", query)
            }
            if name.startswith("process_"):
                continue
            used = {
                label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")
            }
            used |= set(re.findall(r"[{,](\w+)[=!]", query))
            shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            assert used | shown <= documented[name] | {"le"}, query
            if "by (" in query:
                assert shown <= used, f"the legend of {query} shows what the sum has lost"
            asked += len(used | shown)
    assert asked > 20


def test_values_of_labels_that_the_dashboard_asks_for_occur() -> None:
    values = {
        (label, value) for each in expressions() for label, value in re.findall(r'(\w+)[=!]~?"([^"]*)"', each)
    }
    assert values == {("call", ".* wait")}
    assert re.fullmatch(".* wait", engine_call_label("POST /containers/some-name/wait"))
