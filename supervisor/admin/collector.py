"""Numbers that are read off live objects when somebody asks for the metrics."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from supervisor import __version__
from supervisor.admin.view import View
from supervisor.observability.audit import dropped_events
from supervisor.observability.log import dropped_lines
from supervisor.observability.metrics import PREFIX, REGISTRY
from supervisor.session.state import SessionState
from supervisor.session.visitor import Standing


def exposition(view: View) -> bytes:
    """Return all metrics in Prometheus' text format (version 0.0.4)."""
    live = CollectorRegistry()
    live.register(LiveNumbers(view))
    return generate_latest(REGISTRY) + generate_latest(live)


class LiveNumbers:
    """A collector of `prometheus_client` over one supervisor."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Return the numbers as they are now. Nothing here waits, or asks the engine."""
        runs = {"version": __version__, "provider": self._view.provider.name}
        info = GaugeMetricFamily(f"{PREFIX}info", "1; what runs.", labels=list(runs))
        info.add_metric(list(runs.values()), 1)
        yield info
        yield from self._security()
        yield from self._sessions()
        yield _plain("connections", "Open connections, of all kinds.", self._view.gateway.connections)
        yield _plain("connections_limit", "Open connections at most.", self._view.settings.max_connections)
        yield from self._admission()
        yield _total("audit_events_dropped", "Audit events that could not be written.", dropped_events())
        yield _total("log_lines_dropped", "Log lines that could not be written.", dropped_lines())
        if pool := self._view.pool:
            numbers = pool.statistics()
            yield _plain("pool_size", "Sandboxes that should wait.", numbers.size)
            yield _plain("pool_waiting", "Sandboxes that wait, ready.", numbers.waiting)
            yield _total(
                "pool_replaced", "Sandboxes that nobody claimed: too old, or dead.", numbers.replaced
            )
            usages = pool.usages()
            memory = {
                "use": sum(usage.memory for usage in usages),
                "limit": sum(usage.memory_limit for usage in usages),
            }
            told = "Memory of the sandboxes that wait: in use, and what their limits allow."
            yield _gauges("pool_memory_bytes", told, "of", memory)
            yield _plain(
                "pool_cpu_seconds",
                "CPU time of the sandboxes that wait, since each one's start.",
                sum(usage.cpu_seconds for usage in usages),
            )
            leases = {"warm": numbers.warm, "cold": numbers.cold}
            yield _totals("leases", "Leases, by kind of start.", "start", leases)
        yield from self._containers()
        yield from self._resources()

    def _security(self) -> Iterator[Metric]:
        security = self._view.provider.security
        verified = "1 when all required measures were verified before the first session."
        yield _plain("security_initialized", verified, security.initialized)
        family = GaugeMetricFamily(
            f"{PREFIX}security_measure",
            "1 when a measure of hardening is in force; `required` is false where an opt-out names it.",
            labels=["measure", "required"],
        )
        for each in security.measures:
            family.add_metric([str(each.measure), str(each.required).lower()], each.holds)
        yield family
        family = GaugeMetricFamily(
            f"{PREFIX}security_measure_covered",
            "1 when a measure of hardening has no use on the kernel that the containers' runtime brings, and "
            "what stands in its place was seen.",
            labels=["measure"],
        )
        for each in security.measures:
            family.add_metric([str(each.measure)], each.covered and bool(each.verified))
        yield family

    def _admission(self) -> Iterator[Metric]:
        house = self._view.gateway.house
        door = house.door.statistics()
        yield _totals(
            "door_refusals",
            "Connections and requests refused by address, by reason.",
            "reason",
            door.refusals,
        )
        yield _totals(
            "capacity_refusals",
            "Sessions refused for want of room, by limit.",
            "limit",
            house.capacity.refusals,
        )
        remembered = "Addresses and sessions that a limiter remembers."
        yield _gauges("limiter_entries", remembered, "table", door.entries)
        yield _total("limiter_evicted", "Entries of limiters that had to make room.", door.evicted)
        yield _plain("connections_pending", "Connections that have not authenticated.", door.pending)
        yield _plain("addresses", "Addresses with open connections.", door.addresses)
        yield _total("addresses_spoofed", "Requests that claimed an address without the right.", door.spoofed)
        yield _plain("waiting_line", "Visitors who wait for a session.", house.capacity.waiting)

    def _sessions(self) -> Iterator[Metric]:
        registry = self._view.registry
        sessions = [session.statistics() for session in registry]
        counts = Counter((each.visitor.standing, each.state) for each in registry)
        family = GaugeMetricFamily(
            f"{PREFIX}sessions", "Sessions, by kind of visitor and by state.", labels=["kind", "state"]
        )
        for kind in get_args(Standing):
            for state in SessionState:
                family.add_metric([kind, state.name.lower()], counts[kind, state])
        yield family
        yield _plain("sessions_limit", "Sessions at most.", self._view.settings.max_sessions)
        viewers = {
            "writer": sum(each.writers for each in sessions),
            "viewer": sum(each.viewers for each in sessions),
        }
        yield _gauges("viewers", "Viewers of sessions, by role.", "role", viewers)
        output = registry.past_output_bytes + sum(each.output_bytes for each in sessions)
        typed = registry.past_input_bytes + sum(each.input_bytes for each in sessions)
        yield _total("output_bytes", "Bytes that programs have written.", output)
        yield _total("input_bytes", "Bytes that have been typed.", typed)
        commands = registry.past_commands + sum(each.commands or 0 for each in sessions)
        yield _total("commands", "Commands that restricted shells say they have started.", commands)
        yield _plain("recordings_open", "Sessions that are being recorded.", registry.recorder.open)
        kept = sum(session.scrollback.end - session.scrollback.start for session in registry)
        yield _plain("scrollback_bytes", "Output kept for a resume.", kept)

    def _resources(self) -> Iterator[Metric]:
        """Sums and maxima: a series for each session would be gone before anybody looked at it."""
        docker = self._view.docker
        watched = list(self._view.monitor.watched.values())
        usages = [each.usage for each in watched]
        yield _plain("measured_sessions", "Sessions whose resources are measured.", len(usages))
        numbers: dict[str, list[float]] = {
            "memory_bytes": [usage.memory for usage in usages],
            "cpu_ratio": [each.cpu_percent / 100 for each in watched],
            "pids": [usage.pids for usage in usages],
        }
        for name, values in numbers.items():
            yield _gauges(
                f"session_{name}",
                "What sessions use at the moment: of all together, and of the one that uses most.",
                "of",
                {"all": sum(values), "largest": max(values, default=0)},
            )
        traffic = {
            "received": sum(usage.received for usage in usages),
            "sent": sum(usage.sent for usage in usages),
        }
        yield _gauges("session_network_bytes", "Traffic of the sessions that are open.", "direction", traffic)
        if docker and (known := docker.usage_of_all()):
            usage, budget = known
            family = GaugeMetricFamily(
                f"{PREFIX}budget",
                "What all sessions may use together (limit; 0: no limit), and what they use.",
                labels=["resource", "of"],
            )
            family.add_metric(["memory_bytes", "limit"], budget.memory)
            family.add_metric(["memory_bytes", "used"], usage.memory)
            family.add_metric(["cpus", "limit"], budget.cpus)
            family.add_metric(["pids", "limit"], budget.pids)
            family.add_metric(["pids", "used"], usage.pids)
            yield family
        yield _plain("sessions_throttled", "Sessions slowed down.", sum(each.throttled for each in watched))

    def _containers(self) -> Iterator[Metric]:
        if not (docker := self._view.docker):
            return
        pending = docker.containers.pending.statistics()
        yield _plain("cleanup_held", "Containers in use, or starting.", pending.held)
        yield _plain("cleanup_due", "Containers whose removal is not confirmed yet.", pending.due)
        yield _plain("cleanup_oldest_seconds", "Age of the oldest removal that is due.", pending.oldest)
        yield _total("cleanup_removed", "Containers removed.", pending.removed)
        yield _total("cleanup_failed_attempts", "Attempts at removing that failed.", pending.failed_attempts)
        if reconciler := docker.reconciler:
            yield _gauges(
                "containers",
                "The product's containers at the engine, of all supervisors, when last looked at.",
                "state",
                reconciler.states,
            )
            yield _total("reconciler_removed", "Left-over containers removed.", reconciler.removed)


def _plain(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)


def _total(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, documentation, value=value)


def _gauges(name: str, documentation: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _totals(name: str, documentation: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + name, documentation, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
