"""What the kernel says that it has loaded: only the very profiles of this version will do.

The kernel is a directory here, filled as apparmorfs is. That a real one hashes like this, `tests/vm` shows.
"""

import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from conftest import opt_outs

from sandbox.between import EngineBetween
from sandbox.conftest import docker_settings
from sandbox.test_apparmor import PROFILE
from supervisor.engine import Docker, DockerContainers
from supervisor.errors import ConfigurationError, SandboxError
from supervisor.measures import Measure
from supervisor.sandbox import apparmor_kernel
from supervisor.sandbox.apparmor import (
    GATE_PROFILE,
    SessionProfile,
    make_session_profile,
    profile_file,
)
from supervisor.sandbox.apparmor_kernel import (
    UNSAFE_PROFILES,
    ProfilesWatch,
    compile_profiles,
    confining,
    prove_profiles,
)
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.identity import this_process
from supervisor.sandbox.providers import open_provider
from supervisor.sandbox.surroundings import look_around
from supervisor.sandbox.verify import read_engine

OTHER = attrs.evolve(PROFILE, execute=("/usr/bin/node",), write=("/tmp", "/var/config"))
INSTALL = "sudo terminal-supervisor apparmor install"


@attrs.frozen
class Kernel:
    """A kernel's list of profiles, and the file that they are loaded from."""

    profiles: Path
    file: Path

    async def load(self, text: str, mode: str = "enforce", algorithm: str = "sha1") -> None:
        """As the parser and a kernel do."""
        for number, (name, hashed) in enumerate((await compile_profiles(text)).items()):
            directory = next(self.profiles.glob(f"{name}.*"), self.profiles / f"{name}.{number}")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            (directory / "name").write_text(f"{name}\n")
            (directory / "mode").write_text(f"{mode}\n")
            (directory / "attach").write_text("<unknown>\n")
            if algorithm:
                digest = hashlib.new(algorithm, hashed).hexdigest()
                (directory / algorithm).write_text(f"{digest}\n")

    async def install(self, *sessions: SessionProfile) -> None:
        """As `apparmor install` does."""
        self.file.write_text(profile_file(sessions))
        await self.load(self.file.read_text())

    def of(self, name: str) -> Path:
        """The directory of a profile."""
        (found,) = self.profiles.glob(f"{name}.*")
        return found


@pytest.fixture
def kernel(parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    fake = Kernel(tmp_path / "profiles", tmp_path / "docker-ably-cli-sandbox")
    fake.profiles.mkdir()
    (fake.profiles / "docker-default.1").mkdir()
    monkeypatch.setattr(apparmor_kernel, "_PROFILES", fake.profiles)
    monkeypatch.setattr(apparmor_kernel, "PROFILE_FILE", fake.file)
    # There is none whose features could be asked for.
    features = ("--kernel-features", "/etc/apparmor.d/abi/3.0")
    monkeypatch.setattr(apparmor_kernel, "_COMPILE", (*apparmor_kernel._COMPILE, *features))
    return fake


async def complaint(*sessions: SessionProfile) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await prove_profiles(sessions)
    return str(caught.value)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_what_this_version_makes(kernel: Kernel, algorithm: str) -> None:
    await kernel.install(PROFILE, OTHER)
    await kernel.load(kernel.file.read_text(), algorithm=algorithm)
    proved = await prove_profiles([OTHER])
    assert proved.keys() == {GATE_PROFILE, OTHER.name}
    assert {each.algorithm for each in proved.values()} == {algorithm}
    assert (await prove_profiles([PROFILE, OTHER])).keys() == {GATE_PROFILE, PROFILE.name, OTHER.name}
    assert (await prove_profiles([])).keys() == {GATE_PROFILE}


async def test_a_profile_is_the_same_whatever_it_is_loaded_with(kernel: Kernel) -> None:
    together = await compile_profiles(profile_file([PROFILE, OTHER]))
    alone = await compile_profiles(profile_file([OTHER]))
    assert together.keys() == {GATE_PROFILE, PROFILE.name, OTHER.name}
    assert together[OTHER.name] == alone[OTHER.name]
    assert together[GATE_PROFILE] != alone[GATE_PROFILE], "it has what all images need"


@pytest.mark.parametrize(
    ("rule", "weaker"),
    [
        ("audit deny mount,", "mount,"),
        ("/usr/bin/bash mrix,", "/** mrix,"),
        ("/tmp/** rwkl,", "/** rwkl,"),
        ("flags=(mediate_deleted)", "flags=(mediate_deleted, complain)"),
        ("audit deny network packet,", "network packet,"),
        ("signal (receive) peer={unconfined,runc,crun},", "signal,"),
    ],
)
@pytest.mark.parametrize("name", [GATE_PROFILE, PROFILE.name])
async def test_a_weaker_profile_under_our_name(kernel: Kernel, name: str, rule: str, weaker: str) -> None:
    await kernel.install(PROFILE)
    begin = kernel.file.read_text().index(f"profile {name}")
    text = kernel.file.read_text()
    assert rule in text[begin:]
    await kernel.load(text[:begin] + text[begin:].replace(rule, weaker, 1))
    found = await complaint(PROFILE)
    assert f"the profile {name} is loaded with other rules" in found
    assert INSTALL in found
    # Installing again makes it good.
    await kernel.install(PROFILE)
    await prove_profiles([PROFILE])


async def test_profiles_of_another_version(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    await kernel.install(PROFILE)
    monkeypatch.setattr(
        apparmor_kernel,
        "profile_file",
        lambda sessions: profile_file(sessions).replace("  deny ptrace (read", "  audit deny ptrace (read"),
    )
    assert "with other rules" in await complaint(PROFILE)


async def test_profiles_for_something_else(kernel: Kernel) -> None:
    await kernel.install(OTHER)
    assert "are not for this image and these settings" in await complaint(PROFILE)
    # It may have been loaded by other means; the gate's is not for it.
    await kernel.load(profile_file([PROFILE]))
    await kernel.load(profile_file([OTHER]))
    found = await complaint(PROFILE)
    assert f"({PROFILE.name} is not in it)" in found
    assert INSTALL in found


@pytest.mark.parametrize("name", [GATE_PROFILE, PROFILE.name])
async def test_profiles_that_do_not_confine(kernel: Kernel, name: str) -> None:
    await kernel.install(PROFILE)
    for mode in ("complain", "unconfined", "kill"):
        (kernel.of(name) / "mode").write_text(f"{mode}\n")
        assert f"{name} is loaded in mode {mode}" in await complaint(PROFILE)
    shutil.rmtree(kernel.of(name))
    assert INSTALL in await complaint(PROFILE)


async def test_a_kernel_that_does_not_tell(kernel: Kernel) -> None:
    await kernel.install(PROFILE)
    (kernel.of(GATE_PROFILE) / "sha1").write_text("")
    assert "keeps no hash" in await complaint(PROFILE)
    (kernel.of(GATE_PROFILE) / "sha1").unlink()
    assert "CONFIG_SECURITY_APPARMOR_HASH" in await complaint(PROFILE)
    shutil.rmtree(kernel.profiles)
    assert "mount securityfs" in await complaint(PROFILE)


async def test_a_file_that_is_not_ours(kernel: Kernel) -> None:
    await kernel.install(PROFILE)
    kernel.file.write_text("profile ably-cli-sandbox-profile { }\n")
    assert "is not one of this version" in await complaint(PROFILE)
    kernel.file.unlink()
    assert INSTALL in await complaint(PROFILE)


async def test_a_host_without_the_parser(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    await kernel.install(PROFILE)
    monkeypatch.setattr(shutil, "which", lambda *_args, **_named: None)
    assert "apt-get install apparmor" in await complaint(PROFILE)


async def test_a_parser_that_refuses(kernel: Kernel) -> None:
    with pytest.raises(ConfigurationError, match=r"failed \(status 1\): .*syntax error"):
        await compile_profiles("profile x { nonsense }")


async def change_mode(kernel: Kernel) -> None:
    (kernel.of(PROFILE.name) / "mode").write_text("complain\n")


async def unload(kernel: Kernel) -> None:
    shutil.rmtree(kernel.of(GATE_PROFILE))


async def load_other_rules(kernel: Kernel) -> None:
    await kernel.load(profile_file([PROFILE]).replace("audit deny mount,", "mount,"))


async def unmount(kernel: Kernel) -> None:
    shutil.rmtree(kernel.profiles)


@pytest.mark.parametrize("change", [change_mode, unload, load_other_rules, unmount])
async def test_profiles_are_watched(kernel: Kernel, change: Callable[[Kernel], Awaitable[None]]) -> None:
    await kernel.install(PROFILE)
    watch = ProfilesWatch(await prove_profiles([PROFILE]))
    watch.require_ready()
    await change(kernel)
    assert watch.problem
    with pytest.raises(SandboxError, match=UNSAFE_PROFILES):
        watch.require_ready()
    kernel.profiles.mkdir(exist_ok=True)
    await kernel.install(PROFILE)
    watch.require_ready()


async def test_loading_the_same_again_changes_nothing(kernel: Kernel) -> None:
    await kernel.install(PROFILE)
    watch = ProfilesWatch(await prove_profiles([PROFILE]))
    await kernel.install(PROFILE)
    assert watch.problem is None


async def test_the_gates_profile_becomes_that_of_other_images(kernel: Kernel) -> None:
    """A new image's profiles are installed before the server is renewed."""
    await kernel.install(PROFILE)
    watch = ProfilesWatch(await prove_profiles([PROFILE]))
    await kernel.install(OTHER)
    assert GATE_PROFILE in str(watch.problem)
    await watch.look()
    watch.require_ready()
    # What is not made by this version stays out.
    await kernel.load(profile_file([OTHER]).replace("audit deny mount,", "mount,", 1))
    await watch.look()
    assert watch.problem == f"AppArmor profiles have changed: {GATE_PROFILE}"
    await kernel.install(OTHER)
    watch.require_ready()
    # The sessions' own is what it was, or they do not start.
    await kernel.load(profile_file([PROFILE]).replace("audit deny mount,", "mount,"))
    await watch.look()
    assert PROFILE.name in str(watch.problem)


@pytest.mark.parametrize(
    ("label", "profiles"),
    [
        ("unconfined", set()),
        ("", set()),
        ("a (enforce)", {"a"}),
        ("a (complain)", set()),
        ("a//&b (enforce)", {"a", "b"}),
        ("a//&b (mixed)", set()),
        ("docker-default (enforce)", {"docker-default"}),
    ],
)
def test_labels(label: str, profiles: set[str]) -> None:
    assert confining(label) == profiles


@pytest.mark.engine
async def test_no_session_while_the_profiles_are_not_those_of_the_start(
    hardened: DockerProvider, kernel: Kernel
) -> None:
    await kernel.install(PROFILE)
    hardened.confinement = ProfilesWatch(await prove_profiles([PROFILE]))
    hardened.require_ready()
    with trio.fail_after(60):
        async with hardened.prepare(10):
            pass
        await load_other_rules(kernel)
        assert hardened.unavailable == hardened.closed == UNSAFE_PROFILES
        with pytest.raises(SandboxError, match=UNSAFE_PROFILES):
            async with hardened.prepare(10):
                raise AssertionError


class Confining(EngineBetween):
    """The real engine, which says that its kernel has AppArmor."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not request.url.path.endswith("/info"):
            return response
        body = await self.body_of(response)
        body["SecurityOptions"] = [*body["SecurityOptions"], "name=apparmor"]
        return self.answer(response.status_code, body)


@pytest.mark.engine
@pytest.mark.parametrize("of_session", [False, True], ids=["gate", "session"])
async def test_no_start_while_a_profile_only_complains(
    request: pytest.FixtureRequest, kernel: Kernel, monkeypatch: pytest.MonkeyPatch, of_session: bool
) -> None:
    without = tuple(name for name in opt_outs() if name != Measure.APPARMOR)
    settings = docker_settings(request, hardening_without=without)

    def engine(url: str | None) -> Docker:
        docker = Docker(url)
        docker.api.transport = Confining(docker.api.transport)
        return docker

    monkeypatch.setattr("supervisor.sandbox.providers.Docker", engine)
    with trio.fail_after(60):
        async with Docker(settings.docker_host) as docker:
            facts = await read_engine(docker, settings)
            image = (await look_around(docker, facts, settings, this_process())).image
            assert image is not None
            profile = await make_session_profile(docker, settings, image, this_process())
        await kernel.install(profile)
        name = profile.name if of_session else GATE_PROFILE
        (kernel.of(name) / "mode").write_text("complain\n")
        with pytest.raises(ConfigurationError) as caught:
            async with open_provider(settings):
                raise AssertionError
    text = str(caught.value)
    for part in (Measure.APPARMOR, f"{name} is loaded in mode complain", INSTALL, "HARDENING_WITHOUT="):
        assert part in text


@pytest.mark.engine
async def test_what_a_start_finds_is_looked_at_once(
    request: pytest.FixtureRequest, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = docker_settings(request, hardening_without=(), state=tmp_path / "state")
    created: list[Mapping[str, object]] = []
    create = DockerContainers.create

    async def counted(self: DockerContainers, config: dict[str, object], **named: object) -> object:
        created.append(config)
        return await create(self, config, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(DockerContainers, "create", counted)
    with trio.fail_after(60):
        async with Docker(settings.docker_host) as docker:
            engine = attrs.evolve(await read_engine(docker, settings), apparmor=True)
            found = await look_around(docker, engine, settings, this_process())
            assert found.image is not None
            assert INSTALL in found.missing[Measure.APPARMOR]
            assert (found.session_profile, found.profiles) == ("", {})
            assert len(created) == 2, "to read who its user is, and which programs it has"
            profile = await make_session_profile(docker, settings, found.image, this_process())
            await kernel.install(profile)
            created.clear()
            found = await look_around(docker, engine, settings, this_process())
            assert Measure.APPARMOR not in found.missing
            assert found.session_profile == profile.name
            assert found.profiles.keys() == {GATE_PROFILE, profile.name}
            assert len(created) == 1, "programs are remembered"
            absent = attrs.evolve(settings, image="ts-test-no-such-image")
            found = await look_around(docker, engine, absent, this_process())
            assert (found.image, found.session_profile) == (None, "")
            assert "ts-test-no-such-image" in found.problems[0]
