"""Docker contexts: the endpoints that `docker context create` writes below `~/.docker`.

A context's files are in directories named by the SHA-256 of its name: `contexts/meta/<hash>/meta.json`, and
certificates in `contexts/tls/<hash>/docker/`.
"""

import hashlib
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from supervisor.engine.errors import DockerContextInvalidError, DockerContextTLSError


@attrs.frozen
class ContextEndpoint:
    """The engine that a context names.

    Attributes:
        host: its URL.
        name: the context's name.
        tls_directory: where its certificates are, whether or not there are any.
        skip_tls_verify: its `SkipTLSVerify`: encrypt, but believe any certificate.
    """

    host: str
    name: str
    tls_directory: Path
    skip_tls_verify: bool = False

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS context of its certificates, None when it has none.

        Raises:
            DockerContextTLSError: there are some, and they cannot be read or used.
        """
        ca, certificate, key = (self.tls_directory / name for name in ("ca.pem", "cert.pem", "key.pem"))
        if not (ca.exists() or certificate.exists() or self.skip_tls_verify):
            return None
        try:
            context = verify_with(ca, certificate, key)
        except OSError as error:
            raise DockerContextTLSError(
                f"bad TLS files in {self.tls_directory}: {error}", self.name
            ) from error
        if self.skip_tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def verify_with(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a client's TLS context: trusts `ca` (the system's authorities if it does not exist), shows
    `certificate` if it exists.

    Raises:
        OSError: a file that exists cannot be used; the text says which.
    """
    files = ca.name
    try:
        context = ssl.create_default_context(cafile=ca if ca.exists() else None)
        files = f"{certificate.name} and {key.name}"
        if certificate.exists():
            context.load_cert_chain(certificate, key)
    except OSError as error:  # of `ssl`, too
        raise OSError(f"{files}: {error}") from error
    return context


def context_endpoint(name: str | None, environment: Mapping[str, str]) -> ContextEndpoint | None:
    """Return the endpoint of the context `name`, or else of the current one; None for no context and for
    `default`.

    Raises:
        DockerContextInvalidError: the context, or the CLI's configuration, is not what it must be.
    """
    root = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or Path.home()) / ".docker")
    current = name or environment.get("DOCKER_CONTEXT") or _current_context(root)
    if current is None or current == "default":
        return None
    digest = hashlib.sha256(current.encode()).hexdigest()
    meta = root / "contexts/meta" / digest / "meta.json"
    try:
        endpoint = _load(meta, current)["Endpoints"]["docker"]
        host, skip = endpoint["Host"], endpoint.get("SkipTLSVerify", False)
    except FileNotFoundError as error:
        raise DockerContextInvalidError(f"there is no such context: {meta} is missing", current) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DockerContextInvalidError(f"no docker endpoint with a host in {meta}", current) from error
    if not isinstance(host, str) or not isinstance(skip, bool):
        raise DockerContextInvalidError(f"no docker endpoint with a host in {meta}", current)
    return ContextEndpoint(host, current, root / "contexts/tls" / digest / "docker", skip)


def _current_context(root: Path) -> str | None:
    try:
        current = _load(root / "config.json", None).get("currentContext")
    except FileNotFoundError:
        return None
    except AttributeError as error:
        raise DockerContextInvalidError(f"{root / 'config.json'} is not a JSON object") from error
    return current if isinstance(current, str) and current else None


def _load(path: Path, context: str | None) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DockerContextInvalidError(f"cannot read {path}: {error}", context) from error
