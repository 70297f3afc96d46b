"""The command `terminal-supervisor`. Nothing else parses arguments."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from supervisor import __version__
from supervisor.errors import ConfigurationError
from supervisor.observability.log import configure_logging
from supervisor.provision.setup import setup, teardown
from supervisor.serve import serve
from supervisor.settings import Settings, load_settings, read_env_file

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, 1 (failure), 2 (usage) or 78 (wrong configuration)."""
    options = _parser().parse_args(arguments)
    try:
        try:
            settings = _settings(options)
            configure_logging(settings.log_format, settings.log_level)
            status: int = options.run(settings)
        except* ConfigurationError as group:
            raise _first_leaf(group) from None
    except ConfigurationError as error:
        print(f"terminal-supervisor: {error}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return status


def _first_leaf(error: BaseException) -> BaseException:
    return _first_leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("serve", help="serve the page and its terminals until Ctrl-C")
    command.add_argument("--host", help="address to listen on")
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "demo", help="the same page with shells of this host: no isolation, loopback only"
    )
    command.add_argument("--port", type=int, help="port to listen on; 0 picks a free one")
    command.set_defaults(run=_serve, provider="local")

    command = commands.add_parser(
        "setup", help="prepare engine, sandbox image, network and the page's assets"
    )
    command.set_defaults(run=_setup)

    command = commands.add_parser(
        "teardown", help="end the project's own engine, if one runs, and remove its network"
    )
    command.set_defaults(run=_teardown)

    command = commands.add_parser("settings", help="print the effective settings, secrets masked")
    command.set_defaults(run=_print_settings)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    environment = read_env_file(options.env_file) | dict(os.environ)
    names = ("host", "port", "provider")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name, None)) is not None
    }
    return load_settings(environment, **given)


def _serve(settings: Settings) -> int:
    if settings.provider == "local":
        print("NO ISOLATION: sessions run as plain processes of this host (provider local).", flush=True)
    trio.run(partial(serve, settings, lambda url: print(f"Open {url}", flush=True)))
    return 0


def _setup(settings: Settings) -> int:
    trio.run(setup, settings, partial(print, flush=True))
    return 0


def _teardown(settings: Settings) -> int:
    trio.run(teardown, settings, partial(print, flush=True))
    return 0


def _print_settings(settings: Settings) -> int:
    for field in attrs.fields(Settings):
        value = getattr(settings, field.name)
        shown = "(set)" if field.metadata["secret"] and value else value
        print(f"{field.metadata['env']}={shown}\n    {field.metadata['doc']}")
    return 0
