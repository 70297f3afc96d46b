"""Denials by AppArmor and seccomp, as the kernel's audit subsystem tells them to whoever listens: a multicast
group of NETLINK_AUDIT (audit(7) calls its readers "best-effort"), with or without an auditd.

It takes CAP_AUDIT_READ in the host's user namespace, and the host's network namespace: in another one nothing
comes. AppArmor tells all its denials but those of quiet rules. Of seccomp's the kernel tells the calls that
killed a process; those that failed with an error it would tell only where the filter was loaded with
SECCOMP_FILTER_FLAG_LOG, which engines do not ask for.

The text is that of processes which may be hostile: the kernel encodes in hexadecimal what has blanks, quotes
or control characters in it. What is decoded here is escaped and cut.

Error handling: what comes faster than `MOST_AT_ONCE` in `PAUSE` is lost, and so is what is malformed.
"""

import re
from collections.abc import AsyncGenerator
from typing import Final, final

import attrs
import trio

from supervisor.errors import ConfigurationError
from supervisor.observability.netlink import next_datagram, open_netlink

MOST_AT_ONCE: Final = 100
PAUSE: Final = 0.1
"""Seconds. So a session that is denied things in a loop costs a few percent of a CPU."""
_MOST_TEXT: Final = 200  # characters of a name that are kept
_NETLINK_AUDIT = 9
_READ_LOG = 1  # AUDIT_NLGRP_READLOG, as a bit of sockaddr_nl.nl_groups
_HEADER = 16  # nlmsghdr
_SECCOMP, _AVC = 1326, 1400  # linux/audit.h; AppArmor's are AVC
_FIELD: Final = re.compile(r'(\w+)=("[^"]*"|\S+)')
_HEXADECIMAL: Final = re.compile(r"(?:[0-9A-F]{2})+")
_LARGEST_ID = 2**32 - 2


@attrs.frozen
class Denial:
    """Something that a process was denied.

    Attributes:
        by: `apparmor` or `seccomp`.
        profile: AppArmor's profile that denied it, or the process's label; empty where there is none.
        operation: what it tried: AppArmor's name of it (`open`, `exec`, `signal`), or the number of a system
            call.
        target: what it tried it on, where that is told.
        command: name of the program that tried. It chooses that itself.
        pid: of the process, on this host.
        uid: its user, on this host; None where that is not told.
    """

    by: str
    profile: str
    operation: str
    target: str
    command: str
    pid: int
    uid: int | None


def parse_record(kind: int, text: str) -> Denial | None:
    """Return the denial in a record of the audit subsystem; None where it has none, or is malformed.

    Args:
        kind: type of the record.
        text: of it.
    """
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text):
        fields.setdefault(name, value)
    pid = _number(fields.get("pid", ""))
    if pid is None:
        return None
    if kind == _AVC and fields.get("apparmor") == '"DENIED"':
        operation = "operation"
        profile, target, user = "profile", "name" if "name" in fields else "peer", "fsuid"
    elif kind == _SECCOMP:
        operation, profile, target, user = "syscall", "subj", "exe", "uid"
    else:
        return None
    return Denial(
        by="seccomp" if kind == _SECCOMP else "apparmor",
        profile=_plain(fields.get(profile, "")),
        operation=_escaped(fields.get(operation, "").strip('"')),
        target=_plain(fields.get(target, "")),
        command=_plain(fields.get("comm", "")),
        pid=pid,
        uid=_number(fields.get(user, "")),
    )


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,10}", text) and int(text) <= _LARGEST_ID else None


def _plain(value: str) -> str:
    """Return the text of a field: without its quotes, or decoded; nothing in it but printable ASCII."""
    if value.startswith('"'):
        text = value[1:-1] if value.endswith('"') and len(value) > 1 else value
    elif _HEXADECIMAL.fullmatch(value):
        text = bytes.fromhex(value).decode(errors="backslashreplace")
    else:
        text = value
    return _escaped(text)


def _escaped(text: str) -> str:
    return text[:_MOST_TEXT].encode("unicode_escape").decode("ascii")


@final
class KernelDenials:
    """A subscription to them.

    Raises:
        ConfigurationError: this process may not, or this kernel has no audit subsystem.
    """

    def __init__(self) -> None:
        try:
            plain = open_netlink(_NETLINK_AUDIT, _READ_LOG)
        except OSError as error:
            raise ConfigurationError(
                f"denials cannot be read: it takes CAP_AUDIT_READ, and the kernel's audit subsystem: {error}"
            ) from error
        self._socket = trio.socket.from_stdlib_socket(plain)

    def close(self) -> None:
        """End it."""
        self._socket.close()

    async def denials(self) -> AsyncGenerator[Denial]:
        """Yield denials as they come, for ever."""
        while True:
            for _ in range(MOST_AT_ONCE):
                data = await next_datagram(self._socket)
                kind = int.from_bytes(data[4:6], "little")
                text = data[_HEADER:].rstrip(b"\0").decode(errors="backslashreplace")
                if denial := parse_record(kind, text):
                    yield denial
            await trio.sleep(PAUSE)
