"""Whose connection it is: the client's network address, also behind proxies.

A proxy tells the address of its client in a header, or in a PROXY header before the first byte. Anybody can
send either, so they count from proxies that the operator names (`TRUSTED_PROXY_IPS`) and from nobody else. In
a chain of proxies each appends the address that it saw: what counts is the right-most entry that no proxy of
    ours wrote
about another proxy of ours; whatever is to its left, the client may have made up.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import attrs

from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_HOPS: Final = 32
"""Entries of a chain that are looked at, from the right; longer ones are not made by proxies of ours."""

_PORT: Final = re.compile(r":[0-9]{1,5}")
_VALUE: Final = r"""(?:[^\s";,=\\]+|"(?:[^"\\]|\\.)*")"""
_FORWARDED_PAIR: Final = re.compile(rf"\s*([A-Za-z]+)=({_VALUE})\s*", re.ASCII)


def parse_address(text: str) -> Address | None:
    """Return the address that `text` is, or None.

    Accepts what proxies write: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`,
        `[2001:db8::1]:80`. An
    IPv4 address inside an IPv6 one is that IPv4 address. The zone of a link-local address is left out.
    """
    text = text.strip()
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in inside or (port and not _PORT.fullmatch(port)):
            return None
        text = inside
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _PORT.fullmatch(f":{port}"):
            return None
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def counting_key(address: Address) -> bytes:
    """Return what limits are counted by: an IPv4 address, or the /64 of an IPv6 one, which is what one
    customer has at the least.
    """
    return address.packed if address.version == 4 else address.packed[:8]


def parse_networks(name: str, texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks that a setting lists.

    Raises:
        ConfigurationError: one is none; host bits that are set are an error, too, since the writer meant
            something else.
    """
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigurationError(
                f"{name}: {text!r} is not an address or network (CIDR): {error}"
            ) from None
    return tuple(networks)


def contains(networks: Iterable[Network], address: Address) -> bool:
    """Whether `address` is in one of `networks`."""
    return any(address in network for network in networks)  # False, not an error, for the other version


def x_forwarded_for(values: Sequence[str]) -> list[str]:
    """Return the entries of all `X-Forwarded-For` headers, left to right."""
    return [entry.strip() for value in values for entry in value.split(",")]


def forwarded_for(values: Sequence[str]) -> list[str]:
    """Return the `for` of each element of all `Forwarded` headers (RFC 7239, section 4), left to right; the
    empty text for an element without one, or one that cannot be read.
    """
    return [_for_of(element) for value in values for element in _split_quoted(value, ",")]


def _split_quoted(text: str, separator: str) -> list[str]:
    parts, quoted, start, escaped = list[str](), False, 0, False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _for_of(element: str) -> str:
    found = ""
    for part in _split_quoted(element, ";"):
        match = _FORWARDED_PAIR.fullmatch(part)
        if match is None:
            return ""
        if match[1].lower() == "for":
            if found:
                return ""
            value = match[2]
            found = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
    return found


@attrs.frozen
class Client:
    """Where a connection comes from.

    Attributes:
        address: of the client itself; None where the connection has none (not from a network).
        key: what limits are counted by.
        exempt: whether limits of rates do not hold: the operator has listed its network, or there is no
            address.
        direct: whether nothing that a request says can change the address.
    """

    address: Address | None = None
    key: bytes = b""
    exempt: bool = True
    direct: bool = True

    def __str__(self) -> str:
        return "unknown" if self.address is None else str(self.address)


class AddressBook:
    """What the settings say about addresses.

    Attributes:
        spoofed: requests so far that claimed an address without being a trusted proxy's.
    """

    def __init__(self, settings: Settings) -> None:
        self._trusted = (
            parse_networks("TRUSTED_PROXY_IPS", settings.trusted_proxies) if settings.trusted_proxy else ()
        )
        self._exempt = parse_networks("RATE_LIMIT_EXEMPT_NETWORKS", settings.exempt_networks)
        self._header = settings.trusted_proxy_header
        self.spoofed = 0

    def __repr__(self) -> str:
        return f"<AddressBook {len(self._trusted)} trusted {len(self._exempt)} exempt {self.spoofed} spoofed>"

    def trusts(self, client: Client) -> bool:
        """Whether `client` is a proxy whose word counts."""
        return client.address is not None and contains(self._trusted, client.address)

    def client(self, address: Address | str | None) -> Client:
        """Return the client at the other end of a connection."""
        if isinstance(address, str):
            address = parse_address(address)
        if address is None:
            return Client()
        proxy = contains(self._trusted, address)
        exempt = contains(self._exempt, address)
        return Client(address, counting_key(address), exempt, direct=not (proxy and self._header != "none"))

    def behind(self, peer: Client, headers: Sequence[tuple[bytes, bytes]]) -> Client:
        """Return the client whose request `peer` has passed on, by its headers (names in lower case); `peer`
        itself when it is no trusted proxy or does not say.
        """
        claims = {
            name: [value.decode("latin-1") for key, value in headers if key == name.encode()]
            for name in ("x-forwarded-for", "forwarded")
        }
        heeded = claims.pop(self._header, []) if not peer.direct else []
        if any(claims.values()) or (peer.direct and heeded):
            self.spoofed += 1
        if not heeded:
            return attrs.evolve(peer, direct=True)
        hops = x_forwarded_for(heeded) if self._header == "x-forwarded-for" else forwarded_for(heeded)
        nearest = peer
        for hop in reversed(hops[-MAX_HOPS:]):
            address = parse_address(hop)
            if address is None:
                break  # "unknown", or nonsense: whoever passed it on is the last that is known
            nearest = self.client(address)
            if not contains(self._trusted, address):
                break
        return attrs.evolve(nearest, direct=True)
