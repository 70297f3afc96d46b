"""Taking protection away, one measure at a time, in the create call."""

import attrs
import pytest

from supervisor.attacks.attack import DEFENCES, Defence, Habit
from supervisor.attacks.cell import confined
from supervisor.attacks.weakened import weakened
from supervisor.measures import Measure
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.image import ImageFacts
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile
from supervisor.settings import Settings

IMAGE = ImageFacts(id="sha256:abc", name="image", user="appuser", uid=1000, gid=1000, home="/home/appuser")
POLICY = HardeningPolicy.from_settings(
    Settings(network="none"), IMAGE, load_profile(docker_directory() / "seccomp.json"), Runtime("runc")
)
CONFIG = POLICY.to_create_config(["gate"], labels={})


def test_with_all_defences_nothing_is_changed() -> None:
    assert weakened(CONFIG, DEFENCES) == CONFIG


@pytest.mark.parametrize("defence", [*Measure, *Habit])
def test_without_one(defence: Defence) -> None:
    elsewhere: set[Defence] = {Measure.LANDLOCK, Measure.SESSION_UID, Measure.EGRESS, Measure.ISOLATION}
    elsewhere |= {Habit.PEER, Habit.FRAMES, Habit.SHELL}
    without = weakened(CONFIG, set(DEFENCES) - {defence})
    if defence is Habit.USER or defence is Measure.NO_NEW_PRIVILEGES or defence in elsewhere:
        assert without == CONFIG, "it takes more"
    else:
        assert without != CONFIG


def test_what_the_gate_adds() -> None:
    policy = attrs.evolve(POLICY, session_profile="ably-cli-sandbox-session-0")
    stacked, rules = ["--stack", "ably-cli-sandbox-session-0"], POLICY.gate_arguments
    assert rules
    assert confined(policy, set(DEFENCES)).gate_arguments == stacked + rules
    assert confined(policy, {Measure.APPARMOR}).gate_arguments == stacked
    assert confined(policy, {Measure.LANDLOCK}).gate_arguments == rules
    assert confined(policy, {Habit.USER}).gate_arguments == []


def test_root_without_what_prevents_it() -> None:
    without = weakened(CONFIG, set(DEFENCES) - {Habit.USER, Measure.SESSION_UID})
    assert without == CONFIG | {"User": "0:0"}


def test_without_anything() -> None:
    host = weakened(CONFIG, ())["HostConfig"]
    assert host["SecurityOpt"] == ["seccomp=unconfined", "apparmor=unconfined"]
    assert host["CapDrop"] == []
    assert host["Memory"] < 1 << 30, "the attacks' own bounds are not the only ones"
    assert host["NetworkMode"] == "none"
