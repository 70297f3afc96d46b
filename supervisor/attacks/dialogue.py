"""Stage `DIALOGUE`: what is said to the supervisor, and to its clients, in somebody else's name."""

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
import trio

from supervisor.attacks.attack import Attack, Defence, Habit, Outcome
from supervisor.attacks.cell import LIFETIME, made, started
from supervisor.attacks.weakened import weakened
from supervisor.errors import SandboxError
from supervisor.protocol.ably import CONTROL_PREFIX
from supervisor.protocol.output import OutputEncoder
from supervisor.sandbox.containers import HardenedContainers, program
from supervisor.sandbox.docker import LIFELINE
from supervisor.sandbox.gate_frames import PROTOCOL_VERSION
from supervisor.sandbox.leaving import claimed
from supervisor.sandbox.lifeline import SOCKET_NAME, open_lifeline_socket
from supervisor.sandbox.policy import Mount
from supervisor.sandbox.terminal import LeaseRequest

_PATIENCE: Final = 3.0  # seconds for an impostor to be believed


@attrs.frozen
class Dialogue:
    """The stage. `possible` are the defences that sessions have here."""

    containers: HardenedContainers
    tools: Sequence[Mount]
    possible: frozenset[Defence]

    async def __call__(self, on: AbstractSet[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        """Try `attacks` with the defences `on`; see `cell.Try`."""
        return {
            attack.name: await (
                self._impostor(asked=Habit.PEER in on)
                if attack.name == "impostor"
                else self._message(attack.argument, framed=Habit.FRAMES in on)
            )
            for attack in attacks
        }

    async def _impostor(self, *, asked: bool) -> Outcome:
        """Have a program that is not the gate connect to the lifeline first."""

        async def anybody(_pid: int) -> bool:
            return True

        containers = self.containers
        labels = containers.site.identity.labels("attack", LIFETIME)
        async with open_lifeline_socket(containers.site.sockets) as listener:
            config = containers.policy.to_create_config(
                [
                    *(program("attacker"), "--impostor"),
                    *(f"{LIFELINE}/{SOCKET_NAME}", str(PROTOCOL_VERSION)),
                ],
                labels=labels,
                mounts=[*self.tools, Mount(str(listener.directory), LIFELINE)],
            )
            async with made(containers, weakened(config, self.possible)) as container:
                await container.engine.start(timeout=None)
                pid = (await container.engine.show(timeout=None))["State"]["Pid"]
                try:
                    lifeline = await listener.accept(pid if asked else anybody, _PATIENCE)
                except SandboxError as error:
                    return Outcome(False, str(error))
                async with lifeline:
                    return Outcome(True, "the supervisor takes a stranger's terminal for the session's")

    async def _message(self, text: str, *, framed: bool) -> Outcome:
        """Have a session print what its client might obey, and look at the frames that the client gets."""
        message = text.format(prefix=CONTROL_PREFIX)
        plain = not message.startswith(CONTROL_PREFIX)
        command = (program("attacker"), "--print", message.encode().hex())
        request = LeaseRequest("attack", command, lifetime=LIFETIME, hangup_grace=0)
        encoder = OutputEncoder(plain=plain)
        frames: list[str] = []
        with trio.fail_after(LIFETIME):
            async with (
                started(self.containers, self.possible, self.tools) as gate,
                claimed(gate, request) as terminal,
            ):
                while data := await terminal.receive_some():
                    frames.append(encoder.encode(data) if framed else data.decode(errors="replace"))
        for frame in frames:
            if (body := _obeyed(frame, plain=plain)) is not None:
                return Outcome(True, f"the client obeys {body}")
        return Outcome(False, f"the client shows {''.join(frames)!r}")


def _obeyed(frame: str, *, plain: bool) -> str | None:
    """Return what a client would take for a message in `frame`; None for output."""
    if not plain:
        return frame.removeprefix(CONTROL_PREFIX) if frame.startswith(CONTROL_PREFIX) else None
    try:
        return frame if isinstance(json.loads(frame), dict) else None
    except ValueError:
        return None
