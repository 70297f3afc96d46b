"""A server that somebody else has started: what is told of it, what is not, and what it cannot be asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.cli import main, parser
from benchmarks.client import Access
from benchmarks.measuring import Record
from benchmarks.results import Results
from benchmarks.runner import Plan, begin
from benchmarks.secrecy import masked, without_credentials
from benchmarks.targets import TARGETS, UNKNOWN, Options, given
from benchmarks.thresholds import Threshold


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


def test_the_address_of_a_given_server_is_told_without_credentials() -> None:
    target = given(Access("v1", "ws://me:hush@127.0.0.1:1/ws?token=hush"), "none", "no containers")
    assert target.about == "ws://***@127.0.0.1:1/ws?token=***"


def run(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return status, document and page."""
    saved, page = tmp_path / "all.json", tmp_path / "page.html"
    status = main(["run", "--smoke", "--rounds", "1", "--json", str(saved), "--html", str(page), *words])
    return status, json.loads(saved.read_text()), page.read_text()


@pytest.mark.parametrize("scenario", ["idle", "refuse", "cleanup-exit", "page"])
def test_what_does_not_apply_is_told(
    scenario: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ["--url", "ws://127.0.0.1:1/ws", "--protocol", "plain"]
    status, document, page = run(tmp_path, *url, "--scenario", scenario)
    assert status == 1  # nothing at all was run
    assert [(each["target"], each["scenario"]) for each in document["skipped"]] == [("given", scenario)]
    assert document["runs"] == []
    for shown in (capsys.readouterr().out, page):
        assert f"{scenario} was not run against given: " in shown
        assert "nothing was measured" in shown


@pytest.mark.parametrize(("protocol", "told"), [("ttyd", True), ("plain", False)])
def test_a_given_server_is_named_with_what_must_be_known_of_its_protocol(
    protocol: str, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ["--url", "ws://127.0.0.1:1/ws?token=hush", "--isolation", "a chroot", "--protocol", protocol]
    _, _, page = run(tmp_path, *url, "--scenario", "idle")
    printed = capsys.readouterr().out
    assert "given: ws://127.0.0.1:1/ws?token=***, a chroot" in printed
    for shown in (printed, page):
        assert ("documented protocol only" in shown) is told


def test_what_does_not_apply_is_no_failure_beside_what_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--target", "pty", "--scenario", "echo", "--scenario", "idle"]
    assert run(tmp_path, *words)[0] == 0
    assert "idle was not run against pty: it is no server" in capsys.readouterr().out
    assert run(tmp_path, *words, "--fail-if", "pty:idle.cpu > 50%")[0] == 1
    assert "FAILED pty:idle.cpu > 50%: nothing was measured" in capsys.readouterr().out


def test_a_condition_fails_for_each_target_that_was_not_measured() -> None:
    results = Results.begin(parts=[])
    for name in ("ours", "ours-local", "standin"):
        results.note_target(TARGETS[name], None)
    record = Record()
    record.figure("rate", 1, "MB/s")
    results.add(round_=0, target="ours", scenario="output-raw", load=0, record=record, error=None)
    results.skip("standin", "output-raw", "nothing runs on its terminals")
    [failure] = Threshold.parse("output-raw.rate > 2MB/s").failures(results)
    assert failure.startswith("ours-local: ")


def test_a_given_server_stands_alone_unless_its_column_is_told() -> None:
    options = parser().parse_args(["run", "--url", "ws://127.0.0.1:1/ws"])
    assert options.column == UNKNOWN
    assert all(target.column != UNKNOWN for target in TARGETS.values())
    results = Results.begin(parts=[])
    for target in (
        TARGETS["engine"],
        TARGETS["pty"],
        given(Access("plain", options.url), "not told", options.column),
    ):
        results.note_target(target, None)
    assert results.targets(UNKNOWN) == ["given"]
    assert results.columns() == ["containers, cold", "no containers", UNKNOWN]
    assert results.floor("given", "echo") is None  # nobody knows which would be its own
