"""What the engine and this host have against what is alive: finds what nobody owns any more, and removes it.

The rules err on the side of leaving things alone. A container of a supervisor that may be alive is its own
business; one of a supervisor of this host that is provably dead (an earlier boot, or nobody holds its
instance) goes at once; whatever cannot be judged from here (another machine at the same engine, another
network namespace) goes only after its own absolute deadline, when nobody can have a use for it. Labels are
compared exactly: the engine's name filters are regular expressions. What is on this host besides containers
(`supervisor.reaping.leftovers`) goes when its owner is provably dead, whether the engine answers or not.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Final

import attrs
import trio

from supervisor.engine import Docker, DockerError
from supervisor.observability.log import get_logger
from supervisor.reaping.leftovers import LeftOver, find_left_over
from supervisor.reaping.liveness import is_alive
from supervisor.sandbox.identity import (
    LABEL_BOOT,
    LABEL_DEADLINE,
    LABEL_INSTANCE,
    LABEL_MACHINE,
    LABEL_NAMESPACE,
    LABEL_PRODUCT,
    Identity,
)

log = get_logger(__name__)

PARALLEL: Final = 8
"""Removals at once."""
CALL_TIMEOUT: Final = 15.0
"""Seconds for one call of the engine."""
CLOCK_SKEW: Final = 300.0
"""Seconds by which the clocks of machines at one engine may differ."""
_GONE: Final = frozenset({404, 409})  # no such container; removal is under way already


class Verdict(StrEnum):
    """What becomes of a container, or of something else, and why."""

    OURS = "ours, in use"
    FORGOTTEN = "of this supervisor, which does not know it"
    ALIVE = "of another supervisor, which is alive"
    DEAD = "of a supervisor of this host, which is dead"
    EARLIER_BOOT = "of an earlier boot of this host"
    EXPIRED = "past its own deadline"
    UNKNOWN = "of a supervisor that cannot be judged from here; its deadline has not come"

    @property
    def removes(self) -> bool:
        """Whether it is to be removed."""
        return self in {Verdict.FORGOTTEN, Verdict.DEAD, Verdict.EARLIER_BOOT, Verdict.EXPIRED}


@attrs.frozen
class Finding:
    """One container, or something else, and what is to be done about it.

    Attributes:
        container: its id; empty for anything else.
        name: of a container, or where the other thing is.
        removed: whether it is known to be gone: of a container, by the engine's word.
        what: the kind of thing that it is.
    """

    container: str
    name: str
    verdict: Verdict
    removed: bool = False
    what: str = "container"


def judge(
    labels: dict[str, str],
    name: str,
    identity: Identity,
    known: Collection[str],
    *,
    alive: Callable[[str], bool] = is_alive,
    now: float | None = None,
) -> Verdict:
    """Return the verdict about one container.

    Args:
        labels: of the container.
        name: its name, without the engine's leading slash.
        identity: of this supervisor.
        known: names that this supervisor uses or is removing already.
        alive: tells whether an instance is alive.
        now: the time as seconds since the epoch; default: this host's clock.
    """
    instance = labels.get(LABEL_INSTANCE, "")
    if instance == identity.instance:
        return Verdict.OURS if name in known else Verdict.FORGOTTEN
    if labels.get(LABEL_MACHINE) == identity.machine:
        if labels.get(LABEL_BOOT) != identity.boot:
            return Verdict.EARLIER_BOOT
        if instance and labels.get(LABEL_NAMESPACE) == identity.namespace:
            return Verdict.ALIVE if alive(instance) else Verdict.DEAD
    deadline = labels.get(LABEL_DEADLINE, "")
    if deadline.isdigit() and (time.time() if now is None else now) > int(deadline) + CLOCK_SKEW:
        return Verdict.EXPIRED
    return Verdict.UNKNOWN


class Reconciler:
    """Compares and removes, once or every so often.

    Args:
        docker: the engine.
        identity: of this supervisor.
        known: returns the names that it uses or is removing already.
        shared: tells whether another process, too, makes containers in this identity's name.

    Attributes:
        states: how many of the product's containers were in which state (`running`, `created`, …) at the last
            look.
        removed: how many left-over containers were removed.
    """

    def __init__(
        self,
        docker: Docker,
        identity: Identity,
        known: Callable[[], Collection[str]],
        shared: Callable[[], bool] = lambda: False,
    ) -> None:
        self._docker = docker
        self._identity = identity
        self._known = known
        self.states: Counter[str] = Counter()
        self.removed = 0
        self._shared = shared

    async def find(self) -> list[Finding]:
        """Return all containers of the product, with verdicts, and what else is left over on this host.

        Raises:
            DockerError: the engine does not answer.
        """
        return [*map(_dead, await self._find_on_host()), *await self._find_containers()]

    async def _find_on_host(self) -> list[LeftOver]:
        return await trio.to_thread.run_sync(list, find_left_over(self._identity))

    async def _find_containers(self) -> list[Finding]:
        listed = await self._docker.containers.list(
            all=True, filters={"label": [LABEL_PRODUCT]}, timeout=CALL_TIMEOUT
        )
        self.states = Counter(dict.fromkeys(self.states, 0))
        self.states.update(container["State"] for container in listed)
        # Names are taken after the list: each is registered before its container is created, so whatever of
        # ours is in the list has its name here.
        known = self._known()
        findings: list[Finding] = []
        for container in listed:
            name = container["Names"][0].lstrip("/") if container["Names"] else container.id[:12]
            verdict = judge(container["Labels"], name, self._identity, known)
            if verdict is Verdict.FORGOTTEN and self._shared():
                verdict = Verdict.OURS
            findings.append(Finding(container.id, name, verdict))
        return findings

    async def reconcile(self) -> list[Finding]:
        """Remove what is to be removed; return everything that was found, and what became of it.

        Raises:
            DockerError: the engine does not answer a list; what is on this host besides containers is removed
                all the same. Failed removals are logged and tried next time.
        """
        try:
            containers = await self._reconcile_containers()
        finally:  # afterwards: a control group goes once no container is in it
            others = [await self._remove_from_host(each) for each in await self._find_on_host()]
        return [*others, *containers]

    async def _reconcile_containers(self) -> list[Finding]:
        findings = await self._find_containers()
        limiter = trio.CapacityLimiter(PARALLEL)
        done: list[Finding] = []

        async def remove(finding: Finding) -> None:
            async with limiter:
                removed = await self._remove(finding.container)
            self.removed += removed
            done.append(attrs.evolve(finding, removed=removed))
            log.info(
                "left-over container", container=finding.name, why=finding.verdict.value, removed=removed
            )

        async with trio.open_nursery() as nursery:
            for finding in findings:
                if finding.verdict.removes:
                    nursery.start_soon(remove, finding)
                else:
                    done.append(finding)
        return done

    async def _remove_from_host(self, found: LeftOver) -> Finding:
        try:
            removed = await trio.to_thread.run_sync(found.remove)
        except OSError as error:
            log.warning("left over on this host, not removed", name=found.name, error=str(error))
            removed = False
        else:
            log.info("left over on this host", what=found.what, name=found.name, removed=removed)
        return attrs.evolve(_dead(found), removed=removed)

    async def _remove(self, container: str) -> bool:
        try:
            await self._docker.containers.container(container).delete(
                force=True, v=True, timeout=CALL_TIMEOUT
            )
        except DockerError as error:
            if error.status not in _GONE:
                log.warning("left-over container not removed", container=container[:12], error=str(error))
                return False
        return True

    async def run(self, interval: float) -> None:
        """Reconcile every `interval` seconds, for ever; an engine that is away is tried again next time."""
        while True:
            await trio.sleep(interval)
            try:
                await self.reconcile()
            except DockerError as error:
                log.warning("not reconciled: the engine does not answer", error=str(error))


def _dead(found: LeftOver) -> Finding:
    return Finding("", found.name, Verdict.DEAD, what=found.what)
