"""The PROXY protocol, versions 1 and 2: a proxy that passes bytes on says first whose they are.

Without I/O: `Header` says how many bytes it wants next and what it has found. Reading exactly what belongs to
the header leaves the rest (a TLS handshake, say) in the socket. Source: "The PROXY protocol, versions 1 & 2",
HAProxy project, 2020.
"""

import ipaddress
import struct
from typing import Final

from supervisor.admission.address import Address, parse_address
from supervisor.errors import PeerError

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_LINE: Final = 107
"""Bytes of the longest header of version 1, its end included."""
MAX_BLOCK: Final = 4096
"""Bytes after the fixed part of version 2: addresses take 216 at most, the rest is for extensions."""

_FIXED: Final = 16
_ADDRESS_SIZES: Final = {0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}  # by family and transport


class Header:
    """One header, fed piece by piece.

    Attributes:
        wanted: bytes that belong to the header for sure and are still missing; 0 when it is complete.
        address: of the client, once complete; None when the proxy speaks for itself or does not say (`LOCAL`,
            `UNKNOWN`, a unix socket).
    """

    def __init__(self) -> None:
        self.wanted = len(SIGNATURE)
        self.address: Address | None = None
        self._data = b""

    def __repr__(self) -> str:
        return f"<Header {len(self._data)} bytes, {self.wanted} wanted>"

    def feed(self, data: bytes) -> None:
        """Take up to `wanted` bytes.

        Raises:
            PeerError: this is no PROXY header.
        """
        self._data += data
        self.wanted -= len(data)
        if self.wanted:
            return
        if self._data.startswith(SIGNATURE):
            self._go_on_with_version_2()
        elif self._data.startswith(b"PROXY "):
            self._go_on_with_version_1()
        else:
            raise PeerError("no PROXY header")

    def _go_on_with_version_1(self) -> None:
        if not self._data.endswith(b"\r\n"):
            if len(self._data) >= MAX_LINE:
                raise PeerError("the PROXY header is too long")
            self.wanted = 1  # nothing says where the line ends
            return
        fields = self._data[:-2].decode("latin-1").split(" ")
        if fields[1] == "UNKNOWN":
            return
        if len(fields) != 6 or fields[1] not in {"TCP4", "TCP6"}:
            raise PeerError("the PROXY header is malformed")
        try:
            ipaddress.ip_address(fields[2])
        except ValueError:
            raise PeerError("the PROXY header has no valid address") from None
        self.address = parse_address(fields[2])

    def _go_on_with_version_2(self) -> None:
        if len(self._data) < _FIXED:
            self.wanted = _FIXED - len(self._data)
            return
        version_command, family, size = struct.unpack_from("!BBH", self._data, len(SIGNATURE))
        if version_command not in {0x20, 0x21}:
            raise PeerError("the PROXY header has an unknown version or command")
        if size > MAX_BLOCK:
            raise PeerError("the PROXY header is too long")
        if len(self._data) < _FIXED + size:
            self.wanted = _FIXED + size - len(self._data)
            return
        width = _ADDRESS_SIZES.get(family)
        if version_command == 0x20 or width is None:
            return
        if size < 2 * width + 4:
            raise PeerError("the PROXY header is too short for its addresses")
        packed = self._data[_FIXED : _FIXED + width]
        self.address = parse_address(str(ipaddress.ip_address(packed)))
