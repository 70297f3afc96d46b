"""Traces of session starts (OpenTelemetry): what a visitor waited for, step by step. An optional extra.

Without a collector nothing is imported and a span costs a function call. With one, spans wait in a bounded
queue of the SDK and are sent by a thread of it; sessions never wait for that. Spans carry what logs carry,
never texts of errors: only their kind.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Final

import trio

from supervisor.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as SendingProvider
    from opentelemetry.trace import Tracer, TracerProvider

FLUSH_TIME: Final = 1.0
"""Seconds to send what waits, of a process that another one goes on from."""
SHUTDOWN_TIME: Final = 5.0
"""Seconds to send what is left at the end."""
_NOTHING: Final = nullcontext()


class _Traces:
    """There is one, as there is one log."""

    tracer: "Tracer | None" = None
    sender: "SendingProvider | None" = None


def span(name: str, **attributes: str) -> AbstractContextManager[None]:
    """Return a context that is one step of the step around it. Never leave it by a `yield`."""
    return _NOTHING if _Traces.tracer is None else _recorded(_Traces.tracer, name, attributes)


@contextmanager
def _recorded(tracer: "Tracer", name: str, attributes: dict[str, str]) -> Generator[None]:
    from opentelemetry.trace import Status, StatusCode

    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as step:
        try:
            yield
        except BaseException as error:
            step.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextmanager
def traced_by(provider: "TracerProvider") -> Generator[None]:
    """Give spans to `provider` while the block runs: that of a program of one's own, or of a test."""
    _Traces.tracer = provider.get_tracer("terminal-supervisor")
    try:
        yield
    finally:
        _Traces.tracer = None


@asynccontextmanager
async def tracing(collector: str, version: str) -> AsyncGenerator[None]:
    """Send spans to a collector (OTLP over HTTP) while the block runs; empty: to nobody. Headers, compression
    and the like are the SDK's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …).

    Args:
        collector: its URL, without the path.
        version: of this program.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    if not collector:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: pip install 'terminal-supervisor[otel]' ({error})"
        ) from error
    about = Resource.create({"service.name": "terminal-supervisor", "service.version": version})
    provider = TracerProvider(resource=about, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{collector.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        with traced_by(provider):
            _Traces.sender = provider
            yield
    finally:
        _Traces.sender = None
        with trio.move_on_after(SHUTDOWN_TIME, shield=True):
            await trio.to_thread.run_sync(provider.shutdown, abandon_on_cancel=True)


async def flush() -> None:
    """Send what waits, for a process that ends without leaving `tracing`; takes a moment at most."""
    if _Traces.sender is not None:
        with trio.move_on_after(FLUSH_TIME):
            await trio.to_thread.run_sync(_Traces.sender.force_flush, abandon_on_cancel=True)
