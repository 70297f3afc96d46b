"""Fixtures that all tests share, and the rule for what cannot run here.

A test that needs an engine or a browser where there is none is reported as not run, with the reason, in a
block of its own at the end; with `CI=true` it fails instead.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

OWN_ENGINE = "/run/terminal-supervisor/engine/docker.sock"
_not_run: dict[str, list[str]] = {}


def missing(request: pytest.FixtureRequest, reason: str) -> None:
    """Report the requesting test as not run because of `reason`; a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot run here, and CI must run everything: {reason}")
    _not_run.setdefault(reason, []).append(request.node.nodeid)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not run."""
    for reason, tests in _not_run.items():
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"{len(tests)} tests were NOT RUN: {reason}")


def _answers(url: str) -> bool:
    transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"), verify=False)
    with httpx.Client(transport=transport) as client:
        try:
            return client.get("http://docker/_ping").status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture(scope="session")
def _docker_host() -> str | None:
    candidates = [os.environ.get("DOCKER_HOST", ""), f"unix://{OWN_ENGINE}", "unix:///var/run/docker.sock"]
    for url in candidates:
        if url.startswith("unix://") and Path(url.removeprefix("unix://")).exists() and _answers(url):
            return url
    return None


@pytest.fixture
def docker_host(request: pytest.FixtureRequest, _docker_host: str | None) -> Iterator[str]:
    """URL of a Docker Engine that answers."""
    if _docker_host is None:
        missing(
            request,
            "no Docker Engine answers at DOCKER_HOST, at the project's own socket or at /var/run/docker.sock",
        )
        raise AssertionError
    yield _docker_host


@pytest.fixture(scope="session")
def _pid_namespace() -> list[str] | None:
    base = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    for prefix in (base, [*base, "--user", "--map-root-user"]):
        if subprocess.run([*prefix, "true"], capture_output=True, timeout=10, check=False).returncode == 0:
            return prefix
    return None


@pytest.fixture
def pid_namespace(request: pytest.FixtureRequest, _pid_namespace: list[str] | None) -> list[str]:
    """Command prefix that runs a program as PID 1 of a namespace of its own."""
    if _pid_namespace is None:
        missing(request, "no PID namespaces: neither root nor unprivileged user namespaces here")
        raise AssertionError
    return _pid_namespace


@pytest.fixture(scope="session")
def _chromium() -> str | None:
    return next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)


@pytest.fixture
def chromium(request: pytest.FixtureRequest, _chromium: str | None) -> str:
    """Path of a Chromium."""
    if _chromium is None:
        missing(request, "no Chromium: neither chromium nor chromium-browser is on the PATH")
        raise AssertionError
    return _chromium
