from pathlib import Path

import attrs
import pytest
import trio

from sandbox.conftest import docker_settings
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.sandbox.usage import Cgroups, Meter, Usage, find_cgroups

NETWORK = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo: 1000000      10    0    0    0     0          0         0 1000000      10    0    0    0     0
  eth0:    1500      10    0    0    0     0          0         0     700       9    0    0    0     0
"""
V1 = {
    "memory.usage_in_bytes": "2000\n",
    "memory.max_usage_in_bytes": "2500\n",
    "memory.limit_in_bytes": "3000\n",
    "memory.stat": "cache 700\ntotal_inactive_file 500\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "cpuacct.usage": "1500000000\n",
    "pids.current": "4\n",
    "pids.events": "max 7\n",
}
V2 = {
    "memory.current": "2000\n",
    "memory.peak": "2500\n",
    "memory.max": "3000\n",
    "memory.stat": "file 700\ninactive_file 500\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 3\noom_kill 2\n",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
    "pids.current": "4\n",
    "pids.events": "max 7\n",
}


def tree(path: Path, files: dict[str, str], *, unified: bool) -> Cgroups:
    for name, content in (files | {"dev": NETWORK}).items():
        (path / name).write_text(content)
    return Cgroups(path, path, path, unified, path / "dev")


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_tell_the_same(tmp_path: Path, version: int) -> None:
    cgroups = tree(tmp_path, V1 if version == 1 else V2, unified=version == 2)
    assert cgroups.read() == Usage(1500, 3000, 2500, 1.5, 4, 2, 7, 1500, 700)


@pytest.mark.parametrize("version", [1, 2])
def test_no_limit_and_files_that_a_kernel_lacks(tmp_path: Path, version: int) -> None:
    if version == 1:
        files = {"memory.usage_in_bytes": "2000\n", "memory.limit_in_bytes": "9223372036854771712\n"}
    else:
        files = {"memory.current": "2000\n", "memory.max": "max\n"}
    assert tree(tmp_path, files, unified=version == 2).read() == Usage(2000, 0, 0, 0, 0, 0, 0, 1500, 700)


@pytest.mark.parametrize("version", [1, 2])
def test_limits_are_read_once(tmp_path: Path, version: int) -> None:
    quota = {"cpu.cfs_quota_us": "50000\n", "cpu.cfs_period_us": "100000\n"}
    files = {**V1, **quota} if version == 1 else {**V2, "cpu.max": "50000 100000\n"}
    cgroups = attrs.evolve(tree(tmp_path, files, unified=version == 2), quota=tmp_path)
    meter = Meter(cgroups)
    first = meter.read()
    assert first is not None
    assert (first.memory_limit, first.cpus) == (3000, 0.5)
    for name in (*quota, "cpu.max", "memory.limit_in_bytes", "memory.max"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "pids.current").write_text("5\n")
    assert meter.read() == attrs.evolve(first, pids=5)


def test_a_file_that_takes_several_reads(tmp_path: Path) -> None:
    interfaces = "".join(f"  eth{n}:    1500 10 0 0 0 0 0 0 700 9 0 0 0 0\n" for n in range(2000))
    cgroups = tree(tmp_path, V2, unified=True)
    (tmp_path / "dev").write_text(NETWORK + interfaces)
    usage = cgroups.read()
    assert usage is not None
    assert (usage.received, usage.sent) == (2001 * 1500, 2001 * 700)


def test_a_container_that_has_gone(tmp_path: Path) -> None:
    assert Cgroups(tmp_path, tmp_path, tmp_path, False, tmp_path).read() is None
    assert find_cgroups(2**22 + 1, "") is None


def test_a_process_of_another_container_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text("3:memory:/docker/abc\n2:pids:/docker/abc\n1:cpuacct:/docker/abc\n")
    assert find_cgroups(7, "def", tmp_path) is None


@pytest.mark.engine
async def test_a_real_container(request: pytest.FixtureRequest) -> None:
    settings = docker_settings(request, pids_limit=8, memory_limit=32 << 20)
    with trio.fail_after(60):
        async with open_docker_provider(settings, verify=False) as provider:
            lease = LeaseRequest("a-session", ("/bin/sh",))
            async with provider.lease(lease) as terminal:
                before = provider.usage("a-session")
                assert before is not None
                assert 0 < before.memory < before.memory_limit == 32 << 20
                assert 1 <= before.pids <= 8
                await terminal.send_all(b"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done\n")
                while (now := provider.usage("a-session")) and now.pids_denied == before.pids_denied:
                    await trio.sleep(0.05)
                await provider.throttle("a-session", 0.1)
                container = provider.occupied["a-session"].container
                limits = (await container.show())["HostConfig"]
                assert limits["NanoCpus"] == provider.containers.policy.nano_cpus // 10
        assert lease.facts.container.startswith("ts-")
        assert lease.facts.peak_memory
