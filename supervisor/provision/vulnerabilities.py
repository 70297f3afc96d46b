"""Known vulnerabilities of what a bill of materials lists, as far as the package registries know them.

Debian's archive knows of updates, and the issues that they fix; the npm registry has advisories. What has no
fix yet at Debian, and Node itself, neither of them tells: docs/security.md says what does. Whoever could not
be asked is named, and counts as a failure: a listing that saw nothing is not one that found nothing.
"""

import json
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import attrs

from supervisor.errors import ConfigurationError
from supervisor.provision.base import DEBIAN_SUITE
from supervisor.provision.debian_archive import NEEDS, Support, Update, ask_archive
from supervisor.provision.host import CommandError, require
from supervisor.provision.npm_audit import Advisory, audit
from supervisor.provision.report import Step

JSON = dict[str, Any]

_DEBIAN = "pkg:deb/debian/"
_NPM = "pkg:npm/"
_SHOWN_ISSUES = 6  # on a line for people; --json has them all


@attrs.frozen
class Packages:
    """What a bill lists: Debian packages, versions by name; their architecture; npm packages, each version of
    each.
    """

    debian: dict[str, str]
    architecture: str
    npm: list[tuple[str, str]]


@attrs.frozen
class Listing:
    """What is known.

    Attributes:
        asked: how many packages were asked about.
        updates, support: by Debian's archive.
        advisories: by the npm registry.
        unasked: who did not answer, and why.
    """

    asked: int
    updates: list[Update]
    support: list[Support]
    advisories: list[Advisory]
    unasked: list[str]

    @property
    def failing(self) -> bool:
        """Whether there is a vulnerability that an update would mend, or something nobody answered for."""
        return bool(self.unasked) or self._fixable

    @property
    def _fixable(self) -> bool:
        return any(each.security for each in self.updates) or any(each.fixable for each in self.advisories)

    def as_json(self) -> JSON:
        """Return it for programs."""
        return {**attrs.asdict(self), "failing": self.failing}

    def __str__(self) -> str:
        lines = [_of_update(each) for each in self.updates]
        lines += [_of_advisory(each) for each in self.advisories]
        lines += [f"{each.package} {each.installed}  {each.extent}: {each.why}" for each in self.support]
        lines += [f"not asked: {each}" for each in self.unasked]
        if self._fixable:
            lines.append("`terminal-supervisor setup --rebuild` takes in what is fixed")
        return "\n".join(
            [
                *lines,
                f"{self.asked} packages; {len(self.updates)} updates; {len(self.advisories)} npm advisories",
            ]
        )


def read_bill(path: Path) -> JSON:
    """Return the bill of materials in a file.

    Raises:
        ConfigurationError: it cannot be read, or is no JSON.
    """
    try:
        bill: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--sbom {path}: {error}") from error
    return cast("JSON", bill) if isinstance(bill, dict) else {}


def packages_of(bill: JSON) -> Packages:
    """Return what is in a CycloneDX bill that somebody can be asked about.

    Raises:
        ConfigurationError: it is none, or not one of the release of Debian that set-up makes images of.
    """
    if bill.get("bomFormat") != "CycloneDX":
        raise ConfigurationError("this is not a CycloneDX bill of materials in JSON")
    debian: dict[str, str] = {}
    architectures: set[str] = set()
    npm: list[tuple[str, str]] = []
    for component in bill.get("components", []):
        url: str = component.get("purl", "")
        if url.startswith(_NPM):
            npm.append((component["name"], component["version"]))
        elif url.startswith(_DEBIAN):
            qualifiers = parse_qs(urlsplit(url).query)
            if qualifiers.get("distro") != [DEBIAN_SUITE]:
                raise ConfigurationError(
                    f"{url} is not of Debian {DEBIAN_SUITE}, the only release that this command asks about: "
                    "give the bill to a scanner such as grype or trivy"
                )
            debian[component["name"]] = component["version"]
            architectures.update(qualifiers.get("arch", []))
    if not debian or len(architectures) != 1:
        raise ConfigurationError(
            "the bill lists no Debian packages of one architecture: give it to a scanner such as grype or "
            "trivy"
        )
    return Packages(debian, architectures.pop(), npm)


async def list_vulnerabilities(packages: Packages, step: Step) -> Listing:
    """Ask Debian's archive and the npm registry about `packages`.

    Raises:
        ConfigurationError: this host has no apt.
    """
    await require(NEEDS, step.progress)
    updates: list[Update] = []
    support: list[Support] = []
    advisories: list[Advisory] = []
    unasked: list[str] = []
    step.progress(f"asking Debian's archive about {len(packages.debian)} packages")
    try:
        updates, support = await ask_archive(packages.debian, packages.architecture)
    except CommandError as error:
        unasked.append(f"Debian's archive, about {len(packages.debian)} packages: {error}")
    if packages.npm:
        step.progress(f"asking the npm registry about {len(packages.npm)} packages")
        try:
            advisories = await audit(packages.npm)
        except CommandError as error:
            unasked.append(f"the npm registry, about {len(packages.npm)} packages: {error}")
    step.result = "asked" if not unasked else "asked in part"
    return Listing(len(packages.debian) + len(packages.npm), updates, support, advisories, unasked)


def _of_update(update: Update) -> str:
    shown = ", ".join(update.issues[:_SHOWN_ISSUES])
    more = len(update.issues) - _SHOWN_ISSUES
    issues = f"{shown} and {more} more" if more > 0 else shown or "names no security issue"
    where = ", ".join(update.suites)
    return f"{update.package} {update.installed}  update: {update.version} in {where}  {issues}"


def _of_advisory(advisory: Advisory) -> str:
    fate = "fixed in another version" if advisory.fixable else "no version is without it"
    return (
        f"{advisory.package} {advisory.installed}  {advisory.severity}: {advisory.title} "
        f"({advisory.range}; {fate})  {advisory.url}"
    )
