"""Fixtures of the gate's tests: gates that run as PID 1."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gate.harness import Gate


@pytest.fixture
def start_gate(gate_binary: Path, pid_namespace: list[str], tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    """Start gates as PID 1; what is still there at the end is killed."""
    with ExitStack() as stack:

        def start(*options: str) -> Gate:
            return stack.enter_context(Gate([*pid_namespace, str(gate_binary), *options], tmp_path))

        yield start
