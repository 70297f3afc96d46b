"""The images as the engine has them: built under names of the tests' own, or by set-up."""

import io
import tarfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import conftest
import pytest
import trio

from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.provision import image
from supervisor.provision.base import BaseRecipe, ensure_base, find_image
from supervisor.provision.bill import bill_of_materials
from supervisor.provision.host import CommandError
from supervisor.provision.image import Programs, ensure_sandbox_image
from supervisor.provision.npm_cli import NODE_VERSION
from supervisor.provision.report import Report, Step
from supervisor.provision.shell import build_shell
from supervisor.settings import Settings
from supervisor.settings.load import load_settings

TOOL = Path(__file__).with_name("tool")
CONFINED = {
    "ReadonlyRootfs": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "NetworkMode": "none",
    "Memory": 256 << 20,
    "MemorySwap": 256 << 20,
    "PidsLimit": 50,
}

pytestmark = pytest.mark.engine


@pytest.fixture
async def docker(docker_host: str) -> AsyncIterator[Docker]:
    async with Docker(docker_host) as docker:
        yield docker


@pytest.fixture
async def name(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Name of an image that set-up takes for the default one."""
    name = f"terminal-supervisor-test-{uuid.uuid4().hex[:12]}:latest"
    monkeypatch.setattr(image, "DEFAULT_IMAGE", name)
    yield name
    with trio.move_on_after(30, shield=True):
        for each in await docker.images.list(filters={"label": [f"{image.LABEL_NAME}={name}"]}):
            if await find_image(docker, each["Id"]):
                await docker.images.delete(each["Id"], force=True)


@pytest.fixture
def programs(gate_binary: Path) -> Programs:
    return Programs(gate_binary, build_shell(load_settings({}).state_directory / "bin/restricted-shell"))


@pytest.fixture
def step() -> Step:
    return Step(Report(io.StringIO()), "image")


def settings(name: str, **changes: Any) -> Settings:
    return attrs.evolve(load_settings({}), image=name, cli_package="none", **changes)


async def files_of(docker: Docker, name: str) -> dict[str, tarfile.TarInfo]:
    container = await docker.containers.create({"Image": name, "Cmd": ["none"]})
    try:
        async with await docker.api.open("GET", f"containers/{container.id}/export") as reply:
            archive = io.BytesIO(await reply.read())
    finally:
        await container.delete(force=True)
    with tarfile.open(fileobj=archive) as tar:
        return {member.name.removeprefix("./"): member for member in tar}


async def output_of(docker: Docker, name: str, *command: str) -> str:
    container = await docker.containers.create({"Image": name, "Cmd": list(command), "HostConfig": CONFINED})
    try:
        await container.start()
        await container.wait(timeout=60)
        return "".join(await container.log(stdout=True, stderr=True))
    finally:
        await container.delete(force=True)


async def test_the_sandbox_image_has_what_it_needs_and_nothing_else(
    docker: Docker, name: str, programs: Programs, step: Step
) -> None:
    with trio.fail_after(200):
        await ensure_sandbox_image(docker, settings(name), programs, step)
        files = await files_of(docker, name)
        config = (await docker.images.inspect(name))["Config"]
    # What the engine itself puts into containers is empty, and executable for whatever reason.
    executable = {
        member.name
        for member in files.values()
        if member.isreg() and member.size and member.mode & 0o111 and ".so" not in member.name
    }
    assert executable == {"usr/local/bin/restricted-shell", "usr/local/lib/terminal-supervisor/gate"}
    assert not [member.name for member in files.values() if member.mode & 0o6000]
    assert not [
        member.name for member in files.values() if member.isdev() and not member.name.startswith("dev/")
    ]
    writable = [
        member.name
        for member in files.values()
        if (member.uid == 1000 or member.mode & 0o002)
        and not member.issym()
        and not member.name.startswith("dev")
    ]
    assert sorted(name.rstrip("/") for name in writable) == ["home/appuser", "tmp"]
    assert config["User"] == "appuser"
    assert config["Cmd"] == ["/usr/local/bin/restricted-shell"]
    assert not config["Entrypoint"]
    assert not config["Volumes"]
    assert "PATH=/usr/local/bin:/usr/bin:/bin" in config["Env"]
    labels = config["Labels"]
    assert labels["terminal-supervisor.base"] == "Debian trixie packages"
    assert "libc6=" in labels["terminal-supervisor.base.packages"]
    assert "terminal-supervisor" not in labels, "containers inherit labels; that one says what may be removed"


async def test_the_workbench_has_tools_and_the_same_user(docker: Docker, workbench_image: str) -> None:
    command = (
        "id -un; pwd; command -v stty less vi htop python3 ps >/dev/null && echo tools; "
        "command -v apt dpkg su mount; find / -xdev -perm /6000 2>/dev/null"
    )
    with trio.fail_after(90):
        output = await output_of(docker, workbench_image, "bash", "-c", command)
    assert output.splitlines()[:3] == ["appuser", "/home/appuser", "tools"]
    assert [line for line in output.splitlines()[3:] if "apt" in line or "dpkg" in line] == []


async def test_nothing_is_built_twice(
    docker: Docker, name: str, programs: Programs, step: Step, tmp_path: Path
) -> None:
    with trio.fail_after(300):
        await ensure_sandbox_image(docker, settings(name), programs, step)
        assert "built" in step.result
        first = await docker.images.inspect(name)
        await ensure_sandbox_image(docker, settings(name), programs, step)
        assert step.result == f"{name}, up to date (no CLI)"
        assert (await docker.images.inspect(name))["Id"] == first["Id"]

        changed = settings(name, allowed_commands=("one", "two"))
        await ensure_sandbox_image(docker, changed, programs, step)
        second = await docker.images.inspect(name)
        assert second["Id"] != first["Id"]
        assert second["Config"]["Labels"]["terminal-supervisor.commands"] == "one,two"
        assert await find_image(docker, first["Id"]), "a server that runs may still use it"

        changed = settings(name, allowed_commands=("three",))
        await ensure_sandbox_image(docker, changed, programs, step)
        assert await find_image(docker, first["Id"]) is None
        assert await find_image(docker, second["Id"])


async def test_a_cli_from_npm_runs_in_a_confined_container(
    request: pytest.FixtureRequest, docker: Docker, name: str, programs: Programs, step: Step
) -> None:
    wanted = attrs.evolve(settings(name), cli_package=str(TOOL))
    with trio.fail_after(400):
        try:
            await ensure_sandbox_image(docker, wanted, programs, step)
        except CommandError as error:
            conftest.missing(request, f"npm could not fetch Node: {str(error).splitlines()[-1]}")
        assert await output_of(docker, name, "tool", "a b", "*") == f"a b * appuser v{NODE_VERSION}\n"
        labels = (await docker.images.inspect(name))["Config"]["Labels"]
        bill = await bill_of_materials(docker, name)
    urls = {each.get("purl") for each in bill["components"]}
    assert {"pkg:npm/%40example/tool@1.0.0", f"pkg:generic/node@{NODE_VERSION}"} <= urls
    assert labels["terminal-supervisor.cli"] == "@example/tool@1.0.0"
    assert labels["terminal-supervisor.node"] == NODE_VERSION
    assert labels["terminal-supervisor.commands"] == "tool"


def rootfs(**files: int) -> bytes:
    """A root file system of programs in /bin with these modes, and a user."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, mode in {
            **{f"bin/{name}": mode for name, mode in files.items()},
            "etc/passwd": 0o644,
        }.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = 4, mode
            tar.addfile(info, io.BytesIO(b"data"))
    return archive.getvalue()


async def test_a_registry_image_is_cleaned_on_its_way_in(docker: Docker) -> None:
    # An image that the engine has already stands for one from a registry.
    name = f"terminal-supervisor-test-{uuid.uuid4().hex[:12]}"
    recipe = BaseRecipe(f"{name}:latest", (), "any")
    changes = ["USER somebody", 'ENTRYPOINT ["/bin/su"]', "ENV LD_PRELOAD=x"]
    try:
        with trio.fail_after(200):
            content = rootfs(su=0o4755, wall=0o2755, ls=0o755)
            await docker.images.import_rootfs(content, repo=name, tag="latest", changes=changes)
            assert await ensure_base(docker, recipe, lambda _: None) == recipe.image
            config = (await docker.images.inspect(recipe.image))["Config"]
            files = await files_of(docker, recipe.image)
    finally:
        with trio.move_on_after(30, shield=True):
            for image_name in (f"{name}:latest", recipe.image):
                if await find_image(docker, image_name):
                    await docker.images.delete(image_name)
    assert config["Labels"]["terminal-supervisor.base"].startswith(f"registry image {name}:latest (sha256:")
    assert not config["User"]
    assert not config["Entrypoint"]
    assert "LD_PRELOAD=x" not in (config["Env"] or [])
    assert {files[f"bin/{program}"].mode & 0o7777 for program in ("su", "wall", "ls")} == {0o755}
    assert "etc/passwd" not in files


async def test_a_base_image_that_cannot_be_fetched_is_the_settings_fault(docker: Docker) -> None:
    recipe = BaseRecipe("registry.invalid/no/such:image", (), "amd64")
    with (
        trio.fail_after(60),
        pytest.raises(ConfigurationError, match=r"SANDBOX_BASE_IMAGE=registry\.invalid"),
    ):
        await ensure_base(docker, recipe, lambda _: None)


async def test_an_image_of_ones_own_is_not_built(docker: Docker, workbench_image: str, step: Step) -> None:
    nothing = Programs(Path("/nonexistent"), Path("/nonexistent"))
    with trio.fail_after(60):
        await ensure_sandbox_image(docker, settings(workbench_image), nothing, step)
        assert "at the engine" in step.result
        with pytest.raises(ConfigurationError, match="unset DOCKER_IMAGE_NAME"):
            await ensure_sandbox_image(docker, settings("registry.invalid/no/such:image"), nothing, step)
