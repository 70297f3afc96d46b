"""AppArmor profiles of session containers: made for the images in use, and looked for in the kernel.

There are two kinds. The gate's has a fixed name, by which the engine applies it, and allows what the gate and
the sessions of all images need. A session's is stacked under it by the gate (docs/gate.md), and allows what
sessions of one image need: reading, executing the programs that the image has, writing what is temporary.
Its name ends in a digest of its rules. So the kernel's list of loaded profiles, and the label of each
process, say whether it is the one for this image and these settings.

The templates are in `docker/apparmor/`; rules are explained in apparmor.d(5).
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Final

import attrs

from supervisor.engine import Docker
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.identity import Identity
from supervisor.sandbox.image import PROGRAMS, ImageFacts
from supervisor.sandbox.landlock import FILES, program_directories
from supervisor.sandbox.programs import list_programs
from supervisor.settings import Settings

GATE_PROFILE: Final = "ably-cli-sandbox-profile"
SESSION_PREFIX: Final = "ably-cli-sandbox-session-"
PROFILE_FILE: Final = Path("/etc/apparmor.d/docker-ably-cli-sandbox")
"""Where the profiles of this host are, to be loaded when it starts."""
_ENABLED: Final = Path("/sys/module/apparmor/parameters/enabled")
_LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")
_INSTALL: Final = "sudo terminal-supervisor apparmor install"
_PLAIN: Final = re.compile(rb"[^A-Za-z0-9/._+%:=~-]")


@attrs.frozen
class SessionProfile:
    """The profile of the sessions of one image.

    Attributes:
        image: its name and id, for people.
        read: directories whose files may be read.
        run: directories whose files may be read and loaded.
        execute: files that may be executed.
        write: directories that may be written to.
    """

    image: str
    read: tuple[str, ...]
    run: tuple[str, ...]
    execute: tuple[str, ...] = attrs.field(repr=False)
    write: tuple[str, ...]

    @property
    def name(self) -> str:
        """By which the kernel knows it."""
        return SESSION_PREFIX + hashlib.sha256(self._text("").encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return self._text(self.name)

    def _text(self, name: str) -> str:
        return _fill("session", name=name, both=_rules([self]), image=pattern(self.image), ours=PROGRAMS)


async def make_session_profile(
    docker: Docker, settings: Settings, image: ImageFacts, identity: Identity
) -> SessionProfile:
    """Return the profile of sessions in `image`.

    Args:
        docker: the engine that has it.
        settings: `program_directories`, `config_directory`, `state_directory`.
        image: what they run in.
        identity: see `list_programs`.

    Raises:
        ConfigurationError, DockerError: see `list_programs`.
    """
    run = program_directories(image.path, settings.program_directories)
    return SessionProfile(
        image=f"{image.name} {image.id}",
        read=tuple(dict.fromkeys([*FILES, image.home])),
        run=run,
        execute=await list_programs(docker, image, run, identity, settings.state_directory),
        write=("/tmp", "/run", settings.config_directory),  # noqa: S108 - the container's
    )


def profile_file(sessions: Iterable[SessionProfile]) -> str:
    """Return the text of the file with all profiles: the gate's, and those of `sessions`."""
    unique = {session.name: session for session in sessions}
    gate = _fill("gate", both=_rules(unique.values()), ours=PROGRAMS)
    return "\n".join([_fill("head"), gate, *map(str, unique.values())])


def pattern(path: str) -> str:
    """Return what matches `path` in a rule. What might mean something to AppArmor becomes `?`, any one byte:
    an image's author chooses the names of its files, but no rules.
    """
    return _PLAIN.sub(b"?", path.encode(errors="surrogateescape")).decode()


def _rules(sessions: Iterable[SessionProfile]) -> str:
    sessions = tuple(sessions)

    def lines(directories: Iterable[str], *rules: str) -> str:
        unique = dict.fromkeys(pattern(posixpath.normpath(each)) for each in directories)
        return "\n  ".join(rule.format(each) for each in unique for rule in rules)

    return _fill(
        "both",
        read="\n  ".join(
            [
                lines((each for session in sessions for each in session.read), "{}/** r,"),
                lines((each for session in sessions for each in session.run), "{}/** mr,"),
            ]
        ),
        execute=lines(sorted({each for session in sessions for each in session.execute}), "{} mrix,"),
        write=lines((each for session in sessions for each in session.write), "{}/ rw,", "{}/** rwkl,"),
    )


def _fill(part: str, **values: str) -> str:
    text = (docker_directory() / "apparmor" / part).read_text()
    return Template(text).substitute(gate=GATE_PROFILE, sessions=f"{SESSION_PREFIX}*", **values)


# ---------------------------------------------------------------------- the kernel


def kernel_has_apparmor() -> bool:
    """Whether this kernel has AppArmor, and it is on."""
    try:
        return _ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


def loaded_profiles() -> Mapping[str, str]:
    """Return the modes (`enforce`, `complain`, ...) of all loaded profiles by name.

    Raises:
        OSError: the kernel's list cannot be read: there is no AppArmor, securityfs is not mounted, or this
            process may not.
    """
    lines = _LOADED.read_text().splitlines()
    return {name: mode.strip("()") for name, _, mode in (line.rpartition(" ") for line in lines)}


def not_enforced(*names: str) -> str | None:
    """Return why those profiles do not confine, and how to get it; None when the kernel enforces them all."""
    try:
        loaded = loaded_profiles()
    except OSError as error:
        return f"the kernel does not list its profiles ({error}): mount securityfs at /sys/kernel/security"
    for name in names:
        mode = loaded.get(name)
        if mode is None and name.startswith(SESSION_PREFIX) and GATE_PROFILE in loaded:
            return (
                f"the profiles that are loaded are not for this image and these settings ({name} is not "
                f"among them): make and load them anew, as root: {_INSTALL}"
            )
        if mode is None:
            return f"the profile {name} is not loaded: make and load it, as root: {_INSTALL}"
        if mode != "enforce":
            return (
                f"the profile {name} is loaded in mode {mode}, in which it forbids nothing: load it in mode "
                f"enforce, as root: {_INSTALL}"
            )
    return None


def confining(label: str) -> frozenset[str]:
    """Return the profiles that a process with `label` (attr/current) is confined by; none unless all of them
    are enforced.
    """
    names, _, mode = label.rpartition(" ")
    return frozenset(names.split("//&")) if mode == "(enforce)" else frozenset()
