"""A user id for each session, and a name for each."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from conftest import missing

from sandbox.conftest import docker_settings
from supervisor.errors import SandboxError
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox import users
from supervisor.sandbox.containers import Site
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.image import ImageFacts
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.users import SessionUsers, passwd_file, passwd_text
from supervisor.settings import Settings

LIMIT = 60.0
IMAGE = ImageFacts(
    id="sha256:abc",
    name="image",
    user="appuser",
    uid=1000,
    gid=1001,
    home="/home/appuser",
    passwd="root:x:0:0:root:/root:/bin/bash\nappuser:x:1000:1001:The User:/home/appuser:/bin/zsh\n# odd\n",
)


@pytest.fixture(scope="module")
def policy() -> HardeningPolicy:
    profile = load_profile(docker_directory() / "seccomp.json")
    return HardeningPolicy.from_settings(Settings(network="none"), IMAGE, profile, Runtime("runc"))


@pytest.mark.parametrize("remapped", [False, True])
def test_each_has_one_of_its_own(policy: HardeningPolicy, remapped: bool) -> None:
    handing = SessionUsers(remapped=remapped)
    with handing.one(policy) as first, handing.one(policy) as second:
        for each in (first, second):
            assert each.user_of_its_own
            assert each.image.gid == 1001, "what the group may read in the image, it may"
            assert each.image.uid < 65_536 if remapped else each.image.uid > 1_800_000_000
            assert f"uid={each.image.uid},gid=1001" in each.tmpfs["/run"]
            assert each.to_create_config(["/gate"], labels={})["User"] == f"{each.image.uid}:1001"
        assert first.image.uid != second.image.uid
        assert repr(handing) == "<SessionUsers 2 taken>"
    assert repr(handing) == "<SessionUsers 0 taken>"


def test_there_can_be_none_left(policy: HardeningPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_RANGE", range(5, 6))
    handing = SessionUsers(remapped=False)
    with handing.one(policy), pytest.raises(SandboxError, match="no user id is left"), handing.one(policy):
        raise AssertionError


def test_what_the_passwd_file_says(tmp_path: Path) -> None:
    own = attrs.evolve(IMAGE, uid=77)
    assert passwd_text(own) == (
        "root:x:0:0:root:/root:/bin/bash\n# odd\nappuser:x:77:1001:The User:/home/appuser:/bin/zsh\n"
    )
    bare = attrs.evolve(IMAGE, uid=77, user="user", passwd="")
    assert passwd_text(bare) == "user:x:77:1001:user:/home/appuser:/bin/sh\n"
    with passwd_file(tmp_path, own) as mount:
        assert mount.target == "/etc/passwd"
        assert Path(mount.source).read_text() == passwd_text(own)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SandboxError, match="passwd"), passwd_file(tmp_path / "none", own):
        raise AssertionError


@pytest.mark.engine
async def test_programs_find_their_user(hardened: DockerProvider) -> None:
    script = (
        "id -u; id -un; id -gn; echo $USER; stat -c %U:%a /tmp /run ~/.ably; "
        "touch /run/x ~/.ably/x && echo ok; "
        "python3 -c 'import pwd, os; print(pwd.getpwuid(os.getuid()).pw_dir)'; echo x >> /etc/passwd"
    )
    outputs: list[list[str]] = []
    with trio.fail_after(LIMIT):
        for _ in range(2):
            async with hardened.lease(LeaseRequest("test", ("bash", "-c", script))) as terminal:
                output = b""
                while data := await terminal.receive_some():
                    output += data
            outputs.append(output.decode().split("\r\n"))
    first, second = outputs
    assert first[0] != second[0]
    remapped = bool(hardened.containers.site.first_uid)
    assert (10_000 <= int(first[0]) < 60_000) if remapped else int(first[0]) > 1_800_000_000
    assert first[1:-1] == second[1:-1]
    assert first[1:9] == ["appuser"] * 3 + ["root:1777", "appuser:755", "appuser:700", "ok", "/home/appuser"]
    assert "Read-only file system" in first[9] or "Permission denied" in first[9]
    left = [path.name for path in hardened.containers.site.sockets.iterdir()]
    assert [name for name in left if not name.startswith("seccomp-")] == []


INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
FEW = 128
"""Instances that a user may have while a test takes them all; set-up allows more."""


@pytest.fixture
def few_instances(request: pytest.FixtureRequest) -> Iterator[None]:
    if os.geteuid() != 0:
        missing(request, "the kernel's limits are root's to set")
    before = INOTIFY.read_text()
    INOTIFY.write_text(f"{FEW}\n")
    yield
    INOTIFY.write_text(before)


def root_has_one_left() -> bool:
    """Whether this process, which is the host's root, gets an inotify instance."""
    instance: int = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC)
    if instance >= 0:
        os.close(instance)
    return instance >= 0


@pytest.mark.engine
async def test_one_session_cannot_use_up_what_the_kernel_counts_per_user(
    request: pytest.FixtureRequest,
    hardened: DockerProvider,
    monkeypatch: pytest.MonkeyPatch,
    few_instances: None,
) -> None:
    """Inotify instances. With one user for all, the second session has none left. With remapped users they
    are charged to the host's root as well, whoever takes them: it is the bound of each container that helps.
    """
    remapped = bool(hardened.containers.site.first_uid)
    take = (
        f"touch /tmp/f; for i in $(seq {FEW}); do tail -f /tmp/f >/dev/null 2>>/tmp/refused & done; "
        "taken() { ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c inotify; }; "
        f"until [ $(($(taken) + $(grep -c inotify /tmp/refused))) -ge {FEW - 8} ]; do sleep 0.2; done; "
        "echo taken; sleep 60"
    )
    own = tuple(map(str, hardened.containers.policy.without))

    async def is_held_up(*more: str) -> bool:
        settings = docker_settings(request, pids_limit=FEW + 50, hardening_without=(*own, *more))
        async with (
            open_docker_provider(settings, verify=False) as provider,
            provider.lease(LeaseRequest("one", ("bash", "-c", take), hangup_grace=0)) as first,
        ):
            assert b"taken" in await first.receive_some()
            script = (
                "touch /tmp/f; for i in $(seq 20); do timeout 0.2 tail -f /tmp/f & done 2>&1; wait; echo end"
            )
            output = b""
            async with provider.lease(LeaseRequest("two", ("bash", "-c", script))) as second:
                while data := await second.receive_some():
                    output += data
            assert b"end" in output
            held_up = b"inotify" in output
            assert not remapped or root_has_one_left() is not held_up
            return held_up

    with trio.fail_after(LIMIT):
        with monkeypatch.context() as without:
            without.setattr(Site, "bounds_shares", property(lambda _: False))
            assert await is_held_up(*([] if remapped else ["session-uid"])), "the attack works without"
        assert not await is_held_up()
