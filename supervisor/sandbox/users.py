"""One user id per session, with an entry in the container's `/etc/passwd`.

The kernel counts some things per user, whatever the container: inotify instances, descriptors in flight,
pending signals, keys. Sessions of one user could use them up for each other. So each gets a number of its
own, at random from a wide range, which needs no account on the host: nobody else has files or processes under
it.

Many programs fail for a user without a name (Node's `os.userInfo`, `whoami`). The root file system is
read-only and the same for all, so each container gets a file of its own mounted over `/etc/passwd`.
"""

import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from supervisor.errors import SandboxError
from supervisor.sandbox.files import mounted_file
from supervisor.sandbox.image import ImageFacts
from supervisor.sandbox.policy import HardeningPolicy, Mount

PASSWD: Final = "/etc/passwd"  # noqa: S105 - no password in it
# Numbers that no convention gives to anybody (systemd's "Users, Groups, UIDs and GIDs"); and, where the
# engine maps a container's 65,536 users to others of the host anyway, numbers that an image does not use.
_RANGE: Final = range(1_900_000_000, 1_900_000_000 + (1 << 24))
_RANGE_IN_MAP: Final = range(10_000, 60_000)
_ATTEMPTS = 100


class SessionUsers:
    """Hands out user ids, each to one session at a time.

    Args:
        remapped: whether the engine maps users.
    """

    def __init__(self, *, remapped: bool) -> None:
        self._range = _RANGE_IN_MAP if remapped else _RANGE
        self._taken: set[int] = set()

    def __repr__(self) -> str:
        return f"<SessionUsers {len(self._taken)} taken>"

    @contextmanager
    def one(self, policy: HardeningPolicy) -> Generator[HardeningPolicy]:
        """Yield `policy` for a user of its own, who is nobody else's until the block is left.

        Raises:
            SandboxError: there is none left.
        """
        for _ in range(_ATTEMPTS):
            uid = self._range.start + secrets.randbelow(len(self._range))
            if uid not in self._taken:
                break
        else:
            raise SandboxError("no user id is left for another session")
        self._taken.add(uid)
        try:
            image = attrs.evolve(policy.image, uid=uid, user=user_name(policy.image))
            yield attrs.evolve(policy, image=image, user_of_its_own=True)
        finally:
            self._taken.discard(uid)


@contextmanager
def passwd_file(directory: Path, image: ImageFacts) -> Generator[Mount]:
    """Make a container's passwd file in `directory`, which is private; it may go once the container runs.

    Raises:
        SandboxError: it cannot be written.
    """
    with mounted_file(directory, passwd_text(image), PASSWD) as mount:
        yield mount


def user_name(image: ImageFacts) -> str:
    """Return the name of the session's user: the image's, or `user` where that is a mere number."""
    return "user" if image.user.isdecimal() else image.user


def passwd_text(image: ImageFacts) -> str:
    """Return the image's passwd file with its user's entry changed to `image.uid`, or added."""
    own = [image.user, "x", str(image.uid), str(image.gid), image.user, image.home, "/bin/sh"]
    lines: list[str] = []
    for line in image.passwd.splitlines():
        fields = line.split(":")
        if fields[0] != image.user:
            lines.append(line)
        elif len(fields) == len(own):
            own[4], own[6] = fields[4], fields[6]
    return "\n".join([*lines, ":".join(own), ""])
