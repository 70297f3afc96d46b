"""The bill of materials says what is in an image, by package URLs."""

import pytest
import trio

from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.provision.bill import bill_of_materials, debian_component, npm_components


def test_debian_packages() -> None:
    component = debian_component("libc6=1:2.41-12+deb13u1", "amd64")
    assert component["purl"] == "pkg:deb/debian/libc6@1%3A2.41-12%2Bdeb13u1?arch=amd64&distro=trixie"
    assert (component["name"], component["version"]) == ("libc6", "1:2.41-12+deb13u1")


def test_npm_packages_once_each() -> None:
    manifests: list[dict[str, object]] = [
        {"name": "@ably/cli", "version": "1.0.0"},
        {"name": "chalk", "version": "5.0.0"},
        {"name": "chalk", "version": "5.0.0"},
        {"type": "module"},
        {"name": "chalk", "version": None},
    ]
    assert [each["purl"] for each in npm_components(manifests)] == [
        "pkg:npm/%40ably/cli@1.0.0",
        "pkg:npm/chalk@5.0.0",
    ]


@pytest.mark.engine
async def test_of_an_image(docker_host: str, workbench_image: str) -> None:
    with trio.fail_after(60):
        async with Docker(docker_host) as docker:
            bill = await bill_of_materials(docker, workbench_image)
            with pytest.raises(ConfigurationError, match="no image nothing-of-that-name"):
                await bill_of_materials(docker, "nothing-of-that-name")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    urls = {each["purl"] for each in bill["components"] if "purl" in each}
    assert any(url.startswith("pkg:deb/debian/bash@") for url in urls)
    assert any(url.startswith("pkg:deb/debian/libc6@") for url in urls)
    assert {"gate", "restricted-shell"} <= {each["name"] for each in bill["components"]}
