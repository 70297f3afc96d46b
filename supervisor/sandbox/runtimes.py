"""OCI runtimes: which of the engine's makes the containers, and what is otherwise where it brings a kernel.

Runc and its like make a container out of the host's kernel, and all that is asked of one holds for any of
them: they are of the kind `ORDINARY`. gVisor runs a session's programs on a kernel of its own, in an ordinary
process of the host's (the sentry); Kata in a virtual machine. There, what hardens a process of the host's
has nothing to take hold of. What this means for each measure is said here, and nowhere else.

A runtime's kind is told by its names, which are the operator's word, and must be borne out by each container:
by the kernel that it shows, and by what the host's /proc shows behind it.

Sources: https://gvisor.dev/docs/architecture_guide/security/ and the runtime's own sources (runsc/sandbox,
runsc/specutils).
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.settings import Settings


@attrs.frozen(kw_only=True)
class Kind:
    """What runtimes of one kind have in common.

    Attributes:
        title: what people call it.
        mark: part of the names of such runtimes, of their programs or shims; empty: what has no other's mark.
        own_kernel: its containers do not run on this host's kernel.
        sentry: that kernel is a process of this host's, which `sentry` judges with each container. It has a
            network stack of its own, in which the engine's resolver (127.0.0.11) is not to be found.
        covered: measures that it has no use for, and what stands in their place, as far as `sentry` sees to
            that.
        shared: namespaces that its processes share with the host's; what a session sees is none of these.
        arguments: of the runtime, without which a measure is not applied.
        calls: system calls that its kernel has other names for than Linux (`SeccompProfile.spelled_for`).
        unlisted: entries of a report (docs/gate.md) and fields of `/proc/self/status` that its kernel may
            lack.
        unshown: options of mounts that its kernel does not show.
        least_pids: fewest processes and threads that a container's limit must allow: the runtime needs some.
    """

    title: str
    mark: str = ""
    own_kernel: bool = False
    sentry: bool = False
    covered: Mapping[Measure, str] = attrs.field(factory=dict[Measure, str])
    arguments: Mapping[Measure, str] = attrs.field(factory=dict[Measure, str])
    calls: Mapping[str, str] = attrs.field(factory=dict[str, str])
    shared: frozenset[str] = frozenset()
    unlisted: frozenset[str] = frozenset()
    unshown: frozenset[str] = frozenset()
    least_pids: int = 1


ORDINARY: Final = Kind(title="the host's kernel")

GVISOR: Final = Kind(
    title="gVisor",
    mark="runsc",
    own_kernel=True,
    sentry=True,
    covered={
        Measure.APPARMOR: "no program of a session calls this host's kernel, so that a profile would confine "
        "nothing: gVisor's kernel serves them, in a read-only root of its own and behind a filter of its own",
        Measure.LANDLOCK: "gVisor's kernel has no Landlock; its files, terminals and sockets are its own, "
        "and it works behind a filter, in a read-only root of its own. What Landlock keeps a session from "
        "doing to itself stays possible: listening, opening terminals, signals to its own gate",
        Measure.USERNS: "a user in gVisor is none of this host's: its kernel runs as an unprivileged one, in "
        "a user namespace of its own. Only what opens the container's files for it is root, behind a filter",
    },
    arguments={Measure.SECCOMP: "--oci-seccomp"},
    calls={"pselect6": "pselect"},
    # What the session sees are gVisor's own. Platform ptrace needs the host's process ids for itself.
    shared=frozenset({"pid", "cgroup"}),
    unlisted=frozenset(
        {
            "limits",
            "attr/current",
            "ns/cgroup",
            "ns/ipc",
            "ns/mnt",
            "ns/uts",
            "CapAmb",
            "Groups",
            "NoNewPrivs",
        }
    ),
    # No program gives rights in gVisor, and devices are its own and take a capability to make.
    unshown=frozenset({"nosuid", "nodev"}),
    least_pids=256,  # about 60 for itself, and 8 for each process, on platform ptrace
)

KATA: Final = Kind(title="Kata Containers", mark="kata", own_kernel=True)
"""Nobody has tried it here, so nothing is said to stand in the place of anything: what its containers do not
show must be gone without by name."""

KINDS: Final = (GVISOR, KATA)


@attrs.frozen
class Runtime:
    """A runtime of the engine's.

    Attributes:
        name: as the engine knows it.
        kind: what it is.
        arguments: that the engine gives it; None where the engine does not tell.
    """

    name: str
    kind: Kind = ORDINARY
    arguments: tuple[str, ...] | None = ()

    def lacks_argument(self, measure: Measure) -> str:
        """Return the argument that the runtime would have to be given for `measure` and is not, if any."""
        wanted = self.kind.arguments.get(measure, "")
        if self.arguments is None or not wanted:
            return ""
        given = {re.sub(r"^--?|=true$", "", each) for each in self.arguments}
        return "" if wanted.lstrip("-") in given else wanted


def read_runtimes(info: Mapping[str, Any]) -> dict[str, Runtime]:
    """Return the runtimes by their names, from the engine's answer to `GET /info` (API 1.40 and later)."""
    registered: Mapping[str, Mapping[str, Any]] = info.get("Runtimes") or {}
    return {name: _runtime(name, each) for name, each in registered.items()}


def _runtime(name: str, registered: Mapping[str, Any]) -> Runtime:
    """Return what the engine's entry is: a program and its arguments, or (API 1.43) the type of a shim."""
    program, shim = str(registered.get("path") or ""), str(registered.get("runtimeType") or "")
    words = (name, program.rpartition("/")[2], shim)
    kind = next((kind for kind in KINDS if any(kind.mark in word for word in words)), ORDINARY)
    arguments = None if shim else tuple(map(str, registered.get("runtimeArgs") or ()))
    return Runtime(name, kind, arguments)


def find_ordinary(runtimes: Mapping[str, Runtime], default: str) -> Runtime:
    """Return a runtime without a kernel of its own, the `default` one if that is.

    Raises:
        ConfigurationError: the engine has none.
    """
    for runtime in sorted(runtimes.values(), key=lambda each: each.name != default):
        if not runtime.kind.own_kernel:
            return runtime
    raise ConfigurationError(
        "the engine has no runtime on the host's kernel, and the proof that the network isolates needs one: "
        "add runc to its runtimes"
    )


def choose(settings: Settings, runtimes: Mapping[str, Runtime], default: str, *, local: bool) -> Runtime:
    """Return the runtime that `settings` ask for.

    Args:
        settings: `runtime` empty means the engine's default.
        runtimes: of the engine.
        default: name of the engine's default runtime.
        local: the engine's containers are on this host.

    Raises:
        ConfigurationError: the engine does not know it, or it does not go together with other settings.
    """
    name = settings.runtime or default
    if name not in runtimes:
        raise ConfigurationError(
            f"CONTAINER_RUNTIME={name}: the engine has no such runtime, but {', '.join(sorted(runtimes))}. "
            'Others are added under "runtimes" in its daemon.json (docs/runtimes.md)'
        )
    runtime = runtimes[name]
    kind = runtime.kind
    if not kind.own_kernel:
        return runtime
    problems: list[str] = []
    if settings.transport == "lifeline":
        problems.append(
            f"no descriptor crosses from {kind.title}'s kernel to this one, and the lifeline passes the "
            "terminal as one: set SANDBOX_TRANSPORT=attach"
        )
    if not local:
        problems.append(
            "what it runs on is looked at on this host, and the engine's containers are elsewhere"
        )
    if settings.pids_limit < kind.least_pids:
        problems.append(
            f"CONTAINER_PIDS_LIMIT={settings.pids_limit}: {kind.title} counts its own threads among the "
            f"container's and dies when it can have no more: set {kind.least_pids} or more"
        )
    if problems:
        raise ConfigurationError(f"runtime {name} ({kind.title}): " + "; ".join(problems))
    return runtime
