"""What must be true of the engine and of this host before the first session: found out at start, reported all
at once.

An operator who has to repair three things learns of three things. Nothing here is switched off by being
absent.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from supervisor.engine import Docker, DockerConnectionError, DockerError, DockerTimeoutError
from supervisor.errors import ConfigurationError, HardeningError, MeasureError, SandboxError
from supervisor.measures import Measure
from supervisor.provision.compiler import machine_name
from supervisor.provision.gate import build_gate, build_netprobe
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.landlock import kernel_version
from supervisor.sandbox.runtimes import Runtime, choose, read_runtimes
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

_CALL_TIMEOUT = 15.0
SELF_TEST_TIMEOUT: Final = 15.0
"""Seconds for each step of the self-test. All of them together take less than one."""

FIXED_AUTO_REMOVE: Final = 24
"""First major version of the engine that restores containers with AutoRemove."""

# What the engine knows of its kernel's abilities, by the keys of `GET /info`, and the measure that needs
# each.
_ABILITIES: Final = {
    "MemoryLimit": "memory limit",
    "SwapLimit": "limit of memory and swap together",
    "CpuCfsQuota": "CPU limit",
    "PidsLimit": "limit of processes",
}


@attrs.frozen
class EngineFacts:
    """What matters of an engine.

    Attributes:
        local: containers can have this host's files and sockets mounted.
        runtime: name of its default OCI runtime.
        runtimes: all that it knows, by name.
        machine: `x86_64` or `aarch64`.
        remapped: it maps the users of containers to others of the host (userns-remap, or rootless).
        first_uid: what the containers' user 0 is on this host; None where that cannot be told.
        cgroup_driver: who makes its containers' control groups: `cgroupfs` or `systemd`; empty where that is
            none of this host's business.
        seccomp, apparmor: it and its kernel have these.
        auto_remove: whether containers shall be removed by the engine when they end. Engines before 24.0 kill
            all such containers when they start, in spite of live-restore (moby/moby#46308), so with those it
            costs sessions that would have gone on; there the lease, the guard and the reconciler remove.
    """

    local: bool
    runtime: str
    machine: str
    remapped: bool
    first_uid: int | None
    seccomp: bool
    apparmor: bool
    auto_remove: bool = True
    cgroup_driver: str = ""
    runtimes: Mapping[str, Runtime] = attrs.field(factory=dict[str, Runtime])

    def runtime_for(self, settings: Settings) -> Runtime:
        """Return the runtime of the containers that `settings` ask for.

        Raises:
            ConfigurationError: see `runtimes.choose`.
        """
        return choose(settings, self.runtimes, self.runtime, local=self.local)


async def read_engine(docker: Docker, settings: Settings) -> EngineFacts:
    """Ask the engine what it is.

    Raises:
        ConfigurationError: it does not answer, or lacks what the policy needs; everything that is missing is
            named.
    """
    where = docker.docker_host
    try:
        info = await docker.system.info(timeout=_CALL_TIMEOUT)
    except (DockerConnectionError, DockerTimeoutError) as error:
        raise ConfigurationError(
            f"no Docker Engine answers at {where} (DOCKER_HOST): start one, or run `make serve`, which does "
            f"({error.message})"
        ) from error
    except DockerError as error:
        raise ConfigurationError(f"the engine at {where} refuses to answer: {error}") from error
    problems = engine_problems(info)
    local = where.startswith("unix://")
    if settings.transport == "lifeline" and not local:
        problems.append(
            "transport lifeline needs an engine on this host, behind a unix socket: set "
            "SANDBOX_TRANSPORT=attach"
        )
    if problems:
        raise ConfigurationError(
            f"the engine at {where} is not fit for sessions:\n  " + "\n  ".join(problems)
        )
    options: list[str] = info.get("SecurityOptions") or []

    def has(name: str) -> bool:
        return any(f"name={name}" in option for option in options)

    return EngineFacts(
        local=local,
        runtime=str(info["DefaultRuntime"]),
        machine=machine_name(str(info["Architecture"])),
        remapped=has("userns") or has("rootless"),
        first_uid=None if has("rootless") else first_uid(info, has("userns")),
        seccomp=has("seccomp"),
        apparmor=has("apparmor"),
        auto_remove=auto_remove_is_harmless(info),
        cgroup_driver=str(info.get("CgroupDriver", "")) if local and not has("rootless") else "",
        runtimes=read_runtimes(info),
    )


def first_uid(info: Mapping[str, Any], remapped: bool) -> int | None:
    """Return the user of this host that user 0 of the containers is.

    An engine with userns-remap keeps its data in a directory named after its first user and group (`UID.GID`
    below `data-root`, dockerd(8)); the API says it nowhere else.
    """
    if not remapped:
        return 0
    named = re.search(r"/(\d+)\.\d+$", str(info.get("DockerRootDir", "")))
    return int(named[1]) if named else None


def missing_measures(engine: EngineFacts, runtime: Runtime) -> dict[Measure, str]:
    """Return the measures that cannot be had here, whether required or not: why, and how to get them. What
    depends on more than the engine, egress and AppArmor's profiles, `surroundings` adds. Not those in whose
    place something else stands, with this runtime.
    """
    missing: dict[Measure, str] = {}
    if not engine.seccomp:
        missing[Measure.SECCOMP] = (
            "the engine has no seccomp: it needs a kernel with CONFIG_SECCOMP_FILTER, and an engine built "
            "with it"
        )
    elif argument := runtime.lacks_argument(Measure.SECCOMP):
        missing[Measure.SECCOMP] = (
            f"{runtime.kind.title} heeds no container's profile unless told: put {argument} among the "
            f'"runtimeArgs" of {runtime.name} in the engine\'s daemon.json'
        )
    if not engine.apparmor:
        missing[Measure.APPARMOR] = (
            "the engine's kernel has no AppArmor: boot a kernel that has it, with lsm=…,apparmor"
        )
    if not engine.local:
        missing[Measure.SESSION_UID] = (
            "the engine is on another host, where no passwd file can be mounted into containers"
        )
    if engine.local and not runtime.kind.own_kernel and not kernel_version():
        missing[Measure.LANDLOCK] = (
            "this kernel has no Landlock: boot a newer one, with CONFIG_SECURITY_LANDLOCK and lsm=landlock"
        )
    if not engine.remapped:
        missing[Measure.USERNS] = (
            'the engine does not remap users: set "userns-remap": "default" in its daemon.json and restart '
            "it (set-up's own engine: `make down`, and start again; set-up says why when it cannot)"
        )
    return {measure: why for measure, why in missing.items() if measure not in runtime.kind.covered}


def auto_remove_is_harmless(info: dict[str, Any]) -> bool:
    """Return whether containers with AutoRemove outlive a restart of the engine with this `info`, as far as
    others do."""
    major = str(info.get("ServerVersion", "")).partition(".")[0]
    return not info.get("LiveRestoreEnabled") or (major.isdigit() and int(major) >= FIXED_AUTO_REMOVE)


def engine_problems(info: dict[str, Any]) -> list[str]:
    """Return what an engine's `info` says is missing."""
    problems = [
        f"its kernel has no {measure} ({key} is false)"
        for key, measure in _ABILITIES.items()
        if not info.get(key)
    ]
    if info.get("OSType") != "linux":
        problems.append(f"its containers are for {info.get('OSType')}, not for linux")
    return problems


async def own_programs(settings: Settings, engine: EngineFacts) -> dict[str, Path]:
    """Return our programs by name, compiled where set-up has not done so; none for an engine that cannot
    mount them.

    Raises:
        ConfigurationError: there is no gate, or no way to compile.
    """
    if not engine.local:
        return {}
    if settings.gate is None:
        build = functools.partial(build_gate, settings.gate_file, engine.machine)
        await trio.to_thread.run_sync(build)
    elif not settings.gate.is_file():
        raise ConfigurationError(f"GATE_FILE={settings.gate}: there is no such file")
    prober = settings.state_directory / "bin" / "netprobe"
    await trio.to_thread.run_sync(functools.partial(build_netprobe, prober, engine.machine))
    return {"gate": settings.gate_file.absolute(), "netprobe": prober.absolute()}


async def self_test(provider: DockerProvider) -> Mapping[Measure, tuple[str, ...]]:
    """Start a sandbox, run a command in it, and see that cutting its data path ends it: what all else relies
    on. Returns by whose word each measure was seen to hold in it.

    Raises:
        MeasureError: a step failed, or took too long; the text says which.
    """
    step = "starting a sandbox"
    try:
        with trio.fail_after(2 * SELF_TEST_TIMEOUT + provider.containers.site.start_timeout):
            async with provider.prepare(SELF_TEST_TIMEOUT, role="self-test") as sandbox:
                verified = sandbox.verified
                step = "running a command"
                # A command that no image has: the gate's own complaint is all the output that is needed.
                request = LeaseRequest("self-test", ("/nonexistent/self-test",), hangup_grace=0)
                async with sandbox.claim(request) as terminal:
                    output = b""
                    while data := await terminal.receive_some():
                        output += data
                    status = await terminal.wait_closed()
                if status.code != 127 or b"not found" not in output:
                    raise SandboxError(f"a command ended with {status} and {output[:80]!r}")
            async with provider.prepare(SELF_TEST_TIMEOUT, role="self-test") as sandbox:
                step = "ending a sandbox"
                container = sandbox.container
            if sandbox.name in provider.containers.pending.names():
                raise SandboxError(f"{container!r} could not be removed")
            return verified
    except (SandboxError, DockerError, trio.BrokenResourceError, trio.TooSlowError) as error:
        blamed = error.measures if isinstance(error, HardeningError) else ()
        raise MeasureError(f"self-test, {step}: {_explanation(error)}", blamed) from error


def _explanation(error: BaseException) -> str:
    """Return an error's text and those of its causes: an operator needs what a user must not see."""
    texts: list[str] = []
    each: BaseException | None = error
    while each is not None:
        texts.append(str(each) or type(each).__name__)
        each = each.__cause__
    return ": ".join(texts)
