"""What others do to our containers behind our back, heard on the engine's one stream of events.

A container that somebody freezes cannot see its lifeline close, so nothing of ours would end it any more:
it is thawed as soon as it is heard of. Events that are missed while the engine is away are made up for by a
look at everything afterwards.
"""

from typing import Any, Final, cast, final

import trio

from supervisor.engine import Docker, DockerError
from supervisor.observability.log import get_logger
from supervisor.reaping.engine_health import EngineHealth
from supervisor.sandbox.identity import LABEL_INSTANCE

log = get_logger(__name__)

CALL_TIMEOUT: Final = 10.0
"""Seconds for one call of the engine."""
RETRY_PAUSE: Final = 1.0
"""Seconds between attempts to hear."""
_EVENTS: Final = {
    "type": ["container", "network", "image"],
    "event": ["pause", "disconnect", "destroy", "delete", "untag", "update"],
}


@final
class EngineNotices:
    """Hears, thaws, and tells whoever `wait_changed`.

    Args:
        docker: the engine.
        health: asked to look again when something that sessions need may have gone.
        instance: whose containers are ours.

    Attributes:
        changes: how often something may have changed.
    """

    def __init__(self, docker: Docker, health: EngineHealth, instance: str) -> None:
        self._docker = docker
        self._health = health
        self._instance = instance
        self._changed = trio.Event()
        self.changes = 0

    async def wait_changed(self, seen: int) -> int:
        """Wait until somebody may have changed something about our containers, or what they need, after
        `changes` was `seen`; return what it is now."""
        await trio.lowlevel.checkpoint()
        while self.changes == seen:
            await self._changed.wait()
        return self.changes

    async def run(self) -> None:
        """Hear, for ever."""
        while True:
            try:
                async with self._docker.events.subscribe(reconnect=False, filters=_EVENTS) as events:
                    self._tell()
                    await self._thaw_all()
                    async for event in events:
                        actor = cast("dict[str, Any]", event.get("Actor") or {})
                        attributes: dict[str, str] = actor.get("Attributes") or {}
                        ours = attributes.get(LABEL_INSTANCE) == self._instance
                        match event.get("Type"), event.get("Action"):
                            case "container", "pause" if ours:
                                self._tell()
                                await self._thaw(str(actor["ID"]))
                            case "container", "update" if ours:
                                self._tell()
                            case "container", _:
                                pass
                            case _:
                                self._tell()
            except DockerError as error:
                log.debug("no events from the engine", error=str(error))
            self._health.ask()
            await trio.sleep(RETRY_PAUSE)

    def _tell(self) -> None:
        self._health.ask()
        self.changes += 1
        self._changed.set()
        self._changed = trio.Event()

    async def _thaw_all(self) -> None:
        filters = {"label": [f"{LABEL_INSTANCE}={self._instance}"], "status": ["paused"]}
        for container in await self._docker.containers.list(filters=filters, timeout=CALL_TIMEOUT):
            await self._thaw(container.id)

    async def _thaw(self, container: str) -> None:
        """Let it run again; should that fail, kill it: its session would hang and could not be ended by its
        lifeline."""
        handle = self._docker.containers.container(container)
        log.warning("somebody paused a container; it is thawed", container=container[:12])
        try:
            await handle.unpause(timeout=CALL_TIMEOUT)
        except DockerError as error:
            try:
                if not (await handle.show(timeout=CALL_TIMEOUT))["State"]["Paused"]:
                    return  # somebody else was faster, or it is only the answer that was lost
            except DockerError as unseen:
                log.debug("nor is it known whether it is frozen", error=str(unseen))
            log.error("it cannot be thawed, so it is removed", container=container[:12], error=str(error))
            try:
                await handle.delete(force=True, v=True, timeout=CALL_TIMEOUT)
            except DockerError as failure:
                log.error("nor removed", container=container[:12], error=str(failure))
