"""Loads the seccomp profile that session containers run under.

The engine takes a profile only as JSON text inside the create call (it refuses a path). It does not look at
it until the container starts, and takes misspelt names of system calls for calls that this kernel lacks. So
what can be checked is checked here, before anything starts, on the text that the engine gets. A profile
that allows by default is no profile.

The file is in the format of Docker's own profiles, an extension of the OCI runtime specification's
`linux.seccomp`.
"""

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import attrs

from supervisor.errors import ConfigurationError
from supervisor.provision.compiler import docker_directory

_DENYING = frozenset({"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS"})
_ACTIONS = _DENYING | {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG"}
_OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"))
_PROFILE_KEYS = {"defaultAction", "defaultErrnoRet", "archMap", "syscalls"}
_RULE_KEYS = {"comment", "names", "action", "errnoRet", "args"}
_MAX_PROFILE = 256 * 1024  # bytes; the profile travels with every create call


@attrs.frozen
class SeccompProfile:
    """A profile that was checked.

    Attributes:
        text: compact JSON without comments, as the engine gets it.
        digest: SHA-256 of `text`, hexadecimal.
        allowed: names of the system calls that some rule allows, perhaps for certain arguments only.
        named: names in all rules.
        architectures: that it is for, in libseccomp's spelling.
    """

    text: str = attrs.field(repr=False)
    digest: str
    allowed: frozenset[str] = attrs.field(repr=False)
    named: frozenset[str] = attrs.field(repr=False)
    architectures: frozenset[str]

    def spelled_for(self, names: Mapping[str, str]) -> str:
        """Return `text` for a runtime that makes the filter itself, as gVisor does, not libseccomp.

        Args:
            names: of system calls that it calls otherwise than Linux: it ignores names that it does not know.

        Some of its versions answer EPERM, whatever `errnoRet` says. Where that is ENOSYS the rule becomes
        SCMP_ACT_TRACE, which says the same where nobody traces (seccomp(2)), and the profile lets nobody.
        """
        profile: dict[str, Any] = json.loads(self.text)
        for rule in profile["syscalls"]:
            rule["names"] += [names[name] for name in rule["names"] if name in names]
            if rule.get("errnoRet") == errno.ENOSYS:
                del rule["errnoRet"]
                rule["action"] = "SCMP_ACT_TRACE"
        return json.dumps(profile, separators=(",", ":"))


RESTORE: Final = "docker/seccomp.json is part of this version: restore it, or install that again"
"""What to do about a profile that is none."""
NO_PROFILE: Final = SeccompProfile("", "", frozenset(), frozenset(), frozenset())
"""Where sessions go without."""


@contextmanager
def staged_profile(source: Path, directory: Path, machine: str) -> Generator[SeccompProfile]:
    """Read the profile in `source`, once, check it, put it into a file of our own (mode 0600), and yield it.

    The copy is what an operator can look at while the supervisor runs, whatever becomes of `source`. It is
    removed on leaving. It has the very text that the engine gets, so its SHA-256 is the profile's `digest`.

    Args:
        source: the profile.
        directory: private.
        machine: of the engine's host, `x86_64` or `aarch64`; the profile must be for it.

    Raises:
        ConfigurationError: as `load_profile`, or it is not for that machine, or names a call that Linux does
            not have.
    """
    profile = profile_for(source, machine)
    try:
        descriptor, name = tempfile.mkstemp(prefix="seccomp-", suffix=".json", dir=directory)
    except OSError as error:
        raise ConfigurationError(f"seccomp profile: cannot be staged: {error}") from error
    try:
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(profile.text.encode())
        except OSError as error:
            raise ConfigurationError(f"seccomp profile: cannot be staged: {error}") from error
        yield profile
    finally:
        Path(name).unlink(missing_ok=True)


def profile_for(source: Path, machine: str) -> SeccompProfile:
    """Return the profile in `source` for hosts of kind `machine`.

    Raises:
        ConfigurationError: as in `staged_profile`.
    """
    profile = load_profile(source)
    problems = [f"Linux has no system call {name!r}" for name in sorted(profile.named - known_calls())]
    if f"SCMP_ARCH_{machine.upper()}" not in profile.architectures:
        problems.append(f"archMap: is not for {machine}")
    if problems:
        raise ConfigurationError(f"seccomp profile {source}:\n  " + "\n  ".join(problems))
    return profile


def known_calls() -> frozenset[str]:
    """Return the names of the system calls that Linux has (`docker/syscalls.txt`)."""
    lines = (docker_directory() / "syscalls.txt").read_text().splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def load_profile(path: Path) -> SeccompProfile:
    """Read and check the profile in `path`.

    Raises:
        ConfigurationError: it cannot be read, or is not a profile that denies by default; everything that is
            wrong is named.
    """
    try:
        data = path.read_bytes()
        if len(data) > _MAX_PROFILE:
            raise ConfigurationError(f"seccomp profile {path}: longer than {_MAX_PROFILE} bytes")
        profile: Any = json.loads(data)
    except OSError as error:
        raise ConfigurationError(f"seccomp profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"seccomp profile {path}: not JSON: {error}") from error
    problems = _problems(profile)
    if problems:
        raise ConfigurationError(f"seccomp profile {path}:\n  " + "\n  ".join(problems))
    rules = [{key: value for key, value in rule.items() if key != "comment"} for rule in profile["syscalls"]]
    text = json.dumps({**profile, "syscalls": rules}, separators=(",", ":"))
    allowed = frozenset(
        name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    )
    named = frozenset(name for rule in rules for name in rule["names"])
    architectures = frozenset(str(entry["architecture"]) for entry in profile["archMap"])
    return SeccompProfile(text, hashlib.sha256(text.encode()).hexdigest(), allowed, named, architectures)


def _problems(profile: Any) -> list[str]:
    if not isinstance(profile, dict):
        return ["must be a JSON object"]
    profile = cast("dict[str, Any]", profile)
    problems = [f"unknown key {key!r}" for key in profile.keys() - _PROFILE_KEYS]
    if profile.get("defaultAction") not in _DENYING:
        problems.append("defaultAction: must deny (SCMP_ACT_ERRNO)")
    if not isinstance(profile.get("archMap"), list) or not profile["archMap"]:
        problems.append("archMap: must name the architectures")
    elif not all(isinstance(entry, dict) and "architecture" in entry for entry in _items(profile["archMap"])):
        problems.append("archMap: each must be an object with an architecture")
    rules = profile.get("syscalls")
    if not isinstance(rules, list) or not rules:
        return [*problems, "syscalls: must be a list of rules"]
    for index, rule in enumerate(_items(rules)):
        problems += [f"syscalls[{index}]: {problem}" for problem in _rule_problems(rule)]
    return problems


def _rule_problems(rule: Any) -> list[str]:
    if not isinstance(rule, dict):
        return ["must be a JSON object"]
    rule = cast("dict[str, Any]", rule)
    problems = [f"unknown key {key!r}" for key in rule.keys() - _RULE_KEYS]
    names: Any = rule.get("names")
    if not isinstance(names, list) or not names:
        problems.append("names: must be a list of system calls")
    else:
        wrong = [name for name in _items(names) if not _is_name(name)]
        problems += [f"not the name of a system call: {name!r}" for name in wrong]
    if rule.get("action") not in _ACTIONS:
        problems.append(f"action: unknown: {rule.get('action')!r}")
    indices: list[Any] = []
    for argument in _items(rule.get("args", [])):
        if not isinstance(argument, dict) or cast("dict[str, Any]", argument).get("op") not in _OPERATORS:
            problems.append("args: each must be an object with a known op")
            continue
        argument = cast("dict[str, Any]", argument)
        indices.append(argument.get("index"))
        numbers = [argument.get(key, 0) for key in ("value", "valueTwo")]
        if not all(isinstance(number, int) and 0 <= number < 1 << 64 for number in numbers):
            problems.append("args: values must be unsigned 64-bit numbers")
    if any(index not in range(6) for index in indices):
        problems.append("args: index must be 0 to 5")
    if len(set(indices)) != len(indices):
        # Runtimes turn two conditions on one argument into "or", which allows more than was meant.
        problems.append("args: one condition per argument")
    return problems


def _items(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []  # type: ignore[redundant-cast]  # pyright needs it


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[a-z_][a-z0-9_]*", name) is not None
