"""The base of the sandbox image: made from Debian packages, or from a registry image.

Either way the file system passes through `archive.clean_rootfs` and becomes an engine image of one layer,
whose labels say what it was made from. It is named by a digest of its recipe, so the same recipe is made
once.
"""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.provision.archive import clean_rootfs
from supervisor.provision.digest import digest
from supervisor.provision.host import Need, require, run
from supervisor.sandbox.identity import PRODUCT, unowned_labels

REPOSITORY = f"{PRODUCT}-base"
LABEL_BASE = f"{PRODUCT}.base"
"""Where the base came from, for people."""
LABEL_PACKAGES = f"{PRODUCT}.base.packages"
"""The Debian packages in it, `name=version`, separated by blanks; empty for a registry image."""

DEBIAN_SUITE = "trixie"
"""Security support until 2028, long-term support until 2030."""
DEBIAN_RELEASE = 13
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = (
    "http://deb.debian.org/debian {suite} main",
    "http://deb.debian.org/debian {suite}-updates main",
    "http://deb.debian.org/debian-security {suite}-security main",
)
LIBRARY_PACKAGES = ("base-files", "libc-bin", "libc6", "libgcc-s1", "libstdc++6", "ncurses-base")
"""What a static shell and a program like Node need."""

_RECIPE_FORMAT = "1"  # part of the digest: raise it when the making changes
_DEBIAN_DEADLINE = 900.0  # seconds
_IMPORT_DEADLINE = 600.0  # seconds

NEEDS = (
    Need(
        "mmdebstrap",
        ("mmdebstrap", "debian-archive-keyring"),
        "makes the sandbox image's base from Debian packages",
    ),
)


@attrs.frozen
class BaseRecipe:
    """What a base is made from.

    Attributes:
        registry_image: image to fetch; empty for Debian packages.
        packages: Debian packages to install with all their programs; without any, the base has libraries
            only.
        architecture: of the engine, as Docker and Debian write it: `amd64`, `arm64`.
    """

    registry_image: str
    packages: tuple[str, ...]
    architecture: str

    @property
    def digest(self) -> str:
        """Names the recipe; what is in the archives on the day of making does not count."""
        parts = {
            "format": _RECIPE_FORMAT,
            "registry image": self.registry_image,
            "suite": DEBIAN_SUITE,
            "packages": " ".join(sorted(self.packages or LIBRARY_PACKAGES)),
            "programs": str(bool(self.packages)),
            "architecture": self.architecture,
        }
        return digest(parts)

    @property
    def image(self) -> str:
        """Name of the base image at the engine."""
        return f"{REPOSITORY}:{self.digest[:16]}"

    @property
    def needs(self) -> tuple[Need, ...]:
        """Programs that making it takes."""
        return () if self.registry_image else NEEDS

    def __str__(self) -> str:
        if self.registry_image:
            return f"registry image {self.registry_image}"
        return f"Debian {DEBIAN_SUITE} packages"


async def ensure_base(
    docker: Docker, recipe: BaseRecipe, progress: Callable[[str], object], *, rebuild: bool = False
) -> str:
    """Return the name of the base image of `recipe`, made now unless the engine has it.

    Raises:
        ConfigurationError: it could not be made; the text says why.
    """
    if not rebuild and await find_image(docker, recipe.image):
        return recipe.image
    await require(recipe.needs, progress)
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-base-") as scratch:
        raw, clean = Path(scratch) / "raw.tar", Path(scratch) / "clean.tar"
        if recipe.registry_image:
            labels = await _from_registry(docker, recipe, raw, progress)
        else:
            labels = await _from_debian(recipe, raw, progress)
        progress("cleaning the base")
        clean_rootfs(raw, clean, libraries_only=not recipe.registry_image and not recipe.packages)
        raw.unlink()
        progress("importing the base")
        changes = [f"LABEL {name}={quote_label(value)}" for name, value in labels.items()]
        repository, _, tag = recipe.image.partition(":")
        with clean.open("rb") as stream:
            await docker.images.import_rootfs(
                stream, repo=repository, tag=tag, changes=changes, timeout=_IMPORT_DEADLINE
            )
    return recipe.image


async def find_image(docker: Docker, name: str) -> Mapping[str, Any] | None:
    """Return what the engine knows of image `name`, None when it has none."""
    try:
        return await docker.images.inspect(name)
    except DockerError as error:
        if error.status == 404:
            return None
        raise


def quote_label(value: str) -> str:
    """Return `value` as one word of a LABEL: quotes and what a Dockerfile expands are escaped."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return '"' + escaped.replace("\n", " ") + '"'


async def _from_debian(
    recipe: BaseRecipe, archive: Path, progress: Callable[[str], object]
) -> dict[str, str]:
    """Let mmdebstrap make `archive`. Libraries only means: unpacked, never run, so that no maintainer script
    has a say.
    """
    names = archive.with_name("packages")
    if recipe.packages:
        variant = "minbase"
        # $1 is the root directory; see HOOKS in mmdebstrap(1).
        hook = f"--customize-hook=dpkg-query --root=\"$1\" -W -f='${{Package}}=${{Version}}\\n' > '{names}'"
    else:
        variant = "extract"
        hook = f"--extract-hook=ls \"$1/var/cache/apt/archives\" > '{names}'"
    sources = [f"deb [signed-by={KEYRING}] {source.format(suite=DEBIAN_SUITE)}" for source in SOURCES]
    command = [
        "mmdebstrap",
        f"--variant={variant}",
        f"--architectures={recipe.architecture}",
        f"--include={','.join(recipe.packages or LIBRARY_PACKAGES)}",
        hook,
        DEBIAN_SUITE,
        str(archive),
        *sources,
    ]
    await run(
        command, timeout=_DEBIAN_DEADLINE, on_line=lambda line: progress(f"base: {line.removeprefix('I: ')}")
    )
    return {LABEL_BASE: str(recipe), LABEL_PACKAGES: " ".join(parse_packages(names.read_text()))}


def parse_packages(text: str) -> list[str]:
    """Return `name=version` for each package in a listing of archives (`name_version_arch.deb`) or of
    dpkg-query.
    """
    packages: list[str] = []
    for line in text.split():
        if line.endswith(".deb"):
            name, version, _ = line.rsplit("/", 1)[-1].split("_", 2)
            packages.append(f"{name}={version.replace('%3a', ':')}")
        elif "=" in line:
            packages.append(line)
    return sorted(packages)


async def _from_registry(
    docker: Docker, recipe: BaseRecipe, archive: Path, progress: Callable[[str], object]
) -> dict[str, str]:
    name = recipe.registry_image
    if not await find_image(docker, name):
        progress(f"fetching {name}")
        try:
            async with docker.images.pull(name, stream=True) as lines:
                async for line in lines:
                    progress(f"fetching {name}: {line.get('status', '')} {line.get('progress', '')}")
        except DockerError as error:
            raise ConfigurationError(
                f"the engine cannot fetch SANDBOX_BASE_IMAGE={name}: {error}. Correct the name, or unset "
                "it to have the base made "
                "from Debian packages"
            ) from error
    facts = await docker.images.inspect(name)
    progress(f"copying {name}")
    # Never started: a created container is how an engine gives out a file system.
    container = await docker.containers.create(
        {"Image": name, "Cmd": ["none"], "Labels": unowned_labels("base", _IMPORT_DEADLINE)}
    )
    try:
        async with await docker.api.open(
            "GET", f"containers/{container.id}/export", timeout=_IMPORT_DEADLINE
        ) as reply:
            with archive.open("wb") as stream:
                while piece := await reply.receive():
                    stream.write(piece)
    finally:
        await container.delete(force=True)
    digests = " ".join(facts.get("RepoDigests") or [facts["Id"]])
    return {LABEL_BASE: f"{recipe} ({digests})", LABEL_PACKAGES: ""}
