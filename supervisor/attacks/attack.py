"""What an attack is, what may stand in its way, and what came of trying it."""

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from typing import Final

import attrs

from supervisor.measures import Measure


class Habit(StrEnum):
    """What stands in the way besides the measures: how things are done here, without a switch or a name in
    settings.
    """

    USER = "user"
    DEVICES = "devices"
    PEER = "peer"
    FRAMES = "frames"
    SHELL = "restricted-shell"


Defence = Measure | Habit

DEFENCES: Final[tuple[Defence, ...]] = (*Measure, *Habit)

HABITS: Final = {
    Habit.USER: "an ordinary user, never root",
    Habit.DEVICES: "no device but the harmless ones that engines admit",
    Habit.PEER: "the kernel is asked who speaks on a lifeline",
    Habit.FRAMES: "output reaches clients so that it cannot pass for a message",
    Habit.SHELL: "a shell that runs listed commands and knows no operators",
}


class Stage(Enum):
    """Where an attack is tried."""

    ALONE = "in a session without a network"
    NETWORK = "in a session on a network with a neighbour, and a world outside"
    SHARED = "in a container that shares its host's namespaces"
    KEYBOARD = "at the keyboard of a session's shell"
    DIALOGUE = "in what the supervisor is told"


def _set(defences: Iterable[Defence]) -> frozenset[Defence]:
    return frozenset(defences)


@attrs.frozen
class Attack:
    """One attack.

    Attributes:
        name: also that of the function in `docker/attacker`.
        wants: what the attacker wants, for people.
        stopped_by: defences each of which stops it alone.
        argument: of the function; names in braces are filled in by the run.
        given: defences that are there in any case, also when it shall succeed: it is about what one can do in
            spite of them.
        stage: see there.
        landlock: version of Landlock's interface that it takes to stop it.
        bounded: how much of it is done at most, and what is undone; empty for what is over as soon as it is
            done.
    """

    name: str
    wants: str
    stopped_by: frozenset[Defence] = attrs.field(converter=_set)
    argument: str = ""
    given: frozenset[Defence] = attrs.field(default=frozenset[Defence](), converter=_set)
    stage: Stage = Stage.ALONE
    landlock: int = 1
    bounded: str = ""


@attrs.frozen
class Outcome:
    """What came of one try: the effect, or what stood in the way."""

    succeeded: bool
    text: str


@attrs.frozen
class Row:
    """One attack, tried in all ways.

    Attributes:
        attack: which.
        off: without any of its defences.
        alone: with one of them; what this host cannot have is missing.
        on: as sessions are.
    """

    attack: Attack
    off: Outcome
    alone: Mapping[Defence, Outcome]
    on: Outcome

    @property
    def counts(self) -> bool:
        """Whether it can succeed here, and so says something."""
        return self.off.succeeded

    @property
    def exposed(self) -> bool:
        """Whether it succeeds in sessions because they have none of its defences: this host cannot have them,
        or was told to go without.
        """
        return self.on.succeeded and not self.alone

    @property
    def untried(self) -> tuple[Defence, ...]:
        """Defences that this host cannot have."""
        return tuple(each for each in DEFENCES if each in self.attack.stopped_by - self.alone.keys())

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of what did not stop it although it should have; `all` for a session as it is."""
        failed = tuple(str(each) for each, outcome in self.alone.items() if outcome.succeeded)
        return (*failed, "all") if self.on.succeeded and not self.exposed else failed
