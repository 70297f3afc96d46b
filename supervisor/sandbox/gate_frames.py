"""What is said on the lifeline, as bytes: docs/gate.md in Python, without any I/O. Both transports use it.

The supervisor always knows which frame must come next from the gate (`REDY`, `SEEN`, on an attached terminal
`STRT`, then `EXIT`; before that any number of `CMDS`, where that was asked for), and each has one possible
header, but for the length of `SEEN`. What is not a prefix of an expected frame is a breach.
"""

import math
import struct
from typing import Final

import attrs

from supervisor.errors import SandboxError
from supervisor.sandbox.pty import check_window_size
from supervisor.sandbox.terminal import ExitStatus, LeaseRequest

PROTOCOL_VERSION: Final = 3
MAX_ARGUMENTS: Final = 64
MAX_ENVIRONMENT: Final = 256
MAX_EXEC_PAYLOAD: Final = 65536
MAX_REPORT: Final = 65536
MAX_LIFETIME: Final = 10_000_000  # seconds
MAX_GRACE: Final = 600.0  # seconds
MAX_COUNT: Final = 4096  # commands that one CMDS tells of
COMMANDS_VARIABLE: Final = "TERMINAL_SUPERVISOR_COMMANDS"
"""Variable of the command that names the descriptor on which it says what it starts, a byte each."""
_COMMANDS_DESCRIPTOR = 3
_COUNT = 1  # option of EXEC: have the command say what it starts, and relay that
_MAX_SIGNAL = 64
_HEADER_SIZE = 8

TERMINATE: Final = struct.pack(">4sI", b"TERM", 0)


@attrs.frozen
class Expected:
    """A frame that may come from the gate.

    Attributes:
        kind: its type, four letters.
        payload_size: bytes of its payload; None: what the header says, `MAX_REPORT` at most.
    """

    kind: bytes
    payload_size: int | None

    def wanted(self, received: bytearray) -> int:
        """Return how many more bytes are known to belong to this frame; 0 when it is complete.

        Raises:
            SandboxError: what was received is not this frame.
        """
        head = bytes(received[:_HEADER_SIZE])
        header = self.kind if self.payload_size is None else struct.pack(">4sI", self.kind, self.payload_size)
        size = self.payload_size
        if size is None and len(head) == _HEADER_SIZE:
            size = int.from_bytes(head[4:], "big")
        common = min(len(head), len(header))
        if head[:common] != header[:common] or (size or 0) > MAX_REPORT:
            raise SandboxError(f"the gate sent {head!r} instead of {self.kind.decode()}")
        return _HEADER_SIZE + (size or 0) - len(received)

    def take(self, received: bytearray) -> bytes | None:
        """Remove this frame from the front of `received` and return its payload; None when it is incomplete.

        Raises:
            SandboxError: what was received is not this frame.
        """
        wanted = self.wanted(received)
        if wanted > 0 or len(received) < _HEADER_SIZE:
            return None
        end = len(received) + wanted
        payload = bytes(received[_HEADER_SIZE:end])
        del received[:end]
        return payload


READY: Final = Expected(b"REDY", 4)
SEEN: Final = Expected(b"SEEN", None)
STARTED: Final = Expected(b"STRT", 0)
COMMANDS: Final = Expected(b"CMDS", 4)
EXIT: Final = Expected(b"EXIT", 8)


def begun(received: bytearray, *, counted: bool) -> Expected:
    """Return which frame of a gate whose command runs `received` begins. While that is open, the shortest of
    the possible ones, so that nobody waits for bytes that are not to come.

    Args:
        received: what has come of it.
        counted: whether the command says what it starts.
    """
    return COMMANDS if counted and COMMANDS.kind.startswith(bytes(received[:4])) else EXIT


def check_ready(payload: bytes) -> None:
    """Raise SandboxError unless the gate speaks our version of the protocol."""
    (version,) = struct.unpack(">I", payload)
    if version != PROTOCOL_VERSION:
        raise SandboxError(
            f"the gate speaks version {version} of the lifeline's protocol, not {PROTOCOL_VERSION}"
        )


def decode_count(payload: bytes) -> int:
    """Return the number of commands in the payload of `CMDS`.

    Raises:
        SandboxError: no gate tells of so many at once, or of none.
    """
    (count,) = struct.unpack(">I", payload)
    if not 1 <= count <= MAX_COUNT:
        raise SandboxError(f"the gate told of {count} commands at once")
    return int(count)


def decode_exit(payload: bytes) -> ExitStatus:
    """Return the status in the payload of `EXIT`.

    Raises:
        SandboxError: there is no such status.
    """
    status, signal = struct.unpack(">II", payload)
    if signal > _MAX_SIGNAL or (status > 255 if signal == 0 else status != 128 + signal):
        raise SandboxError(f"the gate reported status {status} with signal {signal}")
    return ExitStatus(status) if signal == 0 else ExitStatus(None, signal)


def encode_exec(request: LeaseRequest) -> bytes:
    """Return the frame `EXEC` for `request`. It carries credentials.

    Raises:
        ValueError: the request breaks a bound of the protocol, or its window size is out of range. The text
            names variables, never their values.
    """
    check_window_size(request.cols, request.rows)
    if not 0 < request.lifetime <= MAX_LIFETIME:
        raise ValueError(f"lifetime must be above 0 and at most {MAX_LIFETIME} s, not {request.lifetime:g}")
    if not 0 <= request.hangup_grace <= MAX_GRACE:
        raise ValueError(f"hangup_grace must be 0 to {MAX_GRACE:g} s, not {request.hangup_grace:g}")
    if not 1 <= len(request.command) <= MAX_ARGUMENTS or not request.command[0]:
        raise ValueError(f"the command must have 1 to {MAX_ARGUMENTS} words, the first one not empty")
    environment = dict(request.environment)
    if request.note_commands is not None:
        environment[COMMANDS_VARIABLE] = str(_COMMANDS_DESCRIPTOR)
    if len(environment) > MAX_ENVIRONMENT:
        raise ValueError(f"at most {MAX_ENVIRONMENT} environment variables, not {len(environment)}")
    words = list(request.command)
    if any("\0" in word for word in words):
        raise ValueError("NUL in the command")
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ValueError(
                f"environment variable {name!r}: its name is empty or has '=' in it, or there is a NUL"
            )
        words.append(f"{name}={value}")
    payload = struct.pack(
        ">IIIHH",
        math.ceil(request.lifetime),
        round(request.hangup_grace * 1000),
        0 if request.note_commands is None else _COUNT,
        len(request.command),
        len(environment),
    ) + b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)
    if len(payload) > MAX_EXEC_PAYLOAD:
        raise ValueError(
            f"command and environment take {len(payload)} bytes, at most {MAX_EXEC_PAYLOAD} are possible"
        )
    return struct.pack(">4sI", b"EXEC", len(payload)) + payload
