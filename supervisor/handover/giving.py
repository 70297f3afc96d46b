"""The side of the process that runs: waits for a successor, and gives it everything, or goes on.

Until the successor says `taken` this process has not given anything up. It only stands still for a moment:
its viewers have been sent away with "come back", its sessions are frozen between two bytes, and whoever
connects waits in the kernel's queue. Whatever goes wrong before that word (the successor dies, says nonsense
or nothing, this process is told to stop) thaws all of it. After that word this process does nothing any more
but end, without cleaning up: what it would clean up is not its own any more, and the kernel closes its
    copies.
"""

import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import trio

from supervisor.gateway.server import Gateway
from supervisor.handover.channel import MAX_DESCRIPTORS, Channel, HandoverError
from supervisor.handover.rendezvous import meeting_point
from supervisor.handover.state import VERSION, HandedSession, State, write_state
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.sandbox.handing import HandingProvider
from supervisor.session.registry import SessionRegistry
from supervisor.session.state import SessionState
from supervisor.settings import Settings
from supervisor.webhooks import Webhooks

log = get_logger(__name__)

RETRY_PAUSE: Final = 1.0
"""Seconds until a successor may be heard after it could not be."""

HELLO_TIMEOUT: Final = 10.0
"""Seconds for the successor to say who it is."""
PREPARE_TIMEOUT: Final = 300.0
"""Seconds for the successor to prepare, with which it disturbs nobody: it may have to build an image."""
STANDSTILL: Final = 20.0
"""Seconds from `prepared` to `taken`, after which the sessions go on here."""
PART_TIMEOUT: Final = 5.0
"""Seconds of these for viewers to go, and for sessions that are being started to come up."""


@attrs.frozen
class Giver:
    """What can be handed over.

    Attributes:
        settings, provider, registry, gateway: of the running server.
        hooks: likewise, where it has any.
        retire: called with the successor's process id when nothing is this process's any more; ends it, at
            once.
    """

    settings: Settings
    provider: HandingProvider
    registry: SessionRegistry
    gateway: Gateway
    retire: Callable[[int], Awaitable[None]]
    hooks: Webhooks | None = None

    async def run(
        self,
        inherited: socket.socket | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Wait for successors, one at a time; returns when one has taken over. The process must end then, at
        once.

        Args:
            inherited: the meeting point of the process before.
        """
        estate = self.provider.estate
        with meeting_point(estate, self.gateway.house.port, inherited) as listening:
            listener = trio.socket.from_stdlib_socket(listening.dup())
            with listener:
                task_status.started()
                while True:
                    try:
                        connection, _ = await listener.accept()
                    except OSError as error:  # no descriptor to spare: there may be one soon
                        log.warning("a successor could not be heard", problem=str(error))
                        await trio.sleep(RETRY_PAUSE)
                        continue
                    channel = Channel(socket.socket(fileno=connection.detach()))
                    if await self._attend(channel, listening):
                        return

    async def _attend(self, channel: Channel, listening: socket.socket) -> bool:
        """Talk to a successor; return whether it has taken over."""
        taken = False
        why = "this process goes on"
        pid = 0
        try:
            pid = channel.require_same_user()
            with trio.fail_after(HELLO_TIMEOUT):
                hello, _ = await channel.receive("hello")
            self._note("hello")
            self._require_terms(hello)
            self.provider.estate.shared = True
            await self._hand_over(channel, listening)
        except (HandoverError, trio.TooSlowError) as error:
            why = str(error) or "it took too long"
        except Exception as error:
            log.error("the hand-over failed", exc_info=error)
            why = "the running server failed in the middle of it, and goes on"
        finally:
            taken = "taken" in channel.shut(why)
            channel.close()
            if taken:
                with trio.CancelScope(shield=True):  # it does nothing but end
                    await self.retire(pid)
            elif self.provider.estate.shared:
                self.provider.estate.shared = False
                self.registry.thaw()
                self.gateway.resume()
        if not taken:
            log.warning("not handed over, this process goes on", problem=why)
        return taken

    def _require_terms(self, hello: dict[str, Any]) -> None:
        """Raise HandoverError when the process that says `hello` cannot take over."""
        if (version := hello.get("version")) != VERSION:
            raise HandoverError(
                f"the running server speaks version {VERSION} of the hand-over, and the new one version "
                f"{version}: stop the one and start the other"
            )
        for name, ours in terms(self.settings).items():
            if (theirs := hello.get(name)) != ours:
                raise HandoverError(
                    f"{name} is {ours!r} in the running server and {theirs!r} in the new one; only a restart "
                    "can change that"
                )
        if self.settings.transport == "attach" and len(self.registry):
            raise HandoverError(
                "the sessions of the running server are on SANDBOX_TRANSPORT=attach, which cannot be handed "
                "over"
            )

    async def _hand_over(self, channel: Channel, listening: socket.socket) -> None:
        """Go through the exchange. `taken`, the last message, is left in the queue, for whoever ends the
        conversation."""
        descriptors: list[int] = []

        def note(descriptor: int) -> int:
            descriptors.append(descriptor)
            return len(descriptors) - 1

        own = os.pidfd_open(os.getpid())
        try:
            offer = {
                "type": "offer",
                "process": note(own),
                "estate": self.provider.estate.describe(note),
                "listening": [note(each.fileno()) for each in self.gateway.listening],
                "meeting_point": note(listening.fileno()),
            }
            await channel.send(offer, descriptors)
        finally:
            os.close(own)
        self._note("offered")
        with trio.fail_after(PREPARE_TIMEOUT):
            await channel.receive("prepared")
        self._note("prepared")
        with trio.fail_after(STANDSTILL):
            began = trio.current_time()
            sessions = await self._stand_still()
            self._note("frozen")
            await self._send_state(channel, sessions, len(descriptors))
            self._note("sent")
            await channel.wait_message()
        log.info("standstill", sessions=len(sessions), seconds=round(trio.current_time() - began, 3))

    async def _stand_still(self) -> list[HandedSession]:
        for session in self.registry:
            session.part()
        with trio.move_on_after(PART_TIMEOUT):
            await self.gateway.drain(EndReason.HANDOVER)
        for session in self.registry:
            if session.state < SessionState.READY:
                session.end(EndReason.HANDOVER)
        handed: list[HandedSession] = []
        for session in await self.registry.freeze():
            assert session.terminal is not None
            sandbox = self.provider.hand(session.id, session.terminal)
            if sandbox is None:
                raise HandoverError("a session is on a transport that cannot be handed over")
            recording = session.recording.hand() if session.recording else None
            handed.append(HandedSession(session.snapshot(), sandbox, recording))
        return handed

    async def _send_state(self, channel: Channel, sessions: list[HandedSession], first: int) -> None:
        descriptors: list[int] = []

        def note(descriptor: int) -> int:
            descriptors.append(descriptor)
            return first + len(descriptors) - 1

        names = self.provider.names()
        for each in sessions:
            names.pop(each.sandbox.name, None)
        house = self.gateway.house
        events = self.hooks.undelivered() if self.hooks else []
        file = write_state(State(sessions, names, house.keys(), house.door.memory(), events), note)
        try:
            for position in range(0, len(descriptors), MAX_DESCRIPTORS):
                await channel.send(
                    {"type": "descriptors"}, descriptors[position : position + MAX_DESCRIPTORS]
                )
                await channel.receive(
                    "received"
                )  # few are under way at any time: the kernel limits that per user
            await channel.send({"type": "state"}, [file])
        finally:
            os.close(file)
            for each in sessions:
                if each.sandbox.process is not None:
                    os.close(each.sandbox.process)

    def _note(self, step: str) -> None:
        log.info("hand-over", step=step)


def terms(settings: Settings) -> dict[str, Any]:
    """Return the settings in which the two processes must agree."""
    return {
        "SANDBOX_PROVIDER": settings.provider,
        "DOCKER_HOST": settings.docker_host,
        "HOST": settings.host,
    }
