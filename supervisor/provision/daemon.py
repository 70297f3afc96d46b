"""An engine of the project's own: where its files are, how it is started, and told from other engines. How it
is ended: `ending`; whose users its containers have: `remapping`.

It is `dockerd` with its own data root, exec root, pid file, socket, containerd namespace, bridge and address
pool. It is started detached, in a session of its own, so that neither Ctrl-C nor a crash of the supervisor
ends it; with `--live-restore`, so that a restart of it does not end containers.

The bridge is made before the start and handed over by name. (The default would take docker0, and
`--bridge=none` deletes docker0, whoever it belongs to.) Two engines in one network namespace rewrite each
other's firewall rules when they start, so one is never started beside another (`other_engines`).
"""

import json
import os
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path

import attrs
import trio

from supervisor.errors import ConfigurationError
from supervisor.provision import addresses, firewall
from supervisor.provision.addresses import AddressPlan, Route
from supervisor.provision.host import find_program, run
from supervisor.provision.processes import ProcessInfo, all_processes, end_process, look_at, read_pid

_COMMAND_DEADLINE = 30.0  # seconds, for `ip` and the launcher
_END_GRACE = 30.0  # seconds
_LOG_LIMIT = 8 * 1024 * 1024  # bytes after which the log of earlier runs is set aside at a start
_LOG_READ = 256 * 1024  # bytes of its end that are looked through
_LOG_LINES = 12  # of the engine's last words, in errors

# What the engine is told of this process's environment: how to reach registries, nothing else.
_PASSED_ON = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"),
)

_DAEMON_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The engine needs many descriptors, so it gets the hard limit. `setsid` does not fork here, so $! is the
# engine's pid.
_LAUNCHER = 'ulimit -n "$(ulimit -Hn)"; log=$1; shift; setsid "$@" </dev/null >>"$log" 2>&1 & echo $!'


@attrs.frozen
class EnginePaths:
    """Everything about an engine that must be its own; all follows from these three.

    Attributes:
        data: its data root; images live here across restarts.
        run: directory of socket, pid file, locks and exec root; needs to last only as long as the engine.
        bridge: name of its default bridge (at most 15 characters).
    """

    data: Path = Path("/var/lib/terminal-supervisor/engine")
    run: Path = Path("/run/terminal-supervisor/engine")
    bridge: str = "ts-bridge0"

    @property
    def socket(self) -> Path:
        """Its API socket."""
        return self.run / "docker.sock"

    @property
    def url(self) -> str:
        """Its socket, as DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    @property
    def exec_root(self) -> Path:
        """Run-time state of containers."""
        return self.run / "exec"

    @property
    def pid_file(self) -> Path:
        """The engine's pid."""
        return self.run / "engine.pid"

    @property
    def mark_file(self) -> Path:
        """The `Mark` of a start by set-up."""
        return self.run / "started-by-set-up.json"

    @property
    def start_lock(self) -> Path:
        """Held, exclusively, by whoever starts or ends the engine."""
        return self.run / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Held, shared, by whoever uses the engine."""
        return self.run / "users.lock"

    @property
    def log(self) -> Path:
        """What the engine says."""
        return self.data.with_name(f"{self.data.name}.log")

    @property
    def address_file(self) -> Path:
        """The addresses of the last start, so that the engine's networks keep theirs."""
        return self.data.with_name(f"{self.data.name}-addresses.json")


def make_directory(directory: Path) -> None:
    """Make a directory, and what is missing above it. Others may pass, whatever the umask: containers' users
    do.
    """
    for each in (*reversed(directory.parents), directory):
        if not each.exists():
            each.mkdir(exist_ok=True)
            each.chmod(0o755)


def command_line(paths: EnginePaths, plan: AddressPlan, *, remap: bool) -> list[str]:
    """Return how the engine is started (dockerd(8)). Its socket is root's alone: who may use it is root."""
    namespace = f"terminal-supervisor-{paths.bridge}"
    return [
        "dockerd",
        f"--data-root={paths.data}",
        f"--exec-root={paths.exec_root}",
        f"--pidfile={paths.pid_file}",
        f"--host={paths.url}",
        "--group=root",
        f"--bridge={paths.bridge}",
        f"--default-address-pool=base={plan.pool},size=24",
        f"--containerd-namespace={namespace}",
        f"--containerd-plugins-namespace={namespace}-plugins",
        "--live-restore",
        *(["--userns-remap=default"] if remap else []),
    ]


def running_pid(paths: EnginePaths) -> int | None:
    """Return the pid of the engine at `paths`, None when it does not run, whatever the pid file says."""
    # The engine writes its file late; until then, only the mark knows.
    mark = read_mark(paths)
    for pid in (read_pid(paths.pid_file), mark.pid if mark else None):
        info = look_at(pid) if pid else None
        if info and names(info, str(paths.data)):
            return info.pid
    return None


def other_engines(paths: EnginePaths) -> list[ProcessInfo]:
    """Return the engines in this network namespace that are not the one at `paths`.

    That one is told by its pid alone: where the root directory is another one (chroot, container), an engine
    of another's may well have the same paths.
    """
    own = running_pid(paths)
    namespace = Path("/proc/self/ns/net").stat().st_ino
    return [
        info
        for info in all_processes()
        if _is_engine(info) and info.network_namespace == namespace and info.pid != own
    ]


def _is_engine(info: ProcessInfo) -> bool:
    return info.name == "dockerd"


def names(info: ProcessInfo, text: str) -> bool:
    """Return whether the command line of `info` has `text` in it."""
    return any(text in argument for argument in info.arguments)


async def launch(paths: EnginePaths, *, remap: bool) -> int:
    """Start the engine and return its pid; it does not answer yet. What an earlier one left in the way is
    removed.

    Args:
        paths: where it is.
        remap: have it map containers' users to others of this host: see `remapping.make_possible`.

    Raises:
        ConfigurationError: no address range is free, the bridge could not be made, or a device of its name
            belongs to somebody else.

    Resource handling: the mark is written first, so that `end` can clear away a start that went wrong
    anywhere.
    """
    make_directory(paths.run)
    make_directory(paths.data.parent)
    # An engine takes the containerd of one that crashed for alive when it is about to end, or is a zombie,
    # and waits for it in vain. Containers do not mind.
    await end_containerd(paths)
    # An engine refuses to start when there is a process with the pid in its file, whatever that is.
    paths.pid_file.unlink(missing_ok=True)
    paths.socket.unlink(missing_ok=True)
    _set_log_aside(paths.log)
    crashed = read_mark(paths)
    # An idle bridge of this name is what an engine left that was killed together with its run directory.
    if crashed is None and device_exists(paths.bridge) and not await _is_idle_bridge(paths.bridge):
        raise ConfigurationError(
            f"there is a network device {paths.bridge} already, which is no bridge or is in use by "
            f"something else. If nothing needs it, remove it: ip link delete {paths.bridge}"
        )
    # After a crash of the engine, its chains are there still.
    mark = Mark(0, crashed.chains_before if crashed else await firewall.engine_chains(), remaps=remap)
    _write_mark(paths, mark)
    plan = await _plan_addresses(paths)
    await _make_bridge(paths.bridge, plan)
    addresses.write_block(paths.address_file, plan)
    program, *arguments = command_line(paths, plan, remap=remap)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # Shielded (and bounded): an engine whose pid nobody has heard could not be ended.
    command = ["env", "-i", f"PATH={_DAEMON_PATH}", "HOME=/root"]
    command += [f"{name}={value}" for name, value in environment.items()]
    command += ["sh", "-c", _LAUNCHER, "launcher", str(paths.log), find_program(program) or program]
    with trio.CancelScope(shield=True):
        mark.pid = int(await run([*command, *arguments], timeout=_COMMAND_DEADLINE, cwd=Path("/")))
    _write_mark(paths, mark)
    return mark.pid


async def end_containerd(paths: EnginePaths) -> None:
    """End what should have ended with the engine, and does not always when that crashes.

    Raises:
        ConfigurationError: it does not end.
    """
    pid_file = paths.exec_root / "containerd/containerd.pid"
    pid = read_pid(pid_file)
    if pid is not None and not await end_process(pid, str(paths.exec_root), _END_GRACE):
        raise ConfigurationError(f"the engine's containerd (pid {pid}) does not end")
    pid_file.unlink(missing_ok=True)


@attrs.define
class Mark:
    """What a start by set-up leaves for the end.

    Attributes:
        pid: of the engine that set-up started, 0 while it starts. One that was started by hand has no mark,
            and is never ended unasked.
        chains_before: the firewall's chains of engines that were there before.
        kept: whether it stays until somebody says otherwise.
        remaps: whether it maps containers' users to others of this host.
    """

    pid: int
    chains_before: firewall.Chains
    kept: bool = False
    remaps: bool = False


def read_mark(paths: EnginePaths) -> Mark | None:
    """Return the mark of the last start by set-up, None when there is none that makes sense."""
    try:
        return Mark(**json.loads(paths.mark_file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def keep(paths: EnginePaths) -> None:
    """Have the engine stay, if set-up started it, whoever leaves it last."""
    if mark := read_mark(paths):
        mark.kept = True
        _write_mark(paths, mark)


def _write_mark(paths: EnginePaths, mark: Mark) -> None:
    paths.mark_file.write_text(json.dumps(attrs.asdict(mark)) + "\n")


async def _plan_addresses(paths: EnginePaths) -> AddressPlan:
    earlier = addresses.read_block(paths.address_file)
    routes = await addresses.host_routes()
    return addresses.choose(foreign_routes(routes, paths.bridge, earlier), preferred=earlier)


def foreign_routes(routes: Iterable[Route], bridge: str, earlier: IPv4Network | None) -> list[Route]:
    """Return `routes` without those that an earlier run of the engine left, in the block that it had."""
    return [
        route
        for route in routes
        if not (earlier and _is_ours(route.device, bridge) and route.network.subnet_of(earlier))
    ]


def _is_ours(device: str, bridge: str) -> bool:
    # The engine calls the bridges of its networks br- and twelve digits of their id.
    return device == bridge or device.startswith("br-")


async def _make_bridge(name: str, plan: AddressPlan) -> None:
    if not device_exists(name):
        await _ip("link", "add", "name", name, "type", "bridge")
    await _ip("address", "replace", str(plan.bridge), "dev", name)
    await _ip("link", "set", "dev", name, "up")


def device_exists(name: str) -> bool:
    """Return whether this network namespace has such a device."""
    return any(device == name for _, device in socket.if_nameindex())


async def _is_idle_bridge(name: str) -> bool:
    """Return whether the device is a bridge that nothing is plugged into."""

    async def listed(*selector: str) -> bool:
        text = await run(["ip", "-json", "link", "show", *selector], timeout=_COMMAND_DEADLINE)
        # Some versions print an empty object for each device that does not match.
        return any(json.loads(text or "[]"))

    return await listed("dev", name, "type", "bridge") and not await listed("master", name)


async def _ip(*arguments: str) -> None:
    await run(["ip", *arguments], timeout=_COMMAND_DEADLINE)


def _set_log_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_name(log.name + ".1"))


def log_size(paths: EnginePaths) -> int:
    """Return where the log of a start that is about to happen will begin."""
    return paths.log.stat().st_size if paths.log.exists() else 0


def last_words(paths: EnginePaths, since: int = 0) -> str:
    """Return the last lines of the engine's log after byte `since`, without mere information."""
    if not paths.log.exists():
        return "(it left no log)"
    with paths.log.open("rb") as stream:
        stream.seek(since if since <= paths.log.stat().st_size else 0)
        lines = stream.read()[-_LOG_READ:].decode(errors="replace").splitlines()
    telling = [line for line in lines if " level=info " not in line]
    return "\n".join(telling[-_LOG_LINES:]) or "(it said nothing)"
