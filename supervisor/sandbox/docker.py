"""Provider `docker`: each terminal in a hardened container of its own.

A sandbox is *prepared* (container created, started, compared with the policy, its gate ready and
empty-handed), then *claimed* with a command. A lease does both at once. Whatever happens in between or after,
leaving takes these steps, in this order: hang the command up, close the data path (which ends the container:
its gate sees it), make sure of it with kill and remove, each under a deadline of its own, and forget the name
only when the engine says that there is no such container.

What ends a container when the supervisor cannot any more: on transport `lifeline` the kernel, at once; on
transport `attach` the guard process, or the gate's lifetime.
"""

import math
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, final

import attrs
import trio

from supervisor.egress.watch import UNSAFE_NETWORK, EgressWatch
from supervisor.engine import DockerError
from supervisor.errors import SandboxError
from supervisor.measures import NO_SECURITY, Measure, SecurityStatus
from supervisor.observability import metrics
from supervisor.observability.log import get_logger
from supervisor.observability.traces import span
from supervisor.reaping.estate import Estate
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.apparmor_kernel import UNSAFE_PROFILES, ProfilesWatch
from supervisor.sandbox.attach import attach_gate
from supervisor.sandbox.budget import Budget, SessionsGroup
from supervisor.sandbox.containers import HardenedContainer, HardenedContainers, program
from supervisor.sandbox.counting import why_uncounted
from supervisor.sandbox.handing import AdoptedSandbox, HandedSandbox
from supervisor.sandbox.image import PROGRAMS
from supervisor.sandbox.inside import Judged, judged
from supervisor.sandbox.isolation_watch import IsolationWatch
from supervisor.sandbox.leaving import LONGEST_GRACE, Gate
from supervisor.sandbox.lifeline import SOCKET_NAME, LifelineTerminal, open_lifeline_socket
from supervisor.sandbox.network import NetworkFacts
from supervisor.sandbox.policy import HardeningPolicy, Mount
from supervisor.sandbox.sandbox import Sandbox
from supervisor.sandbox.seen import user_of
from supervisor.sandbox.sentry import process_behind
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.sandbox.usage import Meter, Usage, find_cgroups
from supervisor.sandbox.users import user_name
from supervisor.sandbox.waiting import Fitness

_log = get_logger("sandbox")

LIFELINE: Final = f"{PROGRAMS}/lifeline"
"""Where a lifeline socket's directory is mounted. Not below a tmpfs, which belongs to the session's user."""
STARTS_AT_ONCE: Final = 4
"""Containers that are started at the same time. Engines serialise the larger part: more makes all slow."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds for a gate to connect once the engine has started it. It takes about a millisecond."""
FAILURE_MEMORY: Final = 30.0
"""Seconds for which a failed start counts as a reason to expect the next one to fail."""
UPDATE_TIMEOUT: Final = 10.0
"""Seconds for the engine to change a container's limit."""
IDLE_TIME: Final = 60.0
"""Seconds that a gate waits for its claim, which a lease makes as soon as it is ready."""


@attrs.frozen
class _Plan:
    """What a container is for, how long its gate waits, and after how many seconds nobody needs it."""

    role: str
    idle: int
    whole_life: float


def _gate(policy: HardeningPolicy, plan: _Plan) -> list[str]:
    return [program("gate"), "--idle", str(plan.idle), *policy.gate_arguments]


@final
class DockerProvider:
    """Leases terminals in containers. Made by `providers.open_docker_provider`, which verifies first.

    Args:
        containers: makes them.
        command: what a session runs that does not say.
        nursery: for background tasks of terminals. Must outlive all leases.
        estate: whose containers they are.
        network: of the containers.

    Attributes:
        proved: what hardening was shown at start, by whoever verified.
        occupied: sandboxes in use, by session id.
        reconciler: what looks for left-over containers, once that has begun.
        profiles: the providers of the operator's profiles, by name.
        group: the control group of all sessions; None where they have none.
        egress: what is known of the network's egress; None where nobody filters it.
        isolation: what is known of its isolation; None where nobody has proved any.
        confinement: whether the kernel still has the AppArmor profiles of the start; None without any.
    """

    def __init__(
        self,
        containers: HardenedContainers,
        command: tuple[str, ...],
        nursery: trio.Nursery,
        estate: Estate,
        network: NetworkFacts,
    ) -> None:
        self.containers = containers
        self.network = network
        self.egress: EgressWatch | None = None
        self.isolation: IsolationWatch | None = None
        self.confinement: ProfilesWatch | None = None
        self.group: SessionsGroup | None = None
        self.estate = estate
        self._command = command
        self._nursery = nursery
        self.proved: SecurityStatus = NO_SECURITY
        self._starting = trio.CapacityLimiter(STARTS_AT_ONCE)
        self.occupied: dict[str, Sandbox] = {}
        self.reconciler: Reconciler | None = None
        self.profiles: dict[str, DockerProvider] = {}
        self._failed_at = -math.inf

    def add_profile(self, name: str, provider: "DockerProvider") -> None:
        """Lease by `provider` what is asked for under that name. It counts its sandboxes with the others."""
        provider.occupied = self.occupied
        self.profiles[name] = provider

    def __repr__(self) -> str:
        return f"<DockerProvider {self._starting.borrowed_tokens} starting {self.containers.pending!r}>"

    @property
    def name(self) -> str:
        """See `SandboxProvider`."""
        return "docker"

    @property
    def isolated(self) -> bool:
        """See `SandboxProvider`."""
        return True

    @property
    def security(self) -> SecurityStatus:
        """See `SandboxProvider`: what was shown at start, less what the watches know to be lost now."""
        watches = {
            Measure.APPARMOR: self.confinement,
            Measure.EGRESS: self.egress,
            Measure.ISOLATION: self.isolation,
        }
        problems = {measure: watch.problem for measure, watch in watches.items() if watch is not None}
        return self.proved.with_lost({each: why for each, why in problems.items() if why})

    @property
    def unavailable(self) -> str | None:
        """See `SandboxProvider`."""
        if self.closed:
            return self.closed
        health = self.containers.site.health
        if health.problem:
            return health.problem
        if health.returned_at < self._failed_at and trio.current_time() < self._failed_at + FAILURE_MEMORY:
            return "the last sandbox could not be started"
        return None

    @property
    def closed(self) -> str | None:
        """Why no session may start now, although sandboxes may wait for some; None when one may."""
        if self.confinement is not None and self.confinement.problem:
            return UNSAFE_PROFILES
        watches = [watch for watch in (self.egress, self.isolation) if watch is not None]
        return UNSAFE_NETWORK if any(watch.problem for watch in watches) else None

    def require_ready(self) -> None:
        """Let a session start, or not.

        Raises:
            SandboxError: not, for the time being: what a session may do or reach, or who may reach it, is not
                under control.
        """
        for watch in (self.confinement, self.egress, self.isolation):
            if watch is not None:
                watch.require_ready()

    def session_at(self, address: str) -> tuple[str, str]:
        """Return the container and the session that have `address` on the network, an IPv4 address or one
        of Ethernet, empty where there are none.
        """
        for session, sandbox in self.occupied.items():
            if address in sandbox.addresses:
                return sandbox.name, session
        return "", ""

    def session_of(self, uid: int) -> tuple[str, str]:
        """Return the container and the session whose processes have that user id on this host, empty where
        there are none, or several.
        """
        found = [(each.name, session) for session, each in self.occupied.items() if each.uid == uid]
        return found[0] if len(found) == 1 else ("", "")

    @asynccontextmanager
    async def lease(self, request: LeaseRequest) -> AsyncGenerator[Terminal]:
        """See `SandboxProvider`."""
        if request.profile:
            provider = self.profiles[request.profile]
            async with provider.lease(attrs.evolve(request, profile="")) as terminal:
                yield terminal
            return
        request = self.complete(request)
        began = trio.current_time()
        async with self.prepare(request.lifetime) as sandbox, sandbox.claim(request) as terminal:
            metrics.session_start_seconds.labels("cold").observe(trio.current_time() - began)
            yield terminal

    def complete(self, request: LeaseRequest) -> LeaseRequest:
        """Return `request` with what it leaves open: the command, variables that every program needs, and
        whether anybody can hear of commands."""
        image = self.containers.policy.image
        user = user_name(image)
        command = request.command or self._command
        counted = not why_uncounted(self.name, self.containers.site.transport, command)
        request.facts.counted = counted
        return attrs.evolve(
            request,
            command=command,
            note_commands=request.note_commands if counted else None,
            environment={
                "PATH": image.path,
                "HOME": image.home,
                "USER": user,
                "LOGNAME": user,
                "TERM": "xterm-256color",
                **request.environment,
            },
        )

    @asynccontextmanager
    async def prepare(
        self, lifetime: float, role: str = "session", *, idle: float = IDLE_TIME
    ) -> AsyncGenerator[Sandbox]:
        """Start a sandbox that is ready to be claimed.

        Args:
            lifetime: seconds that its command may run, for the label that says when nobody needs it any more.
            role: what it is for, likewise.
            idle: seconds that it waits for a claim before it ends itself.

        Resource handling: leaving closes its data path, then see `HardenedContainers.create`.

        Raises:
            SandboxError: it could not be started. The text may be shown to anybody; the cause has the
                details.
            HardeningError: it is not what the policy asks for. The text names each field.
        """
        self.require_ready()
        site = self.containers.site
        plan = _Plan(role, math.ceil(idle), idle + lifetime + LONGEST_GRACE)
        start = self._start_on_lifeline if site.transport == "lifeline" else self._start_attached
        async with AsyncExitStack() as stack:
            await site.health.confirm()
            async with self._starting:
                if site.health.problem:
                    raise SandboxError(f"no sandbox is started now: {site.health.problem}")
                deadline = trio.current_time() + site.start_timeout
                with self._within(deadline), span("prepare a sandbox", role=role):
                    sandbox = await start(stack, plan)
            yield sandbox

    async def _start_on_lifeline(self, stack: AsyncExitStack, plan: _Plan) -> Sandbox:
        site = self.containers.site
        policy = stack.enter_context(self.containers.policy_for_one())
        uid = None if site.first_uid is None else site.first_uid + policy.image.uid
        # Socket and passwd file have no use any more once the gate has connected.
        with self.containers.passwd_mounts(policy) as passwd:
            async with open_lifeline_socket(site.sockets, uid) as listener:
                made = await stack.enter_async_context(
                    self.containers.create(
                        [*_gate(policy, plan), f"{LIFELINE}/{SOCKET_NAME}"],
                        role=plan.role,
                        lifetime=plan.whole_life,
                        mounts=[
                            *site.program_mounts("gate"),
                            Mount(str(listener.directory), LIFELINE),
                            *passwd,
                        ],
                        policy=policy,
                    )
                )
                pid = await made.start()
                lifeline = await stack.enter_async_context(await listener.accept(pid, CONNECT_TIMEOUT))
        found = judged(policy, *await lifeline.receive_report(), local=True)
        return self._sandbox(made, pid, lifeline, found)

    async def _start_attached(self, stack: AsyncExitStack, plan: _Plan) -> Sandbox:
        site = self.containers.site
        policy = stack.enter_context(self.containers.policy_for_one())
        with self.containers.passwd_mounts(policy) as passwd:
            made = await stack.enter_async_context(
                self.containers.create(
                    [*_gate(policy, plan), "--attach"],
                    role=plan.role,
                    lifetime=plan.whole_life,
                    mounts=[*site.program_mounts("gate"), *passwd],
                    tty=True,
                    policy=policy,
                )
            )
            gate = await stack.enter_async_context(attach_gate(made.engine, self._nursery))
            pid = await made.start()
        await gate.wait_ready()
        report = await gate.receive_report()
        found = judged(policy, report, process_behind(policy, pid) if site.local else None, local=site.local)
        return self._sandbox(made, pid, gate, found)

    def _sandbox(self, made: HardenedContainer, pid: int, gate: Gate, found: Judged) -> Sandbox:
        policy = self.containers.policy
        cgroups = find_cgroups(pid, made.engine.id)
        if self.group is not None:
            self.group.require_member(cgroups)
        fitness = Fitness(made, pid)
        return Sandbox(
            made.name,
            made.engine,
            pid,
            policy.nano_cpus,
            gate,
            self.occupied,
            fitness,
            found,
            Meter(cgroups) if cgroups else None,
            made.addresses,
            user_of(pid) if self.containers.site.local and not policy.runtime.kind.own_kernel else None,
        )

    # ------------------------------------------------------------------ resources

    def usage(self, session_id: str) -> Usage | None:
        """See `MeasuringProvider`."""
        sandbox = self.occupied.get(session_id)
        return sandbox.usage() if sandbox else None

    def usage_of_all(self) -> tuple[Usage, Budget] | None:
        """See `MeasuringProvider`."""
        usage = self.group.usage() if self.group else None
        return (usage, self.group.budget) if self.group and usage else None

    async def throttle(self, session_id: str, part: float) -> None:
        """See `MeasuringProvider`."""
        sandbox = self.occupied.get(session_id)
        if sandbox is None:
            return
        limit = {"NanoCpus": int(sandbox.nano_cpus * part)}
        try:
            await self.containers.site.docker.api.json(
                "POST", f"containers/{sandbox.name}/update", body=limit, timeout=UPDATE_TIMEOUT
            )
        except DockerError as error:
            raise SandboxError(f"the engine refuses to slow a container down: {error}") from error

    # ------------------------------------------------------------------ another process

    def hand(self, session_id: str, terminal: Terminal) -> HandedSandbox | None:
        """See `HandingProvider`."""
        sandbox = self.occupied.get(session_id)
        if sandbox is None or not isinstance(terminal, LifelineTerminal):
            return None
        connection, pty = terminal.descriptors
        received, status = terminal.heard
        return HandedSandbox(
            sandbox.name, sandbox.pid, connection, pty, None, received, status, sandbox.addresses
        )

    def adopting(self, session_id: str, handed: HandedSandbox) -> AdoptedSandbox:
        """See `HandingProvider`."""
        return AdoptedSandbox(self, handed, self._adopted(session_id, handed))

    @asynccontextmanager
    async def _adopted(self, session_id: str, handed: HandedSandbox) -> AsyncGenerator[Meter | None]:
        async with self.containers.adopt(handed.name) as container:
            cgroups = find_cgroups(handed.pid, "")  # as sure as the pid, which the lifeline vouches for
            meter = Meter(cgroups) if cgroups else None
            self.occupied[session_id] = Sandbox(
                handed.name,
                container,
                handed.pid,
                self.containers.policy.nano_cpus,
                None,
                self.occupied,
                None,
                meter=meter,
                addresses=handed.addresses,
                uid=user_of(handed.pid),
            )
            try:
                yield meter
            finally:
                del self.occupied[session_id]

    def names(self) -> dict[str, bool]:
        """See `HandingProvider`."""
        return self.containers.pending.created()

    def inherit(self, names: dict[str, bool]) -> None:
        """See `HandingProvider`."""
        for name, created in names.items():
            self.containers.pending.inherit(name, created=created)

    @contextmanager
    def _within(self, deadline: float) -> Generator[None]:
        """Turn lateness and the engine's refusals into errors that anybody may see."""
        site = self.containers.site
        try:
            with trio.fail_at(deadline), site.health.patience() as patience:
                yield
            if patience.cancelled_caught:
                raise SandboxError("the container engine does not answer")
        except trio.TooSlowError:
            self._failed_at = trio.current_time()
            raise SandboxError(f"no sandbox came up within {site.start_timeout:g} s") from None
        except DockerError as error:
            self._failed_at = trio.current_time()
            site.health.ask()
            _log.warning("the engine could not start a container", error=str(error))
            raise SandboxError("the container engine could not start a sandbox") from error
        except SandboxError:
            self._failed_at = trio.current_time()
            raise
        self._failed_at = -math.inf
