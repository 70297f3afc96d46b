"""The command `terminal-supervisor`. Nothing else parses arguments."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import attrs
import trio

from supervisor import __version__
from supervisor.attacks.report import Report as AttackReport
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.handover.channel import HandoverError
from supervisor.measures import SecurityStatus
from supervisor.observability.audit import configure_audit
from supervisor.observability.log import configure_logging
from supervisor.provision.at_hand import with_engine_at_hand
from supervisor.provision.bill import bill_of_materials
from supervisor.provision.report import Report
from supervisor.provision.setup import prepared, setup, teardown
from supervisor.provision.vulnerabilities import Listing, list_vulnerabilities, packages_of, read_bill
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.apparmor import PROFILE_FILE, profile_file
from supervisor.sandbox.apparmor_command import (
    install_profiles,
    needed_profiles,
    profiles_status,
    remove_profiles,
)
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.network_command import network_down, network_status, network_up
from supervisor.sandbox.security import opt_out_lines, table
from supervisor.sandbox.survey import survey
from supervisor.serve import serve
from supervisor.settings import Settings
from supervisor.settings.knob import written
from supervisor.settings.load import read_env_file
from supervisor.settings.sources import Effective, load_effective

# Exit statuses besides 0, 1 and 2; docs/lifecycle.md has them all.
EXIT_LEFT_OVER = 3  # ended in order, and the engine has not confirmed that every container is gone
EXIT_NOT_TAKEN_OVER = 75  # EX_TEMPFAIL of sysexits.h: the server that was to be taken over goes on
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (failure), 2 (usage) or one of those above."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["bench"]:
        return _bench(given[1:])
    options = _parser().parse_args(given)
    try:
        settings = _settings(options)
        configure_logging(settings.log_format, settings.log_level)
        configure_audit(settings.audit_log)
        status: int = options.run(settings, options) or 0
    except (ConfigurationError, HandoverError, BaseExceptionGroup) as error:
        problems = list(_leaves(cast("BaseException", error)))
        if not all(isinstance(problem, ConfigurationError | HandoverError) for problem in problems):
            raise
        for problem in problems:
            print(f"terminal-supervisor: {problem}", file=sys.stderr)
        failed = any(isinstance(problem, HandoverError) for problem in problems)
        return EXIT_NOT_TAKEN_OVER if failed else EXIT_CONFIGURATION
    return status


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(each)
    else:
        yield error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="terminal-supervisor",
        description="Terminals in the browser, each in a hardened container that goes when its visitor does.",
        epilog="Settings are environment variables, also read from .env; see `terminal-supervisor settings`.",
    )
    parser.add_argument("--version", action="version", version=f"terminal-supervisor {__version__}")
    parser.add_argument(
        "--env-file", type=Path, default=Path(".env"), help="file of settings (default: .env)"
    )
    parser.add_argument("--config", type=Path, help="TOML file of settings; the environment and .env win")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve the page and its terminals until Ctrl-C")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.add_argument("--no-setup", action="store_true", help="rely on an earlier `setup`; build nothing")
    command.add_argument(
        "--takeover",
        action="store_true",
        help="go on with the sessions of the server that runs at the port, which ends then",
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "demo", help="the same page with shells of this host: NO ISOLATION, loopback only"
    )
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.add_argument("--takeover", action="store_true", help="as in `serve`")
    command.set_defaults(run=_serve, provider="local", no_setup=False)

    command = commands.add_parser("setup", help="prepare engine, images, network and the page; run nothing")
    command.add_argument(
        "--rebuild", action="store_true", help="make everything again, to get newer packages"
    )
    command.add_argument("--tests", action="store_true", help="also what only the tests need")
    command.set_defaults(run=_setup)

    command = commands.add_parser(
        "check", help="say which measures of hardening hold here; fails when a required one does not"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--report", type=Path, metavar="FILE", help="also write it there, for programs")
    command.add_argument("--no-setup", action="store_true", help="rely on an earlier `setup`; build nothing")
    command.add_argument(
        "--write",
        action="store_true",
        help="unless it has any: write opt-outs for what this host cannot have into the file of settings",
    )
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "attack", help="try what measures of hardening stop, with each and without; needs root"
    )
    command.add_argument("--list", action="store_true", help="list the attacks, try none")
    command.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="try this one; repeatable"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--report", type=Path, metavar="FILE", help="also write it there, for programs")
    command.add_argument("--no-setup", action="store_true", help="rely on an earlier `setup`; build nothing")
    command.set_defaults(run=_attack)

    image = commands.add_parser("image", help="say what is in the sandbox image").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = image.add_parser("sbom", help="its software bill of materials: CycloneDX, JSON")
    command.set_defaults(run=_bill)
    command = image.add_parser(
        "vulnerabilities", help="what Debian's archive and the npm registry know against what is in it"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument(
        "--fail",
        action="store_true",
        help="exit status 1 when an update would mend something, or one of both could not be asked",
    )
    command.add_argument(
        "--sbom",
        type=Path,
        metavar="FILE",
        help="a bill that `image sbom` wrote, in place of the engine's image",
    )
    command.set_defaults(run=_vulnerabilities)

    command = commands.add_parser("engine", help="manage the engine of the project's own, if it runs")
    command.add_argument(
        "action", choices=["down", "delete"], help="end it; or also delete all that it stored"
    )
    command.set_defaults(run=_engine)

    command = commands.add_parser(
        "network", help="the sessions' network and the filter of its egress; up and down need root"
    )
    command.add_argument(
        "action", choices=["up", "down", "status"], help="put it up, to stay; take it down; say how it stands"
    )
    command.set_defaults(run=_network)

    command = commands.add_parser(
        "apparmor",
        help="the AppArmor profiles of sessions, for the images in use; install and remove need root",
    )
    command.add_argument(
        "action",
        choices=["install", "remove", "print", "status"],
        help=f"write {PROFILE_FILE} and load it; unload and remove it; print it; say how it stands",
    )
    command.set_defaults(run=_apparmor)

    command = commands.add_parser(
        "reconcile", help="list what dead supervisors left, containers and others, and remove it"
    )
    command.add_argument("--dry-run", action="store_true", help="only list")
    command.set_defaults(run=_reconcile)

    command = commands.add_parser("sessions", help="list the sessions of the supervisor that runs")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_sessions)

    command = commands.add_parser("recordings", help="list the recordings in RECORDING_DIRECTORY")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_recordings)

    command = commands.add_parser("play", help="play a recording; nothing in it acts on this terminal")
    command.add_argument("file", type=Path, metavar="FILE", help="asciicast, version 2")
    command.add_argument(
        "--speed", type=_positive, default=1.0, metavar="N", help="times as fast as it was (default: 1)"
    )
    command.add_argument(
        "--idle-limit",
        type=_positive,
        default=math.inf,
        metavar="S",
        help="seconds that a pause lasts at most",
    )
    command.set_defaults(run=_play)

    command = commands.add_parser("top", help="show the sessions live; end and watch them")
    command.set_defaults(run=_top)
    commands.add_parser("bench", help="measure this or another terminal server: see `bench --help`")

    command = commands.add_parser(
        "settings", help="print the settings in effect and where each comes from, secrets masked"
    )
    command.set_defaults(run=_print_settings)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    return _effective(options).settings


def _effective(options: argparse.Namespace) -> Effective:
    names = ("host", "port", "provider")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name, None)) is not None
    }
    return load_effective(os.environ, options.env_file, options.config, **given)


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    left = trio.run(_prepare_and_serve, settings, options.no_setup, options.takeover)
    if left:
        print(f"terminal-supervisor: containers could not be removed: {', '.join(left)}", file=sys.stderr)
    return EXIT_LEFT_OVER if left else 0


async def _prepare_and_serve(settings: Settings, no_setup: bool, takeover: bool) -> list[str]:
    if settings.provider == "local":
        print("NO ISOLATION: sessions are plain processes of this host (provider local).", flush=True)
    if no_setup:
        ready_settings = settings if settings.provider == "local" else with_engine_at_hand(settings)
        return await serve(ready_settings, _announce, takeover=takeover)
    async with prepared(settings, Report()) as ready:
        return await serve(ready.settings, _announce, takeover=takeover)


def _announce(url: str) -> None:
    print(f"Open {url}", flush=True)


def _setup(settings: Settings, options: argparse.Namespace) -> None:
    async def run() -> None:
        await setup(settings, Report(), rebuild=options.rebuild, tests=options.tests)

    trio.run(run)


def _check(settings: Settings, options: argparse.Namespace) -> int:
    decided = "HARDENING_WITHOUT" in read_env_file(options.env_file) | dict(os.environ)
    if options.write and (decided or settings.provider == "local"):
        return 0
    if settings.provider == "local":
        raise ConfigurationError("SANDBOX_PROVIDER=local: there is no isolation whose measures could hold")

    async def run() -> SecurityStatus:
        if options.no_setup:
            return await survey(with_engine_at_hand(settings))
        async with prepared(settings, Report()) as ready:
            return await survey(ready.settings)

    status = trio.run(run)
    text = json.dumps(status.as_json(), indent=2)
    if options.report:
        options.report.write_text(f"{text}\n")
    print(text if options.json else table(status))
    if options.write:
        lines = opt_out_lines(status)
        with Path(options.env_file).open("a", encoding="utf-8") as file:
            file.write("\n".join(["", *lines, ""]))
        print(f"written into {options.env_file}:\n  " + "\n  ".join(lines), flush=True)
        return 0
    for each in status.failing:
        print(f"terminal-supervisor: measure {each.measure} does not hold: {each.how}", file=sys.stderr)
    for obstacle in status.obstacles:
        print(f"terminal-supervisor: no session starts: {obstacle}", file=sys.stderr)
    return 1 if status.failing or status.obstacles else 0


def _attack(settings: Settings, options: argparse.Namespace) -> int:
    from supervisor.attacks.run import chosen, run  # what `serve` has no use for

    attacks = chosen(options.only)
    if options.list:
        print("\n".join(f"{each.name:26} {each.wants}" for each in attacks))
        return 0

    async def attempt() -> AttackReport:
        if options.no_setup:
            return await run(with_engine_at_hand(settings), attacks)
        async with prepared(settings, Report()) as ready:
            return await run(ready.settings, attacks)

    report = trio.run(attempt)
    text = json.dumps(report.as_json(), indent=2)
    if options.report:
        options.report.write_text(f"{text}\n")
    print(text if options.json else report)
    return 0 if report.passed else 1


def _bill(settings: Settings, options: argparse.Namespace) -> None:
    print(json.dumps(_bill_of(settings), indent=2))


def _bill_of(settings: Settings) -> dict[str, Any]:
    settings = with_engine_at_hand(settings)

    async def run() -> dict[str, Any]:
        async with Docker(settings.docker_host) as docker:
            return await bill_of_materials(docker, settings.image)

    try:
        return trio.run(run)
    except (DockerError, ValueError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error


def _vulnerabilities(settings: Settings, options: argparse.Namespace) -> int:
    packages = packages_of(read_bill(options.sbom) if options.sbom else _bill_of(settings))

    async def run() -> Listing:
        with Report().step("registries") as step:
            return await list_vulnerabilities(packages, step)

    listing = trio.run(run)
    print(json.dumps(listing.as_json(), indent=2) if options.json else listing)
    return 1 if options.fail and listing.failing else 0


def _engine(settings: Settings, options: argparse.Namespace) -> None:
    async def run() -> None:
        await teardown(Report(), delete=options.action == "delete")

    trio.run(run)


def _network(settings: Settings, options: argparse.Namespace) -> int:
    settings = with_engine_at_hand(settings)
    if options.action == "down":
        print("\n".join(trio.run(network_down, settings)))
        return 0
    status = trio.run(network_up if options.action == "up" else network_status, settings)
    print(status)
    return 1 if status.problem else 0


def _apparmor(settings: Settings, options: argparse.Namespace) -> int:
    if options.action == "remove":
        trio.run(remove_profiles)
        return 0
    settings = with_engine_at_hand(settings)
    if options.action == "print":
        print(profile_file(trio.run(needed_profiles, settings)), end="")
        return 0
    status = trio.run(install_profiles if options.action == "install" else profiles_status, settings)
    print(status)
    return 1 if status.problem else 0


def _reconcile(settings: Settings, options: argparse.Namespace) -> None:
    settings = with_engine_at_hand(settings)

    async def run() -> None:
        async with Docker(settings.docker_host) as docker:
            reconciler = Reconciler(docker, this_process(), known=list)
            findings = await (reconciler.find() if options.dry_run else reconciler.reconcile())
        for finding in findings:
            fate = (
                "removed" if finding.removed else "to be removed" if finding.verdict.removes else "left alone"
            )
            print(f"{finding.what} {finding.name}  {fate}: {finding.verdict.value}")
        containers = sum(finding.what == "container" for finding in findings)
        left_over = sum(finding.verdict.removes for finding in findings)
        print(f"{containers} containers of this product; {left_over} things left over")

    try:
        trio.run(run)
    except (DockerError, ValueError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error


def _sessions(settings: Settings, options: argparse.Namespace) -> None:
    from supervisor.admin.top import print_sessions  # what `serve` has no use for

    trio.run(partial(print_sessions, settings, as_json=options.json))


def _top(settings: Settings, options: argparse.Namespace) -> None:
    from supervisor.admin.top import top

    trio.run(top, settings)


def _recordings(settings: Settings, options: argparse.Namespace) -> None:
    from supervisor.admin.recordings import print_recordings

    print_recordings(settings, as_json=options.json)


def _play(settings: Settings, options: argparse.Namespace) -> None:
    from supervisor.admin.recordings import play

    with suppress(KeyboardInterrupt):
        trio.run(partial(play, options.file, speed=options.speed, idle_limit=options.idle_limit))


def _positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text}: must be more than 0")
    return number


def _bench(arguments: list[str]) -> int:
    """Hand over to the benchmarks, which have arguments of their own and need packages that nothing else
    does.
    """
    try:
        cli = import_module("benchmarks.cli")
    except ModuleNotFoundError as error:
        print(
            f"terminal-supervisor: bench needs more packages ({error.name} is missing): "
            "pip install 'terminal-supervisor[bench]'",
            file=sys.stderr,
        )
        return EXIT_CONFIGURATION
    return cast("int", cli.main(arguments))


def _print_settings(settings: Settings, options: argparse.Namespace) -> None:
    origins = _effective(options).origins
    for field in attrs.fields(Settings):
        value = getattr(settings, field.name)
        shown = "(set)" if field.metadata["secret"] and value else written(field, value)
        print(f"{field.metadata['env']}={shown}  # {origins[field.name]}\n    {field.metadata['doc']}")
