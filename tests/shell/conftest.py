"""The shell is compiled once for all tests, the way set-up does it."""

from collections.abc import Callable
from pathlib import Path

import conftest
import pytest

from supervisor.provision.shell import build_shell


@pytest.fixture(scope="session")
def shell_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The restricted shell, compiled from the sources of this checkout."""
    return build_shell(tmp_path_factory.mktemp("shell") / "restricted-shell")


@pytest.fixture
def need(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that reports the test as not run when the shell would not find that program here."""

    def check(name: str) -> None:
        if not any((Path(directory) / name).exists() for directory in ("/usr/local/bin", "/usr/bin", "/bin")):
            conftest.missing(request, f"{name} is not installed in /usr/local/bin, /usr/bin or /bin")

    return check
