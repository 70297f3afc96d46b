"""Fixtures that all tests share, and the rule for what cannot run here.

A test that needs an engine or a browser where there is none is reported as not run, with the reason, in a
block of its own at the end; with `CI=true` it fails instead. At the very end nothing of ours may be left at
the engine (`.ci/test` looks itself, since others of its runs may still be busy there).
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import settings

from supervisor.observability.audit import configure_audit
from supervisor.provision.gate import build_gate
from supervisor.provision.image import DEFAULT_IMAGE, WORKBENCH
from supervisor.sandbox.identity import LABEL_PRODUCT
from supervisor.settings.load import load_settings

# On a busy machine an example that takes long says nothing about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

OWN_ENGINE = "/run/terminal-supervisor/engine/docker.sock"
LEAK_GRACE = 10.0  # seconds for the engine to remove containers that have ended
_not_run: dict[str, list[str]] = {}
_before: set[str] = set()
_left: list[str] = []


def missing(request: pytest.FixtureRequest, reason: str) -> None:
    """Report the requesting test as not run because of `reason`; a failure in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot run here, and CI must run everything: {reason}")
    _not_run.setdefault(reason, []).append(request.node.nodeid)
    pytest.skip(reason)


def opt_outs() -> tuple[str, ...]:
    """Measures that sessions in these tests go without."""
    return load_settings({"HARDENING_WITHOUT": os.environ["HARDENING_WITHOUT"]}).hardening_without


def _get(url: str, path: str, **query: str) -> Any:
    """Ask the engine at `url`; None when it has no such thing.

    Raises:
        httpx.HTTPError: it does not answer, or refuses.
    """
    transport = httpx.HTTPTransport(uds=url.removeprefix("unix://"), verify=False)
    with httpx.Client(transport=transport, timeout=10) as client:
        answer = client.get(f"http://docker{path}", params=query)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json() if path != "/_ping" else answer.text


def _find_engine() -> str | None:
    candidates = [os.environ.get("DOCKER_HOST", ""), f"unix://{OWN_ENGINE}", "unix:///var/run/docker.sock"]
    for url in candidates:
        if url.startswith("unix://") and Path(url.removeprefix("unix://")).is_socket():
            try:
                _get(url, "/_ping")
            except httpx.HTTPError:
                continue
            return url
    return None


def _remaps() -> bool:
    url = _find_engine()
    return url is not None and any(
        "name=userns" in option for option in _get(url, "/info")["SecurityOptions"]
    )


# What the development machines cannot have; a host that can says so: HARDENING_WITHOUT= (empty). Of the
# environment, so that supervisors which tests start as processes go without the same.
os.environ.setdefault("HARDENING_WITHOUT", "apparmor,egress" if _remaps() else "apparmor,userns,egress")


def _our_containers(url: str) -> set[str]:
    filters = json.dumps({"label": [LABEL_PRODUCT]})
    found = _get(url, "/containers/json", all="true", filters=filters)
    return {container["Names"][0].lstrip("/") for container in found}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is at the engine already: other supervisors may use it."""
    url = _find_engine()
    _before.update(_our_containers(url) if url else ())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail (in CI; elsewhere say) when tests left containers of the product behind."""
    url = None if "LEFT_BEHIND_IS_LOOKED_FOR" in os.environ else _find_engine()
    deadline = time.monotonic() + LEAK_GRACE
    while url and _our_containers(url) - _before and time.monotonic() < deadline:
        time.sleep(0.2)  # the engine removes them by itself, some time after their end
    if url:
        _left.extend(sorted(_our_containers(url) - _before))
    if _left and os.environ.get("CI") == "true":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not run, and what was left behind."""
    for reason, tests in _not_run.items():
        terminalreporter.section("NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.write_line(f"{len(tests)} tests were NOT RUN: {reason}")
    if _left:
        terminalreporter.section("LEFT BEHIND", sep="!", red=True, bold=True)
        terminalreporter.write_line("these containers are still at the engine: " + ", ".join(_left))


@pytest.fixture(scope="session")
def _docker_host() -> str | None:
    return _find_engine()


@pytest.fixture
def docker_host(request: pytest.FixtureRequest, _docker_host: str | None) -> str:
    """URL of a Docker Engine that answers."""
    if _docker_host is None:
        missing(
            request,
            "no Docker Engine answers at DOCKER_HOST, at the project's own socket or at /var/run/docker.sock",
        )
        raise AssertionError
    return _docker_host


def _image(request: pytest.FixtureRequest, url: str, name: str) -> str:
    if _get(url, f"/images/{name}/json") is None:
        missing(request, f"the engine at {url} has no image {name}; `make test` builds it")
    return name


@pytest.fixture
def sandbox_image(request: pytest.FixtureRequest, docker_host: str) -> str:
    """Name of the default sandbox image, which the engine has."""
    return _image(request, docker_host, DEFAULT_IMAGE)


@pytest.fixture
def workbench_image(request: pytest.FixtureRequest, docker_host: str) -> str:
    """Name of the sandbox image with a real shell and real tools, which the engine has."""
    return _image(request, docker_host, WORKBENCH)


@pytest.fixture(scope="session")
def gate_binary() -> Path:
    """The gate where set-up puts it, up to date."""
    return build_gate(load_settings({}).gate_file)


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


@pytest.fixture
def audit_log(tmp_path: Path) -> Iterator[Path]:
    """The audit log of this test, in a file."""
    path = tmp_path / "audit.log"
    configure_audit(str(path))
    yield path
    configure_audit("true")
