"""What `terminal-supervisor apparmor` does: make the profiles for the images in use, load them, look.

For set-up and for packagers. A supervisor only looks: what may be loaded into the kernel is for root to say.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.profiles import read_profiles
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    PROFILE_FILE,
    SessionProfile,
    make_session_profile,
    profile_file,
    profile_text,
)
from supervisor.sandbox.apparmor_kernel import confining, kernel_has_apparmor, prove_profiles, run_parser
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.image import read_image
from supervisor.settings import Settings


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
    draft.chmod(0o644)  # a supervisor of any user reads what it was made for
    try:
        await run_parser("--replace", "--skip-cache", str(draft))
        draft.replace(PROFILE_FILE)
    finally:
        draft.unlink(missing_ok=True)
    return await _status(sessions)


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
        await run_parser("--remove", "--skip-cache", str(PROFILE_FILE))
        PROFILE_FILE.unlink()


@asynccontextmanager
async def profile_loaded(session: SessionProfile) -> AsyncGenerator[None]:
    """Have a profile loaded that no file has, for as long as the block lasts: for tests of this host.

    Raises:
        ConfigurationError: this process may not, or the parser refuses.
    """
    _require_root("install")
    text = profile_text(session)
    await run_parser("--replace", "--skip-cache", text=text)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):  # the parser has a deadline
            await run_parser("--remove", "--skip-cache", text=text)


async def profiles_status(settings: Settings) -> AppArmorStatus:
    """Return how the profiles stand.

    Raises:
        ConfigurationError: as `needed_profiles`.
    """
    return await _status(await needed_profiles(settings))


async def _status(sessions: tuple[SessionProfile, ...]) -> AppArmorStatus:
    installed = PROFILE_FILE.is_file() and PROFILE_FILE.read_text() == profile_file(sessions)
    problem = None
    try:
        await prove_profiles(sessions)
    except ConfigurationError as error:
        problem = str(error)
    return AppArmorStatus(sessions, installed, problem)


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
