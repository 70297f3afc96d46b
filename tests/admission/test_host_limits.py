"""The host's limits, by files as the kernel writes them."""

from pathlib import Path

import pytest
import structlog.testing
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.admission import host_limits
from supervisor.errors import ConfigurationError
from supervisor.settings import Settings


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    for name, text in {
        "sys/kernel/pty/max": "4096\n",
        "sys/kernel/pty/reserve": "1024\n",
        "sys/kernel/pty/nr": "7\n",
        "sys/kernel/pid_max": "32768\n",
        "sys/kernel/threads-max": "100000\n",
        "sys/fs/inotify/max_user_instances": "128\n",
        "sys/kernel/keys/maxkeys": "200\n",
        "sys/kernel/keys/maxbytes": "20000\n",
        "key-users": "    0:     9 8/8 3/1000000 40/25000000\n100000:    20 20/20 20/200 1400/20000\n",
        "meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    9000000 kB\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "self/fd").mkdir(parents=True)
    return tmp_path


def test_the_defaults_fit_on_an_ordinary_host(proc: Path) -> None:
    host_limits.require_capacity(Settings(), proc)


def test_a_host_that_tells_nothing_is_believed(tmp_path: Path) -> None:
    host_limits.require_capacity(Settings(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"max_sessions": 3100},
            ["kernel.pty.max", "less the reserve of 1024", "MAX_SESSIONS 3100 + WARM_POOL_SIZE 2 = 3102"],
        ),
        ({"max_sessions": 1022}, ["bridge", "1024 needed, 1023 there"]),
        ({"max_sessions": 800, "network": "none"}, ["memory", "x 24"]),
        (
            {"sessions_memory_limit": 32 << 30},
            ["memory", "SESSIONS_MEMORY_LIMIT = 32768 needed, 15625 there"],
        ),
        ({"sessions_memory_limit": 128 << 20}, ["CONTAINER_MEMORY_LIMIT = 256 needed, 128 there", "x 24"]),
        ({"sessions_cpu_limit": 0.5}, ["CONTAINER_CPU_LIMIT = 100 needed, 50 there"]),
        ({"sessions_cpu_limit": 4096.0}, ["lower SESSIONS_CPU_LIMIT"]),
        ({"sessions_pids_limit": 100}, ["= 204 needed, 100 there; raise SESSIONS_PIDS_LIMIT"]),
        ({"max_connections": 100_000}, ["RLIMIT_NOFILE", "MAX_CONNECTIONS 100000", "LimitNOFILE"]),
        ({"max_sessions": 5000, "provider": "local"}, ["kernel.pty.max", "MAX_SESSIONS 5000"]),
    ],
)
def test_what_does_not_fit_is_an_error_with_the_arithmetic(
    proc: Path, changes: dict[str, object], parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_limits, "_hard_descriptor_limit", lambda: 20_000)
    with pytest.raises(ConfigurationError) as caught:
        host_limits.require_capacity(Settings(**changes), proc)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)


def test_all_that_does_not_fit_is_said_at_once(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_limits, "_hard_descriptor_limit", lambda: 20_000)
    with pytest.raises(ConfigurationError) as caught:
        host_limits.require_capacity(Settings(max_sessions=5000), proc)
    assert len(str(caught.value).splitlines()) == 4


def test_what_may_run_short_is_a_warning(proc: Path) -> None:
    soft = [limit for limit in host_limits.host_limits(Settings(max_sessions=200), proc) if not limit.fits]
    assert [limit.hard for limit in soft] == [False] * 3
    assert str(soft[-1]) == (
        "keyrings of containers whose users are remapped (kernel.keys.maxkeys): "
        "(MAX_SESSIONS 200 + WARM_POOL_SIZE 2 + 20) = 222 needed, 200 there; sysctl kernel.keys.maxkeys=604"
    )


async def test_it_is_watched(proc: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    devices = tmp_path / "net"
    ports = devices / "br-1/brif"
    ports.mkdir(parents=True)
    with structlog.testing.capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host_limits.watch_host, proc, devices, 1.0)
            await wait_all_tasks_blocked()
            assert host_limits.shortages(proc, devices) == []
            assert logs == []
            (proc / "sys/kernel/pty/nr").write_text("3000\n")
            (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 100000 kB\n")
            for number in range(1000):
                (ports / f"veth{number}").touch()
            (proc / "key-users").write_text("100000:   195 195/195 195/200 13650/20000\n")
            short = host_limits.shortages(proc, devices)
            assert len(short) == 4
            assert "user 100000 has 195 of 200 keys (kernel.keys.maxkeys)" in short
            assert short[-1] == "1000 of 1023 ports of the bridge br-1 are in use"
            await trio.sleep(3)
            (proc / "sys/kernel/pty/nr").write_text("30\n")
            (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\n")
            (proc / "key-users").write_text("")
            for port in ports.iterdir():
                port.unlink()
            await trio.sleep(3)
            nursery.cancel_scope.cancel()
    assert [each["event"] for each in logs] == ["this host runs short", "this host has room again"]
    assert logs[0]["what"] == "; ".join(short)


def test_inotify_instances_are_tried(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert host_limits.shortages(proc) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    monkeypatch.setattr(host_limits, "LAST_INSTANCES", 1 << 20)  # more than any kernel gives
    assert host_limits.shortages(proc) == [
        "fewer than 1048576 inotify instances are left (fs.inotify.max_user_instances)"
    ]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
