"""The operator's `check`: how each measure stands on this host, whatever keeps sessions from starting here.

The provider is opened without what cannot be had, and without each measure whose proof fails, one after the
other, so that everything else is verified all the same.
"""

import attrs

from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError, MeasureError
from supervisor.measures import NETWORK, OPTIONAL, Measure, SecurityStatus, parse_opt_outs
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.network import NO_NETWORK, ensure_network
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.seccomp import RESTORE, profile_for
from supervisor.sandbox.security import as_required, unseen
from supervisor.sandbox.surroundings import look_around
from supervisor.sandbox.verify import read_engine
from supervisor.settings import Settings


async def survey(settings: Settings) -> SecurityStatus:
    """Return how each measure stands on this host: also those that are missing, and those of which only a
    proof can tell that they do not hold. What one of them fails for is gone without then, so that the others
    are verified all the same.

    Raises:
        ConfigurationError: something else than a measure keeps sandboxes from being started.
    """
    try:
        async with Docker(settings.docker_host or None) as docker:
            engine = await read_engine(docker, settings)
            found = await look_around(docker, engine, settings, this_process())
            network = await _network_problem(docker, settings)
    except (ValueError, DockerError) as error:
        raise ConfigurationError(f"DOCKER_HOST={settings.docker_host}: {error}") from error
    missing = dict(found.missing)
    wider = settings
    if network:
        missing |= dict.fromkeys(NETWORK, network)
        wider = attrs.evolve(settings, network=NO_NETWORK)
    try:
        profile_for(docker_directory() / "seccomp.json", engine.machine)
    except ConfigurationError as error:
        missing.setdefault(Measure.SECCOMP, f"{error}\n{RESTORE}")
    obstacles = (network,) if network else ()
    while True:
        without = parse_opt_outs(settings.hardening_without) | missing.keys()
        wider = attrs.evolve(wider, hardening_without=tuple(sorted(without)))
        found = attrs.evolve(found, missing=missing)
        if Measure.APPARMOR in missing:
            found = attrs.evolve(found, session_profile="", profiles={})
        try:
            async with open_docker_provider(wider, found=found) as provider:
                return attrs.evolve(as_required(provider.proved, settings, missing), obstacles=obstacles)
        except MeasureError as error:
            blamed = {Measure(each): str(error) for each in error.measures if each not in missing}
            missing = {**missing, **blamed}
            if not blamed or not blamed.keys() <= set(OPTIONAL):
                return unseen(settings, missing, str(error))


async def _network_problem(docker: Docker, settings: Settings) -> str:
    """Return why the network is not one for sessions; empty if it is."""
    try:
        await ensure_network(docker, settings)
    except (ConfigurationError, DockerError) as error:
        return str(error)
    return ""
