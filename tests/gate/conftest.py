"""Fixtures of the gate's tests: the gate itself, compiled once, and gates that run as PID 1."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gate.harness import Gate
from supervisor.provision.gate import build_gate


@pytest.fixture(scope="session")
def gate_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gate, for this machine."""
    return build_gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture
def start_gate(gate_program: Path, pid_namespace: list[str], tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    """Start gates as PID 1; what is still there at the end is killed."""
    with ExitStack() as stack:

        def start(*options: str) -> Gate:
            return stack.enter_context(Gate([*pid_namespace, str(gate_program), *options], tmp_path))

        yield start
