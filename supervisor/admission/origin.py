"""Which names this server answers to, and which pages may open a WebSocket.

Any page that a person visits can send requests to this server with their browser, loopback addresses
included. Two checks keep foreign pages out. The `Host` header must be a name of this server: a page whose own
name resolves to our address (DNS rebinding) has that name in it. The `Origin` header, which browsers put on
every WebSocket and pages cannot change, must be this server's own page or on the operator's list.

Programs that are not browsers send no `Origin` and can send any: they are let in or not by credentials, never
by these checks.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

import attrs

from supervisor.settings import Settings

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_AUTHORITY: Final = re.compile(
    rf"(?:\[(?P<v6>[0-9A-Fa-f:.]{{2,45}})\]|(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?)(?::(?P<port>[0-9]{{1,5}}))?"
)
_ORIGIN: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<authority>[^/?#@\\]{1,300})")
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class Authority:
    """A host, in its one canonical form, and the port that was written beside it."""

    host: str
    port: int | None


@attrs.frozen
class Origin:
    """Scheme, canonical host and effective port (RFC 6454); None where a scheme has no default port."""

    scheme: str
    host: str
    port: int | None


def parse_authority(text: str) -> Authority | None:
    """Return the host and port that `text` is, or None when it is not exactly that.

    Names are lower-cased and lose one trailing dot. Addresses get their shortest form; an IPv4 address inside
    an IPv6 one counts as IPv4. Numbers that are not a dotted quad (`127.1`, `0x7f000001`) are not accepted:
    browsers never send them.
    """
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    port = None if match["port"] is None else int(match["port"])
    if port is not None and not 1 <= port <= 65535:
        return None
    if match["v6"] is not None and ":" not in match["v6"]:
        return None
    if match["v6"] is None and not _NUMERIC.fullmatch(match["name"]):
        return Authority(match["name"].lower(), port)
    address = _address(match["v6"] or match["name"])
    return None if address is None else Authority(str(address), port)


def parse_origin(text: str) -> Origin | None:
    """Return the origin that `text` is, or None when it is not one; `null`, a path or a user name make it
    none.
    """
    match = _ORIGIN.fullmatch(text)
    if match is None:
        return None
    authority = parse_authority(match["authority"])
    if authority is None:
        return None
    scheme = match["scheme"].lower()
    return Origin(scheme, authority.host, authority.port or _DEFAULT_PORTS.get(scheme))


def host_allowed(host: str | None, settings: Settings, local_addresses: Iterable[str] = ()) -> bool:
    """Whether a request with this `Host` header is for this server.

    Allowed are loopback names and addresses, the address that the server listens on, the addresses that
    connections arrived at (`local_addresses`; a literal address in a browser's address bar cannot be rebound)
    and `settings.allowed_hosts`, whose entries hold for every port unless they name one.
    """
    authority = None if host is None else parse_authority(host)
    if authority is None:
        return False
    if authority.host == "localhost" or _is_loopback(authority.host):
        return True
    own = [parsed for text in (settings.host, *local_addresses) if (parsed := _from_bare(text)) is not None]
    listed = [parsed for text in settings.allowed_hosts if (parsed := _from_bare(text)) is not None]
    return any(
        authority.host == entry.host and entry.port in (None, authority.port)
        for entry in (*own, *listed)
        if not _is_unspecified(entry.host)
    )


def origin_allowed(origin: str | None, host: str | None, settings: Settings) -> bool:
    """Whether a page of this origin may open a WebSocket that was asked for with this `Host` header (itself
    allowed).

    The server's own page has the host and port of the `Host` header. Its scheme may be either unless the
    server does TLS itself: a proxy before it may. No `Origin` at all means that no browser asks.
    """
    if origin is None:
        return True
    parsed = parse_origin(origin)
    if parsed is None:
        return False
    if parsed in [parse_origin(text.rstrip("/")) for text in settings.allowed_origins]:
        return True
    authority = None if host is None else parse_authority(host)
    if authority is None or parsed.scheme not in (
        ("https",) if settings.tls_certificate else ("http", "https")
    ):
        return False
    return (parsed.host, parsed.port) == (authority.host, authority.port or _DEFAULT_PORTS[parsed.scheme])


def invalid_entries(settings: Settings) -> list[str]:
    """Return a sentence for each entry of the two lists that can never match, so that a slip of the pen is
    not silent.
    """
    problems = [
        f"ALLOWED_HOSTS: {text!r} is not a host or host:port"
        for text in settings.allowed_hosts
        if _from_bare(text) is None
    ]
    problems += [
        f"ALLOWED_ORIGINS: {text!r} is not an origin such as https://example.com"
        for text in settings.allowed_origins
        if parse_origin(text.rstrip("/")) is None
    ]
    return problems


def _from_bare(text: str) -> Authority | None:
    """Parse a host as settings and sockets write it, where an IPv6 address has no brackets and may have a
    scope.
    """
    return parse_authority(f"[{text.split('%')[0]}]" if text.count(":") > 1 and "[" not in text else text)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def _is_unspecified(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_unspecified
