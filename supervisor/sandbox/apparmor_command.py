"""What `terminal-supervisor apparmor` does: make the profiles for the images in use, load them, look.

For set-up and for packagers. A supervisor only looks: what may be loaded into the kernel is for root to say.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.profiles import read_profiles
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    PROFILE_FILE,
    SessionProfile,
    confining,
    kernel_has_apparmor,
    make_session_profile,
    not_enforced,
    profile_file,
)
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.image import read_image
from supervisor.settings import Settings

PACKAGE: Final = "apparmor"
"""Debian package that brings the parser."""
_LOAD_TIMEOUT = 120.0  # seconds; it takes less than one


@attrs.frozen
class AppArmorStatus:
    """How the profiles stand on this host.

    Attributes:
        sessions: what is needed.
        installed: the file is there, and has just these profiles.
        problem: why no session may start; None when one may.
    """

    sessions: tuple[SessionProfile, ...]
    installed: bool
    problem: str | None

    def __str__(self) -> str:
        return "\n".join(
            [
                f"file      {PROFILE_FILE}: {'up to date' if self.installed else 'missing or out of date'}",
                f"gate      {GATE_PROFILE}",
                *(
                    f"sessions  {each.name} ({len(each.execute)} programs of {each.image})"
                    for each in self.sessions
                ),
                f"state     {self.problem or 'enforced'}",
            ]
        )


async def needed_profiles(settings: Settings) -> tuple[SessionProfile, ...]:
    """Return the profiles of the sessions of all images in `settings`, those of the operator's profiles
    included.

    Raises:
        ConfigurationError: an image is not there, or not as it must be, or the engine does not answer.
    """
    identity = this_process()
    made: list[SessionProfile] = []
    try:
        async with Docker(settings.docker_host or None) as docker:
            for each in (settings, *read_profiles(settings).values()):
                image = await read_image(docker, each, identity)
                made.append(await make_session_profile(docker, each, image, identity))
    except (DockerError, ValueError, OSError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    return tuple({each.name: each for each in made}.values())


async def install_profiles(settings: Settings) -> AppArmorStatus:
    """Write the file of profiles and load it, in place of what was loaded under the same names. Again is no
    harm. Other profiles of sessions stay loaded, for sessions that run.

    Raises:
        ConfigurationError: as `needed_profiles`; or this host has no AppArmor, this process may not, or the
            parser refuses.
    """
    if not kernel_has_apparmor():
        raise ConfigurationError(
            "this kernel has no AppArmor, or it is off: boot one that has it, with lsm=…,apparmor"
        )
    _require_root("install")
    sessions = await needed_profiles(settings)
    draft = PROFILE_FILE.with_name(f".{PROFILE_FILE.name}.new")
    draft.write_text(profile_file(sessions))
    try:
        await _parser("--replace", draft)
        draft.replace(PROFILE_FILE)
    finally:
        draft.unlink(missing_ok=True)
    return _status(sessions)


async def remove_profiles() -> None:
    """Unload the profiles and remove the file.

    Raises:
        ConfigurationError: this process may not, or something is confined by them, which would be confined
            by nothing then.
    """
    _require_root("remove")
    if confined := _confined():
        raise ConfigurationError(f"the profiles stay: they confine processes {', '.join(map(str, confined))}")
    if PROFILE_FILE.exists():
        await _parser("--remove", PROFILE_FILE)
        PROFILE_FILE.unlink()


async def profiles_status(settings: Settings) -> AppArmorStatus:
    """Return how the profiles stand.

    Raises:
        ConfigurationError: as `needed_profiles`.
    """
    return _status(await needed_profiles(settings))


def _status(sessions: tuple[SessionProfile, ...]) -> AppArmorStatus:
    installed = PROFILE_FILE.is_file() and PROFILE_FILE.read_text() == profile_file(sessions)
    return AppArmorStatus(sessions, installed, not_enforced(GATE_PROFILE, *(each.name for each in sessions)))


def _require_root(action: str) -> None:
    if os.geteuid() != 0:
        raise ConfigurationError(f"apparmor {action} changes what the kernel enforces: it needs root")


def _confined() -> list[int]:
    """Return the processes of this host that a profile of ours confines."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/attr/current"):
        try:
            label = path.read_text().strip("\0\n")
        except OSError:  # it has ended
            continue
        if GATE_PROFILE in confining(label):
            found.append(int(path.parts[2]))
    return sorted(found)


async def _parser(action: str, file: Path) -> None:
    program = shutil.which("apparmor_parser", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if program is None:
        raise ConfigurationError(
            f"this host has no apparmor_parser (Debian package {PACKAGE}): apt-get install {PACKAGE}"
        )
    with trio.move_on_after(_LOAD_TIMEOUT):
        done = await trio.run_process(
            [program, action, "--skip-cache", str(file)],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode:
            raise ConfigurationError(
                f"apparmor_parser {action} failed (status {done.returncode}): "
                f"{done.stdout.decode(errors='replace').strip()[-500:]}"
            )
        return
    raise ConfigurationError(f"apparmor_parser {action} did not end within {_LOAD_TIMEOUT:g} s")
