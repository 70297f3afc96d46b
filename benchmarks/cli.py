"""`terminal-supervisor bench`, which is also `python -m benchmarks`: arguments in, figures out."""

import argparse
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import venv
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import trio
from rich.console import Console
from rich.table import Table

from benchmarks import full, report, tables
from benchmarks.adapters import ADAPTERS
from benchmarks.client import Access
from benchmarks.compare import compare, rounds_for
from benchmarks.display import Display
from benchmarks.results import Results
from benchmarks.runner import Part, Plan, begin, run
from benchmarks.scenarios import SCENARIOS
from benchmarks.scenarios import USUAL as USUAL_SCENARIOS
from benchmarks.scenarios.scenario import Size
from benchmarks.targets import COLUMNS, TARGETS, UNKNOWN, Column, Options, Target, given
from benchmarks.targets import USUAL as USUAL_TARGETS
from benchmarks.thresholds import Threshold
from supervisor.errors import ConfigurationError
from supervisor.provision.report import Report
from supervisor.provision.setup import prepared
from supervisor.settings.load import load_settings

EXIT_FAILED = 1
ROUNDS, JUDGED = 5, 6
TERMINADO, WETTY = "terminado==0.18.1", "wetty@3.2.0"


class UsageError(Exception):
    """What was asked for makes no sense."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (a run or a threshold failed) or 2 (usage)."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (UsageError, ConfigurationError, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all arguments."""
    top = argparse.ArgumentParser(prog="terminal-supervisor bench", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="measure targets that it starts itself, or a server at --url")
    command.set_defaults(run=_run)
    what = command.add_argument_group("what")
    what.add_argument(
        "--target", action="append", choices=list(TARGETS), help="repeatable; default: the usual ones"
    )
    what.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), help="repeatable; default: the usual ones"
    )
    what.add_argument("--url", help="a server that runs already: ws://host:port/path")
    what.add_argument("--protocol", choices=[n for n in ADAPTERS if n not in {"pty", "engine"}], default="v1")
    what.add_argument(
        "--token", default="", help="token or API key for --url; `env:NAME` takes it from the environment"
    )
    what.add_argument("--secret", default="", help="signing secret for --url (protocol ably), or `env:NAME`")
    what.add_argument(
        "--isolation", default="not told", help="for the report: what the server at --url runs sessions in"
    )
    what.add_argument(
        "--column",
        choices=COLUMNS,
        default=UNKNOWN,
        help="whom the server at --url stands beside; default: nobody, as its isolation is unknown",
    )
    what.add_argument(
        "--remote-target-is-mine", action="store_true", help="--url is not loopback, and may be loaded"
    )
    command.add_argument("--set-up", action="store_true", help="first see to an engine, images and the page")
    much = command.add_argument_group("how much")
    much.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        help=f"default: {ROUNDS}, with which `compare` can judge {JUDGED} figures at once",
    )
    much.add_argument("--smoke", action="store_true", help="the least of everything, to see that it works")
    for field in attrs.fields(Size):
        much.add_argument(
            f"--{field.name}",
            type=float if isinstance(field.default, float) else int,
            metavar="N",
            help=f"{field.metadata['meaning']}; default: {field.default}",
        )
    much.add_argument("--pool", type=int, default=4, help="containers that wait, where there is a warm pool")
    out = command.add_argument_group("results")
    out.add_argument("--json", type=Path, help="file for everything")
    out.add_argument("--csv", type=Path, help="file for one line per figure and round")
    out.add_argument("--html", type=Path, help="file for the report, self-contained")
    out.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION", help="such as 'echo.p99 > 1.3x floor'"
    )
    command.add_argument(
        "--peers", type=Path, default=Options().peers, help="where `install-peers` has put them"
    )

    command = commands.add_parser(
        "full", help="everything that docs/performance.md shows, of all servers; unattended, bounded"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path(".state/bench/full"),
        help="directory for results, CSV, report, tables",
    )
    command.add_argument("--minutes", type=float, default=22, help="after which it ends with what it has")
    command.add_argument("--into", type=Path, help="a document with marks to put the tables between")
    command.add_argument(
        "--set-up", action="store_true", help="first see to an engine, images, the page, and the peers"
    )
    command.add_argument(
        "--pool", type=int, default=4, help="containers that wait, where there is a warm pool"
    )
    command.add_argument("--peers", type=Path, default=Options().peers)
    command.set_defaults(run=_full)

    command = commands.add_parser("list", help="name scenarios, targets and protocols")
    command.set_defaults(run=_list)
    command = commands.add_parser("describe", help="say what a scenario answers, and how")
    command.add_argument("scenario", choices=list(SCENARIOS))
    command.set_defaults(run=_describe)
    command = commands.add_parser("compare", help="two saved results: what changed, and can it be chance?")
    command.add_argument("before", type=Path)
    command.add_argument("after", type=Path)
    command.add_argument("--all", action="store_true", help="also what did not change")
    command.add_argument(
        "--figure",
        action="append",
        metavar="PATTERN",
        help="judge only these: TARGET:SCENARIO.FIGURE, with * for anything; repeatable. The fewer, the "
        "sooner a change can be told from chance",
    )
    command.set_defaults(run=_compare)
    command = commands.add_parser("report", help="make the HTML report of saved results")
    command.add_argument("results", type=Path)
    command.add_argument("html", type=Path)
    command.set_defaults(run=_report)
    command = commands.add_parser("tables", help="make the Markdown tables of the results of `full`")
    command.add_argument("results", type=Path)
    command.add_argument("--into", type=Path, help="a document with marks to put them between")
    command.set_defaults(run=_tables)
    command = commands.add_parser(
        "install-peers", help=f"install {TERMINADO} (PyPI) and {WETTY} (npm) for comparison"
    )
    command.add_argument("--peers", type=Path, default=Options().peers)
    command.set_defaults(run=_install_peers)
    return top


# ------------------------------------------------------------------ run


def is_loopback(url: str) -> bool:
    """Whether every address that the URL's host has is one of this machine's own loopback."""
    host = urlsplit(url).hostname
    if not host:
        raise UsageError(f"--url {url}: no host in it")
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def _from_environment(value: str) -> str:
    name = value.removeprefix("env:")
    if name == value:
        return value
    if name not in os.environ:
        raise UsageError(f"the environment has no {name}")
    return os.environ[name]


def _targets(options: argparse.Namespace) -> list[Target]:
    names: list[str] = options.target or ([] if options.url else [*USUAL_TARGETS])
    chosen = [TARGETS[name] for name in names]
    if options.url:
        if not is_loopback(options.url) and not options.remote_target_is_mine:
            raise UsageError(
                f"{options.url} is not on this machine; load it only if it is yours: --remote-target-is-mine"
            )
        access = Access(
            options.protocol, options.url, _from_environment(options.token), _from_environment(options.secret)
        )
        column: Column = options.column
        chosen.append(given(access, options.isolation, column))
    return chosen


def _run(options: argparse.Namespace) -> int:
    thresholds = [Threshold.parse(text) for text in options.fail_if]
    size = Size.smoke() if options.smoke else Size()
    size = attrs.evolve(
        size, **{f.name: value for f in attrs.fields(Size) if (value := getattr(options, f.name)) is not None}
    )
    scenarios = [SCENARIOS[name] for name in options.scenario or USUAL_SCENARIOS]
    plan = Plan(
        [Part(_targets(options), scenarios, size, options.rounds)],
        Options(pool=options.pool, peers=options.peers.absolute()),
    )
    results = _measure(plan, set_up=options.set_up)
    _write(results, json=options.json, csv=options.csv, page=options.html)
    print(report.text(results))
    failures = [sentence for threshold in thresholds for sentence in threshold.failures(results)]
    for sentence in failures:
        print(f"FAILED {sentence}")
    return EXIT_FAILED if failures or results.failed else 0


def _measure(plan: Plan, *, set_up: bool = False) -> Results:
    """Run the plan, with live progress on standard error. SIGINT and SIGTERM end it, and the servers in
    order; what was found until then is kept, with a remark.
    """
    results = begin(plan)
    with Display(Console(stderr=True)) as display:
        trio.run(_until_stopped, plan, display, results, set_up)
    return results


@asynccontextmanager
async def _set_up(plan: Plan, results: Results) -> AsyncGenerator[None]:
    """Have an engine, images, the page and the kernel's limits for the plan while the block runs; without an
    engine, a remark, and what needs none is measured.
    """
    settings = load_settings()
    settings = attrs.evolve(settings, max_sessions=max(settings.max_sessions, plan.containers))
    async with AsyncExitStack() as stack:
        try:
            there = await stack.enter_async_context(prepared(settings, Report(), tests=True))
            os.environ["DOCKER_HOST"] = there.settings.docker_host
        except* ConfigurationError as group:
            results.remark(f"no engine: {group.exceptions[0]}")
        yield


async def _until_stopped(plan: Plan, display: Display, results: Results, set_up: bool) -> None:
    async def heed(signals: AsyncIterator[int]) -> None:
        await anext(signals)
        results.remark("stopped by a signal; all that was started has been ended")
        nursery.cancel_scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heed, signals)
            async with _set_up(plan, results) if set_up else nullcontext():
                await run(plan, display, results)
            nursery.cancel_scope.cancel()


def _full(options: argparse.Namespace) -> int:
    chosen = full.plan(Options(pool=options.pool, peers=options.peers.absolute()), options.minutes * 60)
    if options.set_up and not (options.peers / "wetty").exists():
        _install_peers(options)
    results = _measure(chosen, set_up=options.set_up)
    directory: Path = options.out
    directory.mkdir(parents=True, exist_ok=True)
    _write(
        results,
        json=directory / "results.json",
        csv=directory / "figures.csv",
        page=directory / "report.html",
    )
    (directory / "tables.md").write_text(tables.markdown(results) + "\n")
    if options.into:
        tables.put_into(options.into, results)
    print(report.text(results))
    print(report.goals(results))
    for sentence in results.failed:
        print(f"FAILED {sentence}")
    print(f"results.json, figures.csv, report.html and tables.md are in {directory}")
    return EXIT_FAILED if results.failed else 0


def _write(results: Results, *, json: Path | None, csv: Path | None, page: Path | None) -> None:
    if json:
        results.save(json)
    if csv:
        results.save_csv(csv)
    if page:
        page.write_text(report.html(results))


# ------------------------------------------------------------------ the others


def _list(options: argparse.Namespace) -> int:
    console = Console()
    for title, rows in (
        ("Scenarios", [(name, scenario.question) for name, scenario in SCENARIOS.items()]),
        (
            "Targets",
            [
                (name, f"{t.about}. Isolation: {t.isolation}. Column: {t.column}.")
                for name, t in TARGETS.items()
            ],
        ),
        ("Protocols", [(name, adapter.about) for name, adapter in ADAPTERS.items()]),
    ):
        table = Table(title=title, show_header=False, title_justify="left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    return 0


def _describe(options: argparse.Namespace) -> int:
    scenario = SCENARIOS[options.scenario]
    print(f"{scenario.name}: {scenario.question}\n\n{scenario.method}\n")
    print(
        f"A server of its own: {'yes' if scenario.fresh else 'no'}. Bounded to {scenario.deadline:g} s a run."
    )
    return 0


def _compare(options: argparse.Namespace) -> int:
    table = Table(title=f"{options.before} → {options.after}")
    for heading in ("target", "scenario", "figure", "before", "after", "change", "p", "verdict"):
        table.add_column(heading)
    worse, undecided = False, 0
    changes = compare(Results.load(options.before), Results.load(options.after), options.figure or ("*",))
    for change in changes:
        worse = worse or change.verdict == "worse"
        undecided += change.p is None
        if not options.all and change.verdict not in {"better", "worse"}:
            continue
        percent = f"{(change.after / change.before - 1) * 100:+.1f} %" if change.before else ""
        table.add_row(
            change.target, change.scenario, change.figure,
            f"{change.before:.4g} {change.unit}", f"{change.after:.4g} {change.unit}",
            percent, "" if change.p is None else f"{change.p:.3f}", change.verdict,
        )  # fmt: skip
    if undecided < len(changes):
        Console().print(table if table.rows else "Nothing changed that could be told from chance.")
    elif options.all:
        Console().print(table)
    if undecided:
        print(
            f"{undecided} of {len(changes)} figures cannot be judged: to tell one of so many from chance "
            f"takes {rounds_for(len(changes))} rounds on each side. Measure with more --rounds, or name "
            "those that matter: --figure 'ours:echo.p50'."
        )
    if undecided == len(changes):
        print("FAILED nothing could be judged")
        return EXIT_FAILED
    return EXIT_FAILED if worse else 0


def _report(options: argparse.Namespace) -> int:
    options.html.write_text(report.html(Results.load(options.results)))
    return 0


def _tables(options: argparse.Namespace) -> int:
    results = Results.load(options.results)
    if options.into:
        tables.put_into(options.into, results)
    else:
        print(tables.markdown(results))
    return 0


def _install_peers(options: argparse.Namespace) -> int:
    directory: Path = options.peers
    venv.create(directory / "terminado", with_pip=True)
    subprocess.run(
        [directory / "terminado/bin/python", "-m", "pip", "install", "--quiet", TERMINADO], check=True
    )
    (directory / "wetty").mkdir(exist_ok=True)

    # With its install scripts: the PTY is a native module, compiled here.
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", WETTY], cwd=directory / "wetty", check=True)
    print(f"{TERMINADO} and {WETTY} are in {directory}")
    return 0
