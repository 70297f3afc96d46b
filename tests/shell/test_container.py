"""The restricted shell where it belongs: in a hardened container, behind the gate, as the image's user."""

import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from conftest import opt_outs

from supervisor.engine import Docker
from supervisor.provision.archive import BuildContext
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest, Terminal
from supervisor.settings import Settings

pytestmark = pytest.mark.engine

DEADLINE = 60.0
PROMPT = b"ably> "


class Keyboard:
    """A terminal, and what it has shown."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.shown = b""

    async def wait_for(self, text: bytes, begin: int = 0) -> int:
        """Read until `text` is shown behind `begin`; return where it ends."""
        while (at := self.shown.find(text, begin)) < 0:
            data = await self.terminal.receive_some()
            assert data, f"the end came before {text!r}: {self.shown[-500:]!r}"
            self.shown += data
        return at + len(text)

    async def enter(self, line: str) -> str:
        """Enter a line, and return what was shown until the next prompt."""
        begin = len(self.shown)
        await self.terminal.send_all(line.encode() + b"\r")
        begin = await self.wait_for(b"\r\n", begin)
        end = await self.wait_for(b"\x1b[?2004h\r" + PROMPT, begin)
        return (
            self.shown[begin:end]
            .replace(b"\x1b[?2004l", b"")
            .partition(b"\x1b")[0]
            .decode()
            .replace("\r\n", "\n")
        )


@pytest.fixture
async def settings(docker_host: str, workbench_image: str, shell_binary: Path) -> AsyncIterator[Settings]:
    """Settings of sessions in an image with this checkout's shell and the tools that the tests run in it."""
    context = BuildContext()
    context.add("restricted-shell", shell_binary, program=True)
    context.add("etc", docker_directory() / "etc")
    context.add("commands", b"# the default\nably\n")
    context.add(
        "Dockerfile",
        f"FROM {workbench_image}\n"
        "COPY etc/ /etc/\n"
        "COPY restricted-shell /usr/local/bin/restricted-shell\n"
        "COPY commands /etc/terminal-supervisor/commands\n".encode(),
    )
    image = f"terminal-supervisor-test-shell:{secrets.token_hex(4)}"
    async with Docker(docker_host) as docker:
        with tempfile.TemporaryFile() as archive:
            context.pack(archive)
            archive.seek(0)
            async with docker.images.build(fileobj=archive, tag=image, forcerm=True, stream=True) as lines:
                async for _ in lines:
                    pass
        try:
            yield Settings(
                docker_host=docker_host,
                image=image,
                network="none",
                container_user="1000:1000",
                hardening_without=opt_outs(),
            )
        finally:
            with trio.move_on_after(30, shield=True):
                await docker.images.delete(image, force=True)


@asynccontextmanager
async def leased(settings: Settings, *allow: str, **environment: str) -> AsyncIterator[Keyboard]:
    """A session of the restricted shell with that allow list; without one, the image's."""
    options = ("--allow", ",".join(allow)) if allow else ()
    command = ("/usr/local/bin/restricted-shell", *options)
    request = LeaseRequest(session_id="shell-test", command=command, environment=environment)
    with trio.fail_after(DEADLINE):
        async with (
            open_docker_provider(settings, verify=False) as provider,
            provider.lease(request) as terminal,
        ):
            keyboard = Keyboard(terminal)
            await keyboard.wait_for(PROMPT)
            yield keyboard


async def test_commands_run_as_the_images_user(settings: Settings) -> None:
    async with leased(
        settings, "id", "env", "stty", ABLY_API_KEY="a.b:c", LD_PRELOAD="/tmp/evil.so", PS1="ably> "
    ) as keyboard:
        assert (await keyboard.enter("id -u -n")).strip() == "appuser"
        environment = dict(
            line.split("=", 1) for line in (await keyboard.enter("env")).splitlines() if line.strip()
        )
        assert environment.pop("TERM")
        environment.pop("LANG", None)
        environment.pop("COLORTERM", None)
        assert environment == {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/home/appuser",
            "USER": "appuser",
            "LOGNAME": "appuser",
            "SHELL": "/usr/local/bin/restricted-shell",
            "ABLY_API_KEY": "a.b:c",
        }
        assert (await keyboard.enter("stty size")).strip() == "24 80"


async def test_the_images_allow_list_and_exit(settings: Settings) -> None:
    async with leased(settings) as keyboard:
        shown = await keyboard.enter("help")
        assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == [
            "ably",
            "clear",
            "exit",
            "help",
        ]
        assert "not a command of this shell" in await keyboard.enter("bash")
        assert "not a command of this shell" in await keyboard.enter("sh -c id")
        await keyboard.terminal.send_all(b"exit 7\r")
        assert await keyboard.terminal.wait_closed() == ExitStatus(7)


async def test_keys_that_signal(settings: Settings) -> None:
    async with leased(settings, "sh") as keyboard:
        for key, shown in ((b"\x03", b"^C"), (b"\x1c", b"Quit")):
            begin = len(keyboard.shown)
            await keyboard.terminal.send_all(b"sh -c 'echo rea''dy; exec sleep 1000'\r")
            await keyboard.wait_for(b"ready\r\n", begin)
            await keyboard.terminal.send_all(b"\x1a" + key)
            await keyboard.wait_for(shown, begin)
            await keyboard.wait_for(PROMPT, begin)
        assert (await keyboard.enter("sh -c 'echo fine'")).strip() == "fine"


async def test_a_command_that_kills_everything_ends_the_session(settings: Settings) -> None:
    async with leased(settings, "sh") as keyboard:
        await keyboard.terminal.send_all(b"sh -c 'kill -9 -1'\r")
        assert await keyboard.terminal.wait_closed() == ExitStatus(None, 9)


async def test_too_many_processes_leave_a_prompt(settings: Settings) -> None:
    async with leased(attrs.evolve(settings, pids_limit=5), "sh", "id") as keyboard:
        await keyboard.enter("sh -c 'trap \"\" HUP; (sleep 0.1; sleep 3 & sleep 3 & exec sleep 3) & exit 0'")
        while "id: cannot be started: Resource temporarily unavailable" not in await keyboard.enter("id -un"):
            pass
        while "appuser" not in await keyboard.enter("id -un"):
            await trio.sleep(0.2)  # until the programs in the background have ended


async def test_a_few_attacks(settings: Settings) -> None:
    """The effect would be a file in /tmp, which the session may write to."""
    async with leased(settings, "printf", "touch", "ls") as keyboard:
        for line in (
            "printf a; touch /tmp/owned",
            "printf a > /tmp/owned",
            "printf %s $(touch /tmp/owned)",
            "printf %s `touch /tmp/owned`",
            "printf %s <(touch /tmp/owned)",
            "/usr/bin/touch /tmp/owned",
            "eval touch /tmp/owned",
            "printf -v 'a[$(touch /tmp/owned)]' x",
        ):
            await keyboard.enter(line)
        await keyboard.terminal.send_all(b"printf $(touch /tmp/owned)\x1b\x05\x03")
        await keyboard.wait_for(b"^C")
        assert (await keyboard.enter("ls -A /tmp")).strip() == ""
        await keyboard.enter("touch /tmp/owned")
        assert (await keyboard.enter("ls -A /tmp")).strip() == "owned"
