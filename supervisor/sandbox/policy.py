"""The hardening policy: one value that says all of what a session container must be.

`HardeningPolicy.to_create_config` turns it into the exact JSON of the engine's create call; `compare` holds
the engine's answers against that same JSON. Engines accept unknown keys, drop options that their kernel lacks
with a mere warning, and add what the image declares; so every field of the answer must be the one that was
asked for, and what was not asked for must be empty.

What an operator goes without is named in `without`, measure by measure; the measures that every engine can do
have no switch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from supervisor.measures import Measure, parse_opt_outs
from supervisor.sandbox import landlock
from supervisor.sandbox.apparmor import GATE_PROFILE
from supervisor.sandbox.image import ImageFacts
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import SeccompProfile
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

JSON = dict[str, Any]

CAPABILITIES_DROPPED: Final = (
    "ALL",
    # ALL is what counts; these are spelled out for whoever audits `docker inspect`.
    "DAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SYS_ADMIN",
    "SYS_MODULE",
    "SYS_PTRACE",
)

# What every engine masks and write-protects by itself, written down so that no engine can have another idea,
# and the files that tell about the host's hardware in time (powercap) or about its other users (interrupts).
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

RUN_SIZE: Final = 32 * MIB
SHM_SIZE: Final = MIB
"""Bytes of /dev/shm: enough for semaphores, nothing to live in."""
OPEN_FILES: Final = 512
"""Descriptors per process; Node and its tools use about a hundred."""
QUEUED_SIGNALS: Final = 128
"""Signals that are queued and POSIX timers of a session. Where users are remapped, the kernel charges them to
the host's root as well (`inc_rlimit_get_ucounts` in the kernel's kernel/ucount.c), who has one such pool."""
DNS_PORT: Final = 53
"""Names are asked for over TCP where an answer is long."""
HOSTNAME: Final = "sandbox"
STOP_TIMEOUT: Final = 2
"""Seconds that an engine that is told to stop a container waits before it kills: the gate handles TERM."""


@attrs.frozen
class Difference:
    """A field in which the engine's answer is not what the policy asked for."""

    field: str
    expected: Any
    actual: Any

    def __str__(self) -> str:
        return f"{self.field}: {_shown(self.actual)} instead of {_shown(self.expected)}"


@attrs.frozen
class Mount:
    """A file or directory of this host, bind-mounted read-only."""

    source: str
    target: str


@attrs.frozen(kw_only=True)
class HardeningPolicy:
    """What every session container must be. Sizes in bytes.

    Attributes:
        image: facts of the image, which is pinned by its id.
        memory: RAM and swap together.
        nano_cpus: CPU time, in billionths of a CPU.
        pids: processes and threads.
        tmp_size, config_size: sizes of /tmp and of the CLI's config directory.
        config_directory: absolute path of the latter.
        network: name of the network, or `none`.
        seccomp: the profile.
        runtime: OCI runtime.
        programs: directories of the image that Landlock lets sessions execute from, besides the usual.
        ports: that TCP may connect to, as far as Landlock is asked; None: any.
        user_of_its_own: the user id in `image` is this container's alone.
        session_profile: AppArmor profile that the gate stacks under its own; empty: none.
        without: measures that the operator opted out of.
        cgroup: the control group of all sessions (`budget`); empty: the engine's own choice.
        resolver: address of the only DNS server that the engine may ask for containers; empty: the host's.
        mounts: of this host's files, in each container.
        auto_remove: whether the engine removes what has ended by itself (`verify.EngineFacts`).
    """

    image: ImageFacts
    memory: int
    nano_cpus: int
    pids: int
    tmp_size: int
    config_size: int
    config_directory: str
    network: str
    seccomp: SeccompProfile
    runtime: Runtime
    programs: tuple[str, ...] = ()
    ports: tuple[int, ...] | None = None
    user_of_its_own: bool = False
    session_profile: str = ""
    without: frozenset[Measure] = frozenset()
    auto_remove: bool = True
    resolver: str = ""
    cgroup: str = ""
    mounts: tuple[Mount, ...] = ()

    @classmethod
    def from_settings(
        cls, settings: Settings, image: ImageFacts, seccomp: SeccompProfile, runtime: Runtime
    ) -> "HardeningPolicy":
        """Return the policy that `settings` ask for, on this image, with that runtime."""
        without = parse_opt_outs(settings.hardening_without)
        anywhere = Measure.EGRESS in without or settings.network == "none"
        return cls(
            image=image,
            memory=settings.memory_limit,
            nano_cpus=round(settings.cpu_limit * 1_000_000_000),
            pids=settings.pids_limit,
            tmp_size=settings.tmpfs_size,
            config_size=settings.config_size,
            config_directory=settings.config_directory,
            network=settings.network,
            seccomp=seccomp,
            runtime=runtime,
            programs=settings.program_directories,
            ports=None if anywhere else (DNS_PORT, *settings.egress_ports),
            without=without,
        )

    @property
    def covered(self) -> dict[Measure, str]:
        """Measures that the runtime's own kernel has no use for, and what stands in their place."""
        covered = self.runtime.kind.covered
        return {measure: why for measure, why in covered.items() if measure not in self.without}

    def as_witness(self, ordinary: Runtime) -> "HardeningPolicy":
        """Return the same for a runtime that brings no kernel of its own, as far as this host can have it."""
        return attrs.evolve(self, runtime=ordinary, without=self.without | self.covered.keys(), mounts=())

    def applies(self, measure: Measure) -> bool:
        """Whether the engine and the gate are asked for it, and containers must show it."""
        return measure not in self.without and measure not in self.covered

    @property
    def security_options(self) -> list[str]:
        """`SecurityOpt` of the create call. An engine with AppArmor applies a profile of its own to whoever
        asks for none.
        """
        profile = "unconfined"
        if self.applies(Measure.SECCOMP):
            calls = self.runtime.kind.calls
            profile = self.seccomp.spelled_for(calls) if calls else self.seccomp.text
        options = ["no-new-privileges:true", f"seccomp={profile}"]
        if self.applies(Measure.APPARMOR):
            options.append(f"apparmor={GATE_PROFILE}")
        return options

    @property
    def tmpfs(self) -> dict[str, str]:
        """Mount points and options of everything that can be written to, besides /dev/shm."""
        base = "rw,noexec,nosuid,nodev"
        owner = f"uid={self.image.uid},gid={self.image.gid}"
        return {
            "/tmp": f"{base},size={self.tmp_size},mode=1777",  # noqa: S108 - the container's
            "/run": f"{base},size={RUN_SIZE},mode=0755,{owner}",
            self.config_directory: f"{base},size={self.config_size},mode=0700,{owner}",
        }

    @property
    def gate_arguments(self) -> list[str]:
        """Arguments of the gate that have it confine the session's process tree (AppArmor, Landlock)."""
        arguments = ["--stack", self.session_profile] if self.session_profile else []
        if not self.applies(Measure.LANDLOCK):
            return arguments
        return arguments + landlock.gate_arguments(
            path=self.image.path,
            home=self.image.home,
            programs=self.programs,
            writable=self.tmpfs,
            ports=self.ports,
        )

    @property
    def ulimits(self) -> dict[str, int]:
        """Resource limits of each process, soft and hard. No file can become larger than what the largest
        tmpfs holds.
        """
        return {
            "core": 0,
            "fsize": max(self.tmp_size, self.config_size, RUN_SIZE),
            "nofile": OPEN_FILES,
            "sigpending": QUEUED_SIGNALS,
        }

    def to_create_config(
        self,
        entrypoint: Sequence[str],
        *,
        labels: Mapping[str, str],
        mounts: Iterable[Mount] = (),
        tty: bool = False,
    ) -> JSON:
        """Return the body of `POST /containers/create` (API 1.40 and later).

        Args:
            entrypoint: argument vector of PID 1. It gets `PATH` and nothing else from us in its environment.
            labels: of the container.
            mounts: of this host's files, read-only, besides those of all containers.
            tty: let the engine give the container a terminal and keep its input open (transport `attach`).
        """
        return {
            "Image": self.image.id,
            "User": f"{self.image.uid}:{self.image.gid}",
            "Hostname": HOSTNAME,
            "Domainname": "",
            "Entrypoint": list(entrypoint),
            "Cmd": [],
            "Env": [f"PATH={self.image.path}"],
            "WorkingDir": self.image.home,
            "Labels": dict(labels),
            "Tty": tty,
            "OpenStdin": tty,
            "StdinOnce": False,
            "AttachStdin": tty,
            "AttachStdout": tty,
            "AttachStderr": tty,
            "StopSignal": "SIGTERM",
            "StopTimeout": STOP_TIMEOUT,
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": self._host_config(mounts),
        }

    def _host_config(self, mounts: Iterable[Mount]) -> JSON:
        return {
            "Memory": self.memory,
            "MemorySwap": self.memory,
            "OomKillDisable": False,
            "NanoCpus": self.nano_cpus,
            "PidsLimit": self.pids,
            "CgroupParent": self.cgroup,
            "Ulimits": [{"Name": name, "Soft": value, "Hard": value} for name, value in self.ulimits.items()],
            "ReadonlyRootfs": True,
            "Tmpfs": self.tmpfs,
            "ShmSize": SHM_SIZE,
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": mount.source,
                    "Target": mount.target,
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rprivate"},
                }
                for mount in (*self.mounts, *mounts)
            ],
            "Privileged": False,
            "CapDrop": list(CAPABILITIES_DROPPED),
            "SecurityOpt": self.security_options,
            "MaskedPaths": list(MASKED_PATHS),
            "ReadonlyPaths": list(READONLY_PATHS),
            "IpcMode": "private",
            "PidMode": "",
            "CgroupnsMode": "private",
            "NetworkMode": self.network,
            # Named, so that the engine's resolver in each container asks this one, from inside of the
            # container's network, and nobody else. No search list: the host's says something about it.
            "Dns": [self.resolver] if self.resolver else [],
            "DnsSearch": ["."] if self.resolver else [],
            "Runtime": self.runtime.name,
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "AutoRemove": self.auto_remove,
        }

    def compare(
        self, created: Mapping[str, Any], inspected: Mapping[str, Any], warnings: Iterable[str] = ()
    ) -> list[Difference]:
        """Return all differences between what was asked for and what the engine says that it made.

        Args:
            created: the body of the create call, as `to_create_config` returned it.
            inspected: answer to `GET /containers/{id}/json`.
            warnings: `Warnings` in the answer to the create call. Each is a measure that the engine or its
                kernel did not take.
        """
        differences = [Difference("Warnings", (), warning) for warning in warnings]
        expected = {key: value for key, value in created.items() if key != "HostConfig"}
        expected["Env"] = [*created["Env"], *self.image.other_environment]
        expected["Labels"] = {**self.image.labels, **created["Labels"]}
        expected["ExposedPorts"] = {port: {} for port in self.image.exposed_ports}
        expected["OnBuild"] = list(self.image.on_build)
        expected["Shell"] = list(self.image.shell)
        differences += _compare_objects("Config", expected, inspected.get("Config", {}))
        host = inspected.get("HostConfig", {})
        differences += _compare_objects("HostConfig", created["HostConfig"], host)
        networks: JSON = (inspected.get("NetworkSettings") or JSON()).get("Networks") or {}
        seen: JSON = {
            "Image": inspected.get("Image"),
            "Command": [inspected.get("Path"), *(inspected.get("Args") or ())],
            "Mounts": sorted(
                [mount.get("Type"), mount.get("Source"), mount.get("Destination"), mount.get("RW")]
                for mount in inspected.get("Mounts") or ()
            ),
            "Networks": sorted(networks),
        }
        wanted: JSON = {
            "Image": self.image.id,
            "Command": created["Entrypoint"],
            "Mounts": sorted(
                [mount["Type"], mount["Source"], mount["Target"], False]
                for mount in created["HostConfig"]["Mounts"]
            ),
            "Networks": [self.network],
        }
        differences += [
            Difference(name, wanted[name], seen[name]) for name in wanted if wanted[name] != seen[name]
        ]
        profile = inspected.get("AppArmorProfile")
        if self.applies(Measure.APPARMOR) and profile != GATE_PROFILE:
            differences.append(Difference("AppArmorProfile", GATE_PROFILE, profile))
        if profile == "unconfined":
            # An engine that has AppArmor applies its default profile to whoever asks for none.
            differences.append(Difference("AppArmorProfile", "the engine's default", "unconfined"))
        return differences


def _compare_objects(where: str, expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """Compare key by key; a key that only one side has must be empty."""
    return [
        Difference(f"{where}.{key}", expected.get(key), actual.get(key))
        for key in sorted(expected.keys() | actual.keys())
        if _normal(key, expected.get(key)) != _normal(key, actual.get(key))
    ]


def _normal(key: str, value: Any) -> Any:
    """Return what `value` means: engines write "nothing" in many ways, and order and spell some lists as they
    like.
    """
    if key == "ConsoleSize" and value == [0, 0]:
        return None
    if not value:
        return None
    if key == "CapDrop":
        return sorted(name.upper().removeprefix("CAP_") for name in value)
    if key == "Ulimits":
        return sorted(json.dumps(limit, sort_keys=True) for limit in value)
    if key in {"Env", "SecurityOpt", "MaskedPaths", "ReadonlyPaths"}:
        return sorted(value)
    if key == "Mounts":
        return sorted(json.dumps(mount, sort_keys=True) for mount in value)
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    if len(text) <= 200:
        return text
    return f"{text[:80]}… ({len(text)} characters, SHA-256 {hashlib.sha256(text.encode()).hexdigest()[:16]})"
