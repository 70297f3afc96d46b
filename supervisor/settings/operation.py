"""What operators see and are told: logs, audit, monitoring, the admin listener, shutdown."""

from typing import Literal

import attrs

from supervisor.settings.knob import Between, as_is, boolean, matches, milliseconds, one_of, setting


@attrs.frozen(kw_only=True, slots=False)
class OperationSettings:
    """See `Settings`."""

    reconcile_interval: float = setting(
        "RECONCILE_INTERVAL_MS",
        60.0,
        milliseconds,
        "Time between two searches for what dead supervisors left: containers, sockets, directories.",
        Between(1, 1e5),
    )
    monitoring: bool = setting(
        "ENABLE_RESOURCE_MONITORING",
        True,
        boolean,
        "Measure what sessions use, and tell who hits a limit.",
    )
    monitor_interval: float = setting(
        "RESOURCE_MONITORING_INTERVAL_MS",
        5.0,
        milliseconds,
        "Time between two looks at a session's resources.",
        Between(0.1, 3600),
    )
    alert_percent: float = setting(
        "RESOURCE_ALERT_PERCENT",
        90.0,
        float,
        "Part of a limit at which operators are told.",
        Between(1, 100),
    )
    warn_after: int = setting(
        "RESOURCE_WARN_AFTER",
        2,
        int,
        "Strikes (intervals with a process ended for memory, or refused for their number) until a session is "
        "warned; 0: never.",
        Between(0, 100_000),
    )
    throttle_after: int = setting(
        "RESOURCE_THROTTLE_AFTER",
        4,
        int,
        "Strikes until it is slowed down; 0: never.",
        Between(0, 100_000),
    )
    end_after: int = setting(
        "RESOURCE_END_AFTER", 24, int, "Strikes until it is ended; 0: never.", Between(0, 100_000)
    )
    lift_after: int = setting(
        "RESOURCE_LIFT_AFTER",
        12,
        int,
        "Intervals in a row without a strike until it is no longer slowed down; 0: never.",
        Between(0, 100_000),
    )
    audit_log: str = setting(
        "SECURITY_AUDIT_LOG",
        "true",
        as_is,
        "Where audit events go: true, into the log; a path, into that file; false, nowhere.",
        matches(r"true|false|/.+", "true, false or an absolute path"),
    )
    admin_listen: str = setting(
        "ADMIN_LISTEN",
        "auto",
        as_is,
        "The operator's listener: auto (a unix socket of this user, named by PORT), none, unix:/path, or a "
        "loopback address with a port.",
    )
    admin_token: str = setting(
        "ADMIN_TOKEN",
        "",
        as_is,
        "Bearer token of the operator's listener; needed where that is a port.",
        secret=True,
    )
    traces: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        as_is,
        "URL of an OpenTelemetry collector (OTLP over HTTP) that gets traces of session starts; empty: none.",
        matches(r"|https?://\S+", "a URL such as http://127.0.0.1:4318"),
    )
    log_format: Literal["console", "json"] = setting(
        "LOG_FORMAT", "console", as_is, "Log lines.", one_of("console", "json")
    )
    log_level: str = setting(
        "LOG_LEVEL",
        "info",
        as_is,
        "Least level that is logged.",
        one_of("debug", "info", "warning", "error"),
    )
    shutdown_grace: float = setting(
        "SHUTDOWN_GRACE_MS",
        2.0,
        milliseconds,
        "Time for viewers to read the farewell at shutdown.",
        Between(0, 600),
    )
