"""Access tokens by the issuer's keys."""

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from supervisor.admission.access_token import AccessTokens, check_claims, read_keys
from supervisor.errors import ConfigurationError, SessionRefusedError
from supervisor.settings import Settings

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SHARED = os.urandom(32)
NOW = time.time()


def pem(*keys: Any) -> str:
    return "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for key in keys
    )


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    if isinstance(key, bytes):
        return {"kty": "oct", "k": base64.urlsafe_b64encode(key).decode().rstrip("="), **fields}
    algorithms: dict[Any, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    (algorithm,) = (a for kind, a in algorithms.items() if isinstance(key, kind))
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **fields}


def token(key: Any, algorithm: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
    values = {"sub": "somebody", "exp": NOW + 600, **claims}
    values = {name: value for name, value in values.items() if value is not None}
    return jwt.encode(values, key, algorithm, headers)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(pem(RSA, EC, ED))
    return path


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    entries = [
        jwk(RSA, kid="rsa"),
        jwk(EC, kid="ec", use="sig"),
        jwk(ED, kid="ed"),
        jwk(SHARED, kid="shared"),
        jwk(RSA, kid="encryption", use="enc"),
    ]
    path.write_text(json.dumps({"keys": entries}))
    return path


def checker(path: Path, **changes: Any) -> AccessTokens:
    return AccessTokens(Settings(jwt_keys=path, **changes))


SIGNED = [(RSA, "RS256"), (RSA, "PS512"), (EC, "ES256"), (ED, "EdDSA")]


@pytest.mark.parametrize(("key", "algorithm"), SIGNED)
def test_what_the_issuer_signed_is_verified(keys: Path, jwks: Path, key: Any, algorithm: str) -> None:
    assert checker(keys).check(token(key, algorithm), NOW)
    assert checker(jwks).check(token(key, algorithm), NOW)
    assert checker(jwks).check(token(SHARED, "HS256", {"kid": "shared"}), NOW)


@pytest.mark.parametrize(
    "bad",
    [
        token(rsa.generate_private_key(65537, 2048), "RS256"),
        token(SHARED, "HS256", {"kid": "rsa"}),
        token(RSA, "RS256", {"kid": "ec"}),
        token(RSA, "RS256", {"kid": "encryption"}),
        token(RSA, "RS256", {"kid": "unknown"}),
        token(RSA, "RS256", exp=NOW - 1),
        token(RSA, "RS256", nbf=NOW + 600),
        token(RSA, "RS256")[:-4] + "AAAA",
        token(None, "none"),
        "opaque",
        "a.b.c",
        token(RSA, "RS256", {"crit": ["x"], "x": 1}),
    ],
)
def test_all_else_is_refused(jwks: Path, bad: str) -> None:
    with pytest.raises(SessionRefusedError) as caught:
        checker(jwks).check(bad, NOW)
    assert bad not in str(caught.value)


def test_a_public_key_is_no_shared_secret(keys: Path) -> None:
    """The oldest trick: sign with HMAC, and the issuer's public key as the secret."""
    public = pem(RSA)

    def part(value: Any) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = part({"alg": "HS256"}) + b"." + part({"exp": NOW + 600})
    mac = base64.urlsafe_b64encode(hmac.digest(public.encode(), body, hashlib.sha256)).rstrip(b"=")
    with pytest.raises(SessionRefusedError):
        checker(keys).check((body + b"." + mac).decode(), NOW)


def test_audience_and_issuer(keys: Path) -> None:
    tokens = checker(keys, jwt_audience="terminals", jwt_issuer="https://issuer.example")
    fitting: dict[str, Any] = {"aud": ["x", "terminals"], "iss": "https://issuer.example"}
    assert tokens.check(token(RSA, "RS256", **fitting), NOW)
    for change in ({"aud": "others"}, {"iss": "https://evil.example"}, {"aud": None}, {"iss": None}):
        with pytest.raises(SessionRefusedError):
            tokens.check(token(RSA, "RS256", **fitting | change), NOW)


def test_strict_and_permissive(keys: Path) -> None:
    for name in ("opaque", token(RSA, "RS256", exp=None)):
        check_claims(name, NOW)
        with pytest.raises(SessionRefusedError):
            check_claims(name, NOW, strict=True)
    assert not AccessTokens(Settings()).check("opaque", NOW)
    assert checker(keys).check(token(RSA, "RS256", exp=None), NOW)
    with pytest.raises(SessionRefusedError):
        checker(keys, jwt_mode="strict").check(token(RSA, "RS256", exp=None), NOW)


def test_a_changed_file_is_read_again_and_a_broken_one_is_not_used(keys: Path) -> None:
    tokens = checker(keys)
    keys.write_text(pem(EC))
    os.utime(keys, ns=(1, 1))
    with pytest.raises(SessionRefusedError):
        tokens.check(token(RSA, "RS256"), NOW)
    keys.write_text("broken")
    os.utime(keys, ns=(2, 2))
    assert tokens.check(token(EC, "ES256"), NOW)
    keys.unlink()
    assert tokens.check(token(EC, "ES256"), NOW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}',
        '{"keys": [{"kty": "RSA"}]}',
        '{"keys": [{"kty": "unknown"}]}',
        json.dumps({"keys": [jwk(RSA, alg="HS256")]}),
        json.dumps({"keys": [jwk(RSA)] * 33}),
        pem(rsa.generate_private_key(65537, 1024)),
    ],
)
def test_files_that_are_of_no_use(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="JWT_KEYS_FILE"):
        read_keys(path)
    with pytest.raises(ConfigurationError, match="JWT_KEYS_FILE"):
        read_keys(tmp_path / "missing")
