"""What the registries know against a bill: on an archive made here, and a registry on loopback."""

import datetime
import gzip
import hashlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import missing

from supervisor.cli import main
from supervisor.errors import ConfigurationError
from supervisor.provision import vulnerabilities
from supervisor.provision.base import DEBIAN_RELEASE, DEBIAN_SUITE
from supervisor.provision.bill import debian_component, npm_components
from supervisor.provision.debian_archive import NEEDS, Support, Update, ask_archive, parse_policy, support_of
from supervisor.provision.host import CommandError
from supervisor.provision.npm_audit import Advisory, audit
from supervisor.provision.vulnerabilities import packages_of

RULES = (
    "# a comment",
    "",
    "binutils                    limited  Only for trusted content",
    "golang.*                    limited  Linked statically",
    "golang-fine                 supported  And this one is",
    "oldie    non-supported   4.4.3-P1-2       2023-07-05  Nobody does it",
    "later    non-supported   4.4.3-P1-2       2099-07-05  Nobody will do it",
)
CHANGELOG = """\
alpha (1.0-1+deb13u2) trixie-security; urgency=high

  * Fix CVE-2026-0002 and CVE-2026-10003.

 -- A Maintainer <a@example.org>  Thu, 01 Oct 2026 00:00:00 +0000

alpha (1.0-1+deb13u1) trixie-security; urgency=high

  * Fix CVE-2026-0001 (DSA-6000-1).

 -- A Maintainer <a@example.org>  Tue, 01 Sep 2026 00:00:00 +0000

alpha (1.0-1) unstable; urgency=medium

  * Fix CVE-2025-9999.

 -- A Maintainer <a@example.org>  Wed, 01 Jan 2025 00:00:00 +0000
"""


@pytest.fixture
def needs(request: pytest.FixtureRequest) -> None:
    """What Debian's part runs; the archive's keys are not needed for one that is trusted as it is."""
    if not NEEDS[0].met:
        missing(request, "no apt on this host")


class Archive:
    """An archive of Debian packages in a directory, with suites; trusted without a signature."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, list[str]] = {DEBIAN_SUITE: [], f"{DEBIAN_SUITE}-security": []}

    def add(self, suite: str, package: str, version: str, fields: str = "", **files: bytes) -> None:
        """Make a package and list it; `files` are its documents, and `link` is the package that has them."""
        root = self._directory / "root" / f"{package}-{version}"
        documents = root / "usr/share/doc" / package
        documents.parent.mkdir(parents=True)
        if link := files.pop("link", b""):
            documents.symlink_to(link.decode())
        else:
            documents.mkdir()
        for name, content in files.items():
            target = documents / name.replace("_", ".")
            target.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        self._pack(suite, root, package, version, fields)

    def add_rules(self, rules: tuple[str, ...]) -> None:
        """List the package that says what is supported."""
        package = "debian-security-support"
        root = self._directory / "root" / package
        (root / "usr/share" / package).mkdir(parents=True)
        (root / "usr/share" / package / f"security-support.deb{DEBIAN_RELEASE}").write_text("\n".join(rules))
        self._pack(DEBIAN_SUITE, root, package, "1:13+2026", "")

    def _pack(self, suite: str, root: Path, package: str, version: str, fields: str) -> None:
        (root / "DEBIAN").mkdir()
        control = (
            f"Package: {package}\n{fields}Version: {version}\nArchitecture: amd64\n"
            f"Maintainer: A Maintainer <a@example.org>\nDescription: of a test\n"
        )
        (root / "DEBIAN/control").write_text(control)
        name = f"{package}_{version.replace(':', '%3a')}_amd64.deb"
        archive = self._directory / "pool" / name
        archive.parent.mkdir(exist_ok=True)
        command = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(archive)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        content = archive.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self._records[suite].append(
            f"{control}Filename: pool/{name}\nSize: {len(content)}\nSHA256: {digest}\n"
        )

    def sources(self) -> list[str]:
        """Write the indices; return lines for apt."""
        for suite, records in self._records.items():
            index = self._directory / "dists" / suite / "main/binary-amd64/Packages"
            index.parent.mkdir(parents=True)
            index.write_text("\n".join(records))
            digest = hashlib.sha256(index.read_bytes()).hexdigest()
            (self._directory / "dists" / suite / "Release").write_text(
                f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
                "Date: Thu, 01 Oct 2026 00:00:00 UTC\n"
                f"SHA256:\n {digest} {index.stat().st_size} main/binary-amd64/Packages\n"
            )
        return [f"deb [trusted=yes] file:{self._directory} {suite} main" for suite in self._records]


@pytest.fixture
def archive(needs: None) -> Iterator[Archive]:
    with tempfile.TemporaryDirectory(prefix="terminal-supervisor-test-") as directory:
        Path(directory).chmod(0o755)  # apt fetches as a user of its own
        made = Archive(Path(directory))
        made.add_rules(RULES)
        yield made


async def test_of_an_old_package_the_update_and_what_it_fixes_are_told(archive: Archive) -> None:
    security = f"{DEBIAN_SUITE}-security"
    archive.add(DEBIAN_SUITE, "alpha", "1.0-1")
    archive.add(security, "alpha", "1.0-1+deb13u2", changelog_Debian_gz=CHANGELOG.encode())
    archive.add(security, "alpha-data", "1.0-1+deb13u2", "Source: alpha\n", link=b"alpha")
    archive.add(DEBIAN_SUITE, "beta", "2:1.0~rc1-1", changelog_gz=b"")
    archive.add(DEBIAN_SUITE, "libgo", "1", "Source: golang-1.24 (1.24)\n")
    installed = {
        "alpha": "1.0-1",
        "alpha-data": "1.0-1+deb13u1+b1",
        "beta": "2:1.0~beta-1",
        "libgo": "1",
        "nobody": "1",
    }
    updates, support = await ask_archive(installed, "amd64", archive.sources())
    assert updates == [
        Update(
            "alpha",
            "1.0-1",
            "1.0-1+deb13u2",
            (security,),
            ("CVE-2026-0001", "CVE-2026-0002", "CVE-2026-10003", "DSA-6000-1"),
        ),
        Update(
            "alpha-data",
            "1.0-1+deb13u1+b1",
            "1.0-1+deb13u2",
            (security,),
            ("CVE-2026-0002", "CVE-2026-10003"),
        ),
        Update("beta", "2:1.0~beta-1", "2:1.0~rc1-1", (DEBIAN_SUITE,), ()),
    ]
    assert [each.security for each in updates] == [True, True, False]
    assert support == [
        Support("libgo", "1", "limited", "Linked statically"),
        Support("nobody", "1", "gone", "the archive has it no more: nobody mends it"),
    ]


async def test_current_packages_are_clean(archive: Archive) -> None:
    archive.add(DEBIAN_SUITE, "alpha", "1.0-1")
    archive.add(f"{DEBIAN_SUITE}-security", "alpha", "1.0-1+deb13u2")
    assert await ask_archive({"alpha": "1.0-1+deb13u2"}, "amd64", archive.sources()) == ([], [])


async def test_an_archive_that_is_not_there_is_an_error(tmp_path: Path, needs: None) -> None:
    with pytest.raises(CommandError, match="none"):
        await ask_archive({"alpha": "1"}, "amd64", [f"deb [trusted=yes] file:{tmp_path} none main"])


@pytest.mark.parametrize(
    ("source", "extent"),
    [
        ("binutils", "limited"),
        ("binutils-more", None),
        ("golang-1.24", "limited"),
        ("golang-fine", None),
        ("oldie", "ended"),
        ("later", None),
        ("", "gone"),
    ],
)
def test_how_far_a_package_is_supported(source: str, extent: str | None) -> None:
    found = support_of("package", "1", source, RULES, datetime.date(2026, 10, 1))
    assert (found and found.extent) == extent


def test_what_apt_would_install_is_read_with_its_suites() -> None:
    text = """\
W: a warning
libexpat1:
  Installed: 2.7.1-1
  Candidate: 2.9.0-1~deb13u1
  Version table:
     2.9.0-1~deb13u1 500
        500 http://archive.example/debian trixie/main amd64 Packages
        500 http://archive.example/debian-security trixie-security/main amd64 Packages
 *** 2.7.1-1 100
        100 /a/directory/status
gone:
  Installed: 1
  Candidate: 1
  Version table:
 *** 1 100
        100 /a/directory/status
"""
    assert parse_policy(text) == {
        "libexpat1": ("2.9.0-1~deb13u1", ("trixie", "trixie-security")),
        "gone": ("1", ()),
    }


ADVISORIES = {
    "left-pad": [
        {
            "id": 1,
            "url": "https://advisories.example/1",
            "title": "Pads too far",
            "severity": "high",
            "vulnerable_versions": "<1.2.0",
        }
    ],
    "@scope/tool": [
        {
            "id": 2,
            "url": "https://advisories.example/2",
            "title": "Is a tool",
            "severity": "low",
            "vulnerable_versions": "*",
        }
    ],
}
VERSIONS = {"left-pad": ["1.1.0", "1.3.0"], "@scope/tool": ["1.0.0"]}


class Registry(BaseHTTPRequestHandler):
    """As much of an npm registry as `npm audit` asks."""

    lists_advisories = True

    def do_POST(self) -> None:
        """Answer with advisories."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(ADVISORIES if self.lists_advisories else {}, 200 if self.lists_advisories else 405)

    def do_GET(self) -> None:
        """Answer with the versions of a package."""
        name = self.path.removeprefix("/").replace("%2f", "/")
        versions = {
            each: {"name": name, "version": each, "dist": {"tarball": "http://127.0.0.1/none"}}
            for each in VERSIONS[name]
        }
        self._answer({"name": name, "dist-tags": {"latest": VERSIONS[name][-1]}, "versions": versions}, 200)

    def _answer(self, content: Any, status: int) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def registry(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    handler = type("Handler", (Registry,), {"lists_advisories": getattr(request, "param", True)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
    yield
    server.shutdown()
    thread.join()
    server.server_close()


async def test_advisories_of_the_npm_registry(registry: None) -> None:
    found = await audit([("left-pad", "1.1.0"), ("left-pad", "1.3.0"), ("@scope/tool", "1.0.0")])
    assert found == [
        Advisory("@scope/tool", "1.0.0", "low", "Is a tool", "https://advisories.example/2", "*", False),
        Advisory("left-pad", "1.1.0", "high", "Pads too far", "https://advisories.example/1", "<1.2.0", True),
    ]


@pytest.mark.parametrize("registry", [False], indirect=True)
async def test_a_registry_without_advisories_is_an_error(registry: None) -> None:
    with pytest.raises(CommandError, match="405"):
        await audit([("left-pad", "1.1.0")])


def bill(*debian: str, npm: dict[str, str] | None = None) -> dict[str, Any]:
    manifests: list[dict[str, Any]] = [{"name": each, "version": of} for each, of in (npm or {}).items()]
    components = [debian_component(each, "amd64") for each in debian] + npm_components(manifests)
    return {"bomFormat": "CycloneDX", "components": [*components, {"name": "gate", "version": "1"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not a CycloneDX bill"),
        (bill(npm={"left-pad": "1.1.0"}), "no Debian packages"),
        (
            {
                "bomFormat": "CycloneDX",
                "components": [{"purl": "pkg:deb/debian/bash@1?arch=amd64&distro=bookworm"}],
            },
            "the only release",
        ),
        (
            {"bomFormat": "CycloneDX", "components": [{"purl": "pkg:apk/alpine/busybox@1?arch=x86_64"}]},
            "no Debian packages",
        ),
    ],
)
def test_a_bill_that_nobody_can_be_asked_about_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        packages_of(content)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("registry", "installed", "npm", "status", "said"),
    [
        (True, "alpha=1.0-1+deb13u2", {"left-pad": "1.3.0"}, 0, ["2 packages; 0 updates; 0 npm advisories"]),
        (True, "alpha=1.0-1", {}, 1, ["alpha 1.0-1  update: 1.0-1+deb13u2 in trixie-security"]),
        (True, "alpha=1.0-1+deb13u2", {"left-pad": "1.1.0"}, 1, ["left-pad 1.1.0  high: Pads too far"]),
        (True, "alpha=1.0-1+deb13u2", {"@scope/tool": "1.0.0"}, 0, ["no version is without it"]),
        (False, "alpha=1.0-1+deb13u2", {"left-pad": "1.3.0"}, 1, ["not asked: the npm registry", "405"]),
    ],
    indirect=["registry"],
)
def test_the_command_lists_and_fails_when_told_to(
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    installed: str,
    npm: dict[str, str],
    status: int,
    said: list[str],
) -> None:
    archive.add(f"{DEBIAN_SUITE}-security", "alpha", "1.0-1+deb13u2", changelog_Debian_gz=CHANGELOG.encode())
    monkeypatch.setattr(vulnerabilities, "NEEDS", NEEDS[:1])
    monkeypatch.setattr(vulnerabilities, "ask_archive", partial(ask_archive, sources=archive.sources()))
    file = tmp_path / "bill.json"
    file.write_text(json.dumps(bill(installed, npm=npm)))
    assert main(["image", "vulnerabilities", "--sbom", str(file), "--fail"]) == status
    text = capsys.readouterr().out
    assert all(each in text for each in said)


def test_the_listing_for_programs(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.add(f"{DEBIAN_SUITE}-security", "alpha", "1.0-1+deb13u2", changelog_Debian_gz=CHANGELOG.encode())
    monkeypatch.setattr(vulnerabilities, "NEEDS", NEEDS[:1])
    monkeypatch.setattr(vulnerabilities, "ask_archive", partial(ask_archive, sources=archive.sources()))
    file = tmp_path / "bill.json"
    file.write_text(json.dumps(bill("alpha=1.0-1+deb13u1")))
    assert main(["image", "vulnerabilities", "--sbom", str(file), "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["failing"] is True
    assert listing["asked"] == 1
    assert listing["updates"][0]["issues"] == ["CVE-2026-0002", "CVE-2026-10003"]
