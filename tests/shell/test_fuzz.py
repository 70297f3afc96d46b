"""Random keys, reproducibly: nothing crashes, nothing runs, and the screen always shows the line.

The seeds are fixed. `RESTRICTED_SHELL_FUZZ_SECONDS` makes the search longer, with further seeds that are
printed.
"""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import conftest
import pytest

from supervisor.provision.compiler import docker_directory

from .driver import CTRL_C, ENTER, PASTE_BEGIN, PASTE_END, PROMPT, PROMPT_BEGINS, Shell, running

SECONDS = float(os.environ.get("RESTRICTED_SHELL_FUZZ_SECONDS", "0"))
SEEDS = range(8)
ROUNDS = 60

VOCABULARY = [
    b"true",
    b"false ",
    b"help",
    b"'",
    b'"',
    b"\\",
    b" ",
    b";",
    b"$(",
    b")",
    b"\t",
    ENTER,
    b"\n",
    PASTE_BEGIN,
    PASTE_END,
    b"\x1b",
    b"\x1b[",
    b"\x1b]",
    b"\x1bP",
    b"\x1bO",
    b"\x1b\\",
    b"\x1b[A",
    b"\x1b[B",
    b"\x1b[C",
    b"\x1b[D",
    b"\x1b[H",
    b"\x1b[F",
    b"\x1b[3~",
    b"\x1b[1;5C",
    b"\x1b[1;5D",
    b"\x1b[M",
    b"\x1bb",
    b"\x1bf",
    b"\x1bd",
    b"\x1b\x7f",
    b"\x12",
    b"\x19",
    b"\x19" * 20,
    b"\x0b",
    b"\x15",
    b"\x17",
    "日本語".encode(),
    "e\u0301\u0302".encode(),
    "\u200d😀".encode(),
    "ñ".encode(),
    b"a" * 70,
    b"b" * 1500,
]


def random_keys(chance: random.Random, count: int) -> bytes:
    """Pieces of everything. No Ctrl-D: it ends the shell, as it should."""
    pieces = []
    for _ in range(count):
        kind = chance.random()
        if kind < 0.6:
            pieces.append(chance.choice(VOCABULARY))
        elif kind < 0.8:
            pieces.append(bytes([chance.randrange(32)]))
        else:
            pieces.append(chance.randbytes(chance.randrange(1, 6)))
    return b"".join(pieces).replace(b"\x04", b"")


def attack_with(binary: Path, seed: int, environment: dict[str, str]) -> None:
    """Press random keys for some rounds, with resizes; the shell must answer after each."""
    chance = random.Random(seed)
    with Shell(binary, ["--allow", "true,false"], environment=environment, emulated=False) as shell:
        shell.wait_for_output(PROMPT_BEGINS)
        for number in range(ROUNDS):
            shell.press(random_keys(chance, chance.randrange(1, 60)))
            if chance.random() < 0.5:
                shell._set_size(chance.randrange(1, 200), chance.randrange(1, 60))
                shell.press(random_keys(chance, chance.randrange(1, 20)))
            if shell.process.poll() is not None:
                break
            # Twice: the first Ctrl-C may be swallowed with a cut-off sequence.
            shell.press(PASTE_END, CTRL_C, PASTE_END, CTRL_C, f"round-{number}", ENTER)
            answer = f"round-{number}: not a command".encode()
            shell.wait_for(lambda: answer in shell.output or shell.process.poll() is not None)  # noqa: B023
        status = shell.process.poll()
        told = f"seed {seed}, status {status}: {shell.output[-4000:].decode(errors='replace')}"
        assert status is None or (0 <= status <= 255 and b"exit" in shell.output), told
        assert b"Sanitizer" not in shell.output, told
        assert b"runtime error" not in shell.output, told


@pytest.mark.parametrize("seed", SEEDS)
def test_random_keys(shell_binary: Path, seed: int) -> None:
    attack_with(shell_binary, seed, {})


@pytest.fixture(scope="session")
def sanitized_binary(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The shell with the sanitizers for addresses and undefined behaviour; None where there are none."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    binary = tmp_path_factory.mktemp("sanitized") / "restricted-shell"
    flags = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [str(path) for path in sorted((docker_directory() / "shell").glob("*.c"))]
    command = [compiler, *flags, *sources, "-o", str(binary)]
    result = subprocess.run(command, capture_output=True, timeout=300, check=False)
    return binary if result.returncode == 0 else None


@pytest.mark.parametrize("seed", SEEDS)
def test_random_keys_under_sanitizers(
    request: pytest.FixtureRequest, sanitized_binary: Path | None, seed: int
) -> None:
    if sanitized_binary is None:
        conftest.missing(request, "no cc with the libraries of AddressSanitizer (gcc with libasan)")
        raise AssertionError
    # The leak check would attach to the shell, which does not let itself be traced; it allocates nothing.
    environment = {"ASAN_OPTIONS": "detect_leaks=0"}
    attack_with(sanitized_binary, seed, environment)
    end = time.monotonic() + SECONDS / len(SEEDS)
    while time.monotonic() < end:
        extra = random.randrange(1 << 32)
        print(f"seed {extra}")
        attack_with(sanitized_binary, extra, environment)


EDITING = [
    *(piece for piece in VOCABULARY if piece[0] >= 0x20 and len(piece) < 20),
    *(
        b"\x1b[C",
        b"\x1b[D",
        b"\x1b[H",
        b"\x1b[F",
        b"\x1b[3~",
        b"\x1b[1;5C",
        b"\x1b[1;5D",
        b"\x1bd",
        b"\x1b\x7f",
    ),
    *(bytes([ord(letter) & 31]) for letter in "ABEFHKTUWYPN"),
    *(b"x", b"y", b"z", b"abcdefgh", "語".encode(), "😀".encode()),
    *(PASTE_BEGIN + "a\r\t日".encode() + PASTE_END,),
]


@pytest.mark.parametrize("columns", [2, 3, 9, 20, 33, 80])
def test_the_screen_shows_the_line_whatever_was_edited(shell_binary: Path, columns: int) -> None:
    """What was drawn piece by piece is what a new drawing of everything shows."""
    chance = random.Random(columns)
    with running(shell_binary, "true", columns=max(columns, 13), rows=40) as shell:
        shell.resize(columns, 40)
        shell.press(b"printf history" + ENTER + "printf older 日本語 history".encode() + ENTER)
        shell.press(b"\x0c")
        for _ in range(150):
            shell.press(b"q", *(chance.choice(EDITING) for _ in range(chance.randrange(1, 8))))
            settle(shell)
            shown, cursor = shell.screen.lines(), shell.screen.cursor()
            if len("".join(shown)) > 30 * columns:
                shell.press(CTRL_C, b"\x0c")
                continue
            shell.press(b"\x0c")
            settle(shell)
            below = len(shown) - len(shell.screen.lines())
            assert shown[below:] == shell.screen.lines()
            assert cursor == (shell.screen.cursor()[0] + below, shell.screen.cursor()[1])
            assert shown[below].startswith(PROMPT[: min(columns, 5)])


def settle(shell: Shell) -> None:
    """Wait until all keys have been drawn: bytes that are no key ring the bell, behind the drawing."""
    bells = shell.screen.bells
    shell.press(b"\xff")
    shell.wait_for(lambda: shell.screen.bells > bells, "the bell")
