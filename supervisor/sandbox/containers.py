"""Containers as the policy asks for them: made, compared with it, and certain to go.

Every container of ours comes from here: those of sessions, and those by which the supervisor tests its
surroundings.
"""

import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast, final

import attrs
import trio

from supervisor.engine import (
    Docker,
    DockerConnectionError,
    DockerContainer,
    DockerError,
    DockerTimeoutError,
    DockerUnreachableError,
)
from supervisor.engine.types import JSON
from supervisor.errors import HardeningError, SandboxError
from supervisor.measures import Measure
from supervisor.observability.log import get_logger
from supervisor.observability.traces import span
from supervisor.reaping.engine_health import EngineHealth
from supervisor.reaping.notices import EngineNotices
from supervisor.reaping.pending import NOT_FOUND, PendingRemovals
from supervisor.sandbox.identity import Identity
from supervisor.sandbox.image import PROGRAMS
from supervisor.sandbox.policy import Difference, HardeningPolicy, Mount
from supervisor.sandbox.shares import bound_shares
from supervisor.sandbox.users import SessionUsers, passwd_file

_log = get_logger("sandbox")

CREATE_TIMEOUT: Final = 15.0
"""Seconds for the engine to answer a create call, which cannot be cancelled; 10 to 50 ms are usual."""
PROOF_TIMEOUT: Final = 30.0
"""Seconds for what containers do in a proof, once they have been started; two are usual."""
VERIFY_TIMEOUT: Final = 10.0
"""Seconds for the engine to say what a container is by now."""


@attrs.frozen(kw_only=True)
class Site:
    """Where containers are made, and how this process reaches them.

    Attributes:
        docker: the engine.
        identity: of this supervisor, for labels and names.
        transport: `lifeline` or `attach`.
        programs: directory of our programs on this host, mounted into containers; None: use those in the
            image.
        sockets: private directory for lifeline sockets and passwd files.
        first_uid: what the containers' user 0 is on this host; None where that cannot be told.
        start_timeout: seconds for a container to come up.
        network_id: of the network that was verified at start, at the engine; empty without one.
        health: of the engine.
        notices: of what others do to containers.
    """

    docker: Docker
    identity: Identity
    transport: str
    programs: dict[str, Path]
    sockets: Path
    first_uid: int | None
    start_timeout: float
    network_id: str
    health: EngineHealth
    notices: EngineNotices

    @property
    def proof_time(self) -> float:
        """Seconds for a proof by packets, which starts containers and has them do something."""
        return self.start_timeout + PROOF_TIMEOUT

    @property
    def bounds_shares(self) -> bool:
        """Whether containers have user namespaces of their own whose limits this process can set."""
        return self.local and bool(self.first_uid) and os.geteuid() == 0

    @property
    def local(self) -> bool:
        """Whether its containers run on this host, so that its /proc shows them."""
        return bool(self.programs)

    def program_mounts(self, name: str) -> list[Mount]:
        """Return the mount that brings one of our programs into a container, none where the image has it."""
        return [Mount(str(self.programs[name]), program(name))] if name in self.programs else []


def program(name: str) -> str:
    """Return the path of one of our programs in a container."""
    return f"{PROGRAMS}/{name}"


@final
class HardenedContainer:
    """A container that was created and is not started yet. Made by `HardenedContainers.create`.

    Attributes:
        name: of the container.
        site, policy: where and how it was made.
        engine: the engine client's object.
        address: IPv4 address on the policy's network; none before it is started, or without a network.
        addresses: those on all its networks, and those of its devices there.

    Resource handling: what was asked of the engine, and what it answers (60 KB together), is not kept for as
    long as a session lives, but made and asked for again where it is compared again.
    """

    def __init__(
        self,
        site: Site,
        policy: HardeningPolicy,
        pending: PendingRemovals,
        name: str,
        config: Callable[[], JSON],
    ) -> None:
        self.name = name
        self.site = site
        self.address = ""
        self.addresses: frozenset[str] = frozenset()
        self.policy = policy
        self._pending = pending
        self._config = config
        self._warnings: list[str] = []
        self.engine: DockerContainer

    def __repr__(self) -> str:
        return f"<HardenedContainer {self.name}>"

    async def create(self) -> None:
        """Create it. Shielded, because whoever cannot wait for the answer does not know whether it exists;
        but not for longer than the engine answers at all."""
        await trio.lowlevel.checkpoint()
        containers = self.site.docker.containers
        with self.site.health.patience(shield=True) as patience:
            try:
                self.engine = await containers.create(
                    self._config(),
                    name=self.name,
                    timeout=CREATE_TIMEOUT,
                    patience=0,  # who cancels knows that there is no answer to wait for
                )
            except DockerUnreachableError:
                self._pending.forget(self.name)
                raise
            except DockerConnectionError:
                self._pending.mark_doubtful(self.name, cut_off=True)
                raise
            except (DockerTimeoutError, trio.Cancelled):
                self._pending.mark_doubtful(self.name)
                raise
            self._pending.mark_created(self.name)
            self._warnings = list(self.engine["Warnings"])
        if patience.cancelled_caught:
            raise SandboxError("the container engine does not answer")

    async def start(self) -> int:
        """Start it and return its pid, in the engine's process namespace, if it is what the policy asks for.

        Raises:
            HardeningError: it is not; all differences are named.
            SandboxError: it has ended already.
            DockerError: the engine refuses.
        """
        if self.policy.auto_remove:
            self._pending.mark_started(self.name)
        with span("start the container", container=self.name):
            await self.engine.start(timeout=None)
        try:
            state = await self._inspect(timeout=None)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            raise SandboxError("the sandbox ended as soon as it was started") from error
        if not state["Pid"]:
            raise SandboxError(
                f"the sandbox ended as soon as it was started (exit status {state['ExitCode']})"
            )
        pid = int(state["Pid"])
        if self.site.bounds_shares and not self.policy.runtime.kind.own_kernel:
            await bound_shares(pid)
        return pid

    async def verify_again(self) -> None:
        """Ask the engine what it is by now, and see that it runs and still is what the policy asks for.

        Raises:
            SandboxError: it is not.
            DockerError: the engine does not say.
        """
        state = await self._inspect(timeout=VERIFY_TIMEOUT)
        if state["Status"] != "running":
            raise SandboxError(f"the container is {state['Status']}")

    async def _inspect(self, timeout: float | None) -> JSON:
        """Return its state, if it is as the policy asks for and on the network that was verified."""
        inspected = await self.site.docker.containers.container(self.engine.id).show(timeout=timeout)
        differences = self.policy.compare(self._config(), inspected, self._warnings)
        networks: Mapping[str, Mapping[str, Any]] = inspected["NetworkSettings"]["Networks"]
        ours = networks.get(self.policy.network, {})
        self.address = str(ours.get("IPAddress") or "")
        found = (network.get(key) for network in networks.values() for key in ("IPAddress", "MacAddress"))
        self.addresses = frozenset(filter(None, found))
        if wanted := self.site.network_id:
            seen = ours.get("NetworkID")
            if seen != wanted:
                differences.append(Difference("NetworkID", wanted, seen))
        require_policy(differences)
        return cast("JSON", inspected["State"])


@final
class HardenedContainers:
    """Makes containers at one site by one policy.

    Attributes:
        pending: registry of what must be removed; its `run` is the caller's.
        witness: policy of one container, of an ordinary runtime, that proofs need beside those of `policy`;
            None where they do not.
    """

    def __init__(
        self,
        site: Site,
        policy: HardeningPolicy,
        pending: PendingRemovals,
        witness: HardeningPolicy | None = None,
    ) -> None:
        self.site = site
        self.policy = policy
        self.pending = pending
        self.witness = witness
        self._users = SessionUsers(remapped=site.first_uid != 0)

    @contextmanager
    def policy_for_one(self) -> Generator[HardeningPolicy]:
        """Yield the policy of one session's container: with a user id of its own until the block is left."""
        if Measure.SESSION_UID in self.policy.without:
            yield self.policy
        else:
            with self._users.one(self.policy) as policy:
                yield policy

    @contextmanager
    def passwd_mounts(self, policy: HardeningPolicy) -> Generator[list[Mount]]:
        """Yield what to mount so that the container's programs find their user. Needed until it runs."""
        if not policy.user_of_its_own:
            yield []
        else:
            with passwd_file(self.site.sockets, policy.image) as mount:
                yield [mount]

    @asynccontextmanager
    async def create(
        self,
        entrypoint: Sequence[str],
        *,
        role: str,
        lifetime: float,
        mounts: Iterable[Mount] = (),
        tty: bool = False,
        policy: HardeningPolicy | None = None,
    ) -> AsyncGenerator[HardenedContainer]:
        """Create a container. Holds no cancel scope, so it may be entered in one scope and left in another.

        Args:
            entrypoint: argument vector of PID 1.
            role, lifetime: for its labels: see `Identity.labels`.
            mounts, tty: see `HardeningPolicy.to_create_config`.
            policy: of this container (`policy_for_one`); None: the common one.

        Resource handling: leaving removes it and makes sure; shielded, `pending.ATTEMPT_TIMEOUT` at most.
            What could not be
        removed by then is tried again in the background. What carries its output must have been closed
        before.

        Raises:
            DockerError: the engine refuses, or does not answer.
        """
        site = self.site
        name = site.identity.new_name(role)
        labels = site.identity.labels(role, site.start_timeout + lifetime)
        policy = policy or self.policy
        config = partial(policy.to_create_config, entrypoint, labels=labels, mounts=[*mounts], tty=tty)
        container = HardenedContainer(site, policy, self.pending, name, config)
        self.pending.register(name)
        try:
            with span("create the container", container=name):
                await container.create()
            yield container
        finally:
            with trio.CancelScope(shield=True):  # `remove` has a deadline
                # Not there: the create call never reached the engine.
                if name in self.pending and not await self.pending.remove(name):
                    _log.warning("container not removed yet; it will be tried again", container=name)

    @asynccontextmanager
    async def adopt(self, name: str) -> AsyncGenerator[DockerContainer]:
        """Answer for a running container that another process of this instance made and verified.

        Resource handling: as `create`.
        """
        self.pending.register(name)
        self.pending.mark_created(name)
        if self.policy.auto_remove:
            self.pending.mark_started(name)
        try:
            yield self.site.docker.containers.container(name)
        finally:
            with trio.CancelScope(shield=True):  # `remove` has a deadline
                if not await self.pending.remove(name):
                    _log.warning("container not removed yet; it will be tried again", container=name)


def require_policy(differences: list[Difference]) -> None:
    """Raise HardeningError when there are differences; it names all of them."""
    if differences:
        raise HardeningError(
            "the engine did not make the sandbox as the policy asks: " + "; ".join(map(str, differences))
        )
