"""AppArmor in depth, on a kernel that enforces it: pytest runs this in the machine (`suites.py`).

What a profile promises is tried in containers that have nothing but AppArmor, as root, and in containers that
have not even that: each promise is kept by AppArmor alone, and would be broken without it. Then what a
supervisor says of profiles that are missing, complain, or are others than this version makes.
"""

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGHUP
from typing import Final

import pytest
import trio
from sandbox.conftest import docker_settings, execute

from supervisor.attacks.attack import Defence
from supervisor.attacks.cell import started
from supervisor.attacks.run import attacker_program
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import Measure
from supervisor.observability.audit import configure_audit
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    PROFILE_FILE,
    SESSION_PREFIX,
    SessionProfile,
    made_for,
    profile_text,
)
from supervisor.sandbox.apparmor_kernel import (
    UNSAFE_PROFILES,
    compile_profiles,
    confining,
    loaded_profiles,
    run_parser,
)
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.leaving import claimed
from supervisor.sandbox.policy import Mount
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.settings.load import load_settings

LIMIT = 120.0
ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "TERM": "dumb"}
CONFIG: Final = "/home/appuser/.ably"
UNLISTED: Final = "/opt/unlisted"

# Shell commands that succeed without AppArmor, and with nothing but AppArmor do not. None does harm.
DENIED: Final = {
    "a file in /": ": > /owned",
    "a file in /etc": ": > /etc/owned",
    "a file at home": ": > /home/appuser/owned",
    "a file among programs": ": > /usr/bin/owned",
    "a file among devices": ": > /dev/owned",
    "a file in shared memory": ": > /dev/shm/owned",
    "add to a file": ": >> /etc/group",
    "remove": "rm -f /usr/bin/tac && ! test -e /usr/bin/tac",
    "rename": "mv -f /usr/bin/fold /usr/bin/unfold",
    "link": "ln /usr/bin/nl /usr/bin/ln-of-nl",
    "change a mode": "chmod 4755 /usr/bin/pr",
    "change an owner": "chown 1234 /usr/bin/pr",
    "execute what was written": "cp /usr/bin/true /tmp/planted && /tmp/planted",
    "execute what is not listed": f"{UNLISTED} --list",
    "execute by the loader": "/lib64/ld-linux-x86-64.so.2 /usr/bin/true",
    "another terminal": ": <> /dev/ptmx",
    "another terminal by its other name": ": <> /dev/pts/ptmx",
    "core pattern": ": >> /proc/sys/kernel/core_pattern",
    "system request": ": >> /proc/sysrq-trigger",
    "interrupts": "cat /proc/interrupts",
    "timers": "cat /proc/timer_list",
    "modules": "cat /proc/modules",
    "addresses of the kernel": "cat /proc/kallsyms",
    "keys": "cat /proc/keys",
    "memory of the kernel": "head -c 1 /proc/kcore | grep -q .",
    "be spared when memory is short": ": >> /proc/self/oom_score_adj",
    "firmware": "cat /sys/firmware/memmap/0/start",
    "program of the gate": "readlink /proc/1/exe",
    "descriptors of the gate": "readlink /proc/1/fd/0",
    "environment of the gate": "cat /proc/1/environ",
    "memory map of the gate": "cat /proc/1/maps",
    "signal the gate": "kill -URG 1",
    "another root": "chroot / true",
    "another user": "python3 -c 'import os; os.setuid(1234)'",
    "a raw socket": "python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'",
    "all packets": "python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 8)'",
}
# What works with and without.
ALLOWED: Final = {
    "write to /tmp": "cd /tmp && echo x > f && mv f g && ln g h && ln -s g i && mkdir d && rm -r g h i d",
    "write to /run": ": > /run/f && rm /run/f",
    "write beside the config": f": > {CONFIG}/f && rm {CONFIG}/f",
    "read the image": "cat /etc/passwd /usr/bin/true",
    "list": "ls / /etc /usr/bin",
    "programs of the image": "python3 -c 'print(1)' && vim.tiny --version && ls /",
    "a script": "echo 'exit 0' > /tmp/s && bash /tmp/s",
    "devices": "head -c 1 /dev/urandom && : > /dev/null && head -c 1 /dev/zero",
    "its own terminal": ": <> /dev/tty && stty -a < /dev/tty",
    "look at itself": "cat /proc/self/status /proc/self/maps /proc/self/environ",
    "look at the host": "cat /proc/meminfo /proc/cpuinfo /proc/loadavg /sys/kernel/mm/ksm/run",
    "list processes": "ps ax | grep -q -- --idle",
    "signal its own": "sleep 100 & kill $!; wait $!; test $? = 143",
    "limits of its own": "ulimit -n 64",
    "named pipes": "mkfifo /tmp/p",
    "sockets": "python3 -c 'import socket as s; s.socketpair(); s.socket(); s.socket(s.AF_INET6)'",
    "datagrams": "python3 -c 'import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM)'",
    "addresses": "python3 -c 'import socket as s; s.socket(s.AF_NETLINK, s.SOCK_RAW, 0)'",
    "size of its own terminal": "stty size",
}


@pytest.fixture
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[DockerProvider]:
    async with open_docker_provider(docker_settings(request), verify=False) as docker:
        yield docker


async def all_of(terminal: Terminal) -> str:
    output = b""
    while data := await terminal.receive_some():
        output += data
    return output.decode(errors="replace").replace("\r", "")


async def kept(provider: DockerProvider, on: frozenset[Defence]) -> set[str]:
    """Names of those commands that succeed in a container with the protection of `on` alone."""
    settings = load_settings()
    attacker = attacker_program(settings.state_directory.absolute() / "bin")
    commands = {**ALLOWED, **DENIED}
    script = "\n".join(
        f"(set -o pipefail; {command}) >/dev/null 2>/tmp/why && echo '@{name}' || echo '#{name}' $(</tmp/why)"
        for name, command in commands.items()
    )
    request = LeaseRequest("test", ("bash", "-c", script), ENVIRONMENT, hangup_grace=0)
    with trio.fail_after(LIMIT):
        async with (
            started(provider.containers, on, [Mount(str(attacker), UNLISTED)]) as gate,
            claimed(gate, request) as terminal,
        ):
            output = await all_of(terminal)
    print(f"with {', '.join(map(str, on)) or 'nothing'}:\n{output}")
    return {line.removeprefix("@") for line in output.splitlines() if line.startswith("@")}


async def test_each_promise_is_kept_by_apparmor_alone(provider: DockerProvider) -> None:
    assert await kept(provider, frozenset()) == {*ALLOWED, *DENIED}
    assert await kept(provider, frozenset({Measure.APPARMOR})) == {*ALLOWED}


async def test_nothing_can_be_undone(provider: DockerProvider) -> None:
    """A session has both profiles, and whatever it starts; there is no way back to fewer."""
    attempts = "\n".join(
        f"printf '{order}' > /proc/self/attr/{file} && echo done"
        for file in ("current", "exec", "apparmor/current", "apparmor/exec")
        for order in (
            "changeprofile unconfined",
            f"changeprofile {GATE_PROFILE}",
            "exec unconfined",
            "permhat 0^",
        )
    )
    label = "cat /proc/self/attr/current; echo"
    script = f"{label}\n{{ {attempts}\n}} 2>/dev/null\n{label}\nbash -c '{label}'\nreadlink /proc/1/exe"
    request = LeaseRequest("test", ("bash", "-c", script), ENVIRONMENT, hangup_grace=0)
    with trio.fail_after(LIMIT):
        async with provider.prepare(LIMIT) as sandbox, sandbox.claim(provider.complete(request)) as terminal:
            gate = Path(f"/proc/{sandbox.pid}/attr/current").read_text().strip()
            lines = (await all_of(terminal)).split("\n")
    assert gate == f"{GATE_PROFILE} (enforce)"
    session = f"{GATE_PROFILE}//&{provider.containers.policy.session_profile} (enforce)"
    assert [line for line in lines if line] == [session] * 3


@asynccontextmanager
async def waiting(provider: DockerProvider, grace: float = 0) -> AsyncGenerator[tuple[Terminal, str]]:
    """A session that says that it is there, and waits; yields its terminal and container."""
    command = ("bash", "-c", "echo there; sleep 1000; true")
    request = LeaseRequest("test", command, ENVIRONMENT, hangup_grace=grace)
    with trio.fail_after(LIMIT):
        async with provider.prepare(LIMIT) as sandbox, sandbox.claim(provider.complete(request)) as terminal:
            assert b"there" in await terminal.receive_some()
            yield terminal, sandbox.name


async def test_an_administrator_looks_after_a_session(provider: DockerProvider) -> None:
    async with waiting(provider) as (_, name):
        container = provider.containers.site.docker.containers.container(name)
        script = "kill -CONT $(pgrep -x sleep) && cat /proc/self/attr/current"
        status, output = await execute(container, "bash", "-c", script)
        assert (status, output.strip()) == (0, f"{GATE_PROFILE} (enforce)")


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
async def test_the_engine_signals(provider: DockerProvider, signal: str) -> None:
    """A gate that is told to end hangs up, which is a signal, too."""
    async with waiting(provider, LIMIT) as (terminal, name):
        await provider.containers.site.docker.containers.container(name).kill(signal=signal)
        await all_of(terminal)
        if signal == "KILL":
            with pytest.raises(trio.BrokenResourceError, match="the gate is gone"):
                await terminal.wait_closed()
        else:
            assert (await terminal.wait_closed()).signal == SIGHUP


async def test_what_is_denied_is_told(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    configure_audit(str(log))
    try:
        async with open_docker_provider(docker_settings(request), verify=False) as provider:
            # Nothing else stops these two here: the first is masked, which is to read nothing, and of
            # signals Landlock learned with Linux 6.12. The third one Landlock does, and quietly.
            command = ("bash", "-c", "cat /proc/interrupts; kill -URG 1; cat /dev/ptmx; sleep 1000")
            lease = LeaseRequest(secrets.token_hex(8), command, hangup_grace=0)
            with trio.fail_after(LIMIT):
                async with provider.lease(lease):
                    while len({each["operation"] for each in _events(log)}) < 2:
                        await trio.sleep(0.1)
        told = _events(log)
    finally:
        configure_audit("false")
    assert all(each["profile"].startswith((GATE_PROFILE, SESSION_PREFIX)) for each in told)
    assert all(each["session"] and each["container"] for each in told)
    assert {each["operation"] for each in told} == {"open", "signal"}
    assert {each["target"] for each in told if each["operation"] == "open"} == {"/proc/interrupts"}


def _events(log: Path) -> list[dict[str, str]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for line in lines if (event := json.loads(line))["event"] == "apparmor denied"]


# ---------------------------------------------------------------------- profiles that are not as they must be


def installed(name: str) -> SessionProfile:
    (found,) = [each for each in made_for(PROFILE_FILE.read_text()) if each.name == name]
    return found


def gate_text() -> str:
    """The gate's profile by itself."""
    text = PROFILE_FILE.read_text()
    return text[: text.index(f"\nprofile {SESSION_PREFIX}")].rpartition("}")[0] + "}\n"


async def unload(text: str) -> None:
    await run_parser("--remove", "--skip-cache", text=text)


async def complain(text: str) -> None:
    await run_parser("--replace", "--skip-cache", "--Complain", text=text)


async def weaken(text: str) -> None:
    assert "audit deny mount," in text
    await run_parser("--replace", "--skip-cache", text=text.replace("audit deny mount,", "mount,"))


CHANGES: Final = [
    pytest.param(unload, ("is not loaded", "are not for this image"), id="unloaded"),
    pytest.param(complain, ("is loaded in mode complain",), id="complaining"),
    pytest.param(weaken, ("is loaded with other rules",), id="weaker"),
]


@asynccontextmanager
async def changed(whose: str, change: Callable[[str], Awaitable[None]], name: str) -> AsyncGenerator[None]:
    """Have one profile changed; it is put right afterwards."""
    text = gate_text() if whose == "gate" else profile_text(installed(name))
    await change(text)
    try:
        yield
    finally:
        await run_parser("--replace", "--skip-cache", str(PROFILE_FILE))


async def test_the_kernel_hashes_as_is_believed(provider: DockerProvider) -> None:
    """However they were loaded: from the file, or one by one."""
    name = provider.containers.policy.session_profile
    made = await compile_profiles(PROFILE_FILE.read_text())
    assert {GATE_PROFILE, name} <= made.keys()
    before = loaded_profiles(made)
    assert before.keys() == made.keys()
    await run_parser("--replace", "--skip-cache", text=profile_text(installed(name)))
    assert loaded_profiles(made) == before
    # From the parser's cache, as hosts do when they boot: all profiles of a file in one go.
    for _ in range(2):
        await run_parser("--replace", "--write-cache", str(PROFILE_FILE))
        assert loaded_profiles(made) == before
    (session,) = await compile_profiles(profile_text(installed(name)))
    assert session == name


@pytest.mark.parametrize("whose", ["gate", "session"])
@pytest.mark.parametrize(("change", "complaints"), CHANGES)
async def test_no_start_with_profiles_that_are_not_as_they_must_be(
    request: pytest.FixtureRequest,
    provider: DockerProvider,
    whose: str,
    change: Callable[[str], Awaitable[None]],
    complaints: tuple[str, ...],
) -> None:
    name = provider.containers.policy.session_profile
    async with changed(whose, change, name):
        with trio.fail_after(LIMIT), pytest.raises(ConfigurationError) as caught:
            async with open_docker_provider(docker_settings(request), verify=False):
                raise AssertionError
        text = str(caught.value)
        assert any(each in text for each in complaints), text
        assert (GATE_PROFILE if whose == "gate" else name) in text
        assert "sudo terminal-supervisor apparmor install" in text


@pytest.mark.parametrize("whose", ["gate", "session"])
@pytest.mark.parametrize(("change", "complaints"), CHANGES)
async def test_no_session_when_profiles_change_meanwhile(
    provider: DockerProvider,
    whose: str,
    change: Callable[[str], Awaitable[None]],
    complaints: tuple[str, ...],
) -> None:
    name = provider.containers.policy.session_profile
    assert provider.confinement is not None
    async with provider.prepare(LIMIT) as waited:
        async with changed(whose, change, name):
            assert provider.closed == UNSAFE_PROFILES
            with pytest.raises(SandboxError, match=UNSAFE_PROFILES):
                async with provider.prepare(LIMIT):
                    raise AssertionError
            if change is not weaken:
                # Nor would there be one if nobody looked: the gate, the engine and the judgment see to that.
                watch, provider.confinement = provider.confinement, None
                with trio.fail_after(LIMIT), pytest.raises(SandboxError):
                    async with provider.prepare(LIMIT):
                        raise AssertionError
                with pytest.raises(SandboxError):
                    async with waited.claim(provider.complete(LeaseRequest("test", ("true",)))):
                        raise AssertionError
                provider.confinement = watch
        provider.require_ready()
    with trio.fail_after(LIMIT):
        async with provider.lease(LeaseRequest("test", ("true",), hangup_grace=0)) as terminal:
            assert (await terminal.wait_closed()).code == 0


async def test_a_session_that_runs_when_its_profile_is_unloaded(provider: DockerProvider) -> None:
    """The kernel frees what a profile confined. That is root's doing; the other profile stays."""
    name = provider.containers.policy.session_profile
    async with waiting(provider):
        (process,) = [each for each in Path("/proc").glob("[0-9]*") if _is_confined(each, name)][:1]
        async with changed("session", unload, name):
            left = confining((process / "attr/current").read_text().strip())
            assert GATE_PROFILE in left
            assert name not in left
            assert provider.closed == UNSAFE_PROFILES


def _is_confined(process: Path, name: str) -> bool:
    try:
        return name in (process / "attr/current").read_text()
    except OSError:
        return False
