"""Which Docker Engine is used: one that is there, or else one of the project's own.

In this order: the one that `DOCKER_HOST` names, the one at the default socket, the project's own (adopted
when it still runs, started when it does not; installed first, as root on Debian or Ubuntu).

Who ends it: an engine that was there is never touched. The project's own is ended by whoever leaves it last
in an orderly way. Each user holds a lock on it (flock(2), shared), so the kernel counts the users, and those
that crash count no longer. After a crash of the last one it runs on, and the next start adopts it. Started by
hand at the same place, it is used but never ended.
"""

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.provision import daemon, ending, remapping
from supervisor.provision.daemon import EnginePaths, Mark
from supervisor.provision.host import Need, can_install, require
from supervisor.provision.processes import look_at
from supervisor.provision.report import Report, Step
from supervisor.sandbox.identity import LABEL_PRODUCT

DEFAULT_SOCKETS = ("/var/run/docker.sock", "/run/docker.sock")
_ANSWER_DEADLINE = 10.0  # seconds for an engine to answer that is up
_START_DEADLINE = 90.0  # seconds for an engine to come up; 2 to 4 on a quiet machine, 24 under emulation
_SERVICE_DEADLINE = 60.0  # seconds for the package's own service to come up, where systemd starts it
_LOCK_DEADLINE = 180.0  # seconds to wait for another set-up that starts or ends the engine
_LEAVE_DEADLINE = 90.0  # seconds for ending it
_POLL = 0.1  # seconds between two looks at something that cannot be waited for

NEEDS = (
    Need("dockerd", ("docker.io",), "the Docker Engine"),
    Need("ip", ("iproute2",), "to make the engine's bridge"),
    Need("iptables", ("iptables",), "the engine needs it for its networks"),
)

_DEMO_HINT = (
    "`make demo` shows the same page without an engine: on this host only, and without any isolation."
)


@attrs.frozen
class Engine:
    """An engine that answers.

    Attributes:
        url: as for DOCKER_HOST.
        own: it is the project's own.
        origin: how set-up came to it, for people.
    """

    url: str
    own: bool
    origin: str


async def answers(url: str) -> bool:
    """Return whether an engine answers at `url`. A socket that refuses this user counts as no."""
    try:
        with trio.fail_after(_ANSWER_DEADLINE):
            async with Docker(url, timeout=_ANSWER_DEADLINE) as docker:
                await docker.version()
    except (DockerError, OSError, trio.TooSlowError):
        return False
    return True


def candidates(docker_host: str) -> list[str]:
    """Return the URLs of engines that are not of set-up's making, most wanted first."""
    if docker_host:
        return [docker_host]
    return [f"unix://{path}" for path in DEFAULT_SOCKETS if Path(path).is_socket()][:1]


@contextlib.asynccontextmanager
async def engine_in_use(
    docker_host: str,
    report: Report,
    *,
    paths: EnginePaths | None = None,
    keep: bool = False,
    later: Sequence[Need] = (),
    remap: str = "auto",
) -> AsyncGenerator[Engine]:
    """Find or start an engine and hold on to it.

    Args:
        docker_host: the setting; empty means: look.
        report: gets the step's line, and one when the engine is ended.
        paths: where the project's own is.
        keep: do not end it on leaving, nor when others leave it later; `end_engine` does.
        later: what later steps need, so that an error can name that as well.
        remap: whether the project's own maps containers' users to others of the host: `true`, `false`, or
            `auto` for where it can. One that runs otherwise is started again, unless it is in use.

    Raises:
        ConfigurationError: there is none and none can be had; the text says what to do.

    Resource handling: on leaving, the project's own engine is ended if set-up started it (now or earlier)
    and nobody had it kept, nobody else holds it and nothing runs in it; shielded, with a deadline. Why it was
    kept is reported.
    """
    own = EnginePaths() if paths is None else paths
    with report.step("engine") as step:
        engine, users = await _obtain(docker_host, own, later, step, remap)
    try:
        yield engine
    finally:
        if users is not None:
            with trio.move_on_after(_LEAVE_DEADLINE, shield=True) as scope, os.fdopen(users):
                if keep:
                    daemon.keep(own)
                else:
                    await _leave(own, users, report)
            if scope.cancelled_caught:
                report.line("engine", f"did not end within {_LEAVE_DEADLINE:g} s; `make down` ends it")


async def _obtain(
    docker_host: str, own: EnginePaths, later: Sequence[Need], step: Step, remap: str
) -> tuple[Engine, int | None]:
    """Return an engine, and for the project's own the descriptor that holds the lock of its users."""
    for url in candidates(docker_host):
        if url != own.url and await answers(url):
            step.result = f"using the one at {url}"
            return Engine(url, False, "found"), None
    if docker_host and docker_host != own.url:
        raise ConfigurationError(_no_answer_text(docker_host))
    _check_possible(own, later)
    await require(NEEDS, step.progress)
    if not docker_host and (service := await _service_engine(step)):
        step.result = f"using the one at {service}, which came with the package"
        return Engine(service, False, "installed"), None
    async with _locked(own.start_lock):
        engine = await _own_engine(own, step, remap)
        return engine, _hold(own.users_lock)


async def _own_engine(paths: EnginePaths, step: Step, remap: str) -> Engine:
    """Adopt or start the project's own. The start lock is held."""
    up = await answers(paths.url)
    if not up and (pid := daemon.running_pid(paths)) is not None:
        step.progress(f"waiting for the engine with pid {pid}")
        await _wait_until_up(paths, pid, since=0)
        up = True
    before = daemon.read_mark(paths)
    if up and not await _gives_way(paths, before, remap, step):
        step.result = f"the project's own, running already ({paths.url})"
        return Engine(paths.url, True, "adopted")
    others = daemon.other_engines(paths)
    if others:
        raise ConfigurationError(
            f"a Docker Engine runs here already (pid {others[0].pid}), but not at the default socket. A "
            "second one "
            "beside it would rewrite its firewall rules, so none was started. Set DOCKER_HOST to its socket"
            f"{_hint_of_socket(others[0].arguments)}. {_DEMO_HINT}"
        )
    step.progress("starting an engine of the project's own")
    remaps = await remapping.of_next(paths, remap, step)
    since = daemon.log_size(paths)
    try:
        await _wait_until_up(paths, await daemon.launch(paths, remap=remaps), since)
    except BaseException:
        # Failed or cancelled half-way: nothing stays behind.
        with trio.move_on_after(_LEAVE_DEADLINE, shield=True):
            await ending.end(paths, [])
        raise
    if up and before and before.kept:
        daemon.keep(paths)
    step.result = f"the project's own, started{' again' if up else ''} ({paths.url})"
    return Engine(paths.url, True, "started")


async def _gives_way(paths: EnginePaths, mark: Mark | None, wish: str, step: Step) -> bool:
    """End the engine that runs, with `mark`, to make way for one that maps users where it does not, or the
    other way round, if that is the `wish` and can be: when set-up started it, and nobody uses it. Return
    whether it is gone.
    """
    if mark is None or mark.pid != daemon.running_pid(paths) or (mark.remaps and wish != "false"):
        return False
    if mark.remaps == await remapping.is_to_be(paths, wish, step):
        return False
    with os.fdopen(_hold(paths.users_lock)) as users:
        if not _try_lock(users.fileno()):
            use = "it is in use"
        elif busy := await _running_containers(paths.url):
            use = f"containers run in it ({', '.join(busy[:5])})"
        else:
            step.progress("ending the project's own")
            await _remove_own_containers(paths.url)
            await ending.end(paths, await _network_bridges(paths.url))
            return True
    step.notice(
        f"it runs {'with' if mark.remaps else 'without'} user namespaces, and goes on so, as {use}: what "
        f"ENGINE_USERNS_REMAP={wish} asks for counts after `make down`"
    )
    return False


def _hint_of_socket(arguments: Sequence[str]) -> str:
    """Return what an engine's command line says of its socket, for the error (dockerd(8), `--host`)."""
    words = " ".join(arguments).replace("=", " ").split()
    places = [value for option, value in itertools.pairwise(words) if option in {"-H", "--host"}]
    return f" ({' or '.join(places)})" if places else ""


async def _wait_until_up(paths: EnginePaths, pid: int, since: int) -> None:
    with trio.move_on_after(_START_DEADLINE):
        while look_at(pid) is not None:
            if paths.socket.is_socket() and await answers(paths.url):
                return
            await trio.sleep(_POLL)
    ended = look_at(pid) is None
    await trio.lowlevel.checkpoint()
    mark = daemon.read_mark(paths)
    raise ConfigurationError(
        ("the engine ended at once" if ended else f"the engine did not answer within {_START_DEADLINE:g} s")
        + f". Its last words ({paths.log}):\n{daemon.last_words(paths, since)}\n"
        + ("It maps users: ENGINE_USERNS_REMAP=false has it not do so.\n" if mark and mark.remaps else "")
        + _DEMO_HINT
    )


async def _service_engine(step: Step) -> str | None:
    """Return the default socket's URL when systemd runs an engine of the distribution there, as it does after
    installing it.
    """
    if not Path("/run/systemd/system").exists() or not any(
        Path(path).is_socket() for path in DEFAULT_SOCKETS
    ):
        return None
    step.progress("waiting for the package's own engine")
    with trio.move_on_after(_SERVICE_DEADLINE):
        while True:
            for url in candidates(""):
                if await answers(url):
                    return url
            await trio.sleep(_POLL)
    return None


def _check_possible(paths: EnginePaths, later: Sequence[Need]) -> None:
    """Raise ConfigurationError where an engine of the project's own cannot be."""
    if (
        os.uname().sysname == "Linux"
        and os.geteuid() == 0
        and (can_install() or all(need.met for need in NEEDS))
    ):
        return
    tried = candidates("") or [f"unix://{DEFAULT_SOCKETS[0]}"]
    denied = next((url for url in tried if _refused(url.removeprefix("unix://"))), None)
    if denied:
        raise ConfigurationError(
            f"this user may not use the Docker Engine at {denied}: become a member of its group (usually: "
            "sudo usermod -aG docker $USER, then log in again), or set DOCKER_HOST to another engine. "
            + _DEMO_HINT
        )
    raise ConfigurationError(
        f"no Docker Engine answers at {tried[0]}, nor at {paths.url}. Install or start Docker, or set "
        "DOCKER_HOST; as root on Debian or Ubuntu, set-up installs and starts one by itself. "
        + "".join(f"Missing as well: {need.program} ({need.purpose}). " for need in later if not need.met)
        + _DEMO_HINT
    )


def _refused(socket: str) -> bool:
    return Path(socket).exists() and not os.access(socket, os.R_OK | os.W_OK)


def _no_answer_text(docker_host: str) -> str:
    hint = "this user may not use it" if _refused(docker_host.removeprefix("unix://")) else "start it"
    return (
        f"the Docker Engine that DOCKER_HOST names ({docker_host}) does not answer: {hint}, correct "
        "DOCKER_HOST, or "
        f"unset it to let set-up look for another. {_DEMO_HINT}"
    )


async def _leave(paths: EnginePaths, users: int, report: Report) -> None:
    """End the engine if set-up started it and this process is its last user. `users` is the shared lock,
    still held.
    """
    async with _locked(paths.start_lock):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # somebody else uses it and will end it
        if not _is_ours_to_end(paths):
            return
        busy = await _running_containers(paths.url)
        if busy:
            report.line("engine", f"kept: containers run in it ({', '.join(busy[:5])}); `make down` ends it")
            return
        with report.step("engine") as step:
            step.progress("ending the project's own")
            await ending.end(paths, await _network_bridges(paths.url))
            step.result = "the project's own, ended"


async def end_engine(report: Report, paths: EnginePaths | None = None) -> None:
    """End the project's own engine now, whoever started it (`make down`); nothing to do when it does not run.

    Raises:
        ConfigurationError: somebody uses it, or containers run in it that are not the project's.
    """
    own = EnginePaths() if paths is None else paths
    with report.step("engine") as step:
        if daemon.running_pid(own) is None and not own.run.exists():
            step.result = "none of the project's own runs"
            return
        if os.geteuid() != 0:
            raise ConfigurationError(f"only root may end the engine at {own.url}")
        async with _locked(own.start_lock):
            users = _hold(own.users_lock)
            with os.fdopen(users):
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ConfigurationError(
                        f"the engine at {own.url} is in use by another process; end that first"
                    ) from None
                bridges: list[str] = []
                was_up = daemon.running_pid(own) is not None
                if was_up and await answers(own.url):
                    await _remove_own_containers(own.url)
                    if busy := await _running_containers(own.url):
                        raise ConfigurationError(
                            f"containers run in the engine at {own.url} that are not the project's: "
                            f"{', '.join(busy)}; "
                            "remove them first"
                        )
                    bridges = await _network_bridges(own.url)
                await ending.end(own, bridges)
        step.result = "the project's own, ended" if was_up else "none of the project's own runs"


def _is_ours_to_end(paths: EnginePaths) -> bool:
    mark = daemon.read_mark(paths)
    return mark is not None and not mark.kept and mark.pid == daemon.running_pid(paths)


async def _running_containers(url: str) -> list[str]:
    async with Docker(url, timeout=_ANSWER_DEADLINE) as docker:
        return [container["Names"][0].lstrip("/") for container in await docker.containers.list()]


async def _remove_own_containers(url: str) -> None:
    async with Docker(url, timeout=_ANSWER_DEADLINE) as docker:
        for container in await docker.containers.list(all=True, filters={"label": [LABEL_PRODUCT]}):
            await container.delete(force=True)


async def _network_bridges(url: str) -> list[str]:
    async with Docker(url, timeout=_ANSWER_DEADLINE) as docker:
        return [
            bridge_name(network) for network in await docker.networks.list() if network["Name"] != "bridge"
        ]


def bridge_name(network: Mapping[str, Any]) -> str:
    """Return the device of a bridge network, as libnetwork names it."""
    options: dict[str, str] = network.get("Options") or {}
    return options.get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncGenerator[None]:
    """Hold the exclusive lock on `path`. Waits for another set-up that starts or ends the engine."""
    daemon.make_directory(path.parent)
    with path.open("w") as stream:
        with trio.move_on_after(_LOCK_DEADLINE) as scope:
            while not _try_lock(stream.fileno()):  # noqa: ASYNC110 - another process holds it
                await trio.sleep(_POLL)
        if scope.cancelled_caught:
            raise ConfigurationError(f"another set-up has held {path} for {_LOCK_DEADLINE:g} s; is it hung?")
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EINTR}:
            return False
        raise
    return True


def _hold(path: Path) -> int:
    """Return a descriptor (close-on-exec) that holds the shared lock on `path`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor
