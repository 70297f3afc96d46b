"""What dead supervisors left on this host besides containers, each with the proof that its owner is dead.

- An instance's directory (sockets of lifelines and of the hand-over, the staged seccomp profile, passwd
  entries, records of sessions): nobody holds its lock. Left when supervisor and guard are killed together.
- An operator's socket: it refuses. Left when a supervisor is killed.
- A control group: nobody holds its instance's name. Left like a directory.
- The files of a network's keeper of egress, and its resolver: nobody holds its lock. Left when it is killed.

Only what is this user's alone is looked at, and each is proved again before it is removed.
"""

from collections.abc import Callable, Iterator
from functools import partial

import attrs

from supervisor.egress.keeper_files import dead_keepers, remove_dead_keeper
from supervisor.reaping.cgroups import dead_groups, remove_group
from supervisor.reaping.directories import dead_directories, remove_dead_directory
from supervisor.reaping.places import LIFELINES, OPERATORS, private
from supervisor.reaping.sockets import dead_sockets, remove_dead_socket
from supervisor.sandbox.identity import Identity


@attrs.frozen
class LeftOver:
    """One of them.

    Attributes:
        what: the kind, for people.
        name: its path, or what else it is called.
        remove: removes it; False when somebody was faster, or it is not dead any more.
    """

    what: str
    name: str
    remove: Callable[[], bool]


def find_left_over(identity: Identity) -> Iterator[LeftOver]:
    """Yield all of them; blocks. `identity` is of whoever asks: by their names, only instances of its network
    namespace can be known to be dead.
    """
    for directory in private(LIFELINES):
        for path in dead_directories(directory):
            yield LeftOver("directory", str(path), partial(remove_dead_directory, path))
    for directory in private(OPERATORS):
        for path in dead_sockets(directory):
            yield LeftOver("socket", str(path), partial(remove_dead_socket, path))
    for name in dead_groups(identity):
        yield LeftOver("control group", name, partial(remove_group, name, 0))
    for network in dead_keepers():
        yield LeftOver("egress keeper's files", network, partial(remove_dead_keeper, network))
