"""Which engine the commands use that set nothing up."""

import socket
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision import at_hand
from supervisor.provision.at_hand import engine_url, with_engine_at_hand
from supervisor.provision.daemon import EnginePaths
from supervisor.settings import Settings


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnginePaths:
    """The project's own engine's paths; no other engine is named anywhere, nor at a usual place."""
    paths = EnginePaths(run=tmp_path / "run", data=tmp_path / "data")
    monkeypatch.setattr(at_hand, "EnginePaths", lambda: paths)
    monkeypatch.setattr("supervisor.engine.address.default_sockets", lambda _: [tmp_path / "usual.sock"])
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    paths.run.mkdir()
    return paths


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    return listening


def test_what_is_named_is_used(own: EnginePaths) -> None:
    with listen(own.socket):
        assert engine_url("tcp://docker.example:2375") == "tcp://docker.example:2375"


def test_the_systems_is_used_before_the_projects_own(own: EnginePaths, tmp_path: Path) -> None:
    with listen(own.socket), listen(tmp_path / "usual.sock"):
        assert engine_url() == f"unix://{tmp_path}/usual.sock"


def test_the_projects_own_is_found(own: EnginePaths) -> None:
    with listen(own.socket):
        assert with_engine_at_hand(Settings()).docker_host == own.url


def test_without_any_it_is_said_what_to_do(own: EnginePaths) -> None:
    with pytest.raises(ConfigurationError, match=r"DOCKER_HOST is not set .*terminal-supervisor setup"):
        engine_url()
