"""Set-up: everything that the server needs before it can serve, step by step, each done only when it is not
done yet.

`prepared` is for programs that go on to use what was prepared: they hold on to the engine. `setup` prepares
and leaves; the engine stays for whoever comes next. `teardown` ends the project's own engine.
"""

import contextlib
import shutil
from collections.abc import AsyncGenerator

import attrs

from supervisor.egress.host import PACKAGES
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure
from supervisor.provision.base import NEEDS as BASE_NEEDS
from supervisor.provision.compiler import machine_name
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.ending import mounts_below
from supervisor.provision.engine import Engine, end_engine, engine_in_use
from supervisor.provision.gate import build_gate, build_netprobe
from supervisor.provision.host import Need, require
from supervisor.provision.image import DEFAULT_IMAGE, Programs, ensure_sandbox_image, ensure_workbench
from supervisor.provision.kernel_limits import raise_limits
from supervisor.provision.page import build_page, page_directory
from supervisor.provision.report import Report
from supervisor.provision.shell import build_shell
from supervisor.sandbox.apparmor import PROFILE_FILE
from supervisor.sandbox.apparmor_command import install_profiles
from supervisor.sandbox.apparmor_kernel import PACKAGE, kernel_has_apparmor
from supervisor.sandbox.network import NO_NETWORK, ensure_network
from supervisor.settings import Settings

APPARMOR_NEEDS = (Need("apparmor_parser", (PACKAGE,), "to load AppArmor profiles"),)
EGRESS_NEEDS = tuple(Need(name, (package,), "to filter egress") for name, package in PACKAGES.items())


@attrs.frozen
class SetupResult:
    """What set-up prepared.

    Attributes:
        settings: those that were given, with the engine's address filled in.
        engine: None for provider `local`.
    """

    settings: Settings
    engine: Engine | None


@contextlib.asynccontextmanager
async def prepared(
    settings: Settings, report: Report, *, rebuild: bool = False, tests: bool = False, keep: bool = False
) -> AsyncGenerator[SetupResult]:
    """Set everything up for `settings` and hold on to it.

    Args:
        settings: with provider `local`, only the page is prepared.
        report: gets a line per step.
        rebuild: make images, base and page again although their inputs are the same (to get newer packages).
        tests: also what only tests need.
        keep: leave the project's own engine up on leaving.

    Raises:
        ConfigurationError: a step cannot be done; the text says what to do.

    Resource handling: see `engine_in_use`: on leaving, an engine that set-up started is ended with its last
    user.
    """
    if settings.provider == "local":
        await _page(report, rebuild)
        yield SetupResult(settings, None)
        return
    makes_base = settings.image == DEFAULT_IMAGE and not settings.base_image
    later = BASE_NEEDS if makes_base else ()
    async with engine_in_use(
        settings.docker_host, report, keep=keep, later=later, remap=settings.engine_remap
    ) as engine:
        settings = attrs.evolve(settings, docker_host=engine.url)
        try:
            await _fill_engine(settings, report, rebuild, tests)
        except DockerError as error:
            raise ConfigurationError(
                f"the Docker Engine at {engine.url} refused a step of set-up: {error}"
            ) from error
        await _page(report, rebuild)
        yield SetupResult(settings, engine)


async def _fill_engine(settings: Settings, report: Report, rebuild: bool, tests: bool) -> None:
    async with Docker(settings.docker_host) as docker:
        machine = machine_name(str((await docker.version())["Arch"]))
        with report.step("programs") as step:
            step.progress("compiling the gate")
            gate = settings.gate_file if settings.gate else build_gate(settings.gate_file, machine)
            step.progress("compiling the prober of networks")
            build_netprobe(settings.state_directory / "bin/netprobe", machine)
            step.progress("compiling the restricted shell")
            shell = build_shell(settings.state_directory / "bin/restricted-shell", machine)
            programs = Programs(gate, shell)
            step.result = f"gate and restricted shell ({machine})"
        if settings.docker_host.startswith("unix:"):
            info = await docker.system.info()
            with report.step("limits") as step:
                raise_limits(settings, step, remapped="name=userns" in (info.get("SecurityOptions") or ()))
        with report.step("image") as step:
            await ensure_sandbox_image(docker, settings, programs, step, rebuild=rebuild)
        if tests:
            with report.step("workbench") as step:
                await ensure_workbench(docker, programs, step, rebuild=rebuild)
        if Measure.APPARMOR not in settings.hardening_without and kernel_has_apparmor():
            with report.step("apparmor") as step:
                try:
                    await require(APPARMOR_NEEDS, step.progress)
                    await install_profiles(settings)
                    step.result = str(PROFILE_FILE)
                except ConfigurationError as error:  # a measure that is missing is the server's to tell
                    step.result = f"NOT LOADED: {error}"
        if settings.network != NO_NETWORK and Measure.EGRESS not in settings.hardening_without:
            with report.step("egress") as step:
                try:
                    await require(EGRESS_NEEDS, step.progress)
                    step.result = "nftables and dnsmasq"
                except ConfigurationError as error:  # likewise
                    step.result = f"NOT FILTERED: {error}"
        with report.step("network") as step:
            try:
                await ensure_network(docker, settings)
                step.result = settings.network
            except ConfigurationError as error:  # likewise
                step.result = f"NOT FOR SESSIONS: {error}"


async def _page(report: Report, rebuild: bool) -> None:
    with report.step("page") as step:
        await build_page(page_directory(), step.progress, rebuild=rebuild)
        step.result = "assets ready"


async def setup(
    settings: Settings, report: Report, *, rebuild: bool = False, tests: bool = False
) -> SetupResult:
    """Set everything up and leave; an engine that was started for it stays up.

    Raises:
        ConfigurationError: as in `prepared`.
    """
    async with prepared(settings, report, rebuild=rebuild, tests=tests, keep=True) as result:
        return result


async def teardown(report: Report, *, delete: bool = False, paths: EnginePaths | None = None) -> None:
    """End the project's own engine, if it runs; with `delete`, remove its images and all else it stored, too.

    Raises:
        ConfigurationError: it is in use, or does not end.
    """
    paths = EnginePaths() if paths is None else paths
    await end_engine(report, paths)
    if delete and paths.data.exists():
        with report.step("engine data") as step:
            if mounted := mounts_below(paths.data):
                raise ConfigurationError(
                    f"{paths.data} is kept: file systems are still mounted in it ({mounted[0]})"
                )
            if paths.data.is_mount():  # a disk of somebody's: it is emptied, and stays
                for content in paths.data.iterdir():
                    if content.is_dir() and not content.is_symlink():
                        shutil.rmtree(content)
                    else:
                        content.unlink()
            else:
                shutil.rmtree(paths.data)
            for leftover in (paths.log, paths.address_file):
                leftover.unlink(missing_ok=True)
            if not any(paths.data.parent.iterdir()):
                paths.data.parent.rmdir()
            step.result = f"{paths.data} removed"
