"""What Debian's archive says about packages that are installed somewhere else: newer versions, the security
updates among them, and how far they are supported.

This host's apt does the work, by its own configuration (proxies, certificates) but with lists, caches and a
file of installed packages of its own, in a directory that goes afterwards: apt-cache(8), apt-get(8),
apt.conf(5). Signatures are checked. Which security issues an update fixes is read off the changelog in the
newer package, as far as it names them; how far packages are supported is what the package
`debian-security-support` of the same release says.
"""

import datetime
import gzip
import re
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervisor.provision.base import DEBIAN_RELEASE, DEBIAN_SUITE, KEYRING, SOURCES
from supervisor.provision.host import CommandError, Need, run

DEBIAN_SOURCES = tuple(f"deb [signed-by={KEYRING}] {source.format(suite=DEBIAN_SUITE)}" for source in SOURCES)
"""Lines of sources.list(5): the release, its point releases, its security updates."""
NEEDS = (
    Need("apt-get", ("apt",), "asks Debian's archive for newer packages"),
    Need(str(KEYRING), ("debian-archive-keyring",), "checks the archive's signatures"),
)

_SUPPORT = "debian-security-support"
_DEADLINE = 300.0  # seconds, for lists of 10 MB or one package
_ISSUE = re.compile(r"\bCVE-\d{4}-\d{4,}\b|\bDSA-\d{3,}(?:-\d+)?\b")
_ENTRY = re.compile(r"^\S+ \((?P<version>[^()\s]+)\) ", re.MULTILINE)  # deb-changelog(5)
_RELEASE = re.compile(r"^ {8}-?\d+ \S+ (?P<suite>[^/\s]+)/", re.MULTILINE)
_VERSION = re.compile(r"^ (?:\*\*\*|   ) (?P<version>\S+) -?\d+$", re.MULTILINE)
_REBUILT = re.compile(r"\+b\d+$")  # built again from the same source


@attrs.frozen
class Update:
    """A version that is newer than the installed one.

    Attributes:
        package, installed, version: which, and what there is now.
        suites: where the archive has it, such as `trixie-security`.
        issues: CVE and DSA numbers that the changelog names since the installed version.
    """

    package: str
    installed: str
    version: str
    suites: tuple[str, ...]
    issues: tuple[str, ...]

    @property
    def security(self) -> bool:
        """Whether it mends a security issue: its changelog names one, or it comes by the security suite."""
        return bool(self.issues) or any(suite.endswith("-security") for suite in self.suites)


@attrs.frozen
class Support:
    """What is short of full support: `ended`, `limited` or `gone` (from the archive), and a sentence."""

    package: str
    installed: str
    extent: str
    why: str


@attrs.frozen
class _Candidate:
    """What apt would install: its version, the suites that have it, its source package ("" for a package
    that no suite has).
    """

    version: str
    suites: tuple[str, ...]
    source: str


async def ask_archive(
    installed: Mapping[str, str], architecture: str, sources: Sequence[str] = DEBIAN_SOURCES
) -> tuple[list[Update], list[Support]]:
    """Compare packages with the archive.

    Args:
        installed: versions by package.
        architecture: as Debian writes it.
        sources: where to look, lines of sources.list(5).

    Raises:
        CommandError: apt failed, or the archive does not answer.
    """
    async with _open(installed, architecture, sources) as archive:
        candidates = await archive.candidates(sorted(installed))
        updates = [
            Update(name, version, found.version, found.suites, await archive.issues(name, version))
            for name, version in sorted(installed.items())
            if (found := candidates[name]).version != version
        ]
        rules = await archive.support_rules()
    support = [
        support_of(name, version, candidates[name].source, rules)
        for name, version in sorted(installed.items())
    ]
    return updates, [each for each in support if each]


def support_of(
    package: str, installed: str, source: str, rules: Iterable[str], today: datetime.date | None = None
) -> Support | None:
    """Return what is short of support for a package, None for a supported one.

    Args:
        package, installed: name and version.
        source: its source package; "" when the archive has it no more.
        rules: lines of a `security-support.debN` of debian-security-support: an expression for source
            packages, how far it is supported, and what belongs to that.
        today: for tests.
    """
    if not source:
        return Support(package, installed, "gone", "the archive has it no more: nobody mends it")
    found: Support | None = None
    for line in rules:
        pattern, extent, rest = (*line.split(maxsplit=2), "", "", "")[:3]
        if not pattern or pattern.startswith("#") or not re.fullmatch(pattern, source):
            continue
        if extent == "supported":
            return None
        if extent == "limited":
            found = found or Support(package, installed, "limited", rest)
        elif extent == "non-supported":
            _, date, why = (*rest.split(maxsplit=2), "")[:3]
            if datetime.date.fromisoformat(date) <= (today or datetime.date.today()):
                found = found or Support(package, installed, "ended", f"on {date}: {why}")
    return found


def parse_policy(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return, by package, what `apt-cache policy` says it would install, and the suites that have that."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for block in re.split(r"^(?=\S+:\n)", text, flags=re.MULTILINE):
        name = re.match(r"(\S+):\n", block)
        candidate = re.search(r"^  Candidate: (\S+)$", block, re.MULTILINE)
        if not name or not candidate:
            continue
        suites: list[str] = []
        versions = list(_VERSION.finditer(block))
        for this, following in zip(versions, [*versions[1:], None], strict=True):
            if this["version"] == candidate[1]:
                end = following.start() if following else len(block)
                suites += [each["suite"] for each in _RELEASE.finditer(block, this.end(), end)]
        found[name[1]] = (candidate[1], tuple(dict.fromkeys(suites)))
    return found


@asynccontextmanager
async def _open(
    installed: Mapping[str, str], architecture: str, sources: Sequence[str]
) -> AsyncGenerator["_Archive"]:
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-apt-") as scratch:
        Path(scratch).chmod(0o755)  # apt fetches as a user of its own
        archive = _Archive(Path(scratch), architecture)
        for directory in ("state/lists/partial", "cache/archives/partial", "unpacked"):
            (archive.directory / directory).mkdir(parents=True)
        (archive.directory / "status").write_text(
            "".join(
                f"Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\n"
                f"Version: {version}\n\n"
                for name, version in installed.items()
            )
        )
        (archive.directory / "sources.list").write_text("\n".join([*sources, ""]))
        await archive.apt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        yield archive


@attrs.frozen
class _Archive:
    """apt with lists of its own in `directory`."""

    directory: Path
    architecture: str

    async def apt(self, program: str, *arguments: str) -> str:
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Default-Release": "",
            "Acquire::Languages": "none",
            "Dir::Cache": f"{self.directory}/cache",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{self.directory}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": f"{self.directory}/state",
            "Dir::State::status": f"{self.directory}/status",
        }
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        lines: list[str] = []
        try:
            return await run(
                [program, "-q", *settings, *arguments],
                timeout=_DEADLINE,
                cwd=self.directory,
                environment={"LC_ALL": "C"},
                on_line=lines.append,
            )
        except CommandError as error:
            complaints = " ".join(line.removeprefix("E: ") for line in lines if line.startswith("E: "))
            raise CommandError(complaints or str(error), error.output) from None

    async def candidates(self, packages: Sequence[str]) -> dict[str, _Candidate]:
        policy = parse_policy(await self.apt("apt-cache", "policy", *packages))
        records = await self.apt("apt-cache", "show", "--no-all-versions", *packages)
        sources = {
            match["package"]: match["source"] or match["package"]
            for match in re.finditer(
                r"^Package: (?P<package>\S+)\n(?:Source: (?P<source>\S+))?", records, re.MULTILINE
            )
        }
        return {
            name: _Candidate(version, suites, sources[name] if suites else "")
            for name, (version, suites) in policy.items()
        }

    async def issues(self, package: str, installed: str) -> tuple[str, ...]:
        """Return the numbers that a newer package's changelog names in what came after `installed`."""
        entries = await self._newer_entries(await self._changelog(package), installed)
        return tuple(sorted(set(_ISSUE.findall(entries))))

    async def _changelog(self, package: str) -> str:
        root = await self._unpack(package)
        documents = root / "usr/share/doc" / package
        if documents.is_symlink():  # several packages of one source share them
            return await self._changelog(documents.readlink().name)
        for name in ("changelog.Debian.gz", "changelog.gz"):
            if (documents / name).is_file():
                return gzip.decompress((documents / name).read_bytes()).decode(errors="replace")
        return ""

    async def _newer_entries(self, changelog: str, installed: str) -> str:
        for entry in _ENTRY.finditer(changelog):
            if not await _is_newer(entry["version"], _REBUILT.sub("", installed)):
                return changelog[: entry.start()]
        return changelog

    async def support_rules(self) -> list[str]:
        rules = await self._unpack(_SUPPORT) / f"usr/share/{_SUPPORT}/security-support.deb{DEBIAN_RELEASE}"
        return rules.read_text().splitlines()

    async def _unpack(self, package: str) -> Path:
        root = self.directory / "unpacked" / package
        if not root.exists():
            await self.apt("apt-get", "download", package)
            [archive] = self.directory.glob(f"{package}_*.deb")
            await run(["dpkg-deb", "-x", archive, root], timeout=_DEADLINE)
            archive.unlink()
        return root


async def _is_newer(version: str, than: str) -> bool:
    process = await trio.run_process(["dpkg", "--compare-versions", version, "gt", than], check=False)
    return process.returncode == 0
