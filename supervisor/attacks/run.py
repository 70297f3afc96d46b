"""A run of the suite: which containers there are, and which attacks are tried in each.

Attacks that have the same defences given share their containers: one without any other defence, one for each
defence alone, and one like those of sessions. So the number of containers is that of the defences, and not
that of the attacks.
"""

import os
import tempfile
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from supervisor.attacks.attack import DEFENCES, Attack, Defence, Outcome, Row
from supervisor.attacks.catalog import CATALOG
from supervisor.attacks.cell import tried
from supervisor.attacks.report import Report
from supervisor.attacks.witness import witness
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.measures import Measure, parse_opt_outs
from supervisor.provision.compiler import compile_static, docker_directory
from supervisor.sandbox.containers import HardenedContainers, program
from supervisor.sandbox.landlock import kernel_version
from supervisor.sandbox.network import NO_NETWORK
from supervisor.sandbox.policy import Mount
from supervisor.sandbox.providers import open_docker_provider
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
    wider = await _possible(settings)
    async with open_docker_provider(wider) as provider:
        containers = provider.containers
        containers.policy = attrs.evolve(containers.policy, nano_cpus=int(CPU_LIMIT * 1e9))
        with _tools(wider) as tools:
            async with witness(provider, {}) as watched:
                rows = await _Alone(containers, tools).rows(attacks)
            return Report(rows, watched.before, watched.meanwhile)


async def _possible(settings: Settings) -> Settings:
    """Return `settings` for attacks: in the sizes that these were bounded for, without what is missing."""
    try:
        async with Docker(settings.docker_host or None) as docker:
            missing = missing_measures(await read_engine(docker, settings))
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    without = parse_opt_outs(settings.hardening_without) | missing.keys()
    usual = Settings()
    return attrs.evolve(
        settings,
        network=NO_NETWORK,
        transport="lifeline",
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
    # Copies with rights, where nobody but root finds them, and gone at the end.
    with tempfile.TemporaryDirectory(dir=attacker.parent, prefix="attacker-") as directory:
        paths = {"attacker": attacker}
        for name in ("setuid", "capable"):
            paths[name] = Path(directory) / name
            paths[name].write_bytes(attacker.read_bytes())
            paths[name].chmod(0o755)
        paths["setuid"].chmod(0o4755)
        os.setxattr(paths["capable"], "security.capability", _NET_RAW)
        yield [Mount(str(path), program(name)) for name, path in paths.items()]


@attrs.frozen
class _Alone:
    """The stage of that name."""

    containers: HardenedContainers
    tools: list[Mount]

    @property
    def _possible(self) -> frozenset[Defence]:
        return frozenset(DEFENCES) - self.containers.policy.without

    @property
    def _values(self) -> dict[str, str]:
        policy = self.containers.policy
        return {
            "config": policy.config_directory,
            "setuid": program("setuid"),
            "capable": program("capable"),
            "memory": str(policy.memory // MIB + 64),
            "cpu": str(int(CPU_LIMIT * 100 + 3)),
        }

    async def rows(self, attacks: Sequence[Attack]) -> list[Row]:
        """Try `attacks`; return one row for each."""
        found: dict[str, Row] = {}
        for given in dict.fromkeys(each.given for each in attacks):
            found |= await self._group(given, [each for each in attacks if each.given == given])
        return [found[each.name] for each in attacks]

    async def _group(self, given: frozenset[Defence], attacks: Sequence[Attack]) -> dict[str, Row]:
        off = await self._try(given, attacks)
        on = await self._try(self._possible, attacks)
        alone: dict[Defence, Mapping[str, Outcome]] = {}
        for defence in DEFENCES:
            mine = [each for each in attacks if defence in each.stopped_by and self._can(defence, each)]
            if mine:
                alone[defence] = await self._try(given | {defence}, mine)
        return {
            each.name: Row(
                each,
                off[each.name],
                {
                    defence: outcomes[each.name]
                    for defence, outcomes in alone.items()
                    if each.name in outcomes
                },
                on[each.name],
            )
            for each in attacks
        }

    def _can(self, defence: Defence, attack: Attack) -> bool:
        """Whether this host has what is to stop the attack."""
        if defence is Measure.LANDLOCK and kernel_version() < attack.landlock:
            return False
        return defence in self._possible

    async def _try(self, on: frozenset[Defence], attacks: Sequence[Attack]) -> dict[str, Outcome]:
        words = [f"{each.name}={each.argument.format_map(self._values)}" for each in attacks]
        return await tried(self.containers, on, self.tools, words)
