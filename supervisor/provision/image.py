"""The images: the sandbox image that sessions run in, and the workbench that tests use in its place.

Both come from docker/Dockerfile. A label holds the digest of all inputs; while it is right, nothing is built.
"""

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.provision.archive import BuildContext
from supervisor.provision.base import BaseRecipe, ensure_base, find_image
from supervisor.provision.compiler import docker_directory
from supervisor.provision.digest import digest
from supervisor.provision.npm import NotInRegistryError
from supervisor.provision.npm_cli import NODE_VERSION, NpmCli, fetch_cli
from supervisor.provision.report import Step
from supervisor.sandbox.identity import PRODUCT
from supervisor.settings import Settings

DEFAULT_IMAGE = str(attrs.fields_dict(Settings)["image"].default)
DEFAULT_COMMANDS = ("ably",)
"""What the restricted shell allows when there is neither a setting nor a CLI that says so."""
WORKBENCH = f"{PRODUCT}-workbench:latest"
WORKBENCH_PACKAGES = (
    "bash",
    "coreutils",
    "htop",
    "less",
    "ncurses-bin",
    "ncurses-term",
    "procps",
    "python3-minimal",
    "vim-tiny",
)

# None of these may be LABEL_PRODUCT: containers inherit labels, and by that one containers are removed.
LABEL_INPUTS = f"{PRODUCT}.inputs"
LABEL_NAME = f"{PRODUCT}.image"
LABEL_CLI = f"{PRODUCT}.cli"
LABEL_NODE = f"{PRODUCT}.node"

NO_CLI = "none"
_FORMAT = "1"  # part of the digest: raise it when the building changes
_BUILD_DEADLINE = 900.0  # seconds


@attrs.frozen
class Programs:
    """The static programs that go into an image."""

    gate: Path
    shell: Path


async def ensure_sandbox_image(
    docker: Docker, settings: Settings, programs: Programs, step: Step, *, rebuild: bool = False
) -> None:
    """See to it that the engine has the image of `settings`: build the default one, fetch any other.

    Raises:
        ConfigurationError: it could not be built or fetched; the text says why.
    """
    if settings.image != DEFAULT_IMAGE:
        await _ensure_foreign_image(docker, settings.image, step)
        return
    recipe = BaseRecipe(settings.base_image, settings.base_packages, await _architecture(docker))
    cli_package = "" if settings.cli_package in {"", NO_CLI} else settings.cli_package
    inputs = _inputs(recipe, programs) | {
        "cli": cli_package,
        "node": NODE_VERSION if cli_package else "",
        "commands": ",".join(settings.allowed_commands),
    }
    state = digest(inputs)
    if not rebuild and (labels := await _labels(docker, settings.image)).get(LABEL_INPUTS) == state:
        step.result = f"{settings.image}, up to date ({labels.get(LABEL_CLI) or 'no CLI'})"
        return
    cli: NpmCli | None = None
    if cli_package:
        try:
            cli = await fetch_cli(cli_package, recipe.architecture, settings.state_directory, step.progress)
        except NotInRegistryError:
            step.notice(f"the npm registry has no {cli_package}: the image is built without a CLI")
    commands = settings.allowed_commands or (cli.commands if cli else DEFAULT_COMMANDS)
    context = _context(programs, commands)
    if cli:
        for part in ("bin", "lib"):
            context.add(f"cli/{part}", cli.tree / part)
    base = await ensure_base(docker, recipe, step.progress, rebuild=rebuild)
    labels = {LABEL_INPUTS: state, LABEL_NODE: NODE_VERSION if cli else ""}
    arguments = {
        "BASE_IMAGE": base,
        "CLI_NPM_PACKAGE": str(cli or ""),
        "ALLOWED_COMMANDS": ",".join(commands),
    }
    await _build(docker, settings.image, context, arguments, labels, step.progress)
    step.result = f"{settings.image}, built ({recipe}, {cli or 'no CLI'})"


async def ensure_workbench(docker: Docker, programs: Programs, step: Step, *, rebuild: bool = False) -> None:
    """See to it that the engine has the image that tests use: the default image with a real shell and real
    tools.
    """
    recipe = BaseRecipe("", WORKBENCH_PACKAGES, await _architecture(docker))
    state = digest(_inputs(recipe, programs))
    if not rebuild and (await _labels(docker, WORKBENCH)).get(LABEL_INPUTS) == state:
        step.result = f"{WORKBENCH}, up to date"
        return
    base = await ensure_base(docker, recipe, step.progress, rebuild=rebuild)
    context = _context(programs, DEFAULT_COMMANDS)
    context.add("Dockerfile", (docker_directory() / "Dockerfile").read_bytes() + b'\nCMD ["/bin/bash"]\n')
    await _build(docker, WORKBENCH, context, {"BASE_IMAGE": base}, {LABEL_INPUTS: state}, step.progress)
    step.result = f"{WORKBENCH}, built ({recipe})"


def _inputs(recipe: BaseRecipe, programs: Programs) -> dict[str, str | bytes | Path]:
    return {
        "format": _FORMAT,
        "base": recipe.digest,
        "Dockerfile": docker_directory() / "Dockerfile",
        "etc": docker_directory() / "etc",
        "gate": programs.gate,
        "shell": programs.shell,
    }


def _context(programs: Programs, commands: tuple[str, ...]) -> BuildContext:
    context = BuildContext()
    context.add("Dockerfile", docker_directory() / "Dockerfile")
    context.add("etc", docker_directory() / "etc")
    context.add("gate", programs.gate, program=True)
    context.add("restricted-shell", programs.shell, program=True)
    context.add("commands", "".join(f"{command}\n" for command in commands).encode())
    context.add("cli", None)
    context.add("home/appuser", None)
    return context


async def _build(
    docker: Docker,
    name: str,
    context: BuildContext,
    arguments: dict[str, str],
    labels: dict[str, str],
    progress: Callable[[str], object],
) -> None:
    before = await find_image(docker, name)
    with tempfile.TemporaryFile() as archive:
        progress("packing the build context")
        context.pack(archive)
        archive.seek(0)
        try:
            async with docker.images.build(
                fileobj=archive,
                tag=name,
                buildargs=arguments,
                labels={**labels, LABEL_NAME: name},
                forcerm=True,
                networkmode="none",
                stream=True,
                timeout=_BUILD_DEADLINE,
            ) as lines:
                async for line in lines:
                    progress(f"building {name}: {line.get('stream', '')}")
        except DockerError as error:
            raise ConfigurationError(f"the engine could not build {name}: {error}") from error
    await _remove_older(docker, name, keep=before["Id"] if before else "")


async def _remove_older(docker: Docker, name: str, keep: str) -> None:
    """Remove what had this `name` once, except the last one (`keep`): a running server goes on with it."""
    filters = {"dangling": ["true"], "label": [f"{LABEL_NAME}={name}"]}
    for old in await docker.images.list(filters=filters):
        if old["Id"] != keep:
            with contextlib.suppress(DockerError):  # sessions may still run in it; it does no harm
                await docker.images.delete(old["Id"])


async def _ensure_foreign_image(docker: Docker, name: str, step: Step) -> None:
    step.result = f"{name} (DOCKER_IMAGE_NAME), at the engine"
    if await find_image(docker, name):
        return
    step.progress(f"fetching {name}")
    try:
        async with docker.images.pull(name, stream=True) as lines:
            async for line in lines:
                step.progress(f"fetching {name}: {line.get('status', '')} {line.get('progress', '')}")
    except DockerError as error:
        raise ConfigurationError(
            f"the engine has no image {name} (DOCKER_IMAGE_NAME) and cannot fetch it: {error}. Build or "
            "load it, or unset "
            "DOCKER_IMAGE_NAME to have the default image built"
        ) from error
    step.result = f"{name} (DOCKER_IMAGE_NAME), fetched"


async def _labels(docker: Docker, name: str) -> dict[str, str]:
    facts = await find_image(docker, name)
    config: dict[str, Any] = (facts or {}).get("Config") or {}
    labels: dict[str, str] | None = config.get("Labels")
    return labels or {}


async def _architecture(docker: Docker) -> str:
    return str((await docker.version())["Arch"])
