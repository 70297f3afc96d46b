"""What the commands of `terminal-supervisor` do, with settings and arguments that `cli` has read: each
returns its exit status, or None for 0.
"""

import argparse
import json
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from supervisor.attacks.report import Report as AttackReport
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.measures import SecurityStatus
from supervisor.provision.at_hand import with_engine_at_hand
from supervisor.provision.bill import bill_of_materials
from supervisor.provision.report import Report
from supervisor.provision.setup import prepared, setup, teardown
from supervisor.provision.vulnerabilities import Listing, list_vulnerabilities, packages_of, read_bill
from supervisor.reaping.reconciler import Reconciler
from supervisor.sandbox.apparmor import profile_file
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


def effective(options: argparse.Namespace) -> Effective:
    """Return the settings in effect, by the arguments, the environment and the files that they name."""
    names = ("host", "port", "provider")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(options, name, None)) is not None
    }
    return load_effective(os.environ, options.env_file, options.config, **given)


def serve_until_told(settings: Settings, options: argparse.Namespace) -> int:
    """`serve`, `demo`: until a signal ends it; the status tells what was left."""
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


def set_up(settings: Settings, options: argparse.Namespace) -> None:
    """`setup`."""

    async def run() -> None:
        await setup(settings, Report(), rebuild=options.rebuild, tests=options.tests)

    trio.run(run)


def check(settings: Settings, options: argparse.Namespace) -> int:
    """`check`: fails when a required measure does not hold."""
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


def attack(settings: Settings, options: argparse.Namespace) -> int:
    """`attack`: fails when one succeeds that should not, or another session suffered."""
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


def bill(settings: Settings, options: argparse.Namespace) -> None:
    """`image sbom`."""
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


def vulnerabilities(settings: Settings, options: argparse.Namespace) -> int:
    """`image vulnerabilities`."""
    packages = packages_of(read_bill(options.sbom) if options.sbom else _bill_of(settings))

    async def run() -> Listing:
        with Report().step("registries") as step:
            return await list_vulnerabilities(packages, step)

    listing = trio.run(run)
    print(json.dumps(listing.as_json(), indent=2) if options.json else listing)
    return 1 if options.fail and listing.failing else 0


def engine(settings: Settings, options: argparse.Namespace) -> None:
    """`engine`."""

    async def run() -> None:
        await teardown(Report(), delete=options.action == "delete")

    trio.run(run)


def network(settings: Settings, options: argparse.Namespace) -> int:
    """`network`: fails when it is not as it should be."""
    settings = with_engine_at_hand(settings)
    if options.action == "down":
        print("\n".join(trio.run(network_down, settings)))
        return 0
    status = trio.run(network_up if options.action == "up" else network_status, settings)
    print(status)
    return 1 if status.problem else 0


def apparmor(settings: Settings, options: argparse.Namespace) -> int:
    """`apparmor`: likewise."""
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


def reconcile(settings: Settings, options: argparse.Namespace) -> None:
    """`reconcile`."""
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


def sessions(settings: Settings, options: argparse.Namespace) -> None:
    """`sessions`."""
    from supervisor.admin.top import print_sessions  # what `serve` has no use for

    trio.run(partial(print_sessions, settings, as_json=options.json))


def show_sessions(settings: Settings, options: argparse.Namespace) -> None:
    """`top`."""
    from supervisor.admin.top import top

    trio.run(top, settings)


def recordings(settings: Settings, options: argparse.Namespace) -> None:
    """`recordings`."""
    from supervisor.admin.recordings import print_recordings

    print_recordings(settings, as_json=options.json)


def play_recording(settings: Settings, options: argparse.Namespace) -> None:
    """`play`."""
    from supervisor.admin.recordings import play

    with suppress(KeyboardInterrupt):
        trio.run(partial(play, options.file, speed=options.speed, idle_limit=options.idle_limit))


def print_settings(settings: Settings, options: argparse.Namespace) -> None:
    """`settings`."""
    origins = effective(options).origins
    for field in attrs.fields(Settings):
        value = getattr(settings, field.name)
        shown = "(set)" if field.metadata["secret"] and value else written(field, value)
        print(f"{field.metadata['env']}={shown}  # {origins[field.name]}\n    {field.metadata['doc']}")
