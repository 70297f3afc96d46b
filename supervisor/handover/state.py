"""What one process tells the other of its sessions: values to bytes and back, without any I/O but a file in
memory.

A number in place of a descriptor says which of those that were sent it is. `VERSION` changes with the meaning
of anything here, in `Estate.describe`, or in the order of messages; processes of different versions do not
talk further. A value that is added with a default does not change it: whoever takes over understands those
who do not say it, and refuses what it does not know itself, so that the other one goes on.
"""

import json
import os
import struct
from collections.abc import Callable
from typing import Any, Final

import attrs

from supervisor.handover.channel import HandoverError
from supervisor.sandbox.handing import HandedSandbox
from supervisor.sandbox.terminal import ExitStatus
from supervisor.session.recording import HandedRecording
from supervisor.session.snapshot import SessionSnapshot

VERSION: Final = 3
_LENGTH = struct.Struct(">Q")


@attrs.frozen
class HandedSession:
    """A session, its sandbox, and what is recorded of it."""

    snapshot: SessionSnapshot
    sandbox: HandedSandbox
    recording: HandedRecording | None = None


@attrs.frozen
class State:
    """Everything that the next process goes on with, but what it got with the offer.

    Attributes:
        sessions: that go on.
        names: of containers that do not, and whether each exists for certain.
        keys: by which visitors are recognised: see `House.keys`.
        door: whom the door knows, and whom it keeps out: see `Door.memory`.
        events: of webhooks that are not delivered yet.
    """

    sessions: list[HandedSession]
    names: dict[str, bool]
    keys: dict[str, Any] = attrs.field(repr=False)
    door: dict[str, Any] = attrs.field(repr=False)
    events: list[str] = attrs.field(repr=False)


def write_state(state: State, send: Callable[[int], int]) -> int:
    """Return the descriptor of a file in memory that holds `state`; `send` notes a descriptor and returns its
    number."""
    blobs: list[bytes] = []

    def blob(data: bytes) -> int:
        blobs.append(data)
        return len(data)

    sessions = [
        {
            **attrs.asdict(each.snapshot),
            "owner": each.snapshot.owner.hex(),
            "address_key": each.snapshot.address_key.hex(),
            "input": blob(each.snapshot.input),
            "output": blob(each.snapshot.output),
            "sandbox": {
                "name": each.sandbox.name,
                "pid": each.sandbox.pid,
                "connection": send(each.sandbox.connection),
                "pty": send(each.sandbox.pty),
                "process": None if each.sandbox.process is None else send(each.sandbox.process),
                "received": each.sandbox.received.hex(),
                "status": attrs.astuple(each.sandbox.status) if each.sandbox.status else None,
                "addresses": sorted(each.sandbox.addresses),
            },
            "recording": _describe(each.recording, send) if each.recording else None,
        }
        for each in state.sessions
    ]
    rest = {"names": state.names, "keys": state.keys, "door": state.door, "events": state.events}
    head = json.dumps({"sessions": sessions, **rest}).encode()
    file = os.memfd_create("terminal-supervisor-handover", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(file), "wb") as stream:
        stream.writelines([_LENGTH.pack(len(head)), head, *blobs])
    return file


def read_state(file: int, take: Callable[[int], int]) -> State:
    """Return what `write_state` wrote; `take` returns the descriptor of a number, to be owned.

    Raises:
        HandoverError: it is not that.
    """
    with os.fdopen(os.dup(file), "rb") as stream:
        stream.seek(0)
        data = memoryview(stream.read())
    try:
        (size,) = _LENGTH.unpack_from(data)
        head = json.loads(bytes(data[_LENGTH.size : _LENGTH.size + size]))
        position = _LENGTH.size + size

        def blob(length: int) -> bytes:
            nonlocal position
            position += length
            return bytes(data[position - length : position])

        sessions: list[HandedSession] = []
        for each in head["sessions"]:
            sandbox, recording = each.pop("sandbox"), each.pop("recording")
            # In the order in which they were written.
            each["input"], each["output"] = blob(each["input"]), blob(each["output"])
            each["owner"], each["address_key"] = (
                bytes.fromhex(each["owner"]),
                bytes.fromhex(each["address_key"]),
            )
            snapshot = SessionSnapshot(**each)
            handed = HandedSandbox(
                name=sandbox["name"],
                pid=sandbox["pid"],
                connection=take(sandbox["connection"]),
                pty=take(sandbox["pty"]),
                process=None if sandbox["process"] is None else take(sandbox["process"]),
                received=bytes.fromhex(sandbox["received"]),
                status=ExitStatus(*sandbox["status"]) if sandbox["status"] else None,
                addresses=frozenset(sandbox.get("addresses", ())),  # an older process does not tell
            )
            sessions.append(
                HandedSession(snapshot, handed, _recording(recording, take) if recording else None)
            )
        if position != len(data):
            raise ValueError("its length is not what it says")
        return State(sessions, head["names"], head["keys"], head["door"], head["events"])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise HandoverError(f"the state of the other process cannot be understood: {error!r}") from error


def _describe(recording: HandedRecording, send: Callable[[int], int]) -> dict[str, Any]:
    assert recording.descriptor is not None
    return {
        **attrs.asdict(recording),
        "descriptor": send(recording.descriptor),
        "tails": [tail.hex() for tail in recording.tails],
    }


def _recording(described: dict[str, Any], take: Callable[[int], int]) -> HandedRecording:
    output, entered = map(bytes.fromhex, described.pop("tails"))
    descriptor = take(described.pop("descriptor"))
    return HandedRecording(descriptor=descriptor, tails=(output, entered), **described)
