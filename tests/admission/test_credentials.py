import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.admission.credentials import (
    MAX_KEY_LENGTH,
    MAX_TOKEN_LENGTH,
    Credentials,
    local_credentials,
    unsigned_credentials,
    verify_signed_config,
)
from supervisor.errors import SessionRefusedError
from supervisor.protocol.closing import EndReason, reason_for

SECRET = "a signing secret"
OTHER_SECRET = "another signing secret"
NOW_MS = 1_760_000_000_000
NOW = NOW_MS / 1000
MAX_AGE = 3600.0
KEY = "appId.keyId:a-key-of-the-application"
TOKEN = "an-opaque-access-token"


def sign(config: str, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), config.encode(), hashlib.sha256).hexdigest()


def verify(config: str, signature: str | None = None, secrets: tuple[str, ...] = (SECRET,)) -> Credentials:
    return verify_signed_config(config, signature or sign(config), secrets, MAX_AGE, NOW_MS)


def configuration(**values: Any) -> str:
    return json.dumps({"apiKey": KEY, "timestamp": NOW_MS, **values})


def assert_refused(error: SessionRefusedError, *parts: str) -> None:
    assert reason_for(error) is EndReason.CREDENTIALS
    for part in (KEY, TOKEN, SECRET, *parts):
        assert part not in str(error)


def test_a_signed_config() -> None:
    credentials = verify(
        configuration(
            accessToken=TOKEN,
            endpoint="eu.example.com",
            controlAPIHost="control.example.com:8443",
            bypassRateLimit=True,
        )
    )
    assert credentials.kind == "signed"
    assert credentials.bypass_rate_limit
    assert credentials.environment() == {
        "ABLY_API_KEY": KEY,
        "ABLY_ACCESS_TOKEN": TOKEN,
        "ABLY_ENDPOINT": "eu.example.com",
        "ABLY_CONTROL_HOST": "control.example.com:8443",
    }


def test_only_what_is_there_reaches_the_environment() -> None:
    assert verify(configuration()).environment() == {"ABLY_API_KEY": KEY}
    assert verify(configuration(apiKey=None, accessToken=TOKEN)).environment() == {"ABLY_ACCESS_TOKEN": TOKEN}
    assert local_credentials().environment() == {}


def test_the_exact_text_is_what_is_signed() -> None:
    text = '{ "timestamp":1760000000000,\n "apiKey" : "ä" }'.replace("ä", "x")
    verify(text, sign(text))
    with pytest.raises(SessionRefusedError):
        verify(json.dumps(json.loads(text)), sign(text))


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "0" * 64,
        sign(configuration(), OTHER_SECRET),
        sign(configuration()).upper(),
        sign(configuration())[:-1],
        sign(configuration()) + "0",
        sign(configuration()) + "\n",
        " " + sign(configuration()),
        sign(configuration() + " "),
        "é" * 64,
        "\u0660" * 64,
        base64.b64encode(hmac.digest(SECRET.encode(), configuration().encode(), "sha256")).decode(),
        hashlib.sha256(configuration().encode()).hexdigest(),
        hmac.new(b"", configuration().encode(), "sha256").hexdigest(),
    ],
)
def test_wrong_signatures(signature: str | None) -> None:
    with pytest.raises(SessionRefusedError) as caught:
        verify_signed_config(configuration(), signature, [SECRET], MAX_AGE, NOW_MS)
    assert_refused(caught.value)


def test_no_secret_signs_nothing() -> None:
    with pytest.raises(SessionRefusedError):
        verify_signed_config(configuration(), sign(configuration()), [], MAX_AGE, NOW_MS)


def test_any_of_several_secrets() -> None:
    for secret in (SECRET, OTHER_SECRET):
        assert verify(configuration(), sign(configuration(), secret), (SECRET, OTHER_SECRET)).kind == "signed"
    with pytest.raises(SessionRefusedError):
        verify(configuration(), sign(configuration(), "a third secret"), (SECRET, OTHER_SECRET))


@given(st.text(max_size=80))
def test_nothing_unsigned_is_parsed(config: str) -> None:
    with pytest.raises(SessionRefusedError, match="signature"):
        verify_signed_config(config, "0" * 64, [SECRET], MAX_AGE, NOW_MS)


@pytest.mark.parametrize(
    ("age_ms", "problem"),
    [
        (0, None),
        (-59_000, None),
        (3_600_000, None),
        (3_600_001, "expired"),
        (86_400_000, "expired"),
        (-60_001, "future"),
        (-1_000_000_000, "future"),
    ],
)
def test_age(age_ms: int, problem: str | None) -> None:
    config = configuration(timestamp=NOW_MS - age_ms)
    if problem is None:
        verify(config)
        return
    with pytest.raises(SessionRefusedError, match=problem) as caught:
        verify(config)
    assert_refused(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        "null",
        "[]",
        "{}",
        "text",
        '{"apiKey":"a.b:c"}',
        '{"apiKey":"a.b:c","timestamp":null}',
        '{"apiKey":"a.b:c","timestamp":"1760000000000"}',
        '{"apiKey":"a.b:c","timestamp":1760000000000.5}',
        '{"apiKey":"a.b:c","timestamp":true}',
        '{"apiKey":"a.b:c","timestamp":NaN}',
        '{"apiKey":"a.b:c","timestamp":-1}',
        '{"apiKey":"a.b:c","timestamp":1e400}',
        '{"timestamp":1760000000000}',
        '{"timestamp":1760000000000,"apiKey":""}',
        '{"timestamp":1760000000000,"apiKey":1}',
        '{"timestamp":1760000000000,"apiKey":["a.b:c"]}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c\\n"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c\\u0000"}',
        '{"timestamp":1760000000000,"apiKey":"a b"}',
        '{"timestamp":1760000000000,"apiKey":"ä"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","apiKey":"d.e:f"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","accessToken":{}}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","endpoint":"a b"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","endpoint":"-x"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","endpoint":"http://x/"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","controlAPIHost":"x\\n"}',
        '{"timestamp":1760000000000,"apiKey":"a.b:c","controlAPIHost":1}',
        json.dumps({"timestamp": NOW_MS, "apiKey": "x" * (MAX_KEY_LENGTH + 1)}),
        json.dumps({"timestamp": NOW_MS, "accessToken": "x" * (MAX_TOKEN_LENGTH + 1)}),
    ],
)
def test_signed_and_unusable(config: str) -> None:
    with pytest.raises(SessionRefusedError) as caught:
        verify(config)
    assert_refused(caught.value, "a.b:c", "d.e:f")


@pytest.mark.parametrize("value", [False, None, 1, "true", {}])
def test_only_true_lifts_the_limits(value: object) -> None:
    assert not verify(configuration(bypassRateLimit=value)).bypass_rate_limit


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(header: Any = None, payload: Any = None, signature: str = "c2lnbmF0dXJl") -> str:
    return f"{segment(header or {'alg': 'HS256'})}.{segment({} if payload is None else payload)}.{signature}"


@pytest.mark.parametrize(
    "access_token",
    [
        TOKEN,
        "two.parts",
        "a.b.c.d",
        "not+base64url.but.opaque",
        token(),
        token(payload={"exp": NOW + 1}),
        token(payload={"exp": int(NOW) + 10, "sub": "x"}),
        token({"alg": "RS256", "typ": "JWT"}),
    ],
)
def test_access_tokens(access_token: str) -> None:
    assert unsigned_credentials(None, access_token, NOW).environment() == {"ABLY_ACCESS_TOKEN": access_token}


@pytest.mark.parametrize(
    "access_token",
    [
        token({"alg": "none"}),
        token({"alg": "None"}),
        token({"alg": "nOnE"}, signature=""),
        token({"alg": ""}),
        token({"alg": None}),
        token({"alg": ["HS256"]}),
        token({"typ": "JWT"}),
        token(signature=""),
        token(payload={"exp": NOW}),
        token(payload={"exp": 0}),
        token(payload={"exp": -1}),
        token(payload={"exp": "never"}),
        token(payload={"exp": None}),
        token(payload={"exp": True}),
        token(payload=[]),
        token(b"null"),
        token(b"{"),
        token(b"\xff\xfe"),
        token(b'{"alg":"HS256","alg":"none"}'),
        token(payload=b'{"exp":NaN}'),
        token(payload=b'{"exp":1e999}'),
        "a.b.c",
        "e30.e30.x",
        "A.A.A",
    ],
)
def test_bad_json_web_tokens(access_token: str) -> None:
    with pytest.raises(SessionRefusedError) as caught:
        unsigned_credentials(KEY, access_token, NOW)
    assert_refused(caught.value, access_token)


@pytest.mark.parametrize(
    ("api_key", "access_token"),
    [
        (None, None),
        ("", ""),
        ("a key", None),
        ("k\r\n", None),
        (None, "t\x00"),
        ("k" * 600, None),
        (None, "t" * 9000),
    ],
)
def test_bad_unsigned_credentials(api_key: str | None, access_token: str | None) -> None:
    with pytest.raises(SessionRefusedError) as caught:
        unsigned_credentials(api_key, access_token, NOW)
    assert_refused(caught.value)


def test_a_digest_is_of_the_person_not_of_the_text() -> None:
    key = bytes(32)
    first = verify(configuration()).digest(key)
    assert len(first) == 32
    assert verify(configuration(timestamp=NOW_MS - 1000, endpoint="x.example")).digest(key) == first
    assert unsigned_credentials(KEY, None, NOW).digest(key) == first
    different = [
        verify(configuration(apiKey=KEY + "x")),
        verify(configuration(accessToken=TOKEN)),
        verify(configuration(apiKey=None, accessToken=KEY)),
        local_credentials(),
    ]
    digests = {credentials.digest(key) for credentials in different}
    assert len(digests) == len(different)
    assert first not in digests
    assert verify(configuration()).digest(b"x" * 32) != first
    assert local_credentials().digest(key) == local_credentials().digest(key)


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_digests_are_of_pairs(a: str, b: str, c: str, d: str) -> None:
    same = Credentials("signed", a, b).digest(b"k") == Credentials("signed", c, d).digest(b"k")
    assert same == ((a, b) == (c, d))


def test_nothing_shows() -> None:
    credentials = verify(configuration(accessToken=TOKEN, endpoint="eu.example.com"))
    assert repr(credentials) == str(credentials) == "<Credentials signed>"
    assert f"{[credentials]}" == "[<Credentials signed>]"
