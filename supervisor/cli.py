"""The command `terminal-supervisor`. Nothing else parses arguments; `commands` does what they ask for."""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from supervisor import __version__, commands
from supervisor.commands import EXIT_CONFIGURATION, EXIT_NOT_TAKEN_OVER
from supervisor.errors import ConfigurationError
from supervisor.handover.channel import HandoverError
from supervisor.observability.audit import configure_audit
from supervisor.observability.log import configure_logging
from supervisor.sandbox.apparmor import PROFILE_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (failure), 2 (usage) or one of those above."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["bench"]:
        return _bench(given[1:])
    options = _parser().parse_args(given)
    try:
        settings = commands.effective(options).settings
        configure_logging(settings.log_format, settings.log_level)
        configure_audit(settings.audit_log)
        status: int = options.run(settings, options) or 0
        sys.stdout.flush()
    except (ConfigurationError, HandoverError, BaseExceptionGroup) as error:
        problems = list(_leaves(cast("BaseException", error)))
        if not all(isinstance(problem, ConfigurationError | HandoverError) for problem in problems):
            raise
        for problem in problems:
            print(f"terminal-supervisor: {problem}", file=sys.stderr)
        failed = any(isinstance(problem, HandoverError) for problem in problems)
        return EXIT_NOT_TAKEN_OVER if failed else EXIT_CONFIGURATION
    except BrokenPipeError:  # whoever read what was printed has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
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
    added = parser.add_subparsers(required=True, metavar="COMMAND")

    command = added.add_parser("serve", help="serve the page and its terminals until Ctrl-C")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.add_argument("--no-setup", action="store_true", help="rely on an earlier `setup`; build nothing")
    command.add_argument(
        "--takeover",
        action="store_true",
        help="go on with the sessions of the server that runs at the port, which ends then",
    )
    command.set_defaults(run=commands.serve_until_told)

    command = added.add_parser(
        "demo", help="the same page with shells of this host: NO ISOLATION, loopback only"
    )
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.add_argument("--takeover", action="store_true", help="as in `serve`")
    command.set_defaults(run=commands.serve_until_told, provider="local", no_setup=False)

    command = added.add_parser("setup", help="prepare engine, images, network and the page; run nothing")
    command.add_argument(
        "--rebuild", action="store_true", help="make everything again, to get newer packages"
    )
    command.add_argument("--tests", action="store_true", help="also what only the tests need")
    command.set_defaults(run=commands.set_up)

    command = added.add_parser(
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
    command.set_defaults(run=commands.check)

    command = added.add_parser(
        "attack", help="try what measures of hardening stop, with each and without; needs root"
    )
    command.add_argument("--list", action="store_true", help="list the attacks, try none")
    command.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="try this one; repeatable"
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("--report", type=Path, metavar="FILE", help="also write it there, for programs")
    command.add_argument("--no-setup", action="store_true", help="rely on an earlier `setup`; build nothing")
    command.set_defaults(run=commands.attack)

    image = added.add_parser("image", help="say what is in the sandbox image").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = image.add_parser("sbom", help="its software bill of materials: CycloneDX, JSON")
    command.set_defaults(run=commands.bill)
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
    command.set_defaults(run=commands.vulnerabilities)

    command = added.add_parser("engine", help="manage the engine of the project's own, if it runs")
    command.add_argument(
        "action", choices=["down", "delete"], help="end it; or also delete all that it stored"
    )
    command.set_defaults(run=commands.engine)

    command = added.add_parser(
        "network", help="the sessions' network and the filter of its egress; up and down need root"
    )
    command.add_argument(
        "action", choices=["up", "down", "status"], help="put it up, to stay; take it down; say how it stands"
    )
    command.set_defaults(run=commands.network)

    command = added.add_parser(
        "apparmor",
        help="the AppArmor profiles of sessions, for the images in use; install and remove need root",
    )
    command.add_argument(
        "action",
        choices=["install", "remove", "print", "status"],
        help=f"write {PROFILE_FILE} and load it; unload and remove it; print it; say how it stands",
    )
    command.set_defaults(run=commands.apparmor)

    command = added.add_parser(
        "reconcile", help="list what dead supervisors left, containers and others, and remove it"
    )
    command.add_argument("--dry-run", action="store_true", help="only list")
    command.set_defaults(run=commands.reconcile)

    command = added.add_parser("sessions", help="list the sessions of the supervisor that runs")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=commands.sessions)

    command = added.add_parser("recordings", help="list the recordings in RECORDING_DIRECTORY")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=commands.recordings)

    command = added.add_parser("play", help="play a recording; nothing in it acts on this terminal")
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
    command.set_defaults(run=commands.play_recording)

    command = added.add_parser("top", help="show the sessions live; end and watch them")
    command.set_defaults(run=commands.show_sessions)
    added.add_parser("bench", help="measure this or another terminal server: see `bench --help`")

    command = added.add_parser(
        "settings", help="print the settings in effect and where each comes from, secrets masked"
    )
    command.set_defaults(run=commands.print_settings)
    return parser


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
