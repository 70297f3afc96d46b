"""Schedules, distributions, results, thresholds and significance, without any server."""

import json
import os
import re
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trio

from benchmarks import report
from benchmarks.cli import JUDGED, ROUNDS, UsageError, is_loopback, main, parser
from benchmarks.compare import compare, holm, permutation_test, rounds_for
from benchmarks.measuring import Record, Times, arrivals
from benchmarks.recording import LIMIT, RECORDING
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import MARK, TARGETS, _kill_marked
from benchmarks.thresholds import Threshold


async def test_arrivals_wait_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    late, begun = Times(), trio.current_time()
    async for number in arrivals(10, 1.0, late):
        if number == 0:
            await trio.sleep(5)  # whoever is slow finds the next ones due already
    assert trio.current_time() - begun < 12
    assert late.most > 2000


def test_percentiles_merge_and_survive_saving() -> None:
    low, high = Times(), Times()
    for number in range(1, 101):
        low.add(number / 1000)
        high.add(number / 100)
    assert low.at(50) == pytest.approx(50, rel=0.01)
    low.merge(Times(high.encode()))
    assert len(low) == 200
    assert low.at(99) == pytest.approx(980, rel=0.02)


def test_a_client_that_was_late_says_so() -> None:
    record = Record()
    for _ in range(100):
        record.lateness.add(0.02)
    with record.watching_the_client():
        pass
    assert any("did not keep its schedule" in note for note in record.notes)


def document(**milliseconds: list[float]) -> Results:
    """Results of the scenario `echo` with one sample a round for each target."""
    results = Results.begin(
        began="now",
        command="bench",
        machine={"cores": 2, "cpu": "", "memory_mb": 1, "system": "", "python": "", "load": 0},
        parts=[{"rounds": 5}],
    )
    results.document["scenarios"]["echo"] = {"question": "Is <it> fast?", "method": "So & so."}
    for target, values in milliseconds.items():
        known = TARGETS[target]
        results.document["targets"][target] = {
            "about": known.about, "isolation": known.isolation, "column": known.column, "role": known.role,
            "command": "x", "version": "1", "adapter": "v1",
        }  # fmt: skip
        for number, value in enumerate(values):
            record = Record()
            record.distribution().add(value / 1000)
            record.figure("memory.0", 1, "MB")
            record.figure("memory.10", 2, "MB")
            results.add(round_=number, target=target, scenario="echo", load=0.5, record=record, error=None)
    return results


def test_ratios_are_made_within_rounds() -> None:
    results = document(engine=[1, 2, 4], ours=[2, 4, 8])
    ratio = results.ratio("ours", "engine", "echo", "p50")
    assert ratio is not None
    assert ratio.median == pytest.approx(2, rel=0.01)
    assert ratio.greatest - ratio.least < 0.01
    assert results.floor("ours", "echo") == "engine"


def test_a_start_from_the_pool_is_compared_with_a_bare_pty() -> None:
    results = document(engine=[300], pty=[4], ours=[8])
    assert results.floor("ours", "start") == "pty"
    assert results.floor("ours", "echo") == "engine"


@pytest.mark.parametrize(
    ("condition", "fails"),
    [
        ("echo.p50 > 1.9x floor", True),
        ("echo.p50 > 2.1x floor", False),
        ("ours:echo.p50 > 3ms", True),
        ("echo.p50 > 5 ms", False),
        ("echo.p50 < 10ms", True),
        ("ours:echo.p50 > 0.003s", True),
        ("ours:echo.p50 > 0.005 s", False),
        ("ours:echo.p50 > 3000us", True),
        ("ours:echo.p50 > 5000µs", False),
        ("ours:echo.p50 > 3", True),  # the figure's own unit
        ("ours:echo.memory.10 > 3000KB", False),
        ("ours:echo.memory.10 > 1999KB", True),
        ("ours:echo.memory.10 < 1 GB", True),
        ("ours:echo.memory.10 > 1ms", True),  # no megabytes are milliseconds
        ("ours:echo.memory.10 < 1ms", True),
        ("paste.p50 > 1ms", True),  # nothing measured is no success
    ],
)
def test_thresholds(condition: str, fails: bool) -> None:
    results = document(engine=[1, 2, 4], ours=[2, 4, 8])
    assert bool(list(Threshold.parse(condition).failures(results))) is fails


def test_a_threshold_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="is no condition"):
        Threshold.parse("echo is fast")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("echo.p50 > 3parsecs", "'parsecs' is no unit"),
        ("echo.user.p99 > 3MB", "is a time"),
        ("echo.max > 3MB/s", "is a time"),
    ],
)
def test_a_unit_that_makes_no_sense_is_refused(condition: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Threshold.parse(condition)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("pty:echo.p50 > 100s", 0),
        ("pty:echo.p50 > 0.001us", 1),
        ("pty:echo.client.cpu > 1ms", 1),
        ("pty:paste.p50 > 100s", 1),
        ("pty:echo.p50 > 3parsecs", 2),
    ],
)
def test_a_condition_decides_on_the_exit_status(
    condition: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--target", "pty", "--scenario", "echo", "--smoke", "--rounds", "1"]
    assert main([*command, "--fail-if", condition]) == status
    printed = capsys.readouterr()
    assert ("FAILED" in printed.out) is (status == 1)
    assert ("parsecs" in printed.err) is (status == 2)


def test_significance_needs_rounds_and_a_difference() -> None:
    assert permutation_test([1, 2, 3], [7, 8, 9]) is None
    assert permutation_test([1, 1.1, 1.2, 1.3, 1.4], [2, 2.1, 2.2, 2.3, 2.4]) == pytest.approx(2 / 252)
    chance = permutation_test([1, 2, 3, 4], [1.1, 2.1, 2.9, 3.9])
    assert chance is not None
    assert chance > 0.5


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_default_of_rounds_lets_compare_judge() -> None:
    assert parser().parse_args(["run"]).rounds == ROUNDS
    assert rounds_for(1) == 4
    assert rounds_for(JUDGED) == ROUNDS
    assert rounds_for(JUDGED + 1) > ROUNDS


def test_compare_tells_of_too_few_rounds_and_of_the_client_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = document(ours=[1, 1.1, 1.2]), document(ours=[2, 2.1, 2.2])
    for results in (before, after):
        for run in results.runs():
            for name in ("client.cpu", "load.cpu", "neighbour.p99.9"):
                run["values"][name] = {"value": 1, "unit": "cores", "better": "lower"}
    assert {change.verdict for change in compare(before, after)} == {"too few rounds"}
    assert not [change for change in compare(before, after) if change.figure.startswith(("client", "load"))]
    assert not [change for change in compare(before, after) if change.figure.endswith("p99.9")]
    before.save(tmp_path / "a.json")
    after.save(tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert "FAILED nothing could be judged" in capsys.readouterr().out


def test_many_figures_need_more_than_one_does() -> None:
    names = ("ours", "ours-cold", "ours-local", "terminado", "wetty", "engine", "pty")
    before = document(**{name: [1, 1.1, 1.2, 1.3, 1.4] for name in names})
    after = document(**{name: [1.5, 1.6, 1.7, 1.8, 1.9] for name in names})
    assert {change.verdict for change in compare(before, after)} == {"too few rounds"}
    [change] = compare(before, after, ["ours:echo.p50"])
    assert change.verdict == "worse"


def test_compare_knows_which_way_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = document(ours=[1, 1.1, 1.2, 1.3, 1.4]), document(ours=[2, 2.1, 2.2, 2.3, 2.4])
    [change] = [change for change in compare(before, after) if change.figure == "p50"]
    assert change.verdict == "worse"
    [change] = [change for change in compare(after, before) if change.figure == "p50"]
    assert change.verdict == "better"
    before.save(tmp_path / "a.json")
    after.save(tmp_path / "b.json")
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 1
    assert "worse" in capsys.readouterr().out


class Outside(HTMLParser):
    """Collects everything that a document would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attributes if name in {"src", "href"}]
        if tag in {"script", "link"}:
            self.found.append(tag)


def test_the_report_stands_alone_and_columns_stay_apart(tmp_path: Path) -> None:
    results = document(engine=[1, 2], ours=[2, 4], terminado=[1, 1], pty=[0.1, 0.1])
    page = report.html(results)
    outside = Outside()
    outside.feed(page)
    assert [each for each in outside.found if not each.startswith("#")] == []
    assert "Is &lt;it&gt; fast?" in page
    for svg in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")
    tables = [part.partition("</table>")[0] for part in page.split("<table class=numbers>")[1:]]
    assert tables
    assert not any("<td>ours</td>" in table and "<td>terminado</td>" in table for table in tables)
    results.save_csv(tmp_path / "figures.csv")
    assert (tmp_path / "figures.csv").read_text().count("\n") == 1 + sum(
        len(run["values"]) for run in results.runs()
    )
    results.save(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text())["schema"] == "terminal-supervisor-benchmark/1"


def test_only_loopback_is_loaded_without_asking(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_loopback("ws://127.0.0.1:8080/ws")
    assert is_loopback("ws://[::1]:8080/ws")
    assert not is_loopback("ws://192.0.2.1/ws")
    with pytest.raises(UsageError):
        is_loopback("nonsense")
    assert main(["run", "--url", "ws://192.0.2.1/ws"]) == 2
    assert "--remote-target-is-mine" in capsys.readouterr().err


def test_everything_is_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for name, scenario in SCENARIOS.items():
        assert name in shown
        assert scenario.question.endswith("?")
        assert main(["describe", name]) == 0
    assert parser().parse_args(["run", "--keys", "5"]).keys == 5


def test_what_a_peer_leaves_behind_is_ended() -> None:
    command = ["sleep", "600"]
    with (
        subprocess.Popen(command, env={**os.environ, MARK: "mine"}) as mine,
        subprocess.Popen(command, env={**os.environ, MARK: "another"}) as another,
    ):
        _kill_marked("mine")
        assert mine.wait(10) == -signal.SIGKILL
        assert another.poll() is None
        another.kill()


def test_the_recording_is_of_many_kinds_and_can_be_typed() -> None:
    content = RECORDING.read_bytes()
    assert 10_000 < len(content) <= LIMIT
    assert content.isascii()
    assert b"\x03" not in content
    assert len(set(re.findall(rb"\x1b\[[0-9;?]*([a-zA-Z])", content))) > 10
    lines = set(content.split(b"\x1b"))
    assert len(lines) > 500, "one and the same thing again and again"
