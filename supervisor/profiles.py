"""Profiles: kinds of session that an operator offers by name, each a few settings that differ from the rest.

A signed config chooses one; nobody else can. The file (`PROFILES_FILE`) is TOML with a table per profile,
whose keys are the names that the settings have everywhere:

    [python]
    DOCKER_IMAGE_NAME = "terminal-supervisor-python:latest"
    SESSION_COMMAND = "python3"
    CONTAINER_MEMORY_LIMIT = "512m"
    MAX_SESSION_DURATION_MS = 600000

Only what belongs to a session can be in it. Values are checked as all settings are.
"""

import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from supervisor.errors import ConfigurationError
from supervisor.settings import Settings

MAX_PROFILES: Final = 64

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

FIELDS: Final = frozenset(
    {
        "image", "command", "allowed_commands", "container_user", "network", "memory_limit", "cpu_limit",
        "runtime", "pids_limit", "tmpfs_size", "config_size", "config_directory", "egress_domains",
        "egress_ports", "idle_timeout", "max_duration", "timeout_warning", "resume_grace", "input_rate",
        "input_burst", "output_rate", "message_rate", "message_burst", "command_rate",
    }
)  # fmt: skip
"""Settings that a profile may change, by their names in `Settings`."""


def read_profiles(settings: Settings) -> dict[str, Settings]:
    """Return the settings that hold in each profile, by its name; {} without a file.

    Raises:
        ConfigurationError: the file cannot be read, or something in it is not as it must be; all that is
            wrong is named.
    """
    path = settings.profiles
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"PROFILES_FILE={path}: {error}") from None
    if len(document) > MAX_PROFILES:
        raise ConfigurationError(
            f"PROFILES_FILE={path}: has {len(document)} profiles; {MAX_PROFILES} are possible"
        )
    profiles: dict[str, Settings] = {}
    problems: list[str] = []
    for name, table in document.items():
        try:
            profiles[name] = _profile(name, table, settings)
        except ConfigurationError as error:
            problems.append(f"[{name}] {error}")
    if problems:
        raise ConfigurationError(f"PROFILES_FILE={path}:\n" + "\n".join(problems))
    return profiles


def _profile(name: str, table: Any, settings: Settings) -> Settings:
    if not NAME.fullmatch(name):
        raise ConfigurationError("a profile's name has lower-case letters, digits, _ and -, at most 32")
    if not isinstance(table, Mapping):
        raise ConfigurationError("a profile is a table of settings")
    known = {field.metadata["env"]: field for field in attrs.fields(Settings) if field.name in FIELDS}
    changes: dict[str, Any] = {}
    problems: list[str] = []
    for variable, value in cast("Mapping[str, Any]", table).items():
        if variable not in known:
            problems.append(f"{variable}: no setting of a session; possible are {', '.join(sorted(known))}")
            continue
        try:
            changes[known[variable].name] = known[variable].metadata["parse"](_text(value))
        except ValueError as error:
            problems.append(f"{variable}={value!r}: {error}")
    if problems:
        raise ConfigurationError("\n  ".join(problems))
    return attrs.evolve(settings, profiles=None, **changes)


def _text(value: Any) -> str:
    """Return a TOML value as an environment variable would have it."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return value
        case int() | float():
            return str(value)
        case list():
            return ",".join(str(item) for item in cast("list[object]", value))
        case _:
            raise ValueError("must be text, a number or a list")
