"""What can be measured, and how each is started: name, what runs, in which isolation.

A target belongs to one column: with or without containers, warm or cold. Figures are only ever compared
within a column, with the floor of that column.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import attrs
import trio

from benchmarks.client import Access
from benchmarks.floors import COMMAND, engine_processes
from benchmarks.secrecy import without_credentials
from supervisor import __version__
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.provision.at_hand import engine_url
from supervisor.sandbox.providers import open_docker_provider
from supervisor.settings.load import load_settings

TOKEN = "benchmark-token-of-no-value"
SECRET = "benchmark-secret-of-no-value"
WORKBENCH = "terminal-supervisor-workbench:latest"
WITHOUT = "apparmor,userns,egress"
"""Measures that many a development machine cannot have; HARDENING_WITHOUT in the environment overrides it.
The report shows which it was.
"""
CAPACITIES = (
    "MAX_SESSIONS",
    "MAX_ANONYMOUS_SESSIONS",
    "MAX_AUTHENTICATED_SESSIONS",
    "MAX_SESSIONS_PER_CREDENTIAL",
    "MAX_SESSIONS_PER_IP",
)
MARK = "TERMINAL_BENCHMARK"
"""Variable in the environment of a peer, by which what it started is found."""
START_TIMEOUT = 90.0
END_TIMEOUT = 60.0

Column = Literal["containers, warm", "containers, cold", "no containers", "given, isolation unknown"]
COLUMNS: tuple[Column, ...] = get_args(Column)
UNKNOWN: Column = "given, isolation unknown"
"""Of a server that somebody else has started, unless it is told: it is compared with nobody."""
Role = Literal["ours", "peer", "floor", "given"]


@attrs.frozen
class Running:
    """A target that is up.

    Attributes:
        command: what was started, as a reader can repeat it.
        pids: its processes, sessions' excepted; empty where they cannot be seen.
        main: the one to send signals to, None where there is none.
        page: address of its own page for browsers, with what lets one in; empty where there is none.
    """

    target: "Target"
    access: Access
    command: str
    version: str
    pids: Callable[[], Sequence[int]] = tuple
    main: int | None = None
    page: str = ""


Launch = Callable[["Options"], AbstractAsyncContextManager[Running]]


@attrs.frozen
class Target:
    """Something to measure."""

    name: str
    about: str
    isolation: str
    column: Column
    role: Role
    launch: Launch = attrs.field(repr=False)


@attrs.frozen
class Options:
    """What launchers may be told: room for how many sessions, how many containers wait, where peers are
    installed."""

    sessions: int = 300
    pool: int = 4
    peers: Path = Path(".state/bench")
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str])


# ------------------------------------------------------------------ ours


def _environment(options: Options, form: Mapping[str, str]) -> dict[str, str]:
    return {
        "HARDENING_WITHOUT": WITHOUT,
        **os.environ,
        "DOCKER_IMAGE_NAME": WORKBENCH,
        "CONTAINER_USER": "1000:1000",
        "SESSION_COMMAND": "/bin/bash --norc --noprofile",
        "LOG_LEVEL": "error",
        "SECURITY_AUDIT_LOG": "false",
        "INPUT_RATE": "1g",
        "RATE_LIMIT_EXEMPT_NETWORKS": "127.0.0.0/8",
        **dict.fromkeys(CAPACITIES, str(options.sessions)),
        "MAX_CONNECTIONS": str(options.sessions + 200),
        **form,
        **options.environment,
    }


async def _kill(process: trio.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        with trio.move_on_after(END_TIMEOUT, shield=True):
            await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _kill_marked(mark: str) -> None:
    """End what a server has left behind: some forget shells, which flood for ever and disturb what is
    measured
    next. Their environment says whose they were."""
    wanted = f"{MARK}={mark}".encode()
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if wanted in (directory / "environ").read_bytes().split(b"\0"):
                os.kill(int(directory.name), signal.SIGKILL)


@asynccontextmanager
async def _supervisor(
    command: Sequence[str], environment: Mapping[str, str], adapter: str
) -> AsyncGenerator[tuple[Access, trio.Process]]:
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    said = b""
    try:
        with trio.move_on_after(START_TIMEOUT):
            async for piece in process.stdout:
                said += piece
                if b"Open " in said and said.endswith(b"\n"):
                    break
        if b"Open " not in said:
            raise ConfigurationError(f"the supervisor did not start: {' '.join(command)}")
        page = said.partition(b"Open ")[2].split()[0].decode().partition("?")[0]
        yield Access(adapter, f"{page.replace('http', 'ws', 1)}ws"), process
    finally:
        await _kill(process)
        await process.stdout.aclose()


def _ours(form: Mapping[str, str], adapter: str = "v1") -> Launch:
    @asynccontextmanager
    async def launch(options: Options) -> AsyncGenerator[Running]:
        credential = (
            {"TERMINAL_SERVER_SIGNING_SECRET": SECRET} if adapter == "ably" else {"LOCAL_ACCESS_TOKEN": TOKEN}
        )
        shown = {**form, **credential}
        if shown.get("WARM_POOL_SIZE") == "pool":
            shown["WARM_POOL_SIZE"] = str(options.pool)
        command = [sys.executable, "-m", "supervisor", "serve", "--no-setup", "--port", "0"]
        environment = _environment(options, shown)
        async with _supervisor(command, environment, adapter) as (access, process):
            access = attrs.evolve(
                access, secret=SECRET if adapter == "ably" else "", token="" if adapter == "ably" else TOKEN
            )

            def pids() -> Sequence[int]:
                return [process.pid, *_engine_if(form.get("SANDBOX_TRANSPORT") == "attach")]

            shown["HARDENING_WITHOUT"] = environment["HARDENING_WITHOUT"]
            words = " ".join(f"{name}={value}" for name, value in shown.items() if name not in credential)
            target = next(t for t in TARGETS.values() if t.launch is launch)
            page = f"{access.url.replace('ws', 'http', 1).removesuffix('ws')}?token={TOKEN}"
            yield Running(
                target,
                access,
                f"{words} terminal-supervisor serve",
                __version__,
                pids,
                process.pid,
                page if adapter == "v1" else "",
            )

    return launch


def _engine_if(wanted: bool) -> list[int]:
    return engine_processes(docker_host()) if wanted else []


def docker_host() -> str:
    """Return the address of the engine that this process's environment names, or the project's own."""
    return engine_url(os.environ.get("DOCKER_HOST", ""))


@asynccontextmanager
async def _standin(options: Options) -> AsyncGenerator[Running]:
    command = [sys.executable, "-m", "benchmarks.standin"]
    environment = _environment(options, {"LOCAL_ACCESS_TOKEN": TOKEN, "SANDBOX_PROVIDER": "local"})
    async with _supervisor(command, environment, "v1") as (access, process):
        access = attrs.evolve(access, token=TOKEN)
        yield Running(
            TARGETS["standin"],
            access,
            "python -m benchmarks.standin",
            __version__,
            lambda: [process.pid],
            process.pid,
        )


# ------------------------------------------------------------------ floors


@asynccontextmanager
async def _pty(options: Options) -> AsyncGenerator[Running]:
    await trio.lowlevel.checkpoint()
    yield Running(TARGETS["pty"], Access("pty", "pty:"), " ".join(COMMAND), "the kernel's")


@asynccontextmanager
async def _engine(options: Options) -> AsyncGenerator[Running]:
    environment = {"SANDBOX_TRANSPORT": "attach", "WARM_POOL_SIZE": "0", "DOCKER_HOST": docker_host()}
    settings = load_settings(_environment(options, environment))
    async with (
        open_docker_provider(settings, verify=False) as provider,
        Docker(settings.docker_host) as docker,
    ):
        version = await docker.version()
        config: dict[str, Any] = provider.containers.policy.to_create_config(
            list(COMMAND),
            labels=provider.containers.site.identity.labels("benchmark", 900),
            mounts=[],
            tty=True,
        )
        config["Env"] = [*(config.get("Env") or []), "PS1=$ ", "TERM=xterm-256color"]
        yield Running(
            TARGETS["engine"],
            Access("engine", docker.docker_host, extra={"config": config}),
            "create, attach, start (HostConfig as ours)",
            str(version["Version"]),
            lambda: engine_processes(docker.docker_host),
        )


# ------------------------------------------------------------------ peers


async def _wait_for_port(port: int) -> None:
    with trio.fail_after(START_TIMEOUT):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.1)
            else:
                return


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _peer(
    name: str,
    adapter: str,
    command: Callable[[Options, int], Sequence[str]],
    path: str,
    version: Callable[[Options], str],
) -> Launch:
    @asynccontextmanager
    async def launch(options: Options) -> AsyncGenerator[Running]:
        port = _free_port()
        arguments = command(options, port)
        if not shutil.which(arguments[0]):
            how = "put it on the PATH" if name == "ttyd" else "run `terminal-supervisor bench install-peers`"
            raise ConfigurationError(f"{name} is not installed: {how} first")
        environment = {
            "PATH": os.environ["PATH"],
            "PS1": "$ ",
            "TERM": "xterm-256color",
            "HOME": "/tmp",
            "NODE_ENV": "production",
            MARK: secrets.token_hex(8),
        }
        process = await trio.lowlevel.open_process(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:
            await _wait_for_port(port)
            access = Access(adapter, f"ws://127.0.0.1:{port}{path}")
            shown = " ".join(Path(word).name if "/" in word else word for word in arguments)
            yield Running(TARGETS[name], access, shown, version(options), lambda: [process.pid], process.pid)
        finally:
            await _kill(process)
            _kill_marked(environment[MARK])

    return launch


def _installed_python(options: Options) -> str:
    found = sorted(options.peers.glob("terminado/lib/python*/site-packages/terminado-*.dist-info"))
    return f"terminado {found[0].name.split('-')[1].removesuffix('.dist')}" if found else "unknown"


def _installed_node(options: Options) -> str:
    package = options.peers / "wetty/node_modules/wetty/package.json"
    return f"wetty {json.loads(package.read_text())['version']}"


def _ttyd_version(options: Options) -> str:
    return subprocess.run(["ttyd", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _all() -> list[Target]:
    hardened = "hardened container (docs/security.md)"
    none = "none: a process of this host"
    lifeline = {"SANDBOX_TRANSPORT": "lifeline"}
    local = {"SANDBOX_PROVIDER": "local"}
    serve = Path(__file__).with_name("terminado_server.py")
    return [
        Target(
            "engine",
            "the engine alone: create, attach, start",
            "the same container",
            "containers, cold",
            "floor",
            _engine,
        ),
        Target(
            "ours",
            "transport lifeline, warm pool",
            hardened,
            "containers, warm",
            "ours",
            _ours({**lifeline, "WARM_POOL_SIZE": "pool"}),
        ),
        Target(
            "ours-cold",
            "transport lifeline, no pool",
            hardened,
            "containers, cold",
            "ours",
            _ours({**lifeline, "WARM_POOL_SIZE": "0"}),
        ),
        Target(
            "ours-attach",
            "transport attach, no pool",
            hardened,
            "containers, cold",
            "ours",
            _ours({"SANDBOX_TRANSPORT": "attach", "WARM_POOL_SIZE": "0"}),
        ),
        Target(
            "ours-ably",
            "transport lifeline, warm pool, the React client's protocol",
            hardened,
            "containers, warm",
            "ours",
            _ours({**lifeline, "WARM_POOL_SIZE": "pool"}, "ably"),
        ),
        Target(
            "pty",
            "a PTY of the client's own process: the physical limit",
            none,
            "no containers",
            "floor",
            _pty,
        ),
        Target("ours-local", "provider local", none, "no containers", "ours", _ours(local)),
        Target(
            "standin",
            "the supervisor with terminals that no program runs on: for many idle sessions",
            none,
            "no containers",
            "ours",
            _standin,
        ),
        Target(
            "terminado",
            "from PyPI",
            none,
            "no containers",
            "peer",
            _peer(
                "terminado",
                "terminado",
                lambda o, p: [str(o.peers / "terminado/bin/python"), str(serve), str(p)],
                "/websocket",
                _installed_python,
            ),
        ),
        Target(
            "wetty",
            "from npm",
            none,
            "no containers",
            "peer",
            _peer(
                "wetty",
                "wetty",
                lambda o, p: [
                    "node",
                    str(o.peers / "wetty/node_modules/wetty/build/main.js"),
                    "--port",
                    str(p),
                    "--host",
                    "127.0.0.1",
                    "--base",
                    "/wetty",
                    "--log-level",
                    "error",
                    "--command",
                    " ".join(COMMAND),
                ],
                "/wetty",
                _installed_node,
            ),
        ),
        Target(
            "ttyd",
            "from this host's PATH",
            none,
            "no containers",
            "peer",
            _peer(
                "ttyd",
                "ttyd",
                lambda o, p: ["ttyd", "-W", "-i", "lo", "-p", str(p), *COMMAND],
                "/ws",
                _ttyd_version,
            ),
        ),
    ]


TARGETS: dict[str, Target] = {target.name: target for target in _all()}
USUAL = ("engine", "ours", "ours-cold", "ours-attach", "pty", "ours-local", "terminado", "wetty")


def given(access: Access, isolation: str, column: Column) -> Target:
    """Return the target for a server that somebody else has started."""

    @asynccontextmanager
    async def launch(options: Options) -> AsyncGenerator[Running]:
        await trio.lowlevel.checkpoint()
        yield Running(target, access, address, "unknown")

    address = without_credentials(access.url)
    target = Target("given", address, isolation, column, "given", launch)
    return target
