import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import PeerError
from supervisor.protocol import ably
from supervisor.protocol.ably import Ignored, Input, Resize, parse_auth, parse_message
from supervisor.protocol.closing import CLOSINGS, EndReason

SECRET = "hunter2-hunter2"  # in every bad message; in no error


def test_the_clients_own_message() -> None:
    auth = parse_auth(
        '{"environmentVariables":{"ABLY_WEB_CLI_MODE":"true","PS1":"ably> "},'
        '"config":"{\\"apiKey\\":\\"k\\"}",'
        '"signature":"ab","apiKey":"k","accessToken":"t","sessionId":"s","ciAuthToken":"c"}'
    )
    assert auth.config == '{"apiKey":"k"}'
    assert (auth.signature, auth.api_key, auth.access_token, auth.session_id) == ("ab", "k", "t", "s")
    assert auth.environment == {"ABLY_WEB_CLI_MODE": "true", "PS1": "ably> "}
    assert auth.has_config


def test_absent_null_and_empty_are_the_same() -> None:
    for text in (
        "{}",
        '{"config":null,"apiKey":null,"environmentVariables":null}',
        '{"config":"","apiKey":""}',
    ):
        assert parse_auth(text) == ably.AblyAuth()
        assert not parse_auth(text).has_config


def test_bytes_are_read_as_utf8() -> None:
    assert parse_auth('{"apiKey":"ä"}'.encode()).api_key == "ä"


def test_repr_tells_nothing() -> None:
    text = json.dumps(
        dict.fromkeys(["config", "signature", "apiKey", "accessToken", "sessionId"], SECRET)
        | {"environmentVariables": {SECRET: SECRET}}
    )
    assert SECRET not in repr(parse_auth(text))


BAD_AUTH: dict[str, str | bytes] = {
    "nothing": "",
    "null": "null",
    "a number": "1",
    "a text": f'"{SECRET}"',
    "an array": f'["{SECRET}"]',
    "not JSON": SECRET,
    "more after it": f'{{"apiKey":"{SECRET}"}}x',
    "config of another type": f'{{"config":{{"apiKey":"{SECRET}"}}}}',
    "apiKey of another type": f'{{"apiKey":["{SECRET}"]}}',
    "accessToken a number": '{"accessToken":1}',
    "signature a boolean": '{"signature":true}',
    "sessionId an array": f'{{"sessionId":["{SECRET}"]}}',
    "environment an array": f'{{"environmentVariables":["{SECRET}"]}}',
    "environment a text": f'{{"environmentVariables":"{SECRET}"}}',
    "a variable is a number": f'{{"environmentVariables":{{"{SECRET}":1}}}}',
    "a variable is null": f'{{"environmentVariables":{{"{SECRET}":null}}}}',
    "too many variables": json.dumps({"environmentVariables": {f"{SECRET}{i}": "" for i in range(65)}}),
    "a key twice": f'{{"apiKey":"{SECRET}","apiKey":"{SECRET}2"}}',
    "a key twice, deeper": f'{{"environmentVariables":{{"{SECRET}":"","{SECRET}":""}}}}',
    "NaN": f'{{"apiKey":"{SECRET}","x":NaN}}',
    "Infinity": '{"x":-Infinity}',
    "a long integer": '{"x":' + "9" * 60_000 + "}",
    "a long fraction": '{"x":0.' + "9" * 60_000 + "}",
    "a large exponent": '{"x":1e999}',
    "deep objects": '{"x":' * 60 + "1" + "}" * 60,
    "deep arrays": '{"x":' + "[" * 30_000 + "]" * 30_000 + "}",
    "deep and unclosed": "[" * 60_000,
    "half a surrogate pair": f'{{"apiKey":"{SECRET}\\ud800"}}',
    "half a surrogate pair as a name": f'{{"environmentVariables":{{"\\udc00{SECRET}":""}}}}',
    "not UTF-8": b'{"apiKey":"\xff"}',
    "UTF-16": '{"apiKey":"x"}'.encode("utf-16"),
    "a byte order mark": "\ufeff{}",
    "a control character in a text": f'{{"apiKey":"{SECRET}\n"}}',
}


@pytest.mark.parametrize("text", BAD_AUTH.values(), ids=BAD_AUTH)
def test_bad_authentication_is_refused_without_repeating_it(text: str | bytes) -> None:
    with pytest.raises(PeerError) as caught:
        parse_auth(text)
    assert SECRET not in str(caught.value)
    assert 10 < len(str(caught.value)) < 100
    # Nor may a log of the whole chain show it.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(PeerError):
        parse_auth(text)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["config", "apiKey", "sessionId", "environmentVariables", "type", "data", "cols", "rows"]
)


@given(st.dictionaries(FIELDS, JSON_VALUES, max_size=4))
def test_any_object_is_parsed_or_refused(message: dict[str, Any]) -> None:
    text = json.dumps(message)
    with contextlib.suppress(PeerError):
        parse_auth(text)
    parse_message(text)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ('{"type":"resize","cols":132,"rows":43}', Resize(132, 43)),
        ('{"type":"resize","data":{"cols":132,"rows":43}}', Resize(132, 43)),
        ('{ "rows": 1, "type": "resize", "cols": 1000 }', Resize(1000, 1)),
        ('{"type":"resize","cols":132,"rows":43,"width":900}', Resize(132, 43)),
        ('{"type":"resize","cols":0,"rows":0}', Ignored()),
        ('{"type":"resize","cols":-1,"rows":24}', Ignored()),
        ('{"type":"resize","cols":1001,"rows":24}', Ignored()),
        ('{"type":"resize","cols":65537,"rows":24}', Ignored()),
        ('{"type":"resize","cols":1000000000,"rows":24}', Ignored()),
        ('{"type":"resize","cols":80.5,"rows":24}', Ignored()),
        ('{"type":"resize","cols":"80","rows":"24"}', Ignored()),
        ('{"type":"resize","cols":true,"rows":true}', Ignored()),
        ('{"type":"resize"}', Ignored()),
        ('{"type":"resize","data":[80,24]}', Ignored()),
        ('{"type":"readline-control","action":"history-up"}', Ignored()),
        ('{"type":"readline-control"}', Ignored()),
        ('{"type":"data","data":"ls\\r"}', Input(b"ls\r")),
        ('{"type":"data","data":"\\u00e4\\ud83d\\ude00"}', Input("ä😀".encode())),
        ('{"type":"data","data":1}', Ignored()),
        ('{"type":"data"}', Ignored()),
    ],
)
def test_control_messages(text: str, meaning: object) -> None:
    assert parse_message(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "l",
        "\r",
        "\x1b[A",
        "null",
        "[]",
        "{}",
        "{",
        "}",
        '{"type":"auth","apiKey":"x"}',
        '{"type":"hello","sessionId":"x"}',
        '{"type":"status","payload":"error"}',
        '{"type":["resize"],"cols":80,"rows":24}',
        '{"cols":80,"rows":24}',
        ' {"type":"resize","cols":80,"rows":24}',
        '{"type":"resize","cols":80,"rows":24}\r',
        '{"type":"resize","cols":80,"rows":24}{}',
        '{"type":"resize","type":"resize","cols":80,"rows":24}',
        '[{"type":"resize","cols":80,"rows":24}]',
        '\x1b[200~{"type":"resize","cols":80,"rows":24}\x1b[201~',
        '{"dependencies": {"left-pad": "1.0.0"}}',
        "{ echo hello; }",
        '{"type":"data","data":"x","deep":' + "[" * 30 + "]" * 30 + "}",
        "\x00\x00ABLY_CTRL:{}",
        "żółć",
    ],
)
def test_everything_else_is_typed_as_it_is(text: str) -> None:
    assert parse_message(text) == Input(text.encode())


@given(st.text().filter(lambda text: '"type"' not in text))
def test_text_is_typed_as_it_is(text: str) -> None:
    assert parse_message(text) == Input(text.encode("utf-8", "replace"))


def test_a_long_paste_in_a_data_message() -> None:
    paste = 'echo "ä\\n"\n' * 50_000
    assert parse_message(json.dumps({"type": "data", "data": paste}, separators=(",", ":"))) == Input(
        paste.encode()
    )


HOSTILE = {
    "deep": lambda n: "{" + '"a":{' * (n // 5) + "}",
    "deep arrays": lambda n: "{" + "[" * n + "}",
    "members": lambda n: '{"type":"resize",' + ",".join(f'"{i}":0' for i in range(n // 8)) + "}",
    "digits": lambda n: '{"type":' + "1" * n + "}",
    "data, then deep": lambda n: '{"type":"data","data":"x",' + '"a":{' * (n // 5) + "}",
    "data, escapes": lambda n: '{"type":"data","data":"' + "\\u0041" * (n // 6) + '"}',
    "data, an open text": lambda n: '{"type":"data","data":"' + "\\\\" * (n // 2) + "}",
    "data, a number": lambda n: '{"type":"data","data":' + "1" * n + "}",
    "braces": lambda n: "{" + "}" * n,
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_megabyte_of_braces_costs_little(make: Any) -> None:
    text = make(1 << 20)
    spent = []
    for _ in range(3):
        start = time.process_time()
        assert isinstance(parse_message(text), Input)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.1  # measured: 1 to 10 ms


def test_control_messages_to_the_client() -> None:
    message = ably.status("error", "Why, \u00e4?", 4001)
    prefixed = ably.control(message, prefixed=True)
    assert prefixed.startswith("\x00\x00ABLY_CTRL:{")
    assert json.loads(prefixed.removeprefix(ably.CONTROL_PREFIX)) == {
        "type": "status",
        "payload": "error",
        "reason": "Why, ä?",
        "code": 4001,
    }
    assert json.loads(ably.control(ably.hello("id"), prefixed=False)) == {"type": "hello", "sessionId": "id"}
    assert ably.status("connected") == {"type": "status", "payload": "connected"}


def test_the_opener_is_what_the_client_swallows() -> None:
    names = ["stream", "stdin", "stdout", "stderr", "hijack"]
    assert json.loads(ably.OPENER) == dict.fromkeys(names, True)
    positions = [ably.OPENER.index(name) for name in names]
    assert positions == sorted(positions)
    assert "}" not in ably.OPENER[:-1]


@pytest.mark.parametrize("reason", EndReason)
def test_farewells_carry_the_code_of_the_close(reason: EndReason) -> None:
    message = ably.farewell(reason)
    if message is None:
        assert CLOSINGS[reason].ably_status is None
    else:
        assert message["code"] == CLOSINGS[reason].ably_code
        assert message["reason"] == CLOSINGS[reason].message
    special = ably.farewell(EndReason.CREDENTIALS, "expired")
    assert special is not None
    assert special["reason"] == "expired"
