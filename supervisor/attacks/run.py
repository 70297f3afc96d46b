"""A run of the suite: which containers there are, and which attacks are tried in each.

Attacks that have the same defences given share their containers: one without any other defence, one for each
defence alone, and one like those of sessions. So the number of containers is that of the defences, and not
that of the attacks.
"""

import os
import tempfile
from collections.abc import AsyncGenerator, Collection, Generator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import attrs

from supervisor.attacks.attack import DEFENCES, Attack, Defence, Habit, Outcome, Row, Stage
from supervisor.attacks.catalog import CATALOG
from supervisor.attacks.cell import Try, tried, word
from supervisor.attacks.dialogue import Dialogue
from supervisor.attacks.keyboard import Keyboard
from supervisor.attacks.reach import BRIDGES, Reach, egress_settings
from supervisor.attacks.report import Report
from supervisor.attacks.shared import SECRET, Shared
from supervisor.attacks.witness import witness
from supervisor.attacks.world import world_outside
from supervisor.egress.host import missing_programs_text
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure, parse_opt_outs
from supervisor.provision.compiler import compile_static, docker_directory
from supervisor.sandbox.apparmor import make_session_profile
from supervisor.sandbox.apparmor_command import profile_loaded
from supervisor.sandbox.containers import HardenedContainers, program
from supervisor.sandbox.landlock import kernel_version
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.policy import Mount
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.seen import only_child
from supervisor.sandbox.verify import missing_measures, read_engine
from supervisor.settings import Settings
from supervisor.settings.knob import MIB

CPU_LIMIT: Final = 0.1
"""CPUs of a container with limits, so that even a busy host has more to give to one without."""
# `security.capability` of a program that gets CAP_NET_RAW (linux/capability.h, revision 2).
_NET_RAW: Final = bytes.fromhex("0100000200200000000000000000000000000000")


def chosen(names: Collection[str]) -> tuple[Attack, ...]:
    """Return the attacks of those names; all for none.

    Raises:
        ConfigurationError: there is no such attack.
    """
    known = {each.name for each in CATALOG}
    if unknown := sorted(set(names) - known):
        raise ConfigurationError(
            f"no attack {', '.join(unknown)}: `terminal-supervisor attack --list` has them"
        )
    return tuple(each for each in CATALOG if not names or each.name in names)


async def run(settings: Settings, attacks: Sequence[Attack]) -> Report:
    """Try `attacks` in all ways that this host has defences for.

    Raises:
        ConfigurationError: this host cannot have sessions, or this process may not do what it takes.
    """
    if os.geteuid() != 0:
        raise ConfigurationError("attack makes containers without protection and test hosts: it needs root")
    if text := missing_programs_text():
        raise ConfigurationError(f"attack watches the rules of egress at work: {text}")
    wider = await _possible(settings)
    rows: dict[str, Row] = {}
    async with open_docker_provider(wider) as provider, witness(provider, {SECRET: "planted"}) as watched:
        containers = provider.containers
        possible = frozenset(DEFENCES) - containers.policy.without
        neighbour = only_child(provider.occupied[watched.session_id].pid)
        assert neighbour is not None, "the session runs"
        with _tools(wider) as tools:
            stages: dict[Stage, Try] = {
                Stage.ALONE: _Alone(containers, tools),
                Stage.NETWORK: Reach(containers, tools, egress_settings(wider)),
                Stage.SHARED: Shared(containers, tools, neighbour),
                Stage.KEYBOARD: Keyboard(containers, tools, possible),
                Stage.DIALOGUE: Dialogue(containers, tools, possible),
            }
            async with _profile_for(tools, containers, wider) as profile:
                containers.policy = attrs.evolve(
                    containers.policy, nano_cpus=int(CPU_LIMIT * 1e9), session_profile=profile
                )
                for stage, attempt in stages.items():
                    if mine := [each for each in attacks if each.stage is stage]:
                        tried_here = frozenset({Habit.SHELL}) if stage is Stage.KEYBOARD else possible
                        async with world_outside(BRIDGES) if stage is Stage.NETWORK else nullcontext():
                            rows |= await _tabulated(mine, tried_here, attempt)
        return Report([rows[each.name] for each in attacks], watched.before, watched.meanwhile)


async def _possible(settings: Settings) -> Settings:
    """Return `settings` for attacks: in the sizes that these were bounded for, without what is missing."""
    settings = attrs.evolve(settings, network=NO_NETWORK, transport="lifeline")
    try:
        async with Docker(settings.docker_host or None) as docker:
            engine = await read_engine(docker, settings)
            runtime = engine.runtimes.get(settings.runtime or engine.runtime)
            if runtime and runtime.kind.own_kernel:
                raise ConfigurationError(
                    f"the attacks are on this host's kernel, and {runtime.kind.title} keeps sessions from "
                    "that: set CONTAINER_RUNTIME to a runtime without a kernel of its own"
                )
            missing = missing_measures(engine, engine.runtime_for(settings))
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    without = parse_opt_outs(settings.hardening_without) | missing.keys()
    usual = Settings()
    return attrs.evolve(
        settings,
        hardening_without=tuple(sorted(without - {Measure.EGRESS, Measure.ISOLATION})),
        memory_limit=usual.memory_limit,
        pids_limit=usual.pids_limit,
        tmpfs_size=usual.tmpfs_size,
        config_size=usual.config_size,
    )


def attacker_program(directory: Path) -> Path:
    """Return the program behind the attacks, compiled into `directory`."""
    sources = sorted((docker_directory() / "attacker").glob("*.[ch]"))
    return compile_static(sources, directory / "attacker", freestanding=False)


@contextmanager
def _tools(settings: Settings) -> Generator[list[Mount]]:
    """Compile what is tried, and yield how it gets into containers."""
    attacker = attacker_program(settings.state_directory.absolute() / "bin")
    # Copies with other names, two of them with rights, where nobody but root finds them.
    with tempfile.TemporaryDirectory(dir=attacker.parent, prefix="attacker-") as directory:
        paths = {"attacker": attacker}
        for name in ("setuid", "capable", "listed", "unlisted"):
            paths[name] = Path(directory) / name
            paths[name].write_bytes(attacker.read_bytes())
            paths[name].chmod(0o755)
        paths["setuid"].chmod(0o4755)
        os.setxattr(paths["capable"], "security.capability", _NET_RAW)
        yield [Mount(str(path), program(name)) for name, path in paths.items()]


@asynccontextmanager
async def _profile_for(
    tools: Sequence[Mount], containers: HardenedContainers, settings: Settings
) -> AsyncGenerator[str]:
    """Have the kernel enforce the profile of sessions with `tools` among what may be executed, so that an
    attack can begin at all; yield its name, empty where sessions have no profile.
    """
    site, policy = containers.site, containers.policy
    if not policy.session_profile:
        yield ""
        return
    usual = await make_session_profile(site.docker, settings, policy.image, site.identity)
    profile = attrs.evolve(usual, execute=(*usual.execute, *(each.target for each in tools)))
    async with profile_loaded(profile):
        yield profile.name


@attrs.frozen
class _Alone:
    """Stage `ALONE`."""

    containers: HardenedContainers
    tools: Sequence[Mount]

    async def __call__(self, on: AbstractSet[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        """Try `attacks` with the defences `on`; see `cell.Try`."""
        policy = self.containers.policy
        values = {
            "config": policy.config_directory,
            "setuid": program("setuid"),
            "capable": program("capable"),
            "memory": str(policy.memory // MIB + 64),
            "cpu": str(int(CPU_LIMIT * 100 + 3)),
        }
        return await tried(self.containers, on, self.tools, [word(each, values) for each in attacks])


async def _tabulated(attacks: Sequence[Attack], possible: frozenset[Defence], attempt: Try) -> dict[str, Row]:
    """Try `attacks` of one stage without their defences, with each alone, and with all that is `possible`;
    return one row for each, by name.
    """
    rows: dict[str, Row] = {}
    for given in dict.fromkeys(each.given for each in attacks):
        group = [each for each in attacks if each.given == given]
        off = await attempt(given, group)
        alone: dict[Defence, dict[str, Outcome]] = {}
        for defence in _in_order(possible):
            mine = [each for each in group if defence in each.stopped_by and _can_stop(defence, each)]
            if mine:
                alone[defence] = await attempt(given | {defence}, mine)
        # Where there is but one defence, with all of them is with this one.
        only = list(alone.values())
        same = len(only) == 1 and possible == given | alone.keys()
        on = only[0] if same else await attempt(possible, group)
        for each in group:
            mine_alone = {
                one: outcomes[each.name] for one, outcomes in alone.items() if each.name in outcomes
            }
            rows[each.name] = Row(each, off[each.name], mine_alone, on[each.name])
    return rows


def _in_order(possible: frozenset[Defence]) -> list[Defence]:
    """Return `possible` in the order of tables."""
    return [each for each in DEFENCES if each in possible]


def _can_stop(defence: Defence, attack: Attack) -> bool:
    """Whether this kernel's Landlock knows of what the attack does."""
    return defence is not Measure.LANDLOCK or kernel_version() >= attack.landlock
