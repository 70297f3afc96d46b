"""aiodocker's surface against ours: every public class, member, parameter and default.

Deviations must be exactly those that docs/engine.md lists.
"""

import asyncio
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import aiodocker
import trio

import supervisor.engine as ours
from supervisor.engine import Docker, types

DOCUMENT = Path(__file__).parents[2] / "docs/engine.md"

MODULES = [
    importlib.import_module(f"aiodocker.{module.name}") for module in pkgutil.iter_modules(aiodocker.__path__)
]
CLASSES: list[type] = [
    each
    for module in MODULES
    for name, each in vars(module).items()
    if inspect.isclass(each) and each.__module__ == module.__name__ and not name.startswith("_")
]
SPECIAL = {"__init__", "__getitem__", "__contains__", "__aenter__", "__aexit__", "__str__", "__repr__"}
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def members(cls: type) -> list[str]:
    """The public members that a class itself has, and those special ones that it defines."""
    return [name for name in vars(cls) if not name.startswith("_") or name in SPECIAL]


def parameters(function: Any) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(function).parameters.values() if each.name != "self"]


def same_default(one: Any, other: Any) -> bool:
    return one == other or repr(one) == repr(other)


def key_of(parameter: inspect.Parameter) -> str:
    return "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else parameter.name


def compare_parameters(name: str, theirs: Any, mine: Any) -> list[str]:
    """Names of the parameters of `theirs` that `mine` has not, or has otherwise; and of those that only mine
    has and needs.
    """
    have = {key_of(each): each for each in parameters(mine)}
    known = {key_of(each) for each in parameters(theirs)}
    differences = [
        f"{name}({key})"
        for key, each in have.items()
        if key not in known and each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    for position, wanted in enumerate(parameters(theirs)):
        found = have.get(key_of(wanted))
        same = found is not None and found.kind == wanted.kind and same_default(found.default, wanted.default)
        if same and wanted.kind in POSITIONAL:
            same = parameters(mine)[position].name == wanted.name
        if not same:
            differences.append(f"{name}({wanted.name})")
    return differences


def compare_instances() -> list[str]:
    """Public attributes that their `Docker` has and ours has not."""

    async def theirs() -> set[str]:
        docker = aiodocker.Docker("unix:///nowhere.sock")
        try:
            return {name for name in vars(docker) if not name.startswith("_")}
        finally:
            await docker.close()

    mine = {name for name in dir(Docker("unix:///nowhere.sock")) if not name.startswith("_")}
    return [f"Docker.{name}" for name in asyncio.run(theirs()) - mine]


def differences() -> set[str]:
    """Everything in which our surface is less than theirs, or another."""
    found = [name for name in aiodocker.__all__ if name not in ours.__all__]
    for cls in CLASSES:
        mine = getattr(ours, cls.__name__, getattr(types, cls.__name__, None))
        if mine is None:
            found.append(cls.__name__)
            continue
        for name in members(cls):
            label = cls.__name__ if name == "__init__" else f"{cls.__name__}.{name}"
            if not hasattr(mine, name):
                found.append(label)
            elif callable(getattr(cls, name)) and name not in ("__aexit__", "__repr__", "__str__"):
                found += compare_parameters(label, getattr(cls, name), getattr(mine, name))
    return {*found, *compare_instances()}


def documented() -> set[str]:
    """The names in the first column of the document's table of deviations."""
    section = (
        DOCUMENT.read_text().split("## Deviations from aiodocker", 1)[1].split("\nFurther parameters", 1)[0]
    )
    rows = [row for row in section.splitlines() if row.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


async def test_deviations_are_those_of_the_document() -> None:
    found = await trio.to_thread.run_sync(differences)
    assert sorted(found) == sorted(documented())
