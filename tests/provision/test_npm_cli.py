import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from supervisor.errors import ConfigurationError
from supervisor.provision.base import BaseRecipe, parse_packages, quote_label
from supervisor.provision.npm_cli import describe, fetch_cli, unpack_node, use_absolute_node


@pytest.mark.parametrize(
    ("first", "changed"),
    [
        ("#!/usr/bin/env node\n", "#!/usr/local/bin/node\n"),
        ("#! /usr/bin/env  node\n", "#!/usr/local/bin/node\n"),
        ("#!/usr/bin/env -S node --no-warnings\n", "#!/usr/local/bin/node --no-warnings\n"),
        ("#!/usr/bin/env nodejs\n", "#!/usr/bin/env nodejs\n"),
        ("#!/bin/sh\n", "#!/bin/sh\n"),
        ("\x7fELF", "\x7fELF"),
    ],
)
def test_scripts_name_their_node(tmp_path: Path, first: str, changed: str) -> None:
    script = tmp_path / "cli.js"
    script.write_text(first + "'#!/usr/bin/env node'")
    use_absolute_node(script)
    assert script.read_text() == changed + "'#!/usr/bin/env node'"


@pytest.mark.parametrize(
    ("manifest", "commands"),
    [
        ({"name": "@scope/tool", "bin": {"b": "b.js", "a": "a.js"}}, ["a", "b"]),
        ({"name": "@scope/tool", "bin": "tool.js"}, ["tool"]),
        ({"name": "plain", "bin": "tool.js"}, ["plain"]),
        ({"name": "library"}, []),
    ],
)
def test_what_npm_installed_is_described(
    tmp_path: Path, manifest: dict[str, object], commands: list[str]
) -> None:
    directory = tmp_path / "lib/node_modules" / str(manifest["name"])
    (directory / "node_modules/other").mkdir(parents=True)
    (directory / "node_modules/other/package.json").write_text("{}")
    (directory / "package.json").write_text(json.dumps({"version": "1.2.3", **manifest}))
    assert describe(tmp_path) == {"name": manifest["name"], "version": "1.2.3", "commands": commands}


def test_only_the_pinned_node_is_taken(tmp_path: Path) -> None:
    archive = tmp_path / "node.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("package/bin/node", "package/LICENSE"):
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"node"))
    with pytest.raises(ConfigurationError, match="not the one expected"):
        unpack_node(archive, "AAAA", tmp_path / "tree")
    right = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    unpack_node(archive, right, tmp_path / "tree")
    assert (tmp_path / "tree/bin/node").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "tree/lib/node/LICENSE").read_bytes() == b"node"


async def test_an_architecture_without_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="riscv64"):
        await fetch_cli("tool", "riscv64", tmp_path, print)


def test_packages_are_read_from_both_kinds_of_listing() -> None:
    assert parse_packages("libc6_2.41-12_amd64.deb\nadduser_3%3a3.1_all.deb\npartial\nlock\n") == [
        "adduser=3:3.1",
        "libc6=2.41-12",
    ]
    assert parse_packages("zlib1g=1.3\nbash=5.2\n") == ["bash=5.2", "zlib1g=1.3"]


def test_each_recipe_has_a_name_of_its_own() -> None:
    recipes = [
        BaseRecipe("", (), "amd64"),
        BaseRecipe("", (), "arm64"),
        BaseRecipe("", ("bash",), "amd64"),
        BaseRecipe(
            "", ("base-files", "libc-bin", "libc6", "libgcc-s1", "libstdc++6", "ncurses-base"), "amd64"
        ),
        BaseRecipe("node:22", (), "amd64"),
    ]
    assert len({recipe.image for recipe in recipes}) == len(recipes)
    assert BaseRecipe("", ("b", "a"), "amd64").image == BaseRecipe("", ("a", "b"), "amd64").image


def test_labels_survive_the_dockerfile() -> None:
    assert quote_label('a "b" $c \\ d\ne') == '"a \\"b\\" \\$c \\\\ d e"'
