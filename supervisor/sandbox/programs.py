"""The programs of an image: which of its files may be executed at all.

They are listed once for each image, by reading it as a tar archive from the engine, and remembered: an image
of the same id is the same.
"""

import hashlib
import json
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import trio

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.sandbox.identity import Identity
from supervisor.sandbox.image import NOT_FOUND, PROGRAMS, ImageFacts, unstarted

MAX_PROGRAMS: Final = 8192
"""A profile that lists more takes minutes to load."""
_FORMAT = "1"  # of what is remembered
_READ_TIMEOUT = 300.0  # seconds for one directory; a gigabyte on a slow disk
# Shared libraries, the dynamic loader among them: by executing that, any file could be executed that can be
# read. Who needs them, loads them.
_LIBRARY: Final = re.compile(r"\.so(\.[0-9.]+)?$")


async def list_programs(
    docker: Docker, image: ImageFacts, directories: Iterable[str], identity: Identity, state: Path
) -> tuple[str, ...]:
    """Return the absolute paths of the files in `directories` of `image` that may be executed, sorted; but
    not those of our own programs.

    Args:
        docker: the engine that has it.
        image: which.
        directories: absolute; one that the image does not have has no programs.
        identity: for the container that is made and never started.
        state: where it is remembered.

    Raises:
        ConfigurationError: there are more than `MAX_PROGRAMS`.
        DockerError: the engine refuses.
    """
    roots = _outermost(directories)
    key = hashlib.sha256(json.dumps([_FORMAT, image.id, roots]).encode()).hexdigest()
    remembered = state / "programs" / f"{key[:32]}.json"
    with suppress(OSError, ValueError):
        return tuple(cast("list[str]", json.loads(remembered.read_text())))
    found: set[str] = set()
    async with unstarted(docker, image.id, identity) as container:
        for root in roots:
            try:
                archive = await container.get_archive(root, timeout=_READ_TIMEOUT)
            except DockerError as error:
                if error.status != NOT_FOUND:
                    raise
                continue
            with archive:
                found.update(await trio.to_thread.run_sync(list, _programs(archive, posixpath.dirname(root))))
    if len(found) > MAX_PROGRAMS:
        raise ConfigurationError(
            f"image {image.name} has {len(found)} files that may be executed, more than the {MAX_PROGRAMS} "
            "that a profile can list: take the executable bits from those that are no programs"
        )
    programs = tuple(sorted(found))
    remembered.parent.mkdir(parents=True, exist_ok=True)
    draft = remembered.with_suffix(f".{identity.instance}")
    draft.write_text(json.dumps(programs))
    draft.replace(remembered)
    return programs


def _outermost(directories: Iterable[str]) -> Sequence[str]:
    """Return the directories that are not below another one of them, sorted."""
    roots: list[str] = []
    for each in sorted({posixpath.normpath(directory) for directory in directories}):
        if not roots or posixpath.commonpath([roots[-1], each]) != roots[-1]:
            roots.append(each)
    return roots


def _programs(archive: tarfile.TarFile, parent: str) -> Iterator[str]:
    """Yield the programs in the archive of a directory below `parent`. Links lead to files that are listed by
    their own names, which are what the kernel asks for."""
    for member in archive:
        path = posixpath.join(parent, member.name)
        if (
            (member.isfile() or member.islnk())
            and member.mode & 0o111
            and not _LIBRARY.search(path)
            and not path.startswith(f"{PROGRAMS}/")
        ):
            yield path
