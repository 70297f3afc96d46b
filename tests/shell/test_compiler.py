"""Compiling the static programs: once, again when something changed, and in words why it cannot be done."""

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision import compiler
from supervisor.provision.compiler import compile_static, machine_name
from supervisor.provision.shell import build_shell

SOURCE = '#include "answer.h"\n#include <unistd.h>\nint main(void) { return getpid() > 0 ? ANSWER : 1; }\n'


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A program of two files."""
    (tmp_path / "answer.h").write_text("#define ANSWER 42\n")
    (tmp_path / "main.c").write_text(SOURCE)
    return [tmp_path / "answer.h", tmp_path / "main.c"]


def test_it_compiles_once(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile_static(sources, tmp_path / "new/directory/program", freestanding=False)
    assert program == tmp_path / "new/directory/program"
    assert program.stat().st_mode & 0o777 == 0o755
    assert subprocess.run([program], check=False).returncode == 42
    assert sorted(path.name for path in program.parent.iterdir()) == ["program", "program.digest"]
    monkeypatch.setattr(compiler, "_run", lambda command: pytest.fail(f"compiled again: {command}"))
    assert compile_static(sources, program, freestanding=False) == program


@pytest.mark.parametrize("change", ["header", "source", "program", "digest", "digest's content"])
def test_it_compiles_again_when_something_changed(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    program = compile_static(sources, tmp_path / "program", freestanding=False)
    digest = tmp_path / "program.digest"
    if change == "header":
        sources[0].write_text("#define ANSWER 7\n")
    elif change == "source":
        sources[1].write_text(SOURCE + "/* another */\n")
    elif change == "program":
        program.unlink()
    elif change == "digest":
        digest.unlink()
    else:
        digest.write_text("0" * 64)
    before = digest.read_text() if digest.exists() else ""
    runs: list[Sequence[str]] = []
    run = compiler._run

    def counted(command: Sequence[str]) -> str | None:
        runs.append(command)
        return run(command)

    monkeypatch.setattr(compiler, "_run", counted)
    for _ in range(2):
        compile_static(sources, program, freestanding=False)
    assert len(runs) == 1
    assert subprocess.run([program], check=False).returncode == (7 if change == "header" else 42)
    assert (digest.read_text() == before) == (change == "program")


def test_the_program_is_static_and_position_independent(shell_binary: Path) -> None:
    header = shell_binary.read_bytes()[:20]
    assert header[16] == 3  # e_type ET_DYN: a position-independent executable
    assert b"/ld-linux" not in shell_binary.read_bytes()[:4096]  # no interpreter to load it
    assert build_shell(shell_binary) == shell_binary


def test_a_source_that_does_not_compile_leaves_the_old_program(sources: list[Path], tmp_path: Path) -> None:
    program = compile_static(sources, tmp_path / "program", freestanding=False)
    sources[1].write_text("int main(void) { int unused; return 0; }\n")
    with pytest.raises(ConfigurationError, match=r"could not compile program with .*(?s:.*)unused"):
        compile_static(sources, program, freestanding=False)
    assert subprocess.run([program], check=False).returncode == 42
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answer.h",
        "main.c",
        "program",
        "program.digest",
    ]


def test_an_unknown_machine(sources: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"machine 'riscv64': only x86_64 \(amd64\) and aarch64 \(arm64\)"
    ):
        compile_static(sources, tmp_path / "program", freestanding=False, target="riscv64")
    assert machine_name("arm64") == machine_name("AARCH64") == "aarch64"
    assert machine_name() in {"x86_64", "aarch64"}


@pytest.fixture
def no_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_no_compiler_at_all(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_zig: None
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    expected = "there is no cc, and the Python package ziglang is not there either; install gcc and libc6-dev"
    with pytest.raises(ConfigurationError, match=expected):
        compile_static(sources, tmp_path / "program", freestanding=False)


def test_a_compiler_without_a_static_c_library(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_zig: None
) -> None:
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho first >&2\necho 'ld: cannot find -lc' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(fake))
    with pytest.raises(
        ConfigurationError, match=r"cannot link a static program \(ld: cannot find -lc\), and the"
    ):
        compile_static(sources, tmp_path / "program", freestanding=False)


def test_zig_compiles_for_other_machines(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only how it is called; what it makes was run under qemu."""
    other = "aarch64" if machine_name() == "x86_64" else "x86_64"
    calls: list[list[str]] = []

    def run(command: list[str]) -> None:
        calls.append(command)
        Path(command[-1]).write_bytes(b"program")

    spec = importlib.machinery.ModuleSpec("ziglang", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(compiler, "_run", run)
    program = compile_static(sources, tmp_path / "program", freestanding=False, target=other)
    assert program.read_bytes() == b"program"
    assert os.access(program, os.X_OK)
    assert calls[0][1:9] == [
        "-m",
        "ziglang",
        "cc",
        "-target",
        f"{other}-linux-musl",
        "-static",
        "-pie",
        "-std=c11",
    ]
