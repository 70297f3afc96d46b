"""Results for readers: a table for the terminal, and one HTML file with plots.

Tables are made per column (with or without containers, warm or cold), never across. Ratios are to the floor
of what was measured, from figures of the same round, with their spread over rounds.
"""

import io
import re
from collections.abc import Sequence
from html import escape

from rich.console import Console
from rich.table import Table

from benchmarks import plots
from benchmarks.goals import judge
from benchmarks.results import Results

STYLE = """
:root{color-scheme:light dark;--ink:#1a1d23;--paper:#fff;--quiet:#5b6472;--line:#e1e4e9;--grid:#e9ebef;
--warn:#92400e;--good:#047857;--bad:#b91c1c}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ec;--paper:#14171c;--quiet:#9aa3b2;--line:#2c323c;
--grid:#262b33;--warn:#fbbf24;--good:#34d399;--bad:#f87171}}
body{font:15px/1.5 system-ui,sans-serif;max-width:58rem;margin:2rem auto;padding:0 1rem;color:var(--ink);
background:var(--paper)}
.wide{overflow-x:auto} svg{max-width:100%;height:auto;display:block;margin:.6rem 0}
.grid{stroke:var(--grid)} .whisker{stroke:var(--ink);stroke-width:2}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--line);padding:.25rem .7rem .25rem 0;vertical-align:top;text-align:left}
.numbers td:first-child{min-width:8rem}
.numbers td+td,.numbers th+th{text-align:right;padding:.25rem 0 .25rem 1.2rem;white-space:nowrap}
.about td:last-child{font:.85em ui-monospace,monospace;overflow-wrap:anywhere;min-width:16rem}
th{font-weight:600} .note{color:var(--warn);padding-left:1.2rem} .quiet{color:var(--quiet)}
.missed{color:var(--bad)} .reached{color:var(--good)} code{font-size:.9em;overflow-wrap:anywhere}
h2{border-bottom:2px solid var(--line);margin-top:2.5rem} h3{margin:2rem 0 .3rem} p{margin:.4rem 0}
nav a{margin-right:.9rem;color:inherit}
"""
HOW_TO_READ = (
    "Tables never mix servers with and without containers, nor warm and cold starts. Ratios compare figures "
    "of the same round with a floor: the bare engine for containers, a bare PTY for what has none and for "
    "starts from a pool, which the engine has no part in. In brackets are the least and the greatest round."
)
# What a table shows first; further figures of a scenario follow in their own order.
FIRST = ("p50", "p99", "max", "rate")
TECHNICAL = re.compile(r"(client|load)\..*|at .*|memory\.\d+|(.*\.)?(p90|p99\.9|bytes)")
"""What readers do not want, or see in a plot: memory by number of sessions, times by rate."""
MOST = 14  # figures in a table


def shown(names: list[str]) -> list[str]:
    """Return those of a scenario's figures that readers want, the most wanted first."""
    plain = [name for name in names if not TECHNICAL.fullmatch(name)]
    first = [name for name in FIRST if name in plain]
    return [*first, *(name for name in plain if name not in first)][:MOST]


def _cell(results: Results, target: str, scenario: str, figure: str) -> str:
    found = results.value(target, scenario, figure)
    return "" if found is None else plots.number(found.value)


def _unit(results: Results, targets: Sequence[str], scenario: str, figure: str) -> str:
    found = (results.value(target, scenario, figure) for target in targets)
    return next((each.unit for each in found if each is not None), "")


def _measured(results: Results, column: str, scenario: str) -> list[str]:
    return [target for target in results.targets(column) if any(results.runs(target, scenario))]


def _rows(results: Results, column: str, scenario: str) -> tuple[list[str], list[list[str]]]:
    own = _measured(results, column, scenario)
    figures = shown(list(dict.fromkeys(f for target in own for f in results.figures(target, scenario))))
    rows = [[target, *(_cell(results, target, scenario, figure) for figure in figures)] for target in own]
    units = [_unit(results, own, scenario, figure) for figure in figures]
    headings = [
        "",
        *(f"{name} [{unit}]" if unit else name for name, unit in zip(figures, units, strict=True)),
    ]
    if figures:
        floors = [results.floor(target, scenario) for target in own]
        ratios = [
            results.ratio(target, floor, scenario, figures[0]) if floor and floor != target else None
            for target, floor in zip(own, floors, strict=True)
        ]
        if any(ratios):
            floor = next(floor for floor in floors if floor)
            headings.append(f"{figures[0]} / {floor}'s")
            for row, ratio in zip(rows, ratios, strict=True):
                row.append("" if ratio is None else str(ratio))
    return headings, rows


def text(results: Results) -> str:
    """Return the tables as text."""
    out = io.StringIO()
    console = Console(file=out, width=160)
    about = results.document["machine"]
    console.print(
        f"{results.document['began']}: {about['cores']} cores, load {about['load']} at the start",
        highlight=False,
    )
    for name, target in results.document["targets"].items():
        if target["role"] == "given":
            console.print(f"{name}: {target['about']}, {target['isolation']}", highlight=False, markup=False)
    for caveat in results.caveats:
        console.print(caveat, highlight=False, markup=False)
    for column in results.columns():
        for scenario in results.document["scenarios"]:
            headings, rows = _rows(results, column, scenario)
            if not rows:
                continue
            table = Table()
            for number, heading in enumerate(headings):
                # Not as markup, of which [ms] would be a part.
                table.add_column(heading.replace("[", r"\["), justify="right" if number else "left")
            for row in rows:
                table.add_row(*row)
            console.print(f"{scenario} ({column})", highlight=False)
            if len(headings) > 1:
                console.print(table)
            for note in _notes(results, column, scenario):
                console.print(f"  {note}", highlight=False, markup=False)
    for remark in [*results.skipped, *results.document["remarks"]]:
        console.print(remark, highlight=False, markup=False)
    return out.getvalue()


def _notes(results: Results, column: str, scenario: str) -> list[str]:
    return [
        f"{target}: {note}"
        for target in results.targets(column)
        for note in results.notes(target, scenario)
    ]  # fmt: skip


def goals(results: Results) -> str:
    """Return the goals that a full run is judged by, as text: reached or missed, and by what factor."""
    out = io.StringIO()
    table = Table(title="Goals", title_justify="left")
    for number, heading in enumerate(("goal", "wanted", "measured", "of the limit", "")):
        table.add_column(heading, justify="right" if number in {2, 3} else "left")
    for each in judge(results):
        measured = "" if each.value is None else plots.number(each.value)
        factor = "" if each.factor is None else f"{each.factor:.2f}"
        colour = {"reached": "green", "missed": "red"}.get(each.verdict, "yellow")
        table.add_row(
            each.goal.what, each.wanted, measured, factor, f"[{colour}]{each.verdict}[/]"
        )  # fmt: skip
    Console(file=out, width=120).print(table)
    return out.getvalue()


# ------------------------------------------------------------------ HTML


def html(results: Results) -> str:
    """Return the report as one HTML document without anything outside of it."""
    document = results.document
    about = document["machine"]
    loads = [run["load"] for run in results.runs()] or [about["load"]]
    machine = (
        f"{about['cores']} cores ({about['cpu']}), {about['memory_mb']} MB, {about['system']}, "
        f"Python {about['python']}, load {min(loads)} to {max(loads)}"
    )
    targets = [
        [name, t["about"], t["version"], t["isolation"], t["adapter"], t["command"]]
        for name, t in document["targets"].items()
    ]
    links = "".join(f'<a href="#{_anchor(each)}">{escape(each)}</a>' for each in results.columns())
    parts = [
        "<h1>terminal-supervisor bench</h1>",
        f"<p>{escape(document['began'])}, up to {results.rounds} rounds, interleaved. {escape(machine)}.</p>",
        f"<p><code>{escape(document['command'])}</code></p>",
        f"<nav>{links}</nav>",
        _list([*results.failed, *results.skipped, *results.caveats]),
        "<h2>Who was measured</h2>",
        _table(["target", "what", "version", "isolation", "protocol", "command"], targets, "about"),
        f"<p class=quiet>{HOW_TO_READ}</p>",
        _goals(results),
    ]
    colour = plots.colours(list(document["targets"]))
    for column in results.columns():
        parts.append(f'<h2 id="{_anchor(column)}">{escape(column.capitalize())}</h2>')
        for scenario, words in document["scenarios"].items():
            headings, rows = _rows(results, column, scenario)
            if rows:
                method = f"<span class=quiet>{_prose(words['method'])}</span>"
                parts.append(f"<h3>{escape(scenario)}</h3><p>{_prose(words['question'])} {method}</p>")
                parts.append(_table(headings, rows, "numbers"))
                parts.append(_plots(results, column, scenario, colour))
                parts.append(_list(_notes(results, column, scenario)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>terminal-supervisor bench</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _prose(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _anchor(column: str) -> str:
    return column.replace(", ", "-").replace(" ", "-")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class=wide><table class={kind}><tr>{head}</tr>{body}</table></div>"


def _list(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<ul class=note>{items}</ul>" if items else ""


def _goals(results: Results) -> str:
    """A table of the goals, where at least one of them was measured."""
    judged = [each for each in judge(results) if each.value is not None]
    if not judged:
        return ""
    rows = "".join(
        f"<tr><td>{escape(each.goal.what)}</td><td>{escape(each.wanted)}</td>"
        f"<td>{plots.number(each.value or 0)}</td>"
        f"<td>{'' if each.factor is None else f'{each.factor:.2f}'}</td>"
        f"<td class={each.verdict}>{each.verdict}</td></tr>"
        for each in judged
    )
    head = "<tr><th>goal</th><th>wanted</th><th>measured</th><th>of the limit</th><th></th></tr>"
    return f"<h2>Goals</h2><div class=wide><table class=numbers>{head}{rows}</table></div>"


def _plots(results: Results, column: str, scenario: str, colour: plots.Colours) -> str:
    targets = _measured(results, column, scenario)
    parts: list[str] = []
    for name in dict.fromkeys(name for run in results.runs(scenario=scenario) for name in run["times"]):
        curves = {t: times.curve() for t in targets if (times := results.times(t, scenario, name))}
        if curves:
            title = f"{name}: milliseconds" if name else "Milliseconds"
            parts.append(f"<p class=quiet>{escape(title)} that so many percent did not exceed</p>")
            parts.append(plots.percentiles(curves, colour))
    memory = {target: points for target in targets if len(points := _memory(results, target, scenario)) > 1}
    if memory:
        parts.append("<p class=quiet>Resident memory of the server by sessions</p>")
        parts.append(plots.lines(memory, "sessions", "MB", colour))
    for figure in shown(list(dict.fromkeys(f for t in targets for f in results.figures(t, scenario))))[:1]:
        values: dict[str, tuple[float, float, float]] = {}
        for target in targets:
            rounds = results.per_round(target, scenario, figure).values()
            found = results.value(target, scenario, figure)
            if found is not None:
                values[target] = (found.value, min(rounds), max(rounds))
        if len(values) > 1:
            parts.append(f"<p class=quiet>{escape(figure)}, with the spread over rounds</p>")
            parts.append(plots.bars(values, _unit(results, targets, scenario, figure), colour))
    return "".join(parts)


def _memory(results: Results, target: str, scenario: str) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    for figure in results.figures(target, scenario):
        count = figure.removeprefix("memory.")
        found = results.value(target, scenario, figure)
        if count.isdigit() and found is not None:
            points.append((float(count), found.value))
    return sorted(points)
