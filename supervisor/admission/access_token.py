"""Access tokens: what can be told from a token itself (RFC 7519), and by the keys of its issuer, where the
operator has them.

Without keys nobody vouches for a token, and all that can be said is that it is none or that it has expired.
With keys (`JWT_KEYS_FILE`) every access token must be a JSON Web Token that one of them has signed.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from supervisor.errors import ConfigurationError, PeerError, SessionRefusedError
from supervisor.observability.log import get_logger
from supervisor.protocol.closing import EndReason
from supervisor.protocol.messages import Json, parse_object
from supervisor.settings import Settings

log = get_logger(__name__)

MAX_KEYS: Final = 32
MIN_RSA_BITS: Final = 2048

_JWT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_HMAC: Final = {
    "HS256": 32,
    "HS384": 48,
    "HS512": 64,
}  # bytes that a secret must have (RFC 7518, section 3.2)
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512", "secp256k1": "ES256K"}


def check_claims(token: str, now: float, *, strict: bool = False) -> None:
    """Check what a token says of itself: one in the shape of a JSON Web Token must be one, signed with some
    algorithm, and not expired at `now` (seconds since 1970). `strict` also refuses those of another shape and
    those that never expire.

    Raises:
        SessionRefusedError: it cannot be accepted.
    """
    parts = _JWT.fullmatch(token)
    if parts is None:
        if strict:
            _refuse("The access token is no JSON Web Token.")
        return
    try:
        header, payload = _object(parts[1]), _object(parts[2])
    except (PeerError, binascii.Error, UnicodeDecodeError) as error:
        raise _refusal("The access token is malformed.") from error
    algorithm = header.get("alg")
    # RFC 8725, section 3.2: a token without a signature is a claim by nobody.
    if not isinstance(algorithm, str) or algorithm.casefold() in ("", "none") or not parts[3]:
        _refuse("The access token is not signed.")
    if "exp" in payload:
        expiry = payload["exp"]
        if isinstance(expiry, bool) or not isinstance(expiry, (int, float)):
            _refuse("The access token is malformed.")
        if expiry <= now:
            _refuse("The access token has expired.")
    elif strict:
        _refuse("The access token never expires, which is not accepted here.")


@attrs.frozen
class Key:
    """A key of the issuer.

    Attributes:
        id: its `kid`, if it has one.
        algorithms: that signatures with it may have; by the kind of the key, never by what a token says.
    """

    id: str | None
    value: Any = attrs.field(repr=False)
    algorithms: tuple[str, ...]


def read_keys(path: Path) -> list[Key]:
    """Return the keys in a file: a JSON Web Key Set (RFC 7517), or public keys in PEM.

    Raises:
        ConfigurationError: the file is none of both, or has a key that no signature should rest on.
    """
    try:
        text = path.read_text()
        keys = _jwks(json.loads(text)) if text.lstrip().startswith("{") else _pem(text)
    except (OSError, ValueError, TypeError, KeyError, UnsupportedAlgorithm, jwt.PyJWTError) as error:
        raise ConfigurationError(f"JWT_KEYS_FILE={path}: {type(error).__name__}: {error}") from None
    if not 1 <= len(keys) <= MAX_KEYS:
        raise ConfigurationError(f"JWT_KEYS_FILE={path}: has {len(keys)} keys; 1 to {MAX_KEYS} are possible")
    return keys


def _pem(text: str) -> list[Key]:
    blocks = re.findall(r"-----BEGIN [^-]+-----.*?-----END [^-]+-----", text, re.DOTALL)
    return [_public(None, load_pem_public_key(block.encode())) for block in blocks]


def _jwks(document: Any) -> list[Key]:
    keys: list[Key] = []
    for entry in document["keys"]:
        if entry.get("use", "sig") != "sig":
            continue
        if entry["kty"] == "oct":
            secret = jwt.PyJWK(entry, algorithm=entry.get("alg", "HS256")).key
            fitting = tuple(name for name, size in _HMAC.items() if len(secret) >= size)
            if not fitting:
                raise ValueError("a secret must have at least 32 bytes")
            key = Key(entry.get("kid"), secret, fitting)
        else:
            value = jwt.PyJWK(entry).key
            key = _public(entry.get("kid"), getattr(value, "public_key", lambda value=value: value)())
        if "alg" in entry:
            if entry["alg"] not in key.algorithms:
                raise ValueError(f"a key of type {entry['kty']} cannot have the algorithm {entry['alg']!r}")
            key = attrs.evolve(key, algorithms=(entry["alg"],))
        keys.append(key)
    return keys


def _public(identifier: str | None, value: Any) -> Key:
    if isinstance(value, rsa.RSAPublicKey):
        if value.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key must have at least {MIN_RSA_BITS} bits")
        return Key(identifier, value, _RSA)
    if isinstance(value, ec.EllipticCurvePublicKey):
        return Key(identifier, value, (_CURVES[value.curve.name],))
    if isinstance(value, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        return Key(identifier, value, ("EdDSA",))
    raise ValueError("a kind of key that no token is signed with")


class AccessTokens:
    """Accepts access tokens as the settings say. A file of keys that has changed is read again.

    Raises:
        ConfigurationError: the file of keys cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._strict = settings.jwt_mode == "strict"
        self._path = settings.jwt_keys
        self._audience = settings.jwt_audience or None
        self._issuer = settings.jwt_issuer or None
        self._stamp = self._modified()
        self._keys: Sequence[Key] = read_keys(self._path) if self._path else ()

    def __repr__(self) -> str:
        return f"<AccessTokens {len(self._keys)} keys>"

    def check(self, token: str, now: float) -> bool:
        """Return whether the token has been verified by a key; False where there are no keys.

        Raises:
            SessionRefusedError: it is not accepted.
        """
        check_claims(token, now, strict=self._strict)
        if self._path is None:
            return False
        self._refresh(self._path)
        try:
            wanted = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError as error:
            raise _refusal("The access token is no JSON Web Token.") from error
        failure: jwt.PyJWTError | None = None
        for key in self._keys:
            if wanted is None or key.id is None or key.id == wanted:
                try:
                    self._verify(token, key)
                except jwt.PyJWTError as error:
                    failure = error
                else:
                    return True
        raise _refusal("The access token is not accepted.") from failure

    def _verify(self, token: str, key: Key) -> None:
        jwt.decode(
            token,
            key.value,
            algorithms=key.algorithms,
            audience=self._audience,
            issuer=self._issuer,
            options={"require": ["exp"] if self._strict else [], "verify_aud": self._audience is not None},
        )

    def _modified(self) -> int | None:
        try:
            return self._path.stat().st_mtime_ns if self._path else None
        except OSError:
            return None

    def _refresh(self, path: Path) -> None:
        if (stamp := self._modified()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(path)
        except ConfigurationError as error:
            log.warning("keys not read again, the old ones stay in use", problem=str(error))
        else:
            log.info("keys of access tokens read again", keys=len(self._keys))


def _object(part: str) -> dict[str, Json]:
    padded = part + "=" * (-len(part) % 4)
    return parse_object(base64.b64decode(padded, altchars=b"-_", validate=True).decode())


def _refusal(message: str) -> SessionRefusedError:
    return SessionRefusedError(EndReason.CREDENTIALS.value, message)


def _refuse(message: str) -> NoReturn:
    raise _refusal(message)
