"""Traces of session starts: the tree of steps, what is not in it, and that nothing is paid without them."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio
from gateway.harness import SECRET, signed, stage
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sandbox.conftest import docker_settings

from supervisor.errors import ConfigurationError, SandboxError
from supervisor.observability.traces import FLUSH_TIME, flush, span, traced_by, tracing
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings


@contextmanager
def traced() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with traced_by(provider):
        yield exporter


def tree(spans: tuple[ReadableSpan, ...]) -> dict[str, str]:
    """Name of each span's parent, by its own."""
    names = {each.context.span_id: each.name for each in spans if each.context}
    return {each.name: names[each.parent.span_id] if each.parent else "" for each in spans}


async def test_a_session_start_and_its_steps() -> None:
    with traced() as exporter:
        async with stage(Settings(signing_secret=SECRET)) as s:
            client = await s.v1(**signed(apiKey="app.key:planted-secret"))
            spans = exporter.get_finished_spans()
            assert tree(spans) == {"room": "session start", "session start": ""}
            assert dict(spans[-1].attributes or {}) == {"standing": "anonymous", "profile": ""}
            await client.tell("leave")
            await client.closed()
    told = "".join(each.to_json() for each in exporter.get_finished_spans())
    assert "planted-secret" not in told
    assert SECRET not in told


@pytest.mark.engine
async def test_a_container_and_its_steps(request: pytest.FixtureRequest) -> None:
    with traced() as exporter, trio.fail_after(60):
        async with open_docker_provider(docker_settings(request), verify=False) as provider:
            with span("session start"):
                lease = provider.lease(LeaseRequest("a-session", ("/bin/sh",), environment={"A": "planted"}))
                await lease.__aenter__()
            spans = exporter.get_finished_spans()
            await lease.__aexit__(None, None, None)
    assert tree(spans) == {
        "create the container": "prepare a sandbox",
        "start the container": "prepare a sandbox",
        "prepare a sandbox": "session start",
        "session start": "",
    }
    assert "planted" not in "".join(each.to_json() for each in spans)


def test_a_step_that_failed_says_only_how() -> None:
    with traced() as exporter, pytest.raises(SandboxError), span("step"):
        raise SandboxError("a text with app.key:secret in it")
    [failed] = exporter.get_finished_spans()
    assert failed.status.description == "SandboxError"
    assert "app.key" not in failed.to_json()


def test_without_a_collector_nothing_is_imported() -> None:
    program = "import sys, supervisor.serve, supervisor.cli; sys.exit('opentelemetry' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert span("a step") is span("another")


async def test_a_collector_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r"terminal-supervisor\[otel\]"):
        async with tracing("http://127.0.0.1:9", "1.0"):
            pass


@pytest.mark.parametrize("ends", [True, False])
async def test_spans_reach_a_collector(ends: bool) -> None:
    """At the end, or before, where a process is about to end without one: it is handed over."""
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with trio.fail_after(30), ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            async with tracing(f"http://127.0.0.1:{server.server_port}/", "1.0"):
                with span("session start"):
                    await trio.lowlevel.checkpoint()
                if not ends:
                    await flush()
                    assert len(got) == 1
        finally:
            await trio.to_thread.run_sync(server.shutdown)
            thread.join()
    [(path, body)] = got
    assert path == "/v1/traces"
    assert b"session start" in body
    assert b"terminal-supervisor" in body


async def test_a_collector_that_is_away_costs_no_more_than_a_moment_at_the_end() -> None:
    with trio.fail_after(20):
        async with tracing("http://127.0.0.1:9", "1.0"):
            with span("session start"):
                await trio.lowlevel.checkpoint()
            begin = trio.current_time()
            await flush()
            assert trio.current_time() - begin < FLUSH_TIME + 1
