"""The gate as set-up compiles it."""

import os
import struct
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision.gate import build_gate

LARGEST = 16 * 1024  # bytes; what cc makes has 5 KB, what zig makes 7 KB


def segments(program: bytes) -> list[tuple[int, int]]:
    """Return type and flags of an ELF64 program's segments."""
    table, size, count = (
        struct.unpack_from("<Q", program, 32)[0],
        *struct.unpack_from("<HH", program, 54),
    )
    return [struct.unpack_from("<II", program, table + i * size) for i in range(count)]


def test_static_and_small(tmp_path: Path) -> None:
    gate = build_gate(tmp_path / "new" / "gate")
    program = gate.read_bytes()
    assert program[:4] == b"\x7fELF"
    assert len(program) < LARGEST
    assert os.access(gate, os.X_OK)
    kinds = dict(segments(program))
    interpreter, dynamic, stack = 3, 2, 0x6474E551
    assert interpreter not in kinds
    assert dynamic not in kinds
    assert kinds[stack] == 6  # not executable


def test_a_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    gate = build_gate(tmp_path / "gate")
    before = gate.stat()
    assert build_gate(gate).stat() == before


def test_unknown_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="only x86_64"):
        build_gate(tmp_path / "gate", "riscv64")
