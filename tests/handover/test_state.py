"""What is said of a session, read by the same program, and by one that says less or more."""

import json
import os
import socket
import struct

import attrs
import pytest

from supervisor.handover.channel import HandoverError
from supervisor.handover.state import HandedSession, State, read_state, write_state
from supervisor.sandbox.handing import HandedSandbox
from supervisor.session.snapshot import SessionSnapshot

SNAPSHOT = SessionSnapshot(
    id="id",
    owner=b"owner",
    cols=80,
    rows=24,
    born=1.0,
    last_key=2.0,
    idle_deadline=3.0,
    duration_deadline=4.0,
    input=b"typed",
    input_bytes=7,
    output_start=5,
    output=b"shown",
    commands=12,
    commands_even_at=6.5,
    began=1_700_000_000.5,
)
LATER = ("commands", "commands_even_at", "began")
"""What a process does not say that is of this version, but older."""


ADDRESSES = frozenset({"172.20.0.5", "02:42:ac:14:00:05"})


def written() -> int:
    """Return a file with one session; its descriptors are numbers only."""
    sandbox = HandedSandbox("name", 1, 2, 3, addresses=ADDRESSES)
    numbers = iter(range(10))
    state = State([HandedSession(SNAPSHOT, sandbox)], {}, {}, {}, [])
    return write_state(state, lambda descriptor: next(numbers))


def read(file: int) -> SessionSnapshot:
    return read_whole(file).snapshot


def read_whole(file: int) -> HandedSession:
    ends: list[socket.socket] = []

    def take(number: int) -> int:
        ends.append(socket.socket())
        return ends[-1].fileno()

    try:
        (session,) = read_state(file, take).sessions
    finally:
        for end in ends:
            end.close()
        os.close(file)
    return session


def changed(file: int, drop: tuple[str, ...] = (), **more: object) -> int:
    """Rewrite what is said of the session."""
    data = os.pread(file, 1 << 20, 0)
    (size,) = struct.unpack_from(">Q", data)
    head = json.loads(data[8 : 8 + size])
    (session,) = head["sessions"]
    for name in drop:
        del session[name]
    session.update(more)
    text = json.dumps(head).encode()
    os.ftruncate(file, 0)
    os.pwrite(file, struct.pack(">Q", len(text)) + text + data[8 + size :], 0)
    return file


def test_there_and_back() -> None:
    session = read_whole(written())
    assert session.snapshot == SNAPSHOT
    assert session.sandbox.addresses == ADDRESSES


def test_an_older_process_that_does_not_count_commands_is_understood() -> None:
    assert read(changed(written(), drop=LATER)) == attrs.evolve(
        SNAPSHOT, commands=None, commands_even_at=None, began=None
    )


def test_who_does_not_understand_all_of_it_does_not_take_it() -> None:
    """As an older process that is to take over: its gates might say what it does not know."""
    with pytest.raises(HandoverError, match="cannot be understood"):
        read(changed(written(), something=1))
