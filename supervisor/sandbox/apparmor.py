"""AppArmor profiles of session containers: made for the images in use.

There are two kinds. The gate's has a fixed name, by which the engine applies it, and allows what the gate and
the sessions of all images need. A session's is stacked under it by the gate (docs/gate.md), and allows what
sessions of one image need: reading, executing the programs that the image has, writing what is temporary.
Its name ends in a digest of its rules, so the label of a process says whether it is for this image and these
settings. Whether the kernel has these very rules under our names, `apparmor_kernel` finds out.

The templates are in `docker/apparmor/`; rules are explained in apparmor.d(5).
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable
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
_FACTS: Final = "#: "  # before a line of what a file was made for
_PLAIN: Final = re.compile(rb"[^A-Za-z0-9/._+%:=~-]")


def _strings(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


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
    read: tuple[str, ...] = attrs.field(converter=_strings)
    run: tuple[str, ...] = attrs.field(converter=_strings)
    execute: tuple[str, ...] = attrs.field(converter=_strings, repr=False)
    write: tuple[str, ...] = attrs.field(converter=_strings)

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
    # In short lines: the parser's scanner takes 16 KB of a comment.
    facts = json.dumps([attrs.asdict(session) for session in unique.values()], indent=0)
    made_for = "".join(f"{_FACTS}{line}\n" for line in facts.split("\n"))
    return "\n".join([_fill("head"), made_for, gate, *map(str, unique.values())])


def profile_text(session: SessionProfile) -> str:
    """Return the text of one profile by itself, as the parser takes it."""
    return "\n".join([_fill("head"), str(session)])


def made_for(text: str) -> tuple[SessionProfile, ...]:
    """Return the sessions that `profile_file` has made `text` for.

    Raises:
        ValueError: it has not.
    """
    lines = [line.removeprefix(_FACTS) for line in text.split("\n") if line.startswith(_FACTS)]
    try:
        return tuple(SessionProfile(**each) for each in json.loads("\n".join(lines)))
    except TypeError as error:
        raise ValueError(str(error)) from error


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
