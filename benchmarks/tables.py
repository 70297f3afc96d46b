"""`bench tables`: the Markdown tables of docs/performance.md, made from saved results and not by hand.

In these tables each server is a column of its own, so that nobody is taken for comparable who is not: with
and without containers, warm and cold.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks.full import FEWER, MANY
from benchmarks.goals import judge
from benchmarks.plots import number
from benchmarks.results import Results

BEGIN, END = "<!-- bench tables: begin -->", "<!-- bench tables: end -->"
NAMES = {
    "ours": "ours, warm",
    "ours-cold": "ours, cold",
    "ours-attach": "ours, attach",
    "engine": "engine alone",
    "ours-local": "ours, no containers",
    "terminado": "terminado",
    "wetty": "wetty",
    "pty": "PTY alone",
    "standin": "ours, stand-in",
}


@attrs.frozen
class Row:
    """A line: what it shows, and the figures that stand beside each other in its cells."""

    label: str
    scenario: str
    figures: tuple[str, ...] = ("p50", "p99")


@attrs.frozen
class Table:
    """Lines about the same servers, or about `targets` only; what has no figures is left out."""

    title: str
    rows: Sequence[Row]
    targets: Sequence[str] = ()


Cell = Callable[[Results, str, Row], str]

TABLES = (
    Table(
        "Milliseconds: median / 99th percentile.",
        (
            Row("connect to prompt", "start"),
            Row("ten at once: the last one's prompt", "start-together", ("all",)),
            Row("keystroke echo", "echo"),
            Row("echo at the rate of a person", "echo-typing"),
            Row("echo, 50 idle sessions beside", "echo-idle"),
            Row("echo, a neighbour floods", "echo-flood"),
            Row("echo, a neighbour takes its output slowly", "echo-slow"),
            Row("Ctrl-C in a flood to prompt", "interrupt"),
            Row("paste of 1 MB", "paste"),
            Row("ten clients resume at once", "resume"),
            Row("echo while strangers knock", "refuse", ("user.p50", "user.p99")),
        ),
    ),
    Table(
        "Output of one session: MB/s / CPU of the server (and engine, where bytes cross it), ms per MB.",
        (
            Row("one endless line", "output-raw", ("rate", "cpu-per-mb")),
            Row("lines", "output-lines", ("rate", "cpu-per-mb")),
            Row("`yes`, terminal cooked", "output-yes", ("rate", "cpu-per-mb")),
            Row("UTF-8", "output-utf8", ("rate", "cpu-per-mb")),
            Row("escape sequences", "output-ansi", ("rate", "cpu-per-mb")),
        ),
    ),
    Table(
        "In headless Chromium, on the server's own page.",
        (
            Row("flood through xterm.js, MB/s", "page", ("rate",)),
            Row("bytes lost", "page", ("discarded",)),
            Row("Ctrl-C to the prompt on the screen, ms: median / 99 %", "page"),
        ),
    ),
    Table(
        "Idle sessions.",
        (
            Row("sessions", "idle", ("sessions",)),
            Row("all started within, s", "idle", ("all-started",)),
            Row("server: KB per session", "idle", ("memory-per-session",)),
            Row("server: MB with all of them", "idle", ("memory",)),
            Row("server: CPU, % of a core", "idle", ("cpu",)),
            Row("engine and shims: KB per session", "idle", ("engine-memory-per-session",)),
            Row("the whole machine: KB per session", "idle", ("all-memory-per-session",)),
            Row("echo beside them, ms: median / 99 %", "idle", ("echo.p50", "echo.p99")),
        ),
    ),
    Table(
        "Nothing is left of a session after, ms: median / longest; it is watched for 15 seconds.",
        (
            Row("`exit`: processes", "cleanup-exit", ("processes.p50", "processes.max")),
            Row("`exit`: container", "cleanup-exit", ("containers.p50", "containers.max")),
            Row("client gone: processes", "cleanup-leave", ("processes.p50", "processes.max")),
            Row("client gone: container", "cleanup-leave", ("containers.p50", "containers.max")),
            Row(
                "connection cut (1 s to come back): processes",
                "cleanup-cut",
                ("processes.p50", "processes.max"),
            ),
            Row("connection cut: container", "cleanup-cut", ("containers.p50", "containers.max")),
            Row("SIGTERM: processes", "cleanup-sigterm", ("processes.p50", "processes.max")),
            Row("SIGTERM: containers", "cleanup-sigterm", ("containers.p50", "containers.max")),
            Row("SIGKILL: processes", "cleanup-sigkill", ("processes.p50", "processes.max")),
            Row("SIGKILL: containers", "cleanup-sigkill", ("containers.p50", "containers.max")),
        ),
    ),
    Table(
        "Idle sessions by their number: KB per session / MB of the server / % of a core.",
        tuple(
            Row(f"{count:,}", name, ("memory-per-session", "memory", "cpu"))
            for count, name in (*((count, f"idle-{count}") for count in FEWER), (MANY, "idle"))
        ),
        ("standin",),
    ),
    Table(
        "Ten people who type, read, print 20,000 lines, leave, ms: median / 99 %.",
        (
            Row("prompt of a visit", "users", ("start.p50", "start.p99")),
            Row("echo of a key", "users", ("echo.p50", "echo.p99")),
            Row("command to prompt", "users", ("command.p50", "command.p99")),
            Row("20,000 lines to prompt", "users", ("long-output.p50", "long-output.p99")),
            Row("not answered by the end", "users", ("unanswered",)),
        ),
    ),
    Table(
        "Sessions that come and go.",
        (
            Row("new sessions per second that hold", "start-rate", ("rate",)),
            Row("connect to prompt meanwhile, ms: median / 99 %", "churn"),
            Row("memory, KB per session that came and went", "churn", ("growth",)),
            Row("soak: the same, ± its error", "soak", ("growth", "growth-error")),
            Row("soak: descriptors / processes more", "soak", ("descriptors", "processes")),
        ),
    ),
    Table(
        "Readers that do not keep up.",
        (
            Row("memory of a slow reader (64 KB/s), MB", "readers", ("memory.slow",)),
            Row("memory of a frozen reader, MB", "readers", ("memory.frozen",)),
            Row(
                "echo beside a slow reader, ms: median / 99 %",
                "readers",
                ("neighbour of slow.p50", "neighbour of slow.p99"),
            ),
            Row(
                "echo beside a frozen reader, ms: median / 99 %",
                "readers",
                ("neighbour of frozen.p50", "neighbour of frozen.p99"),
            ),
        ),
    ),
)
RATIOS = (
    Row("connect to prompt, median", "start", ("p50",)),
    Row("ten at once", "start-together", ("all",)),
    Row("echo, median", "echo", ("p50",)),
    Row("echo, 50 idle sessions beside, median", "echo-idle", ("p50",)),
    Row("echo beside a flood, median", "echo-flood", ("p50",)),
    Row("output, MB/s", "output-raw", ("rate",)),
    Row("Ctrl-C in a flood, median", "interrupt", ("p50",)),
)


def markdown(results: Results) -> str:
    """Return everything that stands between the marks in docs/performance.md."""
    parts = [_about(results), _goals(results)]
    parts += [
        part for table in TABLES for part in _table(results, table.title, table.rows, _figures, table.targets)
    ]
    title = (
        "Against the floor: the engine alone, or a PTY for what has no container and for starts from the pool"
    )
    parts += _table(results, f"{title}. Median of the rounds (least to greatest).", RATIOS, _ratio)
    return "\n\n".join(parts)


def put_into(path: Path, results: Results) -> None:
    """Replace what is between the marks in that file.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r} to put the tables between")
    path.write_text(f"{before}{BEGIN}\n\n{markdown(results)}\n\n{END}{after}")


def _about(results: Results) -> str:
    document, runs = results.document, list(results.runs())
    about = document["machine"]
    loads = [run["load"] for run in runs] or [about["load"]]
    late = sum(any(note.startswith("the client") for note in run["notes"]) for run in runs)
    versions = ", ".join(
        f"{NAMES.get(name, name)}: {target['version']}"
        for name, target in document["targets"].items()
        if target["role"] != "ours" and target["version"]
    )
    said = (
        f"`{document['command']}`, {document['began']}, {document.get('seconds', 0) / 60:.0f} minutes. "
        f"{about['cores']} cores ({about['cpu']}), {about['memory_mb']} MB, {about['system']}, "
        f"Python {about['python']}. Load {min(loads)} to {max(loads)}. {versions}."
    )
    lines = [
        said,
        f"In {late} of {len(runs)} runs the client itself was late or busy, which makes their figures worse.",
    ]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in [*results.failed, *results.skipped])])


def _goals(results: Results) -> str:
    lines = ["| goal | wanted | measured | of the limit | |", "|---|---|---|---|---|"]
    for each in judge(results):
        measured = "" if each.value is None else number(each.value)
        factor = "" if each.factor is None else f"{each.factor:.2f}"
        verdict = f"**{each.verdict}**" if each.verdict == "missed" else each.verdict
        lines.append(f"| {each.goal.what} | {each.wanted} | {measured} | {factor} | {verdict} |")
    return "\n".join(lines)


def _table(
    results: Results, title: str, rows: Sequence[Row], cell: Cell, only: Sequence[str] = ()
) -> Iterator[str]:
    known = [name for name in NAMES if name in results.document["targets"] and name in (only or NAMES)]
    cells = {row: {name: cell(results, name, row) for name in known} for row in rows}
    columns = [name for name in known if any(found[name] for found in cells.values())]
    if not columns:
        return
    yield title
    lines = [f"| | {' | '.join(NAMES[name] for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, found in cells.items():
        if any(found.values()):
            lines.append(f"| {row.label} | {' | '.join(found[name] for name in columns)} |")
    yield "\n".join(lines)


def _figures(results: Results, target: str, row: Row) -> str:
    if results.value(target, row.scenario, f"{row.figures[0].partition('.')[0]}.left"):
        return "still there"
    found = [results.value(target, row.scenario, figure) for figure in row.figures]
    return " / ".join(number(each.value) for each in found if each is not None)


def _ratio(results: Results, target: str, row: Row) -> str:
    floor = results.floor(target, row.scenario)
    if floor is None or floor == target:
        return ""
    return str(results.ratio(target, floor, row.scenario, row.figures[0]) or "")
