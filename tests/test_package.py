"""The package's own names."""

import subprocess
import sys

import supervisor


def test_each_is_there() -> None:
    for name in supervisor.__all__:
        assert getattr(supervisor, name) is not None


def test_nothing_is_loaded_before_it_is_used() -> None:
    """The guard, which waits as long as the supervisor lives, loads the package as well."""
    script = "import sys, supervisor; print([name for name in sys.modules if name.startswith('supervisor.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
