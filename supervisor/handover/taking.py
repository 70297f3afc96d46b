"""The side of the new process: prepares beside the one that runs, gets its sessions, and takes them with one
word.

Before that word it owns nothing: it may fail anywhere, and closes its copies. The word is `taken`: once it is
in the other's queue, this process is the server. When it cannot be sent any more, the other one is dead, and
this process is the server all the same; or it has waited too long and goes on, and this process ends.
"""

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final, final

import trio

from supervisor.handover.channel import Channel, GoneError, HandoverError, close_all
from supervisor.handover.giving import terms
from supervisor.handover.rendezvous import meet
from supervisor.handover.state import VERSION, State, read_state
from supervisor.observability.log import get_logger
from supervisor.reaping.estate import Estate, inherited_estate
from supervisor.sandbox.lifeline import runtime_directory
from supervisor.settings import Settings

log = get_logger(__name__)

ANSWER_TIMEOUT: Final = 15.0
"""Seconds for the running server to answer `hello`: it may be attending to another successor."""
STATE_TIMEOUT: Final = 30.0
"""Seconds for its sessions to come once it has been told that all is prepared."""
DEATH_TIMEOUT: Final = 5.0
"""Seconds between the end of the conversation and that of the process, when it has died."""

POLL: Final = 0.02
"""Seconds between two looks at something that cannot be waited for."""


@final
class Successor:
    """This process's part in a hand-over. Made by `succeeding`.

    Attributes:
        estate: of the running server, shared with it.
    """

    def __init__(
        self, channel: Channel, offer: dict[str, Any], descriptors: list[int], stack: ExitStack
    ) -> None:
        self._channel = channel
        self._descriptors: list[int | None] = list(descriptors)
        stack.callback(self._close_rest)
        self._process = self._take(offer["process"])
        stack.callback(os.close, self._process)
        self._listening = [socket.socket(fileno=self._take(each)) for each in offer["listening"]]
        self._meeting_point: socket.socket | None = socket.socket(fileno=self._take(offer["meeting_point"]))
        self.estate: Estate = stack.enter_context(inherited_estate(offer["estate"], self._take))

    def _take(self, number: int) -> int:
        """Return the descriptor that was sent as this number; the caller's from now on."""
        descriptor, self._descriptors[number] = self._descriptors[number], None
        if descriptor is None:
            raise HandoverError("a descriptor is mentioned twice")
        return descriptor

    def detach_listening(self) -> list[socket.socket]:
        """Return the running server's listening sockets; the caller's from now on."""
        listening, self._listening = self._listening, []
        return listening

    def detach_meeting_point(self) -> socket.socket | None:
        """Return the socket at which the successor of this process will call; the caller's from now on."""
        meeting_point, self._meeting_point = self._meeting_point, None
        return meeting_point

    def _close_rest(self) -> None:
        for each in self._listening:
            each.close()
        if self._meeting_point is not None:
            self._meeting_point.close()
        close_all([each for each in self._descriptors if each is not None])

    async def receive(self) -> State | None:
        """Say that this process is prepared, and return what it shall go on with.

        None when the running server died first: its sessions are lost, and this process is the server.

        Raises:
            HandoverError: the running server goes on.
        """
        try:
            with trio.fail_after(STATE_TIMEOUT):
                await self._channel.send({"type": "prepared"})
                self._note("prepared")
                while True:
                    message, descriptors = await self._channel.receive("descriptors", "state")
                    self._descriptors += descriptors
                    if message["type"] == "state":
                        break
                    await self._channel.send({"type": "received"})
        except trio.TooSlowError:
            raise HandoverError("the running server did not hand over in time") from None
        except GoneError:
            if not await self._other_is_dead():
                raise
            self._own()
            return None
        self._note("received")
        file = self._descriptors.pop()
        assert file is not None
        try:
            return read_state(file, self._take)
        finally:
            os.close(file)

    async def take(self) -> None:
        """Become the server. Without a checkpoint after that: what follows at once cannot be cancelled in
        between.

        Raises:
            HandoverError: the running server goes on.
        """
        self._note("taking")
        try:
            await self._channel.send({"type": "taken"})
        except GoneError:
            # Either it has said that it goes on, or it has died.
            await self._require_no_refusal()
            if not await self._other_is_dead():
                raise HandoverError("this process was too slow, and the running server goes on") from None
        self._own()

    async def _require_no_refusal(self) -> None:
        with suppress(GoneError):
            await self._channel.receive("refusal would be the only thing to say")

    def _own(self) -> None:
        self.estate.shared = False
        self._note("taken")

    async def wait_alone(self) -> None:
        """Wait for the end of the other process, which has nothing to do any more; not for long."""
        with trio.move_on_after(DEATH_TIMEOUT):
            await trio.lowlevel.wait_readable(self._process)

    async def _other_is_dead(self) -> bool:
        with trio.move_on_after(DEATH_TIMEOUT):
            await trio.lowlevel.wait_readable(self._process)
            return True
        return False

    def _note(self, step: str) -> None:
        log.info("take-over", step=step)


async def _wait_closed(settings: Settings) -> None:
    """Wait until nobody listens at the address any more: the kernel closes a dead process's descriptors one
    by one."""
    with trio.move_on_after(DEATH_TIMEOUT):
        while True:
            try:
                await (await trio.open_tcp_stream(settings.host, settings.port)).aclose()
            except OSError:
                return
            await trio.sleep(POLL)


@asynccontextmanager
async def succeeding(settings: Settings) -> AsyncGenerator[Successor | None]:
    """Meet the running server and get its offer; None when it died before it could make one.

    Resource handling: leaving closes this process's copies of all that is left in `Successor`.

    Raises:
        HandoverError: there is no such server, or it refuses, and says why.
    """
    if settings.port == 0:
        raise HandoverError("PORT=0: say with --port which server is to be taken over")
    with ExitStack() as stack:
        channel = meet(runtime_directory(), settings.port)
        stack.callback(channel.close)
        hello = {"type": "hello", "version": VERSION, **terms(settings)}
        successor = None
        with trio.move_on_after(ANSWER_TIMEOUT) as waiting:
            try:
                await channel.send(hello)
                offer, descriptors = await channel.receive("offer")
                successor = Successor(channel, offer, descriptors, stack)
            except GoneError:
                log.warning("the running server has died; this process starts in its place")
                await _wait_closed(settings)
        if waiting.cancelled_caught:
            raise HandoverError(f"the running server did not answer within {ANSWER_TIMEOUT:g} s")
        yield successor
