"""What is counted when it happens: starts, ends, refusals, calls of the engine, latencies.

Numbers that can be read off a live object (sessions, pool, connections) are not kept here; they are read when
somebody asks (`supervisor.admin.collector`). Everything here belongs to the process, as is usual with
Prometheus, and lives in `REGISTRY`. Labels have few values, all of them ours: nothing that a client sends
becomes a label.

Cost: one event of `prometheus_client` takes about 2 us, so none happens per chunk of output. What does,
`LatencyHistogram`, is an addition to a list of integers.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

PREFIX: Final = "terminal_supervisor_"
disable_created_metrics()  # type: ignore[no-untyped-call] # one more series each, which nobody looks at
REGISTRY: Final = CollectorRegistry()
ProcessCollector(namespace="terminal_supervisor", registry=REGISTRY)

session_start_seconds: Final = Histogram(
    f"{PREFIX}session_start_seconds",
    "Time from the request for a sandbox to its terminal, by kind of start (warm: from the pool).",
    ["start"],
    buckets=(0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5, 10, 30),
    registry=REGISTRY,
)
session_start_failures: Final = Counter(
    f"{PREFIX}session_start_failures", "Sessions that could not be started.", ["reason"], registry=REGISTRY
)
sessions_started: Final = Counter(
    f"{PREFIX}sessions_started", "Sessions that got a terminal.", registry=REGISTRY
)
sessions_ended: Final = Counter(
    f"{PREFIX}sessions_ended", "Sessions that ended, by reason.", ["reason"], registry=REGISTRY
)
session_seconds: Final = Histogram(
    f"{PREFIX}session_seconds",
    "Life of sessions that ended.",
    buckets=(1, 10, 60, 300, 600, 1200, 1800, 3600, 7200),
    registry=REGISTRY,
)
refusals: Final = Counter(
    f"{PREFIX}refusals", "Visitors who were refused a session, by reason.", ["reason"], registry=REGISTRY
)
http_refusals: Final = Counter(
    f"{PREFIX}http_refusals", "Requests answered with an error, by status.", ["status"], registry=REGISTRY
)
websockets_closed: Final = Counter(
    f"{PREFIX}websockets_closed",
    "WebSockets that ended, by reason and close code.",
    ["reason", "code"],
    registry=REGISTRY,
)
engine_call_seconds: Final = Histogram(
    f"{PREFIX}engine_call_seconds",
    "Time until the engine answered a call (`wait` is meant to take long).",
    ["call"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
    registry=REGISTRY,
)
engine_call_errors: Final = Counter(
    f"{PREFIX}engine_call_errors",
    "Calls of the engine that did not succeed: refused with a status, unanswered, or given up.",
    ["call", "outcome"],
    registry=REGISTRY,
)
keys_held: Final = Counter(
    f"{PREFIX}keys_held",
    "Times that a session's keys began to wait for its commands, once a minute at most for each session.",
    registry=REGISTRY,
)
resource_violations: Final = Counter(
    f"{PREFIX}resource_violations",
    "Intervals in which a session hit a limit, by limit.",
    ["limit"],
    registry=REGISTRY,
)
resource_alerts: Final = Counter(
    f"{PREFIX}resource_alerts",
    "Times that a session came near a limit, by resource.",
    ["resource"],
    registry=REGISTRY,
)
recording_bytes: Final = Counter(
    f"{PREFIX}recording_bytes", "Bytes written into recordings.", registry=REGISTRY
)
recording_omitted_bytes: Final = Counter(
    f"{PREFIX}recording_omitted_bytes",
    "Bytes of sessions that recordings lack because the disk was slow.",
    registry=REGISTRY,
)
recording_failures: Final = Counter(
    f"{PREFIX}recording_failures",
    "Recordings that could not be begun, or ended before their sessions, by reason.",
    ["reason"],
    registry=REGISTRY,
)
audit_events: Final = Counter(
    f"{PREFIX}audit_events",
    "Audit events, the suppressed ones included.",
    ["event", "severity"],
    registry=REGISTRY,
)

_VERBS: Final = frozenset(
    {
        *("archive", "attach", "auth", "connect", "create", "disconnect", "events", "exec", "get", "history"),
        *("info", "json", "kill", "load", "logs", "pause", "prune", "push", "rename", "resize", "restart"),
        *("start", "stats", "stop", "tag", "top", "unpause", "update", "version", "wait"),
    }
)
_NOUNS: Final = frozenset(
    {
        "_ping",
        "build",
        "containers",
        "events",
        "exec",
        "images",
        "info",
        "networks",
        "system",
        "version",
        "volumes",
    }
)


def engine_called(what: str, seconds: float, outcome: str) -> None:
    """Note a call of the engine.

    Args:
        what: method and path as the engine client calls it, `POST /containers/NAME/start` for instance; names
            and ids in it do not become labels.
        seconds: until the head of the answer.
        outcome: `ok`, the status of a refusal, or what else became of it.
    """
    call = engine_call_label(what)
    engine_call_seconds.labels(call).observe(seconds)
    if outcome != "ok":
        engine_call_errors.labels(call, outcome).inc()


def engine_call_label(what: str) -> str:
    """Return `POST containers start` for `POST /containers/NAME/start`."""
    method, _, path = what.partition(" ")
    parts = path.strip("/").split("/")
    noun = parts[0] if parts[0] in _NOUNS else "other"
    verb = parts[-1] if len(parts) > 1 and parts[-1] in _VERBS else ""
    return f"{method} {noun} {verb}".strip()


class LatencyHistogram:
    """A histogram for the hot path: one bisection and two additions per observation.

    Args:
        name, documentation: of the metric.
        buckets: upper bounds, seconds.
    """

    def __init__(self, name: str, documentation: str, buckets: Iterable[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        """Return it as `prometheus_client` asks a collector for."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=self._sum)


echo: Final = LatencyHistogram(
    f"{PREFIX}echo_seconds",
    "Time from typing into a terminal to its next output, where that took less than a second.",
    (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1),
)
REGISTRY.register(echo)
