"""What an instance owns on its host besides containers: its name, its directory, and soon a guard.

An instance outlives its process when another one takes over (`supervisor.handover`): it is given the
descriptors, and then both hold the estate, until one of them ends. While it is `shared`, nothing of it may be
given up: neither process can know alone which of them will go on.
"""

import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from supervisor.reaping.directories import hold_directory
from supervisor.reaping.guard import Guard
from supervisor.reaping.liveness import Liveness
from supervisor.sandbox.identity import Identity, this_process


@attrs.define(eq=False)
class Estate:
    """See above.

    Attributes:
        identity: of the instance.
        liveness: its name.
        directory: its own, mode 0700, for sockets.
        lock: descriptor that holds the directory.
        guard: what cleans up after it, where there is one.
        shared: whether another process holds all of this, too, and may be the one that goes on.
    """

    identity: Identity
    liveness: Liveness
    directory: Path
    lock: int
    guard: Guard | None = None
    guard_inherited: tuple[int, int] | None = None
    shared: bool = False

    def describe(self, send: Callable[[int], int]) -> dict[str, Any]:
        """Return its description in JSON's terms, for another process; `send` passes a descriptor on and
        returns its number in the message.
        """
        return {
            "identity": attrs.asdict(self.identity),
            "directory": str(self.directory),
            "liveness": send(self.liveness.fileno()),
            "lock": send(self.lock),
            "guard": [send(each) for each in self.guard.descriptors()] if self.guard else None,
        }

    def new_guard(self, docker_host: str, longest_life: float, audit_log: str) -> Guard:
        """Return the guard, not started where it is not running yet. See `Guard`."""
        inherited, self.guard_inherited = self.guard_inherited, None
        self.guard = Guard(
            docker_host,
            self.identity.instance,
            self.directory,
            longest_life=longest_life,
            inherited=inherited,
            audit_log=audit_log,
        )
        return self.guard


@contextmanager
def new_estate(parent: Path) -> Generator[Estate]:
    """Found an instance; its directory is in `parent`.

    Resource handling: leaving gives all of it back, unless it is shared then; the guard is its user's.

    Raises:
        OSError: the directory cannot be made.
    """
    identity = this_process()
    liveness = Liveness(identity.instance)
    try:
        directory, lock = hold_directory(parent, identity.instance)
    except BaseException:
        liveness.close()
        raise
    with _closing(Estate(identity, liveness, directory, lock)) as estate:
        yield estate


@contextmanager
def inherited_estate(description: dict[str, Any], take: Callable[[int], int]) -> Generator[Estate]:
    """Hold what another process described with `Estate.describe`, together with it.

    Args:
        description: see there.
        take: returns the descriptor with a number in the message, to be owned from now on.

    Resource handling: as `new_estate`.
    """
    identity = Identity(**description["identity"])
    guard = description["guard"]
    estate = Estate(
        identity,
        Liveness(identity.instance, take(description["liveness"])),
        Path(description["directory"]),
        take(description["lock"]),
        guard_inherited=(take(guard[0]), take(guard[1])) if guard else None,
        shared=True,
    )
    with _closing(estate):
        yield estate


@contextmanager
def _closing(estate: Estate) -> Generator[Estate]:
    try:
        yield estate
    finally:
        if not estate.shared:
            shutil.rmtree(estate.directory, ignore_errors=True)
        os.close(estate.lock)
        for descriptor in estate.guard_inherited or ():
            os.close(descriptor)
        estate.liveness.close()
