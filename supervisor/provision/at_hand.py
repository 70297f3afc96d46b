"""The engine for commands that set nothing up, and so find what an earlier set-up has left."""

import attrs

from supervisor.engine import DockerError
from supervisor.engine.address import find
from supervisor.errors import ConfigurationError
from supervisor.provision.daemon import EnginePaths
from supervisor.settings import Settings


def engine_url(docker_host: str = "") -> str:
    """Return the address of the engine to use: the one that `docker_host` names, or else the Docker CLI's own
    environment, context or usual sockets, or else the project's own, where it is up.

    Raises:
        ConfigurationError: there is none; the text says what to do.
    """
    if docker_host:
        return docker_host
    own = EnginePaths()
    try:
        return find().url
    except (DockerError, ValueError) as error:
        if own.socket.is_socket():
            return own.url
        raise ConfigurationError(
            f"{error}, and the project's own is not up: `terminal-supervisor setup` starts it"
        ) from error


def with_engine_at_hand(settings: Settings) -> Settings:
    """Return `settings` with the engine of `engine_url`. Raises the same."""
    return attrs.evolve(settings, docker_host=engine_url(settings.docker_host))
