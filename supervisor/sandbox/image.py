"""What the supervisor knows of the image that session containers are made of.

An image is input: its author decided what it declares. What it says about the user, the entry point, the
environment and volumes never reaches a container unseen: the facts are read once at start and decide (or
refuse); the policy then names everything itself. The image is pinned by its id, so one that is built anew
under the same name is used from the next start on.
"""

import posixpath
import tarfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import trio

from supervisor.engine import Docker, DockerContainer, DockerError
from supervisor.errors import ConfigurationError
from supervisor.reaping.engine_health import NEED_TIMEOUT, Need
from supervisor.sandbox.identity import Identity
from supervisor.settings import Settings

PROGRAMS: Final = "/usr/local/lib/terminal-supervisor"
"""Directory of our programs in a container: mounted there one by one, or part of the image."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOT_FOUND = 404
_MAX_PASSWD = 1 << 20
_ROLE = "image-reader"
_CALL_TIMEOUT = 30.0  # seconds; an engine that has just started is slow
_READ_TIME = 600.0  # seconds after which nobody reads any more


@attrs.frozen(kw_only=True)
class ImageFacts:
    """An image, and the user that sessions run as in it.

    Attributes:
        id: `sha256:…`.
        name: by which it was asked for.
        user, uid, gid, home: who the session's programs are; `home` also where they start.
        path: its `PATH`.
        other_environment: `NAME=value` entries that containers of it inherit besides `PATH`.
        command: what it runs when it is not told what to run.
        labels: inherited by its containers.
        exposed_ports, on_build, shell: likewise, and without effect here.
        passwd: its `/etc/passwd`.
    """

    id: str
    name: str
    user: str
    uid: int
    gid: int
    home: str
    path: str = DEFAULT_PATH
    other_environment: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict[str, str], repr=False)
    exposed_ports: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    passwd: str = attrs.field(default="", repr=False)


async def read_image(docker: Docker, settings: Settings, identity: Identity) -> ImageFacts:
    """Return the facts of the image in `settings`.

    Args:
        docker: the engine that has it.
        settings: `image`, `container_user`, `config_directory`.
        identity: for the container that is made, never started and removed again in order to read the image's
            `/etc/passwd`.

    Raises:
        ConfigurationError: there is no such image, or it is not fit for sessions; everything that is wrong
            with it is named.
        DockerError: the engine refuses to answer.
    """
    name = settings.image
    try:
        inspected = await docker.images.inspect(name, timeout=_CALL_TIMEOUT)
    except DockerError as error:
        if error.status != NOT_FOUND:
            raise
        raise ConfigurationError(
            f"there is no image {name} (DOCKER_IMAGE_NAME) at the engine: run `make setup`, which builds "
            "the default image"
        ) from error
    config: dict[str, Any] = inspected.get("Config") or {}
    passwd = await _read_passwd(docker, inspected["Id"], identity)
    return facts_of(name, inspected["Id"], config, passwd, settings)


def image_need(docker: Docker, image: ImageFacts) -> Need:
    """Return what looks whether the engine still has `image`. Another one under its name is no trouble: that
    one is used from the next start on."""

    async def look() -> str | None:
        try:
            await docker.images.inspect(image.id, timeout=NEED_TIMEOUT)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            return f"the image {image.name} ({image.id[:19]}) is gone"
        return None

    return look


def facts_of(
    name: str, image_id: str, config: Mapping[str, Any], passwd: str, settings: Settings
) -> ImageFacts:
    """Return the facts that an image's `Config` and its `/etc/passwd` amount to.

    Raises:
        ConfigurationError: as `read_image`.
    """
    problems = [
        f"declares VOLUME {volume}, where the engine would mount a writable directory without a size limit"
        for volume in config.get("Volumes") or ()
    ]
    wanted = settings.container_user or config.get("User") or ""
    user, uid, gid, home = "", 0, 0, ""
    try:
        user, uid, gid, home = find_user(wanted, passwd, posixpath.dirname(settings.config_directory))
    except ValueError as error:
        where = "CONTAINER_USER" if settings.container_user else "its USER"
        problems.append(f"{where} {wanted!r}: {error}")
    if problems:
        raise ConfigurationError(f"image {name}:\n  " + "\n  ".join(problems))
    environment: list[str] = config.get("Env") or []
    path = next((entry[5:] for entry in environment if entry.startswith("PATH=")), "")
    return ImageFacts(
        id=image_id,
        name=name,
        user=user,
        uid=uid,
        gid=gid,
        home=home,
        path=path or DEFAULT_PATH,
        other_environment=tuple(entry for entry in environment if not entry.startswith("PATH=")),
        command=(*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())),
        labels=dict(config.get("Labels") or {}),
        exposed_ports=tuple(config.get("ExposedPorts") or ()),
        on_build=tuple(config.get("OnBuild") or ()),
        shell=tuple(config.get("Shell") or ()),
        passwd=passwd,
    )


def find_user(wanted: str, passwd: str, default_home: str) -> tuple[str, int, int, str]:
    """Return name, uid, gid and home of `wanted`: a name or a number, perhaps with `:` and a group's number.

    A number needs no entry in `passwd` (though some programs fail without one); its name is then the number
    itself, its group the same number and its home `default_home`.

    Raises:
        ValueError: no such user, or root.
    """
    who, _, group = wanted.partition(":")
    if group and not group.isdecimal():
        raise ValueError("the group must be a number")
    user, uid, gid, home = who, -1, -1, default_home
    for line in passwd.splitlines():
        fields = line.split(":")
        if (
            len(fields) == 7
            and who in fields[:1] + fields[2:3]
            and fields[2].isdecimal()
            and fields[3].isdecimal()
        ):
            user, uid, gid, home = fields[0], int(fields[2]), int(fields[3]), fields[5] or default_home
            break
    else:
        if not who:
            raise ValueError(
                "the image names no user; set CONTAINER_USER to a user of the image or to uid:gid"
            )
        if not who.isdecimal():
            raise ValueError("the image's /etc/passwd has no such user")
        uid = gid = int(who)
    gid = int(group) if group else gid
    if uid == 0 or gid == 0:
        raise ValueError("sessions never run as root; set CONTAINER_USER to another user of the image")
    if max(uid, gid) > 0xFFFFFFFE:
        raise ValueError("the number is too large")
    return user, uid, gid, home


@asynccontextmanager
async def unstarted(docker: Docker, image_id: str, identity: Identity) -> AsyncGenerator[DockerContainer]:
    """Make a container of an image that is never started, for its files to be read, and remove it."""
    config = {
        "Image": image_id,
        "Entrypoint": ["/nothing"],
        "Labels": identity.labels(_ROLE, _READ_TIME),
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "none"}},
    }
    container = await docker.containers.create(config, name=identity.new_name(_ROLE), timeout=_CALL_TIMEOUT)
    try:
        yield container
    finally:
        with trio.CancelScope(shield=True):  # the call has a deadline
            await _remove(container)


async def _remove(container: DockerContainer) -> None:
    """Remove it, or raise: a server that cannot start leaves it to its guard, a command to the reconciler of
    the next server, which takes it for a dead one's.
    """
    try:
        await container.delete(force=True, v=True, timeout=_CALL_TIMEOUT)
    except DockerError as error:
        if error.status != NOT_FOUND:
            raise


async def _read_passwd(docker: Docker, image_id: str, identity: Identity) -> str:
    """Return the image's `/etc/passwd`, empty when it has none."""
    async with unstarted(docker, image_id, identity) as container:
        try:
            with await container.get_archive("/etc/passwd", timeout=_CALL_TIMEOUT) as archive:
                return _content(archive)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            return ""


def _content(archive: tarfile.TarFile) -> str:
    for member in archive:
        if member.isfile() and member.size <= _MAX_PASSWD:
            file = archive.extractfile(member)
            assert file is not None
            return file.read().decode(errors="replace")
    return ""
