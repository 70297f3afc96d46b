"""Whose commands are counted: those of the restricted shell on a lifeline, and of nobody else."""

import pytest
import structlog.testing
import trio

from sandbox.conftest import docker_settings
from sandbox.test_conformance import LIMIT, read_all, read_until, running, shell
from supervisor.sandbox.counting import warn_if_uncounted, why_uncounted
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, SandboxFacts, SandboxProvider
from supervisor.settings import Settings

SHELL = ("/usr/local/bin/restricted-shell", "--allow", "printf")


@pytest.mark.parametrize(
    ("provider", "transport", "command", "why"),
    [
        ("docker", "lifeline", SHELL, ""),
        ("docker", "lifeline", ("restricted-shell",), ""),
        ("docker", "lifeline", ("/opt/restricted-shell",), ""),
        ("docker", "lifeline", ("bash",), "sessions run bash"),
        ("docker", "lifeline", ("sh", "-c", "restricted-shell"), "sessions run sh"),
        ("docker", "lifeline", ("",), "only the restricted shell"),
        ("docker", "attach", SHELL, "SANDBOX_TRANSPORT=attach"),
        ("local", "lifeline", SHELL, "provider local"),
        ("local", "lifeline", (), "provider local"),
    ],
)
def test_why(provider: str, transport: str, command: tuple[str, ...], why: str) -> None:
    told = why_uncounted(provider, transport, command)
    assert why in told
    assert bool(why) == bool(told)


@pytest.mark.parametrize(
    ("settings", "command", "warned"),
    [
        (Settings(command_rate=60), SHELL, False),
        (Settings(command_rate=60, transport="attach"), SHELL, True),
        (Settings(command_rate=60), ("bash",), True),
        (Settings(command_rate=60, provider="local"), (), True),
        (Settings(transport="attach"), SHELL, False),
        (Settings(), ("bash",), False),
    ],
)
def test_a_limit_that_cannot_hold_is_told_of(
    settings: Settings, command: tuple[str, ...], warned: bool
) -> None:
    with structlog.testing.capture_logs() as logs:
        warn_if_uncounted(settings, command)
    assert [each["log_level"] for each in logs] == ["warning"] * warned
    assert all("MAX_COMMANDS_PER_MINUTE has no effect" in each["event"] and each["why"] for each in logs)


async def test_other_commands_get_neither_the_descriptor_nor_its_name(provider: SandboxProvider) -> None:
    facts = SandboxFacts()
    script = "ls -m /proc/$$/fd; env | grep -c TERMINAL_SUPERVISOR_; echo ends"
    async with running(provider, *shell(script), note_commands=pytest.fail, facts=facts) as terminal:
        assert await read_all(terminal) == b"0, 1, 2\r\n0\r\nends\r\n"
    assert not facts.counted


@pytest.mark.engine
@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_the_restricted_shell_is_heard_where_it_can_be(
    request: pytest.FixtureRequest, transport: str
) -> None:
    """Also as the command that nobody has asked for by name."""
    settings = docker_settings(request, transport=transport, command=SHELL)
    counts: list[int] = []
    ask = LeaseRequest("test", hangup_grace=0, note_commands=counts.append)
    with trio.fail_after(LIMIT):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            provider.lease(ask) as terminal,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(terminal.listen)
            await read_until(terminal, b"ably> ")
            await terminal.send_all(b"printf %s- o ne\rprintf %s- t wo\rhelp\rexit 3\r")
            output = await read_all(terminal)
            assert await terminal.wait_closed() == ExitStatus(3)
            nursery.cancel_scope.cancel()
    assert b"o-ne-" in output
    assert b"t-wo-" in output
    assert sum(counts) == (2 if transport == "lifeline" else 0)
    assert ask.facts.counted == (transport == "lifeline")
