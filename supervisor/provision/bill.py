"""The software bill of materials of a sandbox image, in CycloneDX's JSON (version 1.5, ECMA-424).

It lists what set-up put into the image, by package URLs, which is what scanners for vulnerabilities ask for:
the Debian packages (from the label that they were noted in when the base was made), Node, and all npm
packages of the CLI (read off the image's own files: a container is created for that, and never started). What
an image of somebody else's is made from is not known, and an error.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from supervisor import __version__
from supervisor.engine import Docker, DockerError
from supervisor.errors import ConfigurationError
from supervisor.provision.base import DEBIAN_SUITE, LABEL_PACKAGES, find_image
from supervisor.provision.image import LABEL_NODE
from supervisor.sandbox.identity import PRODUCT, unowned_labels

JSON = dict[str, Any]

_MODULES = "/usr/local/lib/node_modules"
_NOT_FOUND = 404
_READ_TIME = 600.0  # seconds for reading an image, amply


async def bill_of_materials(docker: Docker, image: str) -> JSON:
    """Return the bill of `image`.

    Raises:
        ConfigurationError: there is no such image, or set-up did not make it from Debian packages.
        DockerError: the engine refuses.
    """
    facts = await find_image(docker, image)
    if facts is None:
        raise ConfigurationError(f"the engine has no image {image} (DOCKER_IMAGE_NAME): run `setup` first")
    labels: dict[str, str] = facts["Config"].get("Labels") or {}
    packages = labels.get(LABEL_PACKAGES, "").split()
    if not packages:
        raise ConfigurationError(
            f"the image {image} (DOCKER_IMAGE_NAME) was not made from Debian packages by set-up, so there "
            "is no list of what is in it: ask for its maker's, or scan it"
        )
    components = [debian_component(package, str(facts["Architecture"])) for package in packages]
    if version := labels.get(LABEL_NODE):
        components.append(_component("application", "node", version, f"pkg:generic/node@{version}"))
        components += npm_components(await _manifests(docker, image))
    own = [_component("application", name, __version__, "") for name in ("gate", "restricted-shell")]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": _component("container", image, str(facts["Id"]), ""),
            "tools": {"components": [_component("application", PRODUCT, __version__, "")]},
        },
        "components": components + own,
    }


def debian_component(package: str, architecture: str) -> JSON:
    """Return the entry of a Debian package, `name=version`."""
    name, _, version = package.partition("=")
    url = f"pkg:deb/debian/{name}@{quote(version, safe='.~-')}?arch={architecture}&distro={DEBIAN_SUITE}"
    return _component("library", name, version, url)


def npm_components(manifests: list[JSON]) -> list[JSON]:
    """Return the entries of npm packages, by their package.json; each name and version once."""
    found = sorted({(str(each["name"]), str(each["version"])) for each in manifests if _is_package(each)})
    return [
        _component("library", name, version, f"pkg:npm/{quote(name, safe='/')}@{quote(version)}")
        for name, version in found
    ]


def _is_package(manifest: JSON) -> bool:
    # Packages have further files of that name inside, which say what kind of modules are beside them.
    return isinstance(manifest.get("name"), str) and isinstance(manifest.get("version"), str)


def _component(kind: str, name: str, version: str, url: str) -> JSON:
    component = {"type": kind, "name": name, "version": version}
    return {**component, "bom-ref": url, "purl": url} if url else component


async def _manifests(docker: Docker, image: str) -> list[JSON]:
    configuration = {"Image": image, "Cmd": ["none"], "Labels": unowned_labels("bill", _READ_TIME)}
    container = await docker.containers.create(configuration)
    try:
        with await container.get_archive(_MODULES) as archive:
            return list(_read(archive))
    except DockerError as error:
        if error.status == _NOT_FOUND:
            return []
        raise
    finally:
        await container.delete(force=True)


def _read(archive: Any) -> Iterator[JSON]:
    for member in archive:
        if member.isfile() and member.name.endswith("/package.json"):
            try:
                content: Any = json.load(archive.extractfile(member))
            except ValueError:  # packages bring broken ones along, as test data
                continue
            if isinstance(content, dict):
                yield content
