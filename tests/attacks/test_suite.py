"""The attack suite on a real engine, and what keeps it whole."""

import json
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from conftest import opt_outs
from egress.conftest import _impediment, capable
from sandbox.conftest import docker_settings

from supervisor.attacks.attack import DEFENCES, Outcome, Row, Stage
from supervisor.attacks.catalog import CATALOG
from supervisor.attacks.cell import parsed
from supervisor.attacks.markdown import BEGIN, END, table
from supervisor.attacks.report import Report
from supervisor.attacks.run import attacker_program, chosen, run
from supervisor.attacks.witness import ALLOWANCE, FACTOR, LONGEST, Echo, witness
from supervisor.cli import main
from supervisor.errors import ConfigurationError
from supervisor.measures import OPTIONAL, Measure
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.testing.memory import MemoryProvider, MemoryTerminal

__all__ = ["_impediment", "capable"]

LIMIT = 300.0
LEAST = 110
"""Attacks that count, at least: rows must not fall silent unnoticed."""
MAY_NOT_COUNT = {"sysrq", "host-memory-image", "host-disk", "real-time", "kernel-cipher", "hypervisor"}
"""What not every kernel lets anybody succeed with."""


@pytest.mark.engine
@pytest.mark.netns
async def test_all_attacks(request: pytest.FixtureRequest, capable: None) -> None:
    settings = docker_settings(request, command=("/bin/bash", "--norc", "--noprofile"))
    with trio.fail_after(LIMIT):
        report = await run(settings, chosen(()))
    print(report)
    assert [row.attack.name for row in report.failed] == []
    assert {row.attack.name for row in report.rows if not row.counts} <= MAY_NOT_COUNT
    assert report.exposed == []
    assert len(report.counted) >= LEAST
    # Everything that this host can have was tried alone.
    impossible = {each for row in report.rows for each in row.untried}
    assert impossible <= set(map(Measure, opt_outs())) | {Measure.LANDLOCK, Measure.EGRESS}
    assert report.meanwhile.keys > 50, "another session went on working"
    assert report.disturbed == []
    assert json.loads(json.dumps(report.as_json()))["counted"] == len(report.counted)


def test_programs_for_all_values(tmp_path: Path) -> None:
    listed = subprocess.run(
        [attacker_program(tmp_path), "--list"], capture_output=True, text=True, timeout=20, check=True
    )
    wanted = {each.name for each in CATALOG if each.stage not in {Stage.KEYBOARD, Stage.DIALOGUE}}
    assert set(listed.stdout.split()) == wanted | {"look-up"}


def test_each_attack_says_what_stops_it() -> None:
    assert len({each.name for each in CATALOG}) == len(CATALOG)
    assert all(each.stopped_by and not each.stopped_by & each.given for each in CATALOG)
    used = frozenset[object]().union(*(each.stopped_by for each in CATALOG))
    assert set(DEFENCES) - used <= {*OPTIONAL}


def test_attacks_by_name() -> None:
    assert [each.name for each in chosen(["mount", "bpf"])] == ["mount", "bpf"]
    with pytest.raises(ConfigurationError, match="no attack nonsense"):
        chosen(["nonsense"])


def test_what_a_host_has_nothing_against_is_said() -> None:
    (server,) = chosen(["server"])
    yes, no = Outcome(True, "serves port 7077"), Outcome(False, "bind: Permission denied")
    exposed = Row(server, yes, {}, yes)
    assert (exposed.exposed, exposed.failures, exposed.untried) == (True, (), (Measure.LANDLOCK,))
    stopped = Row(server, yes, {Measure.LANDLOCK: no}, no)
    assert (stopped.exposed, stopped.failures) == (False, ())
    broken = Row(server, yes, {Measure.LANDLOCK: no}, yes)
    assert (broken.exposed, broken.failures) == (False, ("all",))
    echo = Echo.of([0.001])
    text = str(Report([exposed], echo, echo))
    assert "SUCCEED, because this host has nothing of what stops them:\n  server  serves port 7077" in text
    assert "not here: landlock" in text
    assert "all of them are stopped, but for 1 that this host has nothing against" in text
    assert Report([exposed], echo, echo).as_json()["exposed"] == ["server"]
    assert "SUCCEED" not in str(Report([stopped, broken], echo, echo))
    assert "NOT STOPPED: server" in str(Report([broken], echo, echo))


def echoes(median: float, longest: float = 0.0) -> Echo:
    """Return an echo of those milliseconds."""
    return Echo(100, median, median, max(median, longest))


@pytest.mark.parametrize(
    ("before", "meanwhile", "told"),
    [
        (echoes(1.0), echoes(1.0), []),
        (echoes(1.0), echoes(FACTOR + ALLOWANCE, LONGEST), []),
        (echoes(30.0), echoes(300.0), []),
        (echoes(1.0), echoes(FACTOR + ALLOWANCE + 0.1), ["its median echo took 110.1 ms"]),
        (echoes(1.0), echoes(1.0, LONGEST + 1), ["it waited 10001 ms for a key"]),
        (echoes(1.0), echoes(500.0, 2 * LONGEST), ["its median echo", "it waited 20000 ms"]),
        (echoes(1.0), Echo.of([]), ["no key of it was echoed"]),
        (Echo.of([]), echoes(1.0), ["its median echo"]),
    ],
)
def test_a_run_in_which_another_session_was_affected_fails(
    before: Echo, meanwhile: Echo, told: list[str]
) -> None:
    report = Report([], before, meanwhile)
    assert report.passed is not bool(told)
    assert len(report.disturbed) == len(told)
    for part, sentence in zip(told, report.disturbed, strict=True):
        assert sentence.startswith(part)
        assert f"ANOTHER SESSION WAS AFFECTED: {sentence}" in str(report)
    assert report.as_json()["disturbed"] == report.disturbed


@pytest.mark.parametrize("disturbed", [False, True])
def test_the_exit_status_tells(disturbed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def pretend(_settings: object, _attacks: object) -> Report:
        return Report([], echoes(1.0), echoes(1.0, 2 * LONGEST if disturbed else 0.0))

    monkeypatch.setattr("supervisor.attacks.run.run", pretend)
    monkeypatch.chdir(tmp_path)
    assert main(["attack", "--no-setup"]) == int(disturbed)


async def test_a_key_that_is_never_echoed_counts(autojump_clock: trio.testing.MockClock) -> None:
    class Mute(MemoryTerminal):
        """Echoes until it is told to be silent."""

        silent = False

        async def send_all(self, data: bytes) -> None:
            await super().send_all(data)
            if not self.silent:
                await self.print(data)

    terminals: list[Mute] = []

    class Provider(MemoryProvider):
        @asynccontextmanager
        async def _lease(self, request: LeaseRequest) -> AsyncGenerator[Terminal]:
            terminals.append(Mute(request))
            await terminals[0].print(b"$ ")
            yield terminals[0]

    provider = Provider()
    async with witness(provider, {}) as watched:
        assert watched.before.keys > 10
        await trio.sleep(5)
        assert Report([], watched.before, watched.meanwhile).passed
        terminals[0].silent = True
        await trio.sleep(20)
        (told,) = Report([], watched.before, watched.meanwhile).disturbed
        assert told.startswith("it waited ")


def test_what_the_attacker_says() -> None:
    found = parsed("noise\r\n@@ mount stopped mount: Permission denied\r\nx@@ bpf succeeded a program\r\n")
    assert found["mount"].text == "mount: Permission denied"
    assert (found["mount"].succeeded, found["bpf"].succeeded) == (False, True)


def test_the_documented_table_is_current() -> None:
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    section = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert section == table(), "python -m supervisor.attacks.markdown prints it anew"
