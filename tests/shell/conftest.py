"""The shell is compiled once for all tests, the way set-up does it."""

from pathlib import Path

import pytest

from supervisor.provision.shell import build_shell


@pytest.fixture(scope="session")
def shell_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The restricted shell, compiled from the sources of this checkout."""
    return build_shell(tmp_path_factory.mktemp("shell") / "restricted-shell")
