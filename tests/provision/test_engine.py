import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import conftest
import pytest
import trio

from supervisor.errors import ConfigurationError
from supervisor.provision import daemon, ending, engine
from supervisor.provision.addresses import AddressPlan, Route, choose
from supervisor.provision.daemon import EnginePaths, command_line, last_words, read_mark, running_pid
from supervisor.provision.engine import bridge_name, candidates, engine_in_use
from supervisor.provision.host import Need, find_program
from supervisor.provision.processes import end_process, look_at, read_pid
from supervisor.provision.report import Report

CYCLES = Path(__file__).with_name("cycles.py")


@pytest.fixture
def paths(tmp_path: Path) -> EnginePaths:
    return EnginePaths(tmp_path / "data", tmp_path / "run", "ts-test0")


@pytest.fixture
def directory() -> Iterator[Path]:
    # Sockets have short names: pytest's own directories are too deep for them.
    path = Path(tempfile.mkdtemp(prefix="ts-cycle-", dir="/tmp"))
    path.chmod(0o711)  # containers' users pass here
    yield path
    shutil.rmtree(path)


@pytest.mark.engine
@pytest.mark.netns
@pytest.mark.parametrize(
    "scenario",
    [
        "the_last_user_ends_it",
        "networks_keep_their_addresses",
        "a_crash_is_cleared_away",
        "kept_it_stays_until_somebody_says_so",
        "started_by_hand_it_is_never_ended",
        "a_failed_start_tells_why",
        "a_cancelled_start_leaves_nothing",
        "never_beside_another",
        "a_device_of_somebody_elses_is_left_alone",
        "a_bridge_left_behind_is_taken",
        "users_are_others_of_the_host",
        "users_that_cannot_be_others",
        "one_that_nobody_uses_is_started_again_with_others",
        "an_engine_without_user_namespaces",
        "a_disk_at_its_data_root_stays",
    ],
)
def test_an_engine_of_the_projects_own(
    request: pytest.FixtureRequest, directory: Path, scenario: str
) -> None:
    if os.geteuid() != 0 or not all(find_program(name) for name in ("dockerd", "ip", "iptables", "unshare")):
        conftest.missing(request, "an engine of the tests' own takes root, dockerd, iproute2 and iptables")
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    result = subprocess.run(
        ["unshare", "--net", "--mount", sys.executable, str(CYCLES), scenario, str(directory)],
        env={**environment, "PYTHONPATH": str(CYCLES.parents[1])},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_everything_of_an_engine_is_its_own(paths: EnginePaths) -> None:
    arguments = command_line(paths, AddressPlan(choose([]).block), remap=True)
    for option in ("data-root", "exec-root", "pidfile", "host"):
        [value] = [each for each in arguments if each.startswith(f"--{option}=")]
        assert str(paths.data.parent) in value
    assert "--bridge=ts-test0" in arguments
    assert "--bridge=none" not in arguments
    assert "--default-address-pool=base=10.213.128.0/17,size=24" in arguments
    assert "--live-restore" in arguments
    assert "--userns-remap=default" in arguments
    default = EnginePaths()
    assert len(str(default.socket)) < 108
    assert len(default.bridge) <= 15


def test_a_pid_file_alone_proves_nothing(paths: EnginePaths) -> None:
    paths.run.mkdir()
    assert running_pid(paths) is None
    paths.pid_file.write_text(f"{os.getpid()}\n")
    assert running_pid(paths) is None, "this process is no engine"
    paths.pid_file.write_text("nonsense")
    assert read_pid(paths.pid_file) is None
    paths.mark_file.write_text("{}")
    assert read_mark(paths) is None


def test_the_last_words_are_those_of_the_last_start(paths: EnginePaths) -> None:
    assert last_words(paths) == "(it left no log)"
    paths.log.write_text("earlier\n")
    since = daemon.log_size(paths)
    assert last_words(paths, since) == "(it said nothing)"
    with paths.log.open("a") as stream:
        stream.writelines(f"line {number}\n" for number in range(50))
    words = last_words(paths, since).splitlines()
    assert words[-1] == "line 49"
    assert len(words) == 12
    assert "earlier" not in words


def test_networks_have_their_bridges_names() -> None:
    assert bridge_name({"Id": "0123456789abcdef", "Options": None}) == "br-0123456789ab"
    assert bridge_name({"Id": "0", "Options": {"com.docker.network.bridge.name": "mine0"}}) == "mine0"


def test_docker_host_is_the_only_candidate_when_it_is_set() -> None:
    assert candidates("unix:///somewhere.sock") == ["unix:///somewhere.sock"]
    assert all(url.startswith("unix:///") for url in candidates(""))


async def test_a_docker_host_that_does_not_answer_is_an_error(paths: EnginePaths, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/nobody.sock"
    with trio.fail_after(20), pytest.raises(ConfigurationError) as caught:
        async with engine_in_use(url, Report(), paths=paths):
            pass
    text = str(caught.value)
    assert url in text
    assert "unset it" in text
    assert "make demo" in text
    assert not paths.run.exists(), "nothing was started instead"


async def test_whoever_cannot_have_an_engine_is_told_what_to_do(
    paths: EnginePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(engine, "DEFAULT_SOCKETS", (str(tmp_path / "docker.sock"),))
    later = [Need("no-such-tool", ("tool",), "makes the base"), Need("sh", ("dash",), "a shell")]
    with trio.fail_after(20), pytest.raises(ConfigurationError) as caught:
        async with engine_in_use("", Report(), paths=paths, later=later):
            pass
    text = str(caught.value)
    assert "Missing as well: no-such-tool (makes the base). `make" in text
    assert f"unix://{tmp_path}/docker.sock" in text
    assert paths.url in text
    assert "as root on Debian or Ubuntu" in text
    assert "make demo" in text


async def test_whoever_may_not_use_the_engine_is_told_of_its_group(
    paths: EnginePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Path("/dev/null")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(engine, "candidates", lambda _: [f"unix://{refusing}"])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with trio.fail_after(20), pytest.raises(ConfigurationError, match="usermod -aG docker"):
        async with engine_in_use("", Report(), paths=paths):
            pass


async def test_only_the_right_process_is_ended() -> None:
    sleeper = await trio.lowlevel.open_process(["sleep", "54321"])
    try:
        # For a moment after exec, the kernel shows no arguments yet.
        with trio.fail_after(10):
            while (info := look_at(sleeper.pid)) is None or "54321" not in info.arguments:
                await trio.sleep(0.001)
        assert await end_process(sleeper.pid, "/some/data/root", 5), "somebody else's counts as gone"
        assert look_at(sleeper.pid) is not None
        with trio.fail_after(10):
            assert await end_process(sleeper.pid, "54321", 5)
        # A zombie until its parent looks: ended all the same.
        assert look_at(sleeper.pid) is None
    finally:
        sleeper.kill()
        await sleeper.wait()
    assert await end_process(sleeper.pid, "54321", 5)


@pytest.mark.netns
async def test_an_engine_of_the_same_paths_elsewhere_keeps_its_containers(
    request: pytest.FixtureRequest, paths: EnginePaths, tmp_path: Path
) -> None:
    """In a container, say: its processes are seen from the host, their paths are its own."""
    if os.geteuid() != 0 or not find_program("unshare"):
        conftest.missing(request, "a network namespace takes root and unshare")
    shim = tmp_path / "containerd-shim-test"
    shutil.copy("/bin/sh", shim)
    command = [str(shim), "-c", "echo ready; read end", f"{paths.exec_root}/containerd"]

    def start(*prefix: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with start() as here, start("unshare", "--net") as elsewhere:
        for each in (here, elsewhere):
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        with trio.fail_after(20):
            await ending.end(paths, [])
            assert here.wait() == -signal.SIGKILL
        assert elsewhere.poll() is None
        elsewhere.communicate(b"\n")
        assert elsewhere.returncode == 0


def test_own_routes_do_not_drive_an_engine_away(paths: EnginePaths) -> None:
    plan = choose([])
    own = Route(plan.bridge.network, paths.bridge)
    other = attrs.evolve(own, device="eth0")
    assert daemon.foreign_routes([own, other], paths.bridge, plan.block) == [other]
    assert daemon.foreign_routes([own], paths.bridge, None) == [own]
