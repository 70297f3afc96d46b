"""Where settings come from, and who wins: the command line, then the environment, then `.env`, then the TOML
file of `--config`, then the default.

All of them use the names of the variables; in the TOML file these are in small letters and values have their
own types: `port = 8080`, `allowed_origins = ["https://example.com"]`. What is wrong is told all at once. A
name that no setting has is an error in the TOML file; in `.env`, which other programs may read as well, it is
one only when it looks like a misspelt setting.
"""

import difflib
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs

from supervisor.errors import ConfigurationError
from supervisor.settings import Settings
from supervisor.settings.load import ALIASES, load_settings, read_env_file

COMMAND_LINE: Final = "command line"
ENVIRONMENT: Final = "environment"
DEFAULT: Final = "default"
ALIKE: Final = 0.85
"""How much a name in `.env` must look like a setting's to be taken for one, by difflib's measure."""

_FIELDS: Final = {field.metadata["env"]: field for field in attrs.fields(Settings)}


@attrs.frozen
class Effective:
    """Settings, and by field name where each comes from."""

    settings: Settings
    origins: dict[str, str]


def load_effective(
    environment: Mapping[str, str],
    env_file: Path,
    config_file: Path | None = None,
    **overrides: Any,
) -> Effective:
    """Return the settings in effect.

    Args:
        environment: of the process.
        env_file: need not exist.
        config_file: must, when it is given.
        overrides: from the command line, by field name.

    Raises:
        ConfigurationError: names everything that is wrong.
    """
    problems: list[str] = []
    from_env_file = read_env_file(env_file)
    problems += [
        f"{env_file}: {name}: there is no such setting; {hint} is meant?"
        for name in from_env_file
        if name not in _FIELDS and name not in ALIASES and (hint := _similar(name))
    ]
    layers = [(ENVIRONMENT, environment), (str(env_file), from_env_file)]
    if config_file is not None:
        layers.append((str(config_file), _read_config(config_file, problems)))
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name, field in _FIELDS.items():
        names = (name, *(alias for alias, of in ALIASES.items() if of == name))
        found = ((where, layer[each]) for where, layer in layers for each in names if each in layer)
        where, text = next(found, (DEFAULT, None))
        if text is not None:
            values[name] = text
        origins[field.name] = COMMAND_LINE if field.name in overrides else where
    return Effective(load_settings(values, problems, **overrides), origins)


def _similar(name: str, cutoff: float = ALIKE) -> str | None:
    return next(iter(difflib.get_close_matches(name, _FIELDS, n=1, cutoff=cutoff)), None)


def _read_config(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: no TOML, no UTF-8
        raise ConfigurationError(f"--config {path}: {error}") from error
    values: dict[str, str] = {}
    for key, value in table.items():
        name = key.upper()
        if name not in _FIELDS and name not in ALIASES:
            hint = _similar(name, 0.6)
            meant = f"; {hint.lower()} is meant?" if hint else ""
            problems.append(f"{path}: {key}: there is no such setting{meant}")
            continue
        text = _as_text(name, value)
        if text is None:
            problems.append(f"{path}: {key}: must be a string, a number, true or false, or a list of strings")
        else:
            values[name] = text
    return values


def _as_text(name: str, value: object) -> str | None:
    """Return a TOML value as the variable would have it; None when it cannot have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list):
        parts = cast("list[object]", value)
        if all(isinstance(part, str) for part in parts):
            texts = [str(part) for part in parts]
            if name.endswith("COMMAND"):
                return shlex.join(texts)
            if not any(re.search(r",|^\s|\s$", text) for text in texts):
                return ",".join(texts)
    return None
