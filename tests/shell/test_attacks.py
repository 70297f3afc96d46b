"""Every attack of attacks.py fails on the restricted shell, and has its effect on bash where it says so."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from .attacks import ATTACKS, Attack, prepare
from .driver import CTRL_C, DEADLINE, ENTER, PASTE_END, PROMPT_BEGINS, Shell

BASH = Path("/bin/bash")
INTERPRETERS = {"bash", "perl", "python3"}  # not on every host


@attrs.frozen
class Range:
    """Where one attack takes place."""

    directory: Path
    canary: Path
    descriptor: int

    def text(self, text: str) -> str:
        """Fill in the places."""
        for token, value in (("@C", self.canary), ("@D", self.directory), ("@F", self.descriptor)):
            text = text.replace(token, str(value))
        return text

    def keys(self, attack: Attack) -> bytes:
        """The keys with the places filled in."""
        if isinstance(attack.keys, str):
            return self.text(attack.keys).encode()
        return attack.keys.replace(b"@C", os.fsencode(self.canary)).replace(
            b"@D", os.fsencode(self.directory)
        )

    def environment(self, attack: Attack) -> dict[str, str]:
        """The environment with the places filled in."""
        return {name: self.text(value) for name, value in attack.environment.items()}

    def succeeded(self, attack: Attack, output: bytes) -> bool:
        """Whether the forbidden effect is there."""
        if attack.output:
            return re.search(attack.output, output.decode(errors="replace")) is not None
        return self.canary.exists()


@pytest.fixture
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Range]:
    directory = tmp_path_factory.mktemp("a")
    canary = directory / "canary"
    prepare(directory, canary)
    descriptor = os.open(directory / "secret-file", os.O_RDONLY)
    yield Range(directory, canary, descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_fails(shell_binary: Path, where: Range, need: Callable[[str], None], name: str) -> None:
    attack = ATTACKS[name]
    if attack.allow in INTERPRETERS:
        need(attack.allow)
    with Shell(
        shell_binary,
        ["--allow", attack.allow],
        environment=where.environment(attack),
        directory=where.directory,
        columns=300,
        emulated=False,
        descriptors=[where.descriptor] if attack.descriptor else [],
    ) as shell:
        shell.wait_for_output(PROMPT_BEGINS)
        shell.press(where.keys(attack))
        if attack.ends:
            assert shell.wait_for_exit() == 0
        else:
            survive(shell)
        assert not where.succeeded(attack, shell.output)


def survive(shell: Shell) -> None:
    """See the shell alive and at its prompt, so that whatever an attack started has been started."""
    shell.press(PASTE_END, CTRL_C, CTRL_C)
    shell.press("still-here", ENTER)
    shell.wait_for_output(b"still-here: not a command of this shell")
    assert shell.process.poll() is None
    assert not shell.children()


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.bash])
def test_the_same_keys_succeed_in_bash(where: Range, need: Callable[[str], None], name: str) -> None:
    """Otherwise the check of the attack would prove nothing."""
    attack = ATTACKS[name]
    need("bash")
    if attack.allow in INTERPRETERS:
        need(attack.allow)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/root",
        "TERM": "xterm",
        "HISTFILE": "",
        **where.environment(attack),
    }
    with Shell(
        BASH,
        [*attack.bash_options, "-i"],
        environment=environment,
        directory=where.directory,
        columns=300,
        emulated=False,
        descriptors=[where.descriptor] if attack.descriptor else [],
    ) as bash:
        bash.wait_for_output(b"\x1b[?2004h")
        bash.press(where.keys(attack))
        wait_until(bash, lambda: where.succeeded(attack, bash.output))


def wait_until(shell: Shell, condition: Callable[[], bool]) -> None:
    """Read until `condition` holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"the effect was not seen: {shell.output!r}"
        shell.read(0.05)


def test_the_canary_works_in_the_restricted_shell(shell_binary: Path, where: Range) -> None:
    """The attacks that are none on bash are checked by the same file: a plain `touch` makes it."""
    attack = Attack("touch @C\r")
    with Shell(shell_binary, ["--allow", attack.allow], emulated=False) as shell:
        shell.press(where.keys(attack))
        wait_until(shell, lambda: where.succeeded(attack, shell.output))


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 60
    assert len({attack.keys for attack in ATTACKS.values() if attack.keys}) >= 60
