import base64
import json

import pytest

from supervisor.engine.params import clean_filters, encode_query, image_path, registry_auth, segment


def test_names_cannot_leave_their_place_in_a_path() -> None:
    assert segment("a/../../b?c#d e") == "a%2F..%2F..%2Fb%3Fc%23d%20e"
    assert image_path("localhost:5000/a/b@sha256:00") == "localhost:5000/a/b@sha256:00"
    for bad in ("", ".", ".."):
        with pytest.raises(ValueError):
            segment(bad)
    for bad in ("../../containers/x", "a//b", "/a"):
        with pytest.raises(ValueError):
            image_path(bad)


def test_query() -> None:
    assert encode_query(
        {"a": True, "b": False, "c": None, "d": 3, "e": "x y&", "f": {"k": ["v"]}, "g": b"\xff,\x80"}
    ) == ("a=1&b=0&d=3&e=x+y%26&f=%7B%22k%22%3A+%5B%22v%22%5D%7D&g=%FF%2C%80")
    assert encode_query({}) == encode_query(None) == ""


def test_repeated_parameters() -> None:
    assert encode_query({"changes": ["CMD a", "ENV b=c"]}) == "changes=CMD+a&changes=ENV+b%3Dc"


def test_filters() -> None:
    assert clean_filters(None) is None
    assert json.loads(clean_filters({"label": "a=b", "dangling": True, "id": ["x", "y"]}) or "") == {
        "label": ["a=b"],
        "dangling": ["true"],
        "id": ["x", "y"],
    }
    with pytest.raises(TypeError):
        clean_filters("label=a")  # type: ignore[arg-type]


def test_credentials() -> None:
    def read(header: str) -> object:
        return json.loads(base64.urlsafe_b64decode(header))

    pair = {"username": "u", "password": "p:q"}
    assert read(registry_auth(pair, "r.example")) == {**pair, "serveraddress": "r.example"}
    assert read(registry_auth({"identitytoken": "t"}, "r.example")) == {"identitytoken": "t"}
    text = base64.b64encode(b"u:p:q")
    expected = {**pair, "email": None, "serveraddress": "r.example"}
    assert read(registry_auth(text, "r.example")) == expected
    assert read(registry_auth({"auth": text.decode()}, "r.example")) == expected
    with pytest.raises(ValueError) as caught:
        registry_auth(base64.b64encode(b"secret"))
    assert "secret" not in str(caught.value)
    with pytest.raises(TypeError):
        registry_auth(7)  # type: ignore[arg-type]
