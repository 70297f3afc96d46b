"""Denied packets, as the kernel reports them: nfnetlink_log, of which this is the receiving half.

See libnetfilter_log's protocol, linux/netfilter/nfnetlink_log.h. Needs CAP_NET_ADMIN. What comes is the first
bytes of each packet that a rule logged; a packet more or less does not matter, so a full buffer (ENOBUFS)
loses the oldest and is no error.
"""

import errno
import ipaddress
import os
import socket
import struct
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final, final

import trio

from supervisor.egress.events import EgressEvent
from supervisor.egress.rules import FORBIDDEN
from supervisor.errors import ConfigurationError
from supervisor.observability.netlink import LARGEST_MESSAGE, next_datagram, open_netlink

_NETLINK_NETFILTER = 12
_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_GENERIC = struct.Struct("!BBH")  # nfgenmsg: family, version, resource (the group)
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_PACKET, _CONFIG = 0x0400, 0x0401  # subsystem NFNL_SUBSYS_ULOG; NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG
_REQUEST_ACK = 0x01 | 0x04  # NLM_F_REQUEST, NLM_F_ACK
_ERROR = 2  # NLMSG_ERROR
_CFG_COMMAND, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_BIND = 1
_COPY_PACKET = 2
_HARDWARE, _PAYLOAD, _PREFIX = 8, 9, 10  # NFULA_HWADDR, NFULA_PAYLOAD, NFULA_PREFIX
_NEIGHBOUR = 135  # ICMPv6: who has the address that is asked for? RFC 4861, 4.3
_FIRST_GROUP, _GROUPS, _ATTEMPTS = 1024, 60000, 16
_ICMPV6: Final = 58
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", _ICMPV6: "icmpv6"}
_FORBIDDEN: Final = tuple(ipaddress.IPv4Network(block) for block in FORBIDDEN)


def parse_packet(packet: bytes, told: str = "", hardware: str = "") -> EgressEvent | None:
    """Return what the first bytes of an IP packet say; None when there are too few.

    Args:
        packet: the bytes.
        told: why it was denied, if the rules say so.
        hardware: whose it is on its Ethernet.
    """
    if len(packet) < 20:
        return None
    source: ipaddress.IPv4Address | ipaddress.IPv6Address
    destination: ipaddress.IPv4Address | ipaddress.IPv6Address
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        protocol = packet[9]
        source, destination = (ipaddress.IPv4Address(packet[start : start + 4]) for start in (12, 16))
        forbidden = any(destination in block for block in _FORBIDDEN)
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        header, protocol = 40, packet[6]
        source, destination = (ipaddress.IPv6Address(packet[start : start + 16]) for start in (8, 24))
        forbidden = False
        if protocol == _ICMPV6 and len(packet) >= 64 and packet[40] == _NEIGHBOUR:
            destination = ipaddress.IPv6Address(packet[48:64])
    else:
        return None
    ports = packet[header : header + 4]
    port = int.from_bytes(ports[2:4], "big") if protocol in {6, 17} and len(ports) == 4 else 0
    if told:
        reason = told
    elif destination.version == 6:
        reason = "IPv6"
    elif port == 53:
        reason = "another resolver, or too many questions"
    elif forbidden:
        reason = "a private or special address"
    elif protocol != 6:
        reason = "neither TCP nor DNS"
    else:
        reason = "a port or an address that is not listed"
    return EgressEvent(
        str(source),
        str(destination),
        _PROTOCOLS.get(protocol, str(protocol)),
        port,
        reason,
        hardware=hardware if source.version == 6 else "",
    )


@final
class DeniedPackets:
    """A subscription to one log group of the kernel's.

    Args:
        seed: two with different seeds try different groups first.

    Attributes:
        group: the number for the rules.

    Raises:
        ConfigurationError: the kernel has no nfnetlink_log, or this process may not use it.
    """

    def __init__(self, seed: str) -> None:
        first = zlib.crc32(seed.encode()) % _GROUPS
        try:
            plain = open_netlink(_NETLINK_NETFILTER)
        except OSError as error:
            raise ConfigurationError(
                f"the kernel reports no denied packets (nfnetlink_log): {error}"
            ) from error
        try:
            plain.settimeout(5.0)  # the kernel answers within the call
            self.group = self._bind(plain, first)
        except BaseException:
            plain.close()
            raise
        self._socket = trio.socket.from_stdlib_socket(plain)

    def _bind(self, plain: socket.socket, first: int) -> int:
        problem = 0
        for attempt in range(_ATTEMPTS):
            group = _FIRST_GROUP + (first + attempt) % _GROUPS
            problem = _configure(plain, group, _attribute(_CFG_COMMAND, bytes([_BIND])))
            if problem == 0:
                _configure(plain, group, _attribute(_CFG_MODE, struct.pack("!IBx", 128, _COPY_PACKET)))
                _configure(plain, group, _attribute(_CFG_THRESHOLD, struct.pack("!I", 1)))
                return group
            if problem != errno.EBUSY:
                break
        raise ConfigurationError(
            f"the kernel does not report denied packets (nfnetlink_log): {os.strerror(problem)}"
        )

    async def __aenter__(self) -> "DeniedPackets":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def events(self) -> AsyncGenerator[EgressEvent]:
        """Yield denials as they come, for ever."""
        while True:
            for logged in _logged(await next_datagram(self._socket)):
                told = logged.get(_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
                hardware = _hardware(logged.get(_HARDWARE, b""))
                if denial := parse_packet(logged.get(_PAYLOAD, b""), told, hardware):
                    yield denial


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _configure(plain: socket.socket, group: int, attribute: bytes) -> int:
    """Return the error number of the kernel's answer, 0 for none."""
    body = _GENERIC.pack(socket.AF_UNSPEC, 0, group) + attribute
    plain.send(_MESSAGE.pack(_MESSAGE.size + len(body), _CONFIG, _REQUEST_ACK, 0, 0) + body)
    while True:
        data = plain.recv(LARGEST_MESSAGE)
        if _MESSAGE.unpack_from(data)[1] == _ERROR:  # an acknowledgement is error 0
            return -int(struct.unpack_from("=i", data, _MESSAGE.size)[0])


def _hardware(value: bytes) -> str:
    """Return an address of Ethernet as engines write it, empty if it is none (nfulnl_msg_packet_hw)."""
    return value[4:10].hex(":") if value[:2] == b"\0\6" else ""


def _logged(data: bytes) -> Iterator[Mapping[int, bytes]]:
    """Yield each packet that is reported, by attributes."""
    while len(data) >= _MESSAGE.size:
        length, kind = _MESSAGE.unpack_from(data)[:2]
        if length < _MESSAGE.size:
            return
        if kind == _PACKET:
            found: dict[int, bytes] = {}
            attributes = data[_MESSAGE.size + _GENERIC.size : length]
            while len(attributes) >= _ATTRIBUTE.size:
                size, name = _ATTRIBUTE.unpack_from(attributes)
                if size < _ATTRIBUTE.size:
                    return
                found[name & 0x3FFF] = attributes[_ATTRIBUTE.size : size]
                attributes = attributes[size + -size % 4 :]
            yield found
        data = data[length + -length % 4 :]
