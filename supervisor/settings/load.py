"""Settings from the texts of variables, and variables from a file of `NAME=value` lines."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

ALIASES: Final = {"SIGNING_SECRET": "TERMINAL_SERVER_SIGNING_SECRET"}
"""Other names of variables."""


def load_settings(
    environment: Mapping[str, str] | None = None, also_wrong: Iterable[str] = (), **overrides: Any
) -> Settings:
    """Return the settings that `environment` (default: this process's) asks for; `overrides` win. What is
    `also_wrong` is told with the rest.

    Raises:
        ConfigurationError: names every variable that is wrong, its value and what is allowed, all at once.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    problems = list(also_wrong)
    for field in attrs.fields(Settings):
        name = field.metadata["env"]
        text = source.get(name)
        for alias, of in ALIASES.items():
            if text is None and of == name:
                text = source.get(alias)
        # An empty list is a list; an empty anything else is the default.
        lists = isinstance(field.default, tuple)
        if text is None or (text == "" and not lists and field.default not in ("", None)):
            continue
        try:
            values[field.name] = field.metadata["parse"](text)
        except ValueError as error:
            shown = "(secret)" if field.metadata["secret"] else repr(text)
            problems.append(f"{name}={shown}: {error}")
    try:
        settings = Settings(**{**values, **overrides})
    except ConfigurationError as error:
        if not problems:
            raise
        problems += str(error).split("\n  ")[1:]
        raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems)) from None
    if problems:
        raise ConfigurationError("bad settings:\n  " + "\n  ".join(problems))
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Return the `NAME=value` lines of `path` ({} when there is no such file); values may be quoted as in a
    shell.

    Raises:
        ConfigurationError: a line is neither empty, a comment nor an assignment.
    """
    if not path.exists():
        return {}
    result: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, separator, value = stripped.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise ConfigurationError(f"{path}:{number}: not NAME=value")
        parts = shlex.split(value, comments=True)
        result[name.strip()] = " ".join(parts)
    return result
