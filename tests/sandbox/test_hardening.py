"""What the policy says, asked of a real container from inside: a session tries, and the kernel answers."""

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from conftest import opt_outs

from sandbox.conftest import docker_settings, execute
from supervisor.sandbox.docker import LIFELINE, DockerProvider
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.sandbox import Sandbox
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings.knob import MIB

pytestmark = pytest.mark.engine

LIMIT = 90.0
CONFIG = "/home/appuser/.ably"


@asynccontextmanager
async def inside(provider: DockerProvider) -> AsyncGenerator["Inside"]:
    with trio.fail_after(LIMIT):
        async with provider.prepare(LIMIT, "test") as sandbox:
            request = provider.complete(LeaseRequest("test", ("sleep", "100"), hangup_grace=0))
            async with sandbox.claim(request):
                yield Inside(sandbox)


@attrs.frozen
class Inside:
    """Runs commands where the session's command runs, with the same rights."""

    sandbox: Sandbox

    async def sh(self, script: str, user: str = "") -> str:
        """Return the output of a script, whatever its status."""
        return (await execute(self.sandbox.container, "bash", "-c", f"exec 2>&1; {script}", user=user))[1]


def on_host(box: Inside, name: str) -> str:
    """A file about the container's first process, as the host sees it."""
    return Path(f"/proc/{box.sandbox.pid}/{name}").read_text()


def ours(name: str) -> str:
    """The host's namespace of that kind."""
    return str(Path(f"/proc/self/ns/{name}").readlink())


async def test_who_the_session_is(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        remapped = bool(hardened.containers.site.first_uid)
        user = int(await box.sh("id -u"))
        assert 10_000 <= user < 60_000 if remapped else user > 1_800_000_000, "a user of its own"
        assert "(appuser) gid=1000(appuser)" in await box.sh("id")
        status = dict(line.split(":\t", 1) for line in (await box.sh("cat /proc/self/status")).splitlines())
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        # What the gate has, and so whatever it starts.
        host = on_host(box, "status")
        assert "NoNewPrivs:\t1" in host
        assert "CapBnd:\t0000000000000000" in host
        assert await box.sh("hostname") == "sandbox\n"


async def test_nothing_can_be_written_but_the_tmpfs(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        for directory in (
            "/",
            "/etc",
            "/usr/bin",
            "/home/appuser",
            "/var",
            "/usr/local/lib/terminal-supervisor",
            "/dev",
        ):
            output = await box.sh(f"touch {directory}/x && echo written")
            assert "written" not in output, directory
        for path in (
            "/proc/sys/kernel/core_pattern",
            "/proc/sysrq-trigger",
            "/sys/kernel/uevent_helper",
            "/etc/passwd",
        ):
            assert "written" not in await box.sh(f"echo x > {path} && echo written"), path
        for directory in ("/tmp", "/run", CONFIG):
            assert await box.sh(f"echo x > {directory}/x && cat {directory}/x") == "x\n", directory
        mounts = {line.split()[1]: line.split() for line in (await box.sh("cat /proc/mounts")).splitlines()}
        assert "ro" in mounts["/"][3].split(",")
        writable = {point for point, fields in mounts.items() if "rw" in fields[3].split(",")}
        # Root's, in a container without root; and /dev/null over files that are hidden.
        kernels = {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/dev/console", "/sys/fs/cgroup"}
        masks = {point for point in writable if point.startswith("/proc/")}
        if (await box.sh("cat /proc/self/uid_map")).split()[1] != "0":
            # Where users are remapped, devices and cgroup v1 are mounts of their own; all theirs is nobody's.
            hierarchies = {point for point in writable if mounts[point][2] == "cgroup"}
            for point in hierarchies:
                output = await box.sh(
                    f"touch {point}/x {point}/tasks && echo written; mkdir {point}/x && echo written"
                )
                assert "written" not in output, point
            kernels |= hierarchies
            kernels |= {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero")}
        assert writable - kernels - masks == {"/tmp", "/run", CONFIG}
        for point, size in (("/tmp", 64 * MIB), ("/run", 32 * MIB), (CONFIG, 10 * MIB)):
            options = set(mounts[point][3].split(","))
            assert {"noexec", "nosuid", "nodev", f"size={size // 1024}k"} <= options, point


async def test_the_config_directory_is_the_users_alone(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        assert await box.sh(f"test -O {CONFIG} && stat -c '%a %U %g' {CONFIG}") == "700 appuser 1000\n"
        assert (
            await box.sh(f"mkdir {CONFIG}/d && echo secret > {CONFIG}/d/f && cat {CONFIG}/d/f") == "secret\n"
        )
        for other in ("1001:1001", "1001:1000", "65534:65534"):
            assert "secret" not in await box.sh(f"cat {CONFIG}/d/f; ls {CONFIG}", user=other), other
            assert "Permission denied" in await box.sh(f"touch {CONFIG}/x", user=other), other
        # Without capabilities not even root gets in.
        assert "Permission denied" in await box.sh(f"ls {CONFIG}", user="0:0")


async def test_nothing_that_is_written_can_be_executed(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        for directory in ("/tmp", "/run", CONFIG, "/dev/shm"):
            program = f"{directory}/true"
            output = await box.sh(f"cp /bin/true {program} && chmod 755 {program} && {program} && echo ran")
            assert "Permission denied" in output, directory
            assert "ran" not in output, directory
            assert "ran" not in await box.sh(f"/lib*/ld-linux-*.so.* {program} && echo ran"), directory


async def test_sizes_are_bounded(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        for directory, size in (("/tmp", 64), ("/run", 32), (CONFIG, 10), ("/dev/shm", 1)):
            fill = f"dd if=/dev/zero bs=1M of={directory}"
            output = await box.sh(
                f"{fill}/a count={size}; {fill}/b count=2; rm -f {directory}/a {directory}/b"
            )
            assert "No space left" in output, directory
        assert await box.sh("ulimit -c; ulimit -Hc; ulimit -n; ulimit -Hn; ulimit -f; ulimit -Hf") == (
            f"0\n0\n512\n512\n{64 * 1024}\n{64 * 1024}\n"
        )
        assert "signal 25" in await box.sh(
            "bash -c 'truncate -s 65M /tmp/x' 2>/dev/null; echo signal $(($? - 128))"
        )
        for directory in ("/tmp", CONFIG):
            crash = "bash -c 'kill -ABRT $$' 2>/dev/null"
            assert (await box.sh(f"cd {directory}; {crash}; ls -A | grep -c core")).endswith("0\n")


async def test_the_kernels_limits(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        version_1 = (
            "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes pids/pids.max "
            "cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us"
        )
        version_2 = "memory.max memory.swap.max pids.max cpu.max"
        limits = await box.sh(f"cd /sys/fs/cgroup; cat {version_1} 2>/dev/null || cat {version_2}")
        words = limits.split()
        assert words[0] == str(256 * MIB)
        assert words[1] in {str(256 * MIB), "0"}
        assert words[2] == "50"
        assert words[3] == words[4]


async def test_the_gate_is_out_of_reach(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        assert (await box.sh("cat /proc/1/cmdline | tr '\\0' ' '")).startswith(
            "/usr/local/lib/terminal-supervisor/gate"
        )
        for path in ("environ", "fd", "mem", "maps", "cwd"):
            assert "Permission denied" in await box.sh(f"ls -l /proc/1/{path}/ ; cat /proc/1/{path}"), path
        # TERM would end the session: its own.
        await box.sh("for s in $(seq 14) $(seq 16 64); do kill -$s 1; done")
        assert "alive" in await box.sh("echo alive")
        environment = on_host(box, "environ").split("\0")
        names = {entry.partition("=")[0] for entry in environment if entry}
        image = hardened.containers.policy.image
        inherited = {entry.partition("=")[0] for entry in image.other_environment}
        assert names - inherited <= {"PATH", "HOSTNAME", "HOME", "TERM"}, "what engines add, and PATH"
        assert "gate" not in await box.sh(f"ls {LIFELINE}"), "the socket has no name any more"


async def test_the_namespaces_are_its_own(hardened: DockerProvider) -> None:
    async with inside(hardened) as box:
        for name in ("pid", "ipc", "net", "mnt", "uts", "cgroup"):
            theirs = (await box.sh(f"readlink /proc/self/ns/{name}")).strip()
            assert theirs.startswith(f"{name}:[")
            assert theirs != ours(name), name
        # The gate, the session's command and what asks here: no more is there to be seen.
        assert int(await box.sh("ls -d /proc/[0-9]* | wc -l")) <= 6
        assert await box.sh("cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' '") == "lo\n"
        devices = (await box.sh("ls /dev")).split()
        assert not {"kvm", "mem", "kmsg", "vda", "sda", "fuse", "loop0"} & set(devices)
        assert "0" in await box.sh("cat /proc/kcore | wc -c")


async def test_no_program_gives_rights(hardened: DockerProvider) -> None:
    """A set-user-id program, should the image have one, runs without effect."""
    async with inside(hardened) as box:
        output = await box.sh("find / -xdev -perm /6000 -type f 2>/dev/null | head -5; echo end")
        for program in output.split()[:-1]:
            assert "uid=0" not in await box.sh(f"{program} -c id </dev/null"), program


async def test_the_container_is_where_the_settings_say(
    request: pytest.FixtureRequest, network_name: str
) -> None:
    settings = docker_settings(
        request,
        network=network_name,
        memory_limit=64 * MIB,
        pids_limit=20,
        tmpfs_size=4 * MIB,
        config_size=2 * MIB,
        config_directory="/home/appuser/.config",
        container_user="1234:5678",
        cpu_limit=0.5,
        hardening_without=(*opt_outs(), "session-uid"),
    )
    async with open_docker_provider(settings, verify=False) as provider, inside(provider) as box:
        assert "uid=1234 gid=5678" in await box.sh("id")
        assert await box.sh("stat -c '%a %u %g' /home/appuser/.config") == "700 1234 5678\n"
        assert "eth0" in await box.sh("cat /proc/net/dev")
        sizes = await box.sh("df -k --output=size /tmp /home/appuser/.config | tail -n +2")
        assert sizes.split() == ["4096", "2048"]
        inspected = await box.sandbox.container.show()
        host = inspected["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 * MIB, 500_000_000, 20)
        assert list(inspected["NetworkSettings"]["Networks"]) == [network_name]


async def test_sockets_of_lifelines_are_private(hardened: DockerProvider) -> None:
    directory = hardened.containers.site.sockets
    assert directory is not None
    status = directory.stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == os.geteuid()
