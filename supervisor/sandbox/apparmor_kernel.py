"""What the kernel has loaded under the names of our profiles: whether it is what this version makes.

Name and mode say nothing of the rules: whoever may load profiles may load others under our names, and a file
that is loaded at boot may be of an earlier version. But the kernel keeps a hash of each profile as it was
loaded, and the parser compiles the same text to the same bytes for the same kernel. So the profiles are
compiled anew, loaded nowhere, and their hashes compared.

The kernel's side is apparmorfs (`policy/profiles/*/name`, `mode`, and `sha1`, which is `sha256` from Linux
6.8 on; CONFIG_SECURITY_APPARMOR_HASH). A hash covers the version that the header says, and the profile behind
the header (`aa_calc_profile_hash`, security/apparmor/policy_unpack.c), however many profiles are loaded in
one go, from text or from the parser's cache.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.errors import ConfigurationError, SandboxError
from supervisor.observability.audit import audit
from supervisor.observability.log import get_logger
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    PROFILE_FILE,
    SESSION_PREFIX,
    SessionProfile,
    made_for,
    profile_file,
)

_log = get_logger("sandbox")

UNSAFE_PROFILES: Final = "the sessions' confinement is not safe at the moment"
PACKAGE: Final = "apparmor"
"""Debian package that brings the parser."""
_ENABLED: Final = Path("/sys/module/apparmor/parameters/enabled")
_PROFILES: Final = Path("/sys/kernel/security/apparmor/policy/profiles")
_ALGORITHMS: Final = ("sha256", "sha1")
_INSTALL: Final = "as root: sudo terminal-supervisor apparmor install"
_PAUSE: Final = 5.0  # seconds between two looks while no session starts
_PARSER_TIMEOUT: Final = 120.0  # seconds; it takes less than one
# The kernel's features are the kernel's own to tell.
_COMPILE: Final = ("--skip-kernel-load", "--skip-cache", "--stdout")
# A header, which is the version, and what a profile begins with: its name (parser_interface.c).
_BEGIN: Final = re.compile(
    rb"\x04\x08\0version\0\x02(?P<version>....)(?=\x04\x08\0profile\0\x07\x05..(?P<name>[^\0]+)\0)", re.DOTALL
)


@attrs.frozen
class LoadedProfile:
    """A profile as the kernel has it.

    Attributes:
        mode: `enforce`, `complain`, ...
        algorithm, digest: its hash, hexadecimal; both empty where the kernel keeps none.
    """

    mode: str
    algorithm: str = ""
    digest: str = ""


def kernel_has_apparmor() -> bool:
    """Whether this kernel has AppArmor, and it is on."""
    try:
        return _ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def loaded_profiles(names: Iterable[str]) -> Mapping[str, LoadedProfile]:
    """Return those of the named profiles that the kernel has loaded.

    Raises:
        OSError: the kernel does not tell: there is no AppArmor, securityfs is not mounted, or this process
            may not look.
    """
    wanted = set(names)
    found: dict[str, LoadedProfile] = {}
    for directory in _PROFILES.iterdir():
        # It is called like the profile, with a number.
        if directory.name.rpartition(".")[0] not in wanted:
            continue
        try:
            name, mode = ((directory / each).read_text().strip() for each in ("name", "mode"))
            algorithm = next((each for each in _ALGORITHMS if (directory / each).exists()), "")
            digest = (directory / algorithm).read_text().strip() if algorithm else ""
        except FileNotFoundError:  # removed meanwhile
            continue
        found[name] = LoadedProfile(mode, algorithm if digest else "", digest)
    return found


async def prove_profiles(sessions: Iterable[SessionProfile]) -> Mapping[str, LoadedProfile]:
    """Return the gate's profile and those of `sessions`, as the kernel has them, if it enforces what this
    version makes: for `sessions`, and for the gate with all images that the file of profiles was made for.

    Raises:
        ConfigurationError: it does not, or nobody can say; the text says what to do.
    """
    names = (GATE_PROFILE, *(each.name for each in sessions))
    try:
        loaded = loaded_profiles(names)
    except OSError as error:
        raise ConfigurationError(
            f"the kernel does not tell its profiles ({error}): mount securityfs at /sys/kernel/security"
        ) from error
    for name in names:
        if why := _unfit(name, loaded):
            raise ConfigurationError(why)
    made = await compile_profiles(profile_file(_installed()))
    for name in names:
        profile = loaded[name]
        if name not in made:
            raise ConfigurationError(
                f"the file {PROFILE_FILE} is not for this image and these settings ({name} is not in it): "
                f"make and load it anew, {_INSTALL}"
            )
        if profile.digest != hashlib.new(profile.algorithm, made[name]).hexdigest():
            raise ConfigurationError(
                f"the profile {name} is loaded with other rules than this version makes (or by another "
                f"version of apparmor_parser): make and load it anew, {_INSTALL}"
            )
    return loaded


@attrs.define
class ProfilesWatch:
    """Whether the kernel still has the profiles that were proved. To look takes less than a millisecond, so
    it is done whenever a session starts, from a pool as well.

    The gate's may become another one, when profiles are installed for other images; it is proved anew then.
    """

    proved: Mapping[str, LoadedProfile]
    _told: str | None = None

    @property
    def problem(self) -> str | None:
        """Why no session may start, in words; None when all is well."""
        try:
            changed = self._changed()
        except OSError as error:
            return f"the kernel does not tell its AppArmor profiles any more: {error}"
        return f"AppArmor profiles have changed: {', '.join(sorted(changed))}" if changed else None

    def require_ready(self) -> None:
        """Let a session start, or not.

        Raises:
            SandboxError: not; the cause is in the log.
        """
        if (problem := self.problem) is not None:
            _log.error("no session: the profiles are not those of the start", problem=problem)
            raise SandboxError(UNSAFE_PROFILES)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await trio.sleep(_PAUSE)
            await self.look()

    async def look(self) -> None:
        """Look once; prove the gate's profile anew where that is what has changed, and tell what is wrong."""
        try:
            if self._changed() == {GATE_PROFILE}:
                self.proved = {**self.proved, **await prove_profiles(())}
                _log.info("the gate's profile has changed, and is what this version makes")
        except (ConfigurationError, OSError) as error:
            _log.warning("the gate's profile has changed", problem=str(error))
        problem = self.problem
        if problem != self._told:
            self._told = problem
            audit(
                "AppArmor profiles have changed"
                if problem
                else "AppArmor profiles are those of the start again",
                "critical" if problem else "info",
                problem=problem or "",
            )

    def _changed(self) -> set[str]:
        loaded = loaded_profiles(self.proved)
        return {name for name in self.proved if loaded.get(name) != self.proved[name]}


def confining(label: str) -> frozenset[str]:
    """Return the profiles that a process with `label` (attr/current) is confined by; none unless all of them
    are enforced.
    """
    names, _, mode = label.rpartition(" ")
    return frozenset(names.split("//&")) if mode == "(enforce)" else frozenset()


async def compile_profiles(text: str) -> Mapping[str, bytes]:
    """Return what the kernel would hash if it loaded the profiles in `text`, by name.

    Raises:
        ConfigurationError: see `run_parser`.
    """
    compiled = await run_parser(*_COMPILE, text=text)
    headers = list(_BEGIN.finditer(compiled))
    ends = [*(header.start() for header in headers[1:]), len(compiled)]
    return {
        header["name"].decode(): header["version"] + compiled[header.end() : end]
        for header, end in zip(headers, ends, strict=True)
    }


async def run_parser(*arguments: str, text: str = "") -> bytes:
    """Run apparmor_parser(8) and return its standard output.

    Args:
        arguments: of it.
        text: its input, where no argument names a file.

    Raises:
        ConfigurationError: it is not there, or refuses, or does not end.
    """
    program = shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise ConfigurationError(
            f"this host has no apparmor_parser (Debian package {PACKAGE}): apt-get install {PACKAGE}"
        )
    with trio.move_on_after(_PARSER_TIMEOUT):
        done = await trio.run_process(
            [program, *arguments],
            stdin=text.encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode:
            said = (done.stderr + done.stdout).decode(errors="replace").strip()
            raise ConfigurationError(
                f"apparmor_parser {arguments[0]} failed (status {done.returncode}): {said[-500:]}"
            )
        return bytes(done.stdout)
    raise ConfigurationError(f"apparmor_parser {arguments[0]} did not end within {_PARSER_TIMEOUT:g} s")


def _unfit(name: str, loaded: Mapping[str, LoadedProfile]) -> str | None:
    """Return why that profile does not confine, or why nobody can say what it says."""
    profile = loaded.get(name)
    if profile is None and name.startswith(SESSION_PREFIX):
        return (
            f"the profiles that are loaded are not for this image and these settings ({name} is not "
            f"among them): make and load them anew, {_INSTALL}"
        )
    if profile is None:
        return f"the profile {name} is not loaded: make and load it, {_INSTALL}"
    if profile.mode != "enforce":
        return (
            f"the profile {name} is loaded in mode {profile.mode}, in which it forbids nothing: load it in "
            f"mode enforce, {_INSTALL}"
        )
    if not profile.digest:
        return (
            f"the kernel keeps no hash of the profile {name}, so nobody can say which rules it has: boot "
            "without apparmor.hash_policy=0, a kernel with CONFIG_SECURITY_APPARMOR_HASH"
        )
    return None


def _installed() -> tuple[SessionProfile, ...]:
    """Return what the file of profiles was made for.

    Raises:
        ConfigurationError: there is no such file, or not one that this version has made.
    """
    try:
        return made_for(PROFILE_FILE.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the file {PROFILE_FILE} is not one of this version ({error}): make and load it, {_INSTALL}"
        ) from error
