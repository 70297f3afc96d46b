"""The seccomp profile: what it lets through and what not, tried in containers; and what is not taken for a
profile.
"""

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from sandbox.conftest import IMAGE, execute
from supervisor.errors import ConfigurationError
from supervisor.provision.compiler import compile_static, docker_directory
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.policy import HardeningPolicy, Mount
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile, staged_profile
from supervisor.settings import Settings

PROFILE = docker_directory() / "seccomp.json"
EPERM, ENOSYS, KILLED = 1, 38, 128 + 31  # SIGSYS

ALLOWED = {
    "clone-plain",
    "personality-query",
    "mknod-fifo",
    "socket-tcp",
    "socket-udp6",
    "socket-unix",
    "socket-route",
    "tcgets",
    "tcgets-high",
    "setpriority-self",
    "prlimit-self",
    "prctl-name",
    "prctl-name-high",
    "sched-self",
    "landlock",
    "pidfd_open",
    "close_range",
}
# What a kernel would let an unprivileged process do, or at least attempt, so that it is the filter that
# refused.
FILTERED = {
    "umount2",
    "unshare-fs",
    "setns",
    "ptrace",
    "process_vm_readv",
    "kcmp",
    "pidfd_getfd",
    "keyctl",
    "open_by_handle_at",
    "memfd_create",
    "execveat",
    "personality-unusual",
    "tiocsetd",
    "setpriority-other",
    "sched-other",
    "ioprio-other",
    "prlimit-other",
    "affinity-other",
    "socket-audit",
    "prlimit-other-high",
    "setpriority-other-high",
    "sched-other-high",
    "schedparam-other",
    "ioprio-group",
    "setpriority-group",
    "personality-high",
    "prctl-ptracer",
    "prctl-speculation",
    "seccomp",
    "splice",
    "tee",
    "sync",
    "syncfs",
    "process_madvise",
}


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("probe.c")
    return compile_static([source], tmp_path_factory.mktemp("probe") / "probe", freestanding=False)


async def attempts(provider: DockerProvider, probe: Path) -> dict[str, int]:
    """Run the probe in a container of the provider's policy."""
    async with provider.containers.create(
        ["/bin/sleep", "60"], role="test", lifetime=60, mounts=[Mount(str(probe), "/probe")]
    ) as container:
        await container.start()
        status, output = await execute(container.engine, "/probe")
    assert status == 0, output
    return {name: int(result) for name, result in (line.split() for line in output.splitlines())}


@pytest.mark.engine
async def test_what_the_profile_lets_through(hardened: DockerProvider, probe: Path) -> None:
    with trio.fail_after(60):
        results = await attempts(hardened, probe)
    expected = {name: 0 if name in ALLOWED else EPERM for name in results}
    expected["clone3"] = ENOSYS
    expected |= {name: KILLED for name in ("int80", "x32") if name in results}
    assert results == expected
    assert len(results) > 120


@pytest.mark.engine
async def test_it_is_the_profile_that_refuses(
    hardened: DockerProvider, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same attempts without any profile: that they fail otherwise, or succeed, makes the test above worth
    something.
    """
    containers = hardened.containers
    profile = attrs.evolve(containers.policy.seccomp, text="unconfined")
    containers.policy = attrs.evolve(containers.policy, seccomp=profile)
    with trio.fail_after(60):
        results = await attempts(hardened, probe)
    assert {name for name in FILTERED if results[name] == EPERM} == set()
    assert results["clone3"] != ENOSYS


def test_the_profile_in_the_tree_is_one() -> None:
    profile = load_profile(PROFILE)
    assert len(profile.digest) == 64
    assert json.loads(profile.text)["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "comment" not in profile.text
    assert len(profile.text) < 20_000, "it travels with every create call"
    forbidden = {
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "mount",
        "umount2",
        "pivot_root",
        "unshare",
        "setns",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "perf_event_open",
        "open_by_handle_at",
        "clone3",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "iopl",
        "ioperm",
        "settimeofday",
        "clock_settime",
        "chroot",
        "fsopen",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "syslog",
        "kcmp",
    }
    assert profile.allowed & forbidden == set()
    assert {"read", "write", "execve", "clone", "ioctl", "socket", "exit_group"} <= profile.allowed


def test_what_depends_on_arguments_is_never_allowed_without() -> None:
    rules = json.loads(PROFILE.read_text())["syscalls"]
    for name in (
        "clone",
        "socket",
        "socketpair",
        "ioctl",
        "personality",
        "prlimit64",
        "setpriority",
        "ioprio_set",
        "sched_setaffinity",
        "sched_setattr",
        "sched_setparam",
        "sched_setscheduler",
        "prctl",
        "mknod",
        "mknodat",
    ):
        mine = [rule for rule in rules if name in rule["names"]]
        assert mine
        assert all(rule.get("args") for rule in mine), name
        # Compared as 32 bits at most: the kernel ignores the upper half of an int, and so must the filter.
        assert all(
            each["op"] == "SCMP_CMP_MASKED_EQ" and each["value"] < 1 << 32
            for rule in mine
            for each in rule["args"]
        )


GOOD: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}],
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
}
READ = GOOD["syscalls"][0]
CONDITION = {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        ({**GOOD, "defaultAction": "SCMP_ACT_ALLOW"}, "must deny"),
        ({**GOOD, "defaultAction": "SCMP_ACT_LOG"}, "must deny"),
        ({key: value for key, value in GOOD.items() if key != "defaultAction"}, "must deny"),
        ({**GOOD, "archMap": []}, "archMap"),
        ({**GOOD, "archMap": ["SCMP_ARCH_X86_64"]}, "archMap: each must be an object"),
        ({**GOOD, "syscalls": []}, "list of rules"),
        ({**GOOD, "syscals": []}, "unknown key 'syscals'"),
        ({**GOOD, "syscalls": ["read"]}, r"syscalls\[0\]: must be a JSON object"),
        ({**GOOD, "syscalls": [{**READ, "names": "read"}]}, "names"),
        ({**GOOD, "syscalls": [{**READ, "names": ["Read!"]}]}, "not the name of a system call: 'Read!'"),
        ({**GOOD, "syscalls": [{**READ, "action": "ALLOW"}]}, "action: unknown: 'ALLOW'"),
        ({**GOOD, "syscalls": [{**READ, "arg": []}]}, "unknown key 'arg'"),
        ({**GOOD, "syscalls": [{**READ, "args": [{**CONDITION, "op": "=="}]}]}, "known op"),
        ({**GOOD, "syscalls": [{**READ, "args": [{**CONDITION, "index": 6}]}]}, "0 to 5"),
        ({**GOOD, "syscalls": [{**READ, "args": [{**CONDITION, "value": -1}]}]}, "unsigned"),
        ({**GOOD, "syscalls": [{**READ, "args": [CONDITION, CONDITION]}]}, "one condition"),
        ([], "JSON object"),
    ],
)
def test_what_is_no_profile(profile: object, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile))
    with pytest.raises(ConfigurationError, match=complaint):
        load_profile(path)


def test_files_that_are_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_profile(tmp_path / "missing")
    broken = tmp_path / "broken"
    broken.write_text("{")
    with pytest.raises(ConfigurationError, match="not JSON"):
        load_profile(broken)
    broken.write_bytes(b" " * 300_000)
    with pytest.raises(ConfigurationError, match="longer than"):
        load_profile(broken)


def test_staged(tmp_path: Path) -> None:
    with staged_profile(PROFILE, tmp_path, "x86_64") as profile:
        (staged,) = tmp_path.iterdir()
        assert stat.S_IMODE(staged.stat().st_mode) == 0o600
        assert load_profile(staged) == profile == load_profile(PROFILE)
        policy = HardeningPolicy.from_settings(Settings(), IMAGE, profile, Runtime("runc"))
        handed = policy.to_create_config(["/gate"], labels={})["HostConfig"]["SecurityOpt"]
        assert f"seccomp={staged.read_text()}" in handed, "it is the text that the engine gets"
        assert hashlib.sha256(staged.read_bytes()).hexdigest() == profile.digest, "and whose hash is told"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("profile", "machine", "complaint"),
    [
        ({**GOOD, "syscalls": [{**READ, "names": ["read", "raed"]}]}, "x86_64", "no system call 'raed'"),
        (GOOD, "aarch64", "is not for aarch64"),
        ({**GOOD, "syscalls": []}, "x86_64", "list of rules"),
    ],
)
def test_what_cannot_be_staged(profile: object, machine: str, complaint: str, tmp_path: Path) -> None:
    source, directory = tmp_path / "profile.json", tmp_path / "private"
    source.write_text(json.dumps(profile))
    directory.mkdir()
    with (
        pytest.raises(ConfigurationError, match=complaint),
        staged_profile(source, directory, machine),
    ):
        raise AssertionError
    assert list(directory.iterdir()) == []
    with (
        pytest.raises(ConfigurationError, match="No such file"),
        staged_profile(tmp_path / "none", directory, machine),
    ):
        raise AssertionError
