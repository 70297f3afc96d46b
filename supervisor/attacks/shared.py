"""Stage `SHARED`: a container that has its host's namespaces, where "namespaces" is off.

A gate is process 1 of its container, so there is none here: the engine runs the attacker beside a program
that waits. What is attacked is made for it, but for the other session, which is a real one.
"""

import ctypes
import os
import secrets
import socket
from collections.abc import Generator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Final

import attrs
import trio

from supervisor.attacks.attack import Attack, Defence, Outcome
from supervisor.attacks.cell import LIFETIME, made, parsed, word
from supervisor.attacks.weakened import weakened
from supervisor.measures import Measure
from supervisor.sandbox.containers import HardenedContainers, program
from supervisor.sandbox.policy import Mount

SECRET: Final = "ATTACK_TEST_CREDENTIAL"  # noqa: S105 - its name
"""Name of a variable that the other session has."""
_NAMESPACES: Final = {"PidMode": "host", "IpcMode": "host", "NetworkMode": "host", "UsernsMode": "host"}
_IPC_CREATE, _IPC_RMID = 0o1000, 0


@attrs.frozen
class Shared:
    """The stage. `neighbour` is the process of another session's command, on this host."""

    containers: HardenedContainers
    tools: Sequence[Mount]
    neighbour: int

    async def __call__(self, on: AbstractSet[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        """Try `attacks` with the defences `on`; see `cell.Try`."""
        containers = self.containers
        with containers.policy_for_one() as own, _host_memory() as key, _listeners() as (port, name):
            policy = own if Measure.SESSION_UID in on else containers.policy
            values = {
                "neighbour": str(self.neighbour),
                "variable": SECRET,
                "supervisor": str(os.getpid()),
                "key": str(key),
                "port": str(port),
                "socket": name,
            }
            labels = containers.site.identity.labels("attack", LIFETIME)
            config = policy.to_create_config(
                [program("attacker"), "--wait"], labels=labels, mounts=self.tools
            )
            config = weakened(config, on)
            if Measure.NAMESPACES not in on:
                config["HostConfig"].update(_NAMESPACES)
            async with made(containers, config) as container:
                await container.engine.start(timeout=None)
                words = " ".join(word(each, values) for each in attacks)
                execution = await container.engine.exec([program("attacker"), words])
                output = b""
                with trio.fail_after(LIFETIME):
                    async with execution.start() as stream:
                        while data := await stream.receive_some():
                            output += data
        return parsed(output.decode(errors="replace"))


@contextmanager
def _host_memory() -> Generator[int]:
    """Make a System V segment with something in it; yield its key."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    key = secrets.randbelow(1 << 30) + 1
    segment = libc.shmget(key, 4096, _IPC_CREATE | 0o600)
    try:
        address = libc.shmat(segment, None, 0)
        ctypes.memmove(address, b"of the host\0", 12)
        libc.shmdt(ctypes.c_void_p(address))
        yield key
    finally:
        libc.shmctl(segment, _IPC_RMID, None)


@contextmanager
def _listeners() -> Generator[tuple[int, str]]:
    """A port of the loopback device and a socket without a file, as programs of the host have them. They take
    connections, like the supervisor's own.
    """
    name = f"attack-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{name}")
        abstract.listen(8)
        yield tcp.getsockname()[1], name
