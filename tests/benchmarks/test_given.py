"""A server that somebody else has started: what is told of it, what is not, and what it cannot be asked."""

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.client import Access
from benchmarks.runner import Plan, begin
from benchmarks.secrecy import masked, without_credentials
from benchmarks.targets import Options, given


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--token", "hush-1", "--secret", "hush-2"],
        ["run", "--token=hush-1", "--secret=hush-2"],
        ["run", "--tok", "hush-1", "--secr=hush-2"],  # argparse takes what is unambiguous
        ["run", "--url", "ws://127.0.0.1:1/ws?token=hush-1&cols=hush-2"],
        ["run", "--url=ws://hush-1:hush-2@127.0.0.1:1/ws"],
    ],
)
def test_no_credential_gets_into_a_report(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["terminal-supervisor", "bench", *words])
    results = begin(Plan([], Options()))
    for shown in (json.dumps(results.document), report.html(results)):
        assert "hush" not in shown
        assert "***" in shown


def test_what_is_no_credential_is_left_as_it_was() -> None:
    words = ["run", "--token", "env:NAME", "--target", "ours", "--fail-if", "echo.p99 > 1.3x floor"]
    assert masked(words) == words
    assert without_credentials("ws://[::1]:8080/ws") == "ws://[::1]:8080/ws"


def test_the_address_of_a_given_server_is_told_without_credentials(tmp_path: Path) -> None:
    target = given(Access("v1", "ws://me:hush@127.0.0.1:1/ws?token=hush"), "none", "no containers")
    assert target.about == "ws://***@127.0.0.1:1/ws?token=***"
