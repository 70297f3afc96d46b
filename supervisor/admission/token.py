"""How the operator's own browser gets in where no signing secret is set: a token in the printed URL, then a
cookie.

Every page that the person visits can reach a loopback port, so being able to connect proves nothing. The URL
that is printed at start carries a token that works once; redeeming it gives the browser a cookie that holds
until this process ends. Programs may use the one reusable token that the operator sets. Only keyed digests
are kept, and only digests are looked up: what a wrong guess has in common with a right token shows neither in
memory nor in time.
"""

import hashlib
import hmac
import secrets
from typing import Any, Final

TOKEN_BYTES: Final = 24
"""Random bytes of a token or cookie: 192 bits, 32 characters."""

MAX_TOKENS: Final = 64
"""One-time tokens that can be open at once; the oldest gives way."""

MAX_COOKIES: Final = 256
"""Browsers that can be let in at once; the oldest gives way."""

MAX_LENGTH: Final = 512
"""Characters of a token or cookie that is looked at."""


class OneTimeTokens:
    """The tokens and cookies of one process.

    Args:
        reusable: token that works any number of times (`LOCAL_ACCESS_TOKEN`); empty for none.
    """

    def __init__(self, reusable: str = "") -> None:
        self._key = secrets.token_bytes(32)
        # Dicts as ordered sets: the first is the oldest.
        self._tokens: dict[bytes, None] = {}
        self._cookies: dict[bytes, None] = {}
        self._reusable = self._digest(reusable) if reusable else None

    def keys(self) -> dict[str, Any]:
        """Return what tokens and cookies are checked by, for another process that goes on; JSON."""
        return {
            "key": self._key.hex(),
            "tokens": [each.hex() for each in self._tokens],
            "cookies": [each.hex() for each in self._cookies],
        }

    def use_keys(self, keys: dict[str, Any], reusable: str = "") -> None:
        """Accept what the process accepted whose `keys` these are, and `reusable`."""
        self._key = bytes.fromhex(keys["key"])
        self._tokens = {bytes.fromhex(each): None for each in keys["tokens"]}
        self._cookies = {bytes.fromhex(each): None for each in keys["cookies"]}
        self._reusable = self._digest(reusable) if reusable else None

    def __repr__(self) -> str:
        return f"<OneTimeTokens open={len(self._tokens)} cookies={len(self._cookies)}>"

    def mint(self) -> str:
        """Return a new token for a URL; it has no character that a URL would have to escape."""
        return self._issue(self._tokens, MAX_TOKENS)

    def redeem(self, token: str) -> str | None:
        """Return a new cookie value for `token`, which is used up unless it is the reusable one; None when it
        is not valid.
        """
        if len(token) > MAX_LENGTH:
            return None
        digest = self._digest(token)
        if digest in self._tokens:
            del self._tokens[digest]
        elif not self.is_reusable(token):
            return None
        return self._issue(self._cookies, MAX_COOKIES)

    def is_reusable(self, token: str) -> bool:
        """Whether `token` is the reusable token, by which a program gets in without a cookie."""
        if self._reusable is None or len(token) > MAX_LENGTH:
            return False
        return hmac.compare_digest(self._reusable, self._digest(token))

    def cookie_valid(self, value: str) -> bool:
        """Whether `value` is a cookie that this process has given out."""
        return len(value) <= MAX_LENGTH and self._digest(value) in self._cookies

    def _issue(self, store: dict[bytes, None], limit: int) -> str:
        while len(store) >= limit:
            del store[next(iter(store))]
        value = secrets.token_urlsafe(TOKEN_BYTES)
        store[self._digest(value)] = None
        return value

    def _digest(self, value: str) -> bytes:
        return hashlib.blake2b(value.encode("utf-8", "replace"), key=self._key, digest_size=32).digest()


def cookie_name(port: int, *, tls: bool) -> str:
    """Return the cookie's name. Cookies are shared by all ports of a host, so the name has the port in it.

    With TLS the prefix `__Host-` makes browsers insist on Secure, Path=/ and no Domain (RFC 6265bis, section
    4.1.3.2).
    """
    return f"{'__Host-' if tls else ''}terminal-supervisor-{port}"


def set_cookie(value: str, port: int, *, tls: bool) -> str:
    """Return a `Set-Cookie` value: for this server only, not for scripts, not on requests that other sites
    cause.
    """
    attributes = "; Secure" if tls else ""
    return f"{cookie_name(port, tls=tls)}={value}; Path=/; HttpOnly; SameSite=Strict{attributes}"


def cookie_values(header: str, port: int, *, tls: bool) -> list[str]:
    """Return the values of our cookie in a `Cookie` header, first to last.

    There can be several: other servers on this host can set cookies of any name. A client is let in when any
    of them is valid.
    """
    name = cookie_name(port, tls=tls)
    pairs = (part.partition("=") for part in header.split(";"))
    return [value.strip() for key, _, value in pairs if key.strip() == name]
