"""Who a client is: signed configs, the legacy unsigned form, and the `Credentials` that either becomes.

A signed config is a JSON text that the page's own server has signed: HMAC-SHA256 in lower-case hex over its
exact UTF-8 bytes. It has a timestamp and neither nonce nor expiry, since a page uses one for all its
connections, for hours; its age is limited here. The signature is checked before the text is parsed, in
constant time, against every secret (so that secrets can be rotated).

Nothing here repeats a credential: not in an error, not in a `repr`.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NoReturn, TypeAlias

import attrs

from supervisor.admission.access_token import check_claims
from supervisor.errors import PeerError, SessionRefusedError
from supervisor.protocol.closing import EndReason
from supervisor.protocol.messages import Json, is_integer, parse_object
from supervisor.session.visitor import Standing

FUTURE_SKEW_MS: Final = 60_000
"""Milliseconds that a signer's clock may be ahead of ours."""

MAX_KEY_LENGTH: Final = 512
MAX_TOKEN_LENGTH: Final = 8192
"""Characters of an access token; JSON Web Tokens with many claims have a few thousand."""

_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_PRINTABLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?")

Kind: TypeAlias = Literal["signed", "unsigned", "local"]


@attrs.frozen(eq=False, repr=False)
class Credentials:
    """What a session runs with, and what a resume is bound to.

    Attributes:
        kind: `signed` by a secret of ours, `unsigned`, or `local`: somebody who came in by a token or cookie
            of this server. api_key, access_token: for the command in the sandbox; at least one unless
            `local`. endpoint, control_host: hosts that the signed config names. bypass_rate_limit: the signed
            config asks for no limits (for tests of the page). token_verified: the access token's issuer has
            signed it, by a key that the operator has. profile: the kind of session that the signed config
            chooses.
    """

    kind: Kind
    api_key: str | None = None
    access_token: str | None = None
    endpoint: str | None = None
    control_host: str | None = None
    bypass_rate_limit: bool = False
    token_verified: bool = False
    profile: str = ""

    @property
    def standing(self) -> Standing:
        """What kind of visitor this is. Nobody vouches for unsigned credentials, so they are nobody's; and an
        API key alone is often a page's, shared by all who visit it.
        """
        if self.kind == "local":
            return "local"
        vouched = self.kind == "signed" or self.token_verified
        return "authenticated" if vouched and self.access_token else "anonymous"

    def __repr__(self) -> str:
        return f"<Credentials {self.kind}>"

    def digest(self, key: bytes) -> bytes:
        """Return 32 bytes that are equal for equal credentials, to keep beside a session and compare in
        constant time.

        Equal means the same API key and the same access token. The text of the config is not part of it: a
        page's server signs anew on each load, with a new timestamp, for the same person. The access token is
        part of it even where there is an API key: visitors of a demonstration may share its key, and one must
        not get into a session that holds another's token. The existing client draws the same line when it
        decides whether to resume. All local visitors are one: the operator's own browser.

        `key` is a secret of this process, so that digests say nothing to whoever gets to see one.
        """
        identity = json.dumps([self.api_key, self.access_token]).encode()
        return hmac.digest(key, identity, "sha256")

    def environment(self) -> dict[str, str]:
        """Return the variables that hand the credentials to the command."""
        variables = {
            "ABLY_API_KEY": self.api_key,
            "ABLY_ACCESS_TOKEN": self.access_token,
            "ABLY_ENDPOINT": self.endpoint,
            "ABLY_CONTROL_HOST": self.control_host,
        }
        return {name: value for name, value in variables.items() if value is not None}


def verify_signed_config(
    config: str, signature: str | None, secrets: Sequence[str], max_age: float, now_ms: int
) -> Credentials:
    """Return the credentials in `config`, which one of `secrets` has signed.

    Args:
        config: the JSON text, verbatim.
        signature: what the client says its signature is.
        secrets: keys that are accepted.
        max_age: seconds.
        now_ms: the present as milliseconds since 1970.

    Raises:
        SessionRefusedError: the signature is missing or wrong, the config too old or from the future, or it
            holds nothing usable.
    """
    if not _signed_by_any(config, signature, secrets):
        _refuse("The signature of the configuration is not valid.")
    try:
        values = parse_object(config)
    except PeerError as error:
        raise _refusal("The signed configuration cannot be read.") from error
    timestamp = values.get("timestamp")
    if not is_integer(timestamp, 0, 2**53):
        _refuse("The signed configuration has no valid timestamp.")
    assert isinstance(timestamp, int)
    if timestamp > now_ms + FUTURE_SKEW_MS:
        _refuse("The signed configuration is from the future. Please check the clocks.")
    if timestamp < now_ms - max_age * 1000:
        _refuse("The signed configuration has expired. Please reload the page.")
    credentials = Credentials(
        kind="signed",
        api_key=_secret(values.get("apiKey"), MAX_KEY_LENGTH),
        access_token=_secret(values.get("accessToken"), MAX_TOKEN_LENGTH),
        endpoint=_host(values, "endpoint"),
        control_host=_host(values, "controlAPIHost"),
        bypass_rate_limit=values.get("bypassRateLimit") is True,
        profile=_profile(values.get("profile")),
    )
    return _with_any(credentials)


def unsigned_credentials(api_key: str | None, access_token: str | None, now: float) -> Credentials:
    """Return credentials as an older client sends them, where the operator allows that: nobody vouches for
    them.

    An access token that has the shape of a JSON Web Token must be one, and not expired at `now` (seconds
    since 1970).

    Raises:
        SessionRefusedError: there is no credential, or one that cannot be accepted.
    """
    credentials = Credentials(
        kind="unsigned",
        api_key=_secret(api_key, MAX_KEY_LENGTH),
        access_token=_secret(access_token, MAX_TOKEN_LENGTH),
    )
    if credentials.access_token is not None:
        check_claims(credentials.access_token, now)
    return _with_any(credentials)


def local_credentials() -> Credentials:
    """Return the credentials of whoever came in by this server's own token or cookie: none, for a sandbox
    without any.
    """
    return Credentials(kind="local")


def _signed_by_any(config: str, signature: str | None, secrets: Sequence[str]) -> bool:
    if signature is None or not _SIGNATURE.fullmatch(signature):
        return False
    try:
        message = config.encode()
    except UnicodeEncodeError:  # lone surrogates: no bytes that anybody could have signed
        return False
    # A list, not a generator: the time must not tell which of the secrets it was.
    matches = [
        hmac.compare_digest(hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(), signature)
        for secret in secrets
    ]
    return any(matches)


def _profile(value: Json) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        _refuse("profile in the signed configuration is not a name.")
    return value


def _secret(value: Json, longest: int) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > longest or not _PRINTABLE.fullmatch(value):
        _refuse("The credentials are malformed.")
    return value


def _host(values: Mapping[str, Json], name: str) -> str | None:
    value = values.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        _refuse(f"{name} in the signed configuration is not a host.")
    return value


def _with_any(credentials: Credentials) -> Credentials:
    if credentials.api_key is None and credentials.access_token is None:
        _refuse("An API key or an access token is required.")
    return credentials


def _refusal(message: str) -> SessionRefusedError:
    return SessionRefusedError(EndReason.CREDENTIALS.value, message)


def _refuse(message: str) -> NoReturn:
    raise _refusal(message)
