"""What the npm registry knows of packages by name and version: `npm audit`, on a lock file made for it.

The lock file lists each package on its own, under an alias: advisories are asked for by name and version, so
who depends on whom is of no account here.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from supervisor.provision.host import CommandError
from supervisor.provision.npm import npm

JSON = dict[str, Any]


@attrs.frozen
class Advisory:
    """A published vulnerability of a package.

    Attributes:
        package, installed: which, and the version that is there.
        severity: `low`, `moderate`, `high` or `critical`, by whoever published it.
        title, url: what it is, and where to read on.
        range: the versions that have it.
        fixable: whether the registry has a version without it.
    """

    package: str
    installed: str
    severity: str
    title: str
    url: str
    range: str
    fixable: bool


async def audit(packages: Sequence[tuple[str, str]]) -> list[Advisory]:
    """Return the advisories on `packages`, pairs of name and version.

    Raises:
        CommandError: npm failed, or the registry lists no advisories.
    """
    aliases = {f"p{number}": package for number, package in enumerate(packages)}
    manifest: JSON = {
        "name": "bill",
        "version": "0.0.0",
        "dependencies": {alias: f"npm:{name}@*" for alias, (name, _) in aliases.items()},
    }
    installed = {
        f"node_modules/{alias}": {"name": name, "version": version}
        for alias, (name, version) in aliases.items()
    }
    lock = {**manifest, "lockfileVersion": 3, "packages": {"": manifest, **installed}}
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-audit-") as scratch:
        directory = Path(scratch)
        (directory / "package.json").write_text(json.dumps(manifest))
        (directory / "package-lock.json").write_text(json.dumps(lock))
        try:
            # --audit-level=none: whatever is found, finding it is success.
            await npm(
                ["audit", "--json", "--audit-level=none", "--loglevel=silent"],
                cwd=directory,
                progress=lines.append,
            )
        except CommandError as error:
            raise CommandError(_reason("\n".join(lines)) or str(error), error.output) from None
    found: dict[str, JSON] = json.loads("\n".join(lines))["vulnerabilities"]
    advisories = {
        _advisory(
            aliases[node.removeprefix("node_modules/")], cast("JSON", cause), bool(each["fixAvailable"])
        )
        for each in found.values()
        for node in each["nodes"]
        for cause in each["via"]
        if isinstance(cause, dict)  # a string is the name of another package that has one
    }
    return sorted(advisories, key=lambda each: (each.package, each.installed, each.url))


def _advisory(package: tuple[str, str], cause: JSON, fixable: bool) -> Advisory:
    name, version = package
    return Advisory(name, version, cause["severity"], cause["title"], cause["url"], cause["range"], fixable)


def _reason(output: str) -> str:
    """Return what npm says in an error for programs, "" for any other output."""
    try:
        answer: Any = json.loads(output)
    except ValueError:
        return ""
    return str(cast("JSON", answer).get("message", "")) if isinstance(answer, dict) else ""
