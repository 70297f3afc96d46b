"""Where the engine is: an explicit URL, a Docker context, the environment, or the sockets that engines
usually have.

The order is that of the Docker CLI and of aiodocker's documentation: `url` and `context` given in the
program, then `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context of `~/.docker/config.json`, then
the first of `default_sockets` that exists.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from supervisor.engine.connection import Connector, tcp_connector, unix_connector
from supervisor.engine.contexts import context_endpoint, verify_with
from supervisor.engine.errors import DockerContextTLSError
from supervisor.engine.ssh import ssh_command, ssh_connector

PLAIN_PORT, TLS_PORT = 2375, 2376
"""The ports that IANA has for Docker."""


@attrs.frozen
class Address:
    """An engine's address.

    Attributes:
        url: as it is shown in messages.
        connector: makes connections to it.
        host: what requests say in their Host field.
    """

    url: str
    connector: Connector = attrs.field(repr=False, eq=False)
    host: str = "docker"


def default_sockets(environment: Mapping[str, str]) -> list[Path]:
    """Return where engines put their sockets: Docker, rootless Docker, Docker Desktop, then Podman (rootless,
    then root's).
    """
    home = Path(environment.get("HOME") or Path.home())
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    return [
        Path("/run/docker.sock"),
        Path("/var/run/docker.sock"),
        runtime / "docker.sock",
        home / ".docker/run/docker.sock",
        home / ".docker/desktop/docker.sock",
        runtime / "podman/podman.sock",
        Path("/run/podman/podman.sock"),
    ]


def find(
    url: str | None = None,
    context: str | None = None,
    tls: ssl.SSLContext | None = None,
    environment: Mapping[str, str] | None = None,
) -> Address:
    """Return the address of the engine that the arguments, the environment and the files of the Docker CLI
    name.

    Args:
        url: `unix:///path`, `tcp://host:port`, `http://…`, `https://…` or `ssh://user@host`.
        context: name of a Docker context.
        tls: for TCP; default: what the context has, or `DOCKER_CERT_PATH` when `DOCKER_TLS_VERIFY` is set.
        environment: default: this process's.

    Raises:
        ValueError: no engine is named and no usual socket exists, or the URL is of no use.
        DockerContextError: the context cannot be used.
    """
    env = os.environ if environment is None else environment
    if url is None and context is None:
        url = env.get("DOCKER_HOST") or None
    if url is None:
        endpoint = context_endpoint(context, env)
        if endpoint is not None:
            url = endpoint.host
            tls = tls or endpoint.tls()
    if url is None:
        url = env.get("DOCKER_HOST") or None  # what the context `default` means
    if url is None:
        sockets = default_sockets(env)
        found = next((path for path in sockets if path.is_socket()), None)
        if found is None:
            tried = ", ".join(str(path) for path in sockets)
            raise ValueError(
                f"no Docker Engine: DOCKER_HOST is not set and there is no socket at any of {tried}"
            )
        url = f"unix://{found}"
    return parse(url, tls, env)


def parse(url: str, tls: ssl.SSLContext | None, environment: Mapping[str, str]) -> Address:
    """Return the address that `url` means."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ValueError(f"not a URL of an engine: {url!r} (unix:///path or tcp://host:port)")
    if scheme == "unix":
        if not rest.startswith("/"):
            raise ValueError(f"a unix socket needs an absolute path: {url!r}")
        return Address(url, unix_connector(rest))
    parts = urlsplit(url)
    if scheme == "ssh":
        return Address(url, ssh_connector(ssh_command(parts)))
    if scheme not in ("tcp", "http", "https"):
        raise ValueError(f"{scheme}:// is not supported: unix, tcp, http, https and ssh are")
    if not parts.hostname:
        raise ValueError(f"no host in {url!r}")
    if parts.username or parts.password or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"an engine's URL is scheme, host and port only: {url!r}")
    if tls is None and (scheme == "https" or environment.get("DOCKER_TLS_VERIFY", "") not in ("", "0")):
        tls = _environment_tls(environment)
    port = parts.port or (TLS_PORT if tls else PLAIN_PORT)
    return Address(url, tcp_connector(parts.hostname, port, tls), parts.netloc)


def _environment_tls(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return the TLS context that `DOCKER_CERT_PATH` describes; the system's authorities without a
    certificate of ours if it is not set.
    """
    path = environment.get("DOCKER_CERT_PATH")
    if not path:
        return ssl.create_default_context()
    directory = Path(path)
    try:
        return verify_with(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    except OSError as error:
        raise DockerContextTLSError(f"bad TLS files in {directory}: {error}") from error
