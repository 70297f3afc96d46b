"""Results for readers: a table for the terminal, and one HTML file with plots.

Tables are made per column (with or without containers, warm or cold), never across. Ratios are to the
column's floor, from figures of the same round, with their spread over rounds.
"""

import io
from html import escape

from rich.console import Console
from rich.table import Table

from benchmarks import plots
from benchmarks.results import Results

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid #ddd;padding:.2rem .7rem;text-align:right}
td:first-child,th:first-child{text-align:left} th{font-weight:600}
.note{color:#92400e} .quiet{color:#555} code{font-size:.9em}
h2{border-bottom:2px solid #111;margin-top:2.5rem}
"""
HOW_TO_READ = (
    "Tables never mix servers with and without containers, nor warm and cold starts. Ratios compare figures "
    "of the same round with the floor: the bare engine for containers, a bare PTY for what has none. In "
    "brackets are the least and the greatest round."
)
# What a table shows first; further figures of a scenario follow in their own order.
FIRST = ("p50", "p99", "max", "rate")
TECHNICAL = ("client.", "load.", "p90", "p99.9", "memory.")


def _shown(names: list[str]) -> list[str]:
    plain = [
        name for name in names if not name.startswith(TECHNICAL) and name.rpartition(".")[2] not in TECHNICAL
    ]
    first = [name for name in FIRST if name in plain]
    return [*first, *(name for name in plain if name not in first)][:8]


def _cell(results: Results, target: str, scenario: str, figure: str) -> str:
    found = results.value(target, scenario, figure)
    return "" if found is None else f"{found.value:.4g}"


def _heading(results: Results, column: str, scenario: str, figure: str) -> str:
    for target in results.targets(column):
        found = results.value(target, scenario, figure)
        if found is not None:
            return f"{figure}{f' [{found.unit}]' if found.unit else ''}"
    return figure


def _rows(results: Results, column: str, scenario: str) -> tuple[list[str], list[list[str]]]:
    names: dict[str, None] = {}
    own = [target for target in results.targets(column) if any(results.runs(target, scenario))]
    for target in own:
        names |= dict.fromkeys(results.figures(target, scenario))
    figures = _shown(list(names))
    rows: list[list[str]] = []
    for target in own:
        floor = results.floor(target)
        ratio = ""
        if figures and floor and floor != target:
            found = results.ratio(target, floor, scenario, figures[0])
            ratio = str(found) if found else ""
        rows.append([target, *(_cell(results, target, scenario, figure) for figure in figures), ratio])
    headings = [_heading(results, column, scenario, figure) for figure in figures]
    return ["", *headings, f"{figures[0] if figures else ''} to floor"], rows


def text(results: Results) -> str:
    """Return the tables as text."""
    out = io.StringIO()
    console = Console(file=out, width=160)
    about = results.document["machine"]
    console.print(
        f"{results.document['began']}: {about['cores']} cores, load {about['load']} at the start",
        highlight=False,
    )
    for column in results.columns():
        for scenario in results.document["scenarios"]:
            headings, rows = _rows(results, column, scenario)
            if not rows:
                continue
            table = Table(*headings, title=f"{scenario} ({column})", title_justify="left")
            for row in rows:
                table.add_row(*row)
            console.print(table)
            for target in results.targets(column):
                for note in results.notes(target, scenario):
                    console.print(f"  {target}: {note}", highlight=False, markup=False)
    return out.getvalue()


# ------------------------------------------------------------------ HTML


def html(results: Results) -> str:
    """Return the report as one HTML document without anything outside of it."""
    document = results.document
    about = document["machine"]
    machine = (
        f"{about['cores']} cores ({about['cpu']}), {about['memory_mb']} MB, {about['system']}, "
        f"Python {about['python']}, load at the start {about['load']}"
    )
    targets = [
        [name, t["about"], t["version"], t["isolation"], t["adapter"], t["command"]]
        for name, t in document["targets"].items()
    ]
    parts = [
        "<h1>terminal-supervisor bench</h1>",
        f"<p>{escape(document['began'])}, {document['rounds']} rounds, interleaved. {escape(machine)}.</p>",
        f"<p><code>{escape(document['command'])}</code></p>",
        "<h2>Who was measured</h2>",
        _table(["target", "what", "version", "isolation", "protocol", "command"], targets),
        f"<p class=quiet>{HOW_TO_READ}</p>",
    ]
    for column in results.columns():
        parts.append(f"<h2>{escape(column.capitalize())}</h2>")
        for scenario, words in document["scenarios"].items():
            headings, rows = _rows(results, column, scenario)
            if rows:
                method = f"<span class=quiet>{escape(words['method'])}</span>"
                parts.append(f"<h3>{escape(scenario)}</h3><p>{escape(words['question'])} {method}</p>")
                parts.append(_table(headings, rows))
                parts.append(_plots(results, column, scenario))
                parts.append(_notes(results, column, scenario))
    loads = [run["load"] for run in results.runs()]
    if loads:
        parts.append(
            f"<p class=quiet>Load of the machine at the begin of runs: {min(loads)} to {max(loads)}.</p>"
        )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>terminal-supervisor bench</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _table(headings: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _plots(results: Results, column: str, scenario: str) -> str:
    targets = [target for target in results.targets(column) if any(results.runs(target, scenario))]
    parts: list[str] = []
    for name in dict.fromkeys(name for run in results.runs(scenario=scenario) for name in run["times"]):
        curves = {t: times.curve() for t in targets if (times := results.times(t, scenario, name))}
        if curves:
            parts.append(f"<p class=quiet>{escape(name or 'all')}: milliseconds by percentile</p>")
            parts.append(plots.percentiles(curves))
    memory = {target: _memory(results, target, scenario) for target in targets}
    if any(len(points) > 1 for points in memory.values()):
        parts.append(plots.lines(memory, "sessions", "MB"))
    figures = _shown(list(dict.fromkeys(f for t in targets for f in results.figures(t, scenario))))
    for figure in figures[:1]:
        values: dict[str, tuple[float, float, float]] = {}
        for target in targets:
            rounds = results.per_round(target, scenario, figure).values()
            found = results.value(target, scenario, figure)
            if found is not None:
                values[target] = (found.value, min(rounds), max(rounds))
        if values:
            parts.append(plots.bars(values, _heading(results, column, scenario, figure)))
    return "".join(parts)


def _memory(results: Results, target: str, scenario: str) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for figure in results.figures(target, scenario):
        count = figure.removeprefix("memory.")
        found = results.value(target, scenario, figure)
        if count.isdigit() and found is not None:
            points.append((float(count), found.value))
    return sorted(points)


def _notes(results: Results, column: str, scenario: str) -> str:
    sentences = [
        f"<li>{escape(target)}: {escape(note)}</li>"
        for target in results.targets(column)
        for note in results.notes(target, scenario)
    ]
    return f"<ul class=note>{''.join(sentences)}</ul>" if sentences else ""
