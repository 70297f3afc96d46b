import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import PeerError
from supervisor.protocol import v1
from supervisor.protocol.closing import CLOSINGS, EndReason
from supervisor.protocol.messages import Ignored, Resize

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "protocol-v1.md").read_text()
SCHEMAS = json.loads((ROOT / "supervisor" / "protocol" / "schemas.json").read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{name}"})


CLIENT, SERVER = validator("clientMessage"), validator("serverMessage")


def test_the_schemas_are_schemas() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"auth"}', v1.Auth()),
        (
            (
                '{"type":"auth","config":"c","signature":"s","apiKey":"k","accessToken":"a","token":"t","sessionId":"i",'
                '"offset":12,"cols":80,"rows":24,"role":"viewer","environmentVariables":{"LANG":"C"}}'
            ),
            v1.Auth("c", "s", "k", "a", "t", "i", 12, Resize(80, 24), "viewer", {"LANG": "C"}),
        ),
        ('{"type":"auth","offset":null,"cols":0,"rows":99999,"sessionId":null,"more":[]}', v1.Auth()),
        ('{"type":"auth","offset":0}', v1.Auth(offset=0)),
        ('{"type":"auth","cols":80}', v1.Auth()),
        ('{"type":"resize","cols":1,"rows":1000}', Resize(1, 1000)),
        ('{"type":"resize","cols":0,"rows":24}', Ignored()),
        ('{"type":"resize","cols":1001,"rows":24}', Ignored()),
        ('{"type":"resize","cols":"80","rows":24}', Ignored()),
        ('{"type":"resize","cols":true,"rows":24}', Ignored()),
        ('{"type":"resize"}', Ignored()),
        ('{"type":"ack","offset":0}', v1.Ack(0)),
        ('{"type":"ack","offset":9007199254740991}', v1.Ack(2**53 - 1)),
        ('{"type":"ping"}', v1.Ping()),
        ('{"type":"ping","id":7}', v1.Ping(7)),
        ('{"type":"ping","id":"x"}', v1.Ping("x")),
        ('{"type":"ping","id":1.5}', v1.Ping(1.5)),
        ('{"type":"ping","id":false}', v1.Ping(False)),
        ('{"type":"leave"}', v1.Leave()),
        (' { "type" : "leave" } ', v1.Leave()),
    ],
)
def test_client_messages(text: str, message: object) -> None:
    assert v1.parse_client_text(text) == message
    CLIENT.validate(json.loads(text))


BAD = {
    "nothing": "",
    "null": "null",
    "an array": "[]",
    "text": "ls -l",
    "no type": '{"offset":1}',
    "an unknown type": '{"type":"hello"}',
    "a type of another type": '{"type":["leave"]}',
    "null type": '{"type":null}',
    "twice": '{"type":"leave"}{"type":"leave"}',
    "a key twice": '{"type":"ack","offset":1,"offset":2}',
    "ack without offset": '{"type":"ack"}',
    "ack of null": '{"type":"ack","offset":null}',
    "negative ack": '{"type":"ack","offset":-1}',
    "huge ack": '{"type":"ack","offset":9007199254740992}',
    "fractional ack": '{"type":"ack","offset":1.5}',
    "ack of a text": '{"type":"ack","offset":"1"}',
    "ack of true": '{"type":"ack","offset":true}',
    "negative offset": '{"type":"auth","offset":-1}',
    "offset of a text": '{"type":"auth","offset":"1"}',
    "unknown role": '{"type":"auth","role":"owner"}',
    "null role": '{"type":"auth","role":null}',
    "role of another type": '{"type":"auth","role":["writer"]}',
    "config of another type": '{"type":"auth","config":{}}',
    "token of another type": '{"type":"auth","token":1}',
    "environment of another type": '{"type":"auth","environmentVariables":[]}',
    "environment of numbers": '{"type":"auth","environmentVariables":{"A":1}}',
    "ping with an object": '{"type":"ping","id":{}}',
    "ping with an array": '{"type":"ping","id":[]}',
    "ping with a long text": json.dumps({"type": "ping", "id": "x" * 257}),
    "NaN": '{"type":"ping","id":NaN}',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_client_messages_are_refused(text: str) -> None:
    with pytest.raises(PeerError):
        v1.parse_client_text(text)
    try:
        value = json.loads(text)
    except ValueError:
        return
    # JSON Schema cannot see a repeated key, and Python's numbers include NaN.
    assert not CLIENT.is_valid(value) or text in (BAD["a key twice"], BAD["NaN"])


TYPES = st.sampled_from(["auth", "resize", "ack", "ping", "leave", "hello"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**54)
    | st.text(max_size=4)
    | st.sampled_from(["writer", "viewer"])
)
FIELDS = st.sampled_from(["offset", "cols", "rows", "role", "id", "config", "environmentVariables", "x"])


@given(
    TYPES,
    st.dictionaries(
        FIELDS,
        SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(), SCALARS, max_size=2),
        max_size=5,
    ),
)
def test_parser_and_schema_agree(kind: str, fields: dict[str, Any]) -> None:
    message = {"type": kind, **fields}
    try:
        v1.parse_client_text(json.dumps(message))
    except PeerError:
        assert not CLIENT.is_valid(message)
    else:
        CLIENT.validate(message)


HELLO = v1.hello(
    session_id="id",
    resumed=True,
    role="writer",
    offset=10,
    replay=4,
    window=262144,
    scrollback=1048576,
    isolated=False,
    notice="no isolation",
    idle_timeout=600.0,
    max_duration=1800.0,
    ends_in=-0.5,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HELLO,
            {
                "type": "hello",
                "sessionId": "id",
                "resumed": True,
                "role": "writer",
                "offset": 10,
                "replay": 4,
                "window": 262144,
                "scrollback": 1048576,
                "isolated": False,
                "notice": "no isolation",
                "idleTimeoutMs": 600_000,
                "maxDurationMs": 1_800_000,
                "endsInMs": 0,
            },
        ),
        (v1.gap(5, 9), {"type": "gap", "from": 5, "to": 9}),
        (
            v1.warning("idle", 59.9996, "Soon."),
            {"type": "warning", "kind": "idle", "endsInMs": 60_000, "message": "Soon."},
        ),
        (v1.warning_cleared("maxDuration"), {"type": "warningCleared", "kind": "maxDuration"}),
        (v1.viewers(writers=1, viewers=2), {"type": "viewers", "writers": 1, "viewers": 2}),
        (v1.pong(v1.Ping("x")), {"type": "pong", "id": "x"}),
        (v1.pong(v1.Ping()), {"type": "pong", "id": None}),
        (v1.exited(3, None), {"type": "exit", "code": 3, "signal": None}),
        (v1.exited(None, 9), {"type": "exit", "code": None, "signal": 9}),
        (
            v1.error(EndReason.CAPACITY, "Full."),
            {"type": "error", "code": 4009, "reason": "capacity", "message": "Full."},
        ),
    ],
)
def test_server_messages(text: str, message: dict[str, Any]) -> None:
    assert json.loads(text) == message
    SERVER.validate(message)


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_can_be_said(reason: EndReason) -> None:
    message = json.loads(v1.error(reason))
    SERVER.validate(message)
    assert (message["code"], message["reason"]) == (CLOSINGS[reason].code, CLOSINGS[reason].reason)


def test_the_document_has_every_message_and_code() -> None:
    for side in ("clientMessage", "serverMessage"):
        for reference in SCHEMAS["$defs"][side]["oneOf"]:
            definition = SCHEMAS["$defs"][reference["$ref"].rsplit("/", 1)[1]]
            properties = definition["properties"]
            row = next(
                line
                for line in DOCUMENT.splitlines()
                if line.startswith(f"| `{properties['type']['const']}` |")
            )
            for field in properties:
                assert field == "type" or f"`{field}`" in row, (row, field)
    rows = dict(re.findall(r"^\| (\d{4}(?: / \d{4})*) \| (.*?) \|", DOCUMENT, re.MULTILINE))
    documented = {int(code): names for codes, names in rows.items() for code in codes.split(" / ")}
    for reason, closing in CLOSINGS.items():
        if reason is not EndReason.GONE:  # answers the client's own close
            assert f"`{closing.reason}`" in documented[closing.code], reason


def conversation() -> list[tuple[str, str]]:
    block = re.search(r"^```text\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = [line.split(" ", 1) for line in block[1].splitlines() if line and not line.startswith("#")]
    return [(who, what) for who, what in lines]


def test_the_example_conversation() -> None:
    """Every message of the document's example is what the code takes and sends, and its numbers add up."""
    said: list[object] = []
    window: v1.Window | None = None
    replay = 0
    for who, what in conversation():
        if who == "C:" and what.startswith("{"):
            message = v1.parse_client_text(what)
            CLIENT.validate(json.loads(what))
            said.append(type(message))
            if isinstance(message, v1.Ack):
                assert window is not None
                assert window.on_ack(message.offset)
        elif who == "S:" and what.startswith("{"):
            value = json.loads(what)
            SERVER.validate(value)
            said.append(value["type"])
            if value["type"] == "hello":
                assert value["offset"] <= (window.sent if window else 0)
                window, replay = v1.Window(value["window"], value["offset"]), value["replay"]
            if value["type"] == "gap":
                assert window is not None
                assert value["from"] == window.sent
                window.on_gap(value["to"])
        elif who == "S:" and what.startswith("binary "):
            count = len(what.removeprefix("binary ").encode().decode("unicode_escape"))
            assert window is not None
            if replay:
                assert count <= replay
                replay -= count
            else:
                window.on_sent(count)
        else:
            assert what.startswith(("binary ", "close ")), what
    assert replay == 0
    assert {
        v1.Auth,
        v1.Ack,
        v1.Ping,
        Resize,
        "hello",
        "pong",
        "warning",
        "warningCleared",
        "exit",
        "error",
    } <= set(said)


def test_window() -> None:
    window = v1.Window(100, start=1000)
    assert (window.allowance, window.unacknowledged) == (100, 0)
    window.on_sent(100)
    assert (window.allowance, window.sent) == (0, 1100)
    assert window.on_ack(1040)
    assert (window.allowance, window.acked) == (40, 1040)
    assert not window.on_ack(1040)
    assert not window.on_ack(1000)
    assert not window.on_ack(0)
    assert window.allowance == 40
    with pytest.raises(PeerError):
        window.on_ack(1101)
    window.on_sent(80)  # more than allowed, such as the rest of a frame
    assert window.allowance == 0
    assert repr(window) == "<Window sent=1180 acked=1040 unacknowledged=140/100>"


def test_a_gap_costs_no_window_and_blocks_nothing() -> None:
    window = v1.Window(100)
    window.on_sent(100)
    window.on_gap(5000)
    window.on_gap(4000)  # behind: nothing is left out
    assert (window.sent, window.unacknowledged) == (5000, 100)
    # The client has rendered what came before the gap, and acknowledges that: it must be able to go on.
    assert window.on_ack(100)
    assert window.allowance == 100
    window.on_sent(30)
    window.on_gap(9000)
    window.on_sent(10)
    assert window.on_ack(9005)
    assert window.unacknowledged == 5
    assert window.on_ack(9010)
    assert window.allowance == 100


@given(st.lists(st.tuples(st.sampled_from(["send", "gap", "ack"]), st.integers(0, 40)), max_size=40))
def test_window_counts_bytes_that_were_sent_and_not_acknowledged(steps: list[tuple[str, int]]) -> None:
    window, under_way = v1.Window(100), set[int]()
    for step, amount in steps:
        if step == "send":
            under_way |= set(range(window.sent, window.sent + amount))
            window.on_sent(amount)
        elif step == "gap":
            window.on_gap(window.sent + amount - 10)
        else:
            offset = min(window.sent, window.acked + amount - 5)
            before = window.acked
            assert window.on_ack(offset) == (offset > before)
            under_way = {byte for byte in under_way if byte >= offset}
        assert window.unacknowledged == len(under_way)
        assert window.allowance == max(0, 100 - len(under_way))
