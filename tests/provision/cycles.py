"""Lives of an engine of the project's own, each in namespaces that the test made: run as a program.

unshare --net --mount python cycles.py SCENARIO DIRECTORY
"""

import io
import itertools
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from provision.own_etc import have_own_etc
from supervisor.engine import Docker
from supervisor.errors import ConfigurationError
from supervisor.provision import daemon, ending, remapping
from supervisor.provision import engine as provision_engine
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.engine import Engine, answers, end_engine, engine_in_use
from supervisor.provision.processes import all_processes, look_at
from supervisor.provision.report import Report
from supervisor.provision.setup import teardown

REPORT = Report(io.StringIO())


def devices() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex() if name not in {"lo", "sit0"})


def rules() -> str:
    tables = [
        subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=True).stdout
        for table in ("filter", "nat")
    ]
    return "".join(tables)


async def ip(*arguments: str) -> None:
    await trio.run_process(["ip", *arguments])


def assert_nothing_left(paths: EnginePaths) -> None:
    assert daemon.running_pid(paths) is None
    assert devices() == []
    assert "DOCKER" not in rules()
    left = {path.name for path in paths.run.iterdir()}
    assert left <= {"start.lock", "users.lock"}, left
    assert ending.mounts_below(paths.data.parent) == []
    mine = [info.arguments for info in all_processes() if daemon.names(info, str(paths.data.parent))]
    assert [arguments for arguments in mine if "cycles.py" not in " ".join(arguments)] == []


async def the_last_user_ends_it(paths: EnginePaths) -> None:
    async with engine_in_use("", REPORT, paths=paths) as first:
        assert first == Engine(paths.url, True, "started")
        async with engine_in_use("", REPORT, paths=paths) as second:
            assert second.origin == "adopted"
        assert await answers(first.url), "the first user is still there"
        assert devices() == [paths.bridge]
    assert_nothing_left(paths)


async def networks_keep_their_addresses(paths: EnginePaths) -> None:
    async def subnet() -> str:
        async with Docker(paths.url) as docker:
            [network] = [each for each in await docker.networks.list() if each["Name"] == "kept"]
            return str(network["IPAM"]["Config"][0]["Subnet"])

    async with engine_in_use("", REPORT, paths=paths) as engine, Docker(engine.url) as docker:
        await docker.networks.create({"Name": "kept", "Driver": "bridge"})
        before = await subnet()
        assert len(devices()) == 2
    assert_nothing_left(paths)
    async with engine_in_use("", REPORT, paths=paths):
        assert await subnet() == before
        assert len(devices()) == 2
    assert_nothing_left(paths)


async def a_crash_is_cleared_away(paths: EnginePaths) -> None:
    async with engine_in_use("", REPORT, paths=paths, keep=True):
        pid = daemon.running_pid(paths)
    assert pid is not None
    assert await answers(paths.url), "kept for whoever comes next"
    os.kill(pid, signal.SIGKILL)
    while look_at(pid):
        await trio.sleep(0.01)
    # A pid file that names somebody else, and a socket nobody listens on: neither is to be believed.
    paths.pid_file.write_text(f"{os.getpid()}\n")
    assert paths.socket.exists()
    async with engine_in_use("", REPORT, paths=paths) as engine:
        assert engine.origin == "started"
    assert_nothing_left(paths)


async def kept_it_stays_until_somebody_says_so(paths: EnginePaths) -> None:
    async with engine_in_use("", REPORT, paths=paths, keep=True):
        pass
    async with engine_in_use("", REPORT, paths=paths) as engine:
        assert engine.origin == "adopted"
    assert await answers(paths.url), "who comes and goes does not end it"
    await end_engine(REPORT, paths)
    assert_nothing_left(paths)


async def started_by_hand_it_is_never_ended(paths: EnginePaths) -> None:
    async with engine_in_use("", REPORT, paths=paths, keep=True):
        paths.mark_file.unlink()
    async with engine_in_use("", REPORT, paths=paths) as engine:
        assert engine.origin == "adopted"
    assert await answers(paths.url)
    async with engine_in_use("", REPORT, paths=paths):
        with pytest.raises(ConfigurationError, match="in use"):
            await end_engine(REPORT, paths)
    await end_engine(REPORT, paths)  # unless somebody says so
    assert daemon.running_pid(paths) is None
    await end_engine(REPORT, paths)  # nothing to do


async def a_failed_start_tells_why(paths: EnginePaths) -> None:
    root = paths.data / "100000.100000"
    root.mkdir(parents=True)
    (root / "image").write_text("in the way of a directory")
    with pytest.raises(ConfigurationError) as caught:
        async with engine_in_use("", REPORT, paths=paths):
            raise AssertionError("started")
    assert "the engine ended at once" in str(caught.value)
    assert "not a directory" in str(caught.value), "the engine's own words"
    assert "ENGINE_USERNS_REMAP=false has it not do so" in str(caught.value)
    assert "make demo" in str(caught.value)
    assert_nothing_left(paths)


async def a_cancelled_start_leaves_nothing(paths: EnginePaths) -> None:
    for seconds in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        with trio.move_on_after(seconds) as scope:
            async with engine_in_use("", REPORT, paths=paths):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert_nothing_left(paths)


async def never_beside_another(paths: EnginePaths) -> None:
    other = EnginePaths(paths.data.with_name("other"), paths.run.with_name("other-run"), "ts-other0")
    async with engine_in_use("", REPORT, paths=other):
        with pytest.raises(ConfigurationError) as caught:
            async with engine_in_use("", REPORT, paths=paths):
                raise AssertionError("started beside another engine")
        assert f"pid {daemon.running_pid(other)}" in str(caught.value)
        assert f"DOCKER_HOST to its socket ({other.url})" in str(caught.value)
        async with engine_in_use(other.url, REPORT, paths=paths) as engine:
            assert engine == Engine(other.url, False, "found")
        # One that has our paths, but is not ours: its root directory is another one.
        namesake = attrs.evolve(other, run=paths.run, bridge=paths.bridge)
        with pytest.raises(ConfigurationError, match="runs here already"):
            async with engine_in_use("", REPORT, paths=namesake):
                raise AssertionError("started beside its namesake")
        assert await answers(other.url), "an engine that was there is left alone"
        assert devices() == [other.bridge]
    assert_nothing_left(other)


async def a_device_of_somebody_elses_is_left_alone(paths: EnginePaths) -> None:
    async def refused() -> None:
        with pytest.raises(ConfigurationError, match=f"ip link delete {paths.bridge}"):
            async with engine_in_use("", REPORT, paths=paths):
                raise AssertionError("took the device")
        assert daemon.running_pid(paths) is None

    await ip("link", "add", "name", paths.bridge, "type", "veth", "peer", "name", "elsewhere")
    await refused()
    assert devices() == ["elsewhere", paths.bridge]
    await ip("link", "delete", paths.bridge)
    await ip("link", "add", "name", paths.bridge, "type", "bridge")
    await ip("link", "add", "name", "plugged", "master", paths.bridge, "type", "veth", "peer", "name", "end")
    await refused()
    assert devices() == ["end", "plugged", paths.bridge]


async def a_bridge_left_behind_is_taken(paths: EnginePaths) -> None:
    # An engine was killed, and its run directory is gone: a tmpfs that somebody cleared, or a container's.
    await ip("link", "add", "name", paths.bridge, "type", "bridge")
    await ip("address", "add", "10.213.0.1/24", "dev", paths.bridge)
    await ip("link", "set", "dev", paths.bridge, "up")
    async with engine_in_use("", REPORT, paths=paths) as engine:
        assert engine.origin == "started"
    assert_nothing_left(paths)


async def users_are_others_of_the_host(paths: EnginePaths) -> None:
    said = io.StringIO()

    @asynccontextmanager
    async def started(remap: str) -> AsyncIterator[tuple[bool, str]]:
        """Yield whether the engine maps users, and where its root is."""
        async with engine_in_use("", Report(said), paths=paths, remap=remap), Docker(paths.url) as docker:
            info = await docker.system.info()
            yield "name=userns" in info["SecurityOptions"], info["DockerRootDir"]

    os.umask(0o077)  # where others must pass they may, all the same
    async with started("true") as (remaps, root):
        assert remaps
        assert root == f"{paths.data}/100000.100000"
        assert not remapping.closed_parents(paths)
        assert pwd.getpwnam(remapping.USER).pw_shell.endswith("nologin")
        pid = daemon.running_pid(paths)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while look_at(pid):
            await trio.sleep(0.01)
        async with started("false") as (remaps, _):
            assert remaps, "containers of the one that was killed must be found again"
        assert "ENGINE_USERNS_REMAP=false counts after `make down`" in said.getvalue()
    assert_nothing_left(paths)
    async with started("false") as (remaps, root):
        assert not remaps
        assert root == str(paths.data)
    assert "images are kept apart" in said.getvalue()
    assert_nothing_left(paths)
    async with started("auto") as (remaps, _):
        assert remaps
    assert_nothing_left(paths)
    assert len(remapping.remapped_roots(paths)) == 1, "the same ids each time"
    assert (paths.data / "image").exists(), "and what is not remapped"
    await teardown(REPORT, delete=True, paths=paths)
    assert not paths.data.exists()


async def users_that_cannot_be_others(paths: EnginePaths) -> None:
    said = io.StringIO()
    closed = paths.data.parents[1]
    closed.chmod(0o700)
    with pytest.raises(ConfigurationError, match=f"=true, but .* chmod o\\+x {closed}$"):
        async with engine_in_use("", REPORT, paths=paths, remap="true"):
            raise AssertionError("started")
    async with engine_in_use("", Report(said), paths=paths), Docker(paths.url) as docker:
        assert "name=userns" not in (await docker.system.info())["SecurityOptions"]
    assert f"no user namespaces, containers' users are this host's: they could not reach {paths.data}" in (
        said.getvalue()
    )
    assert_nothing_left(paths)


async def one_that_nobody_uses_is_started_again_with_others(paths: EnginePaths) -> None:
    """Of an earlier version, say, which had no user namespaces."""
    said = io.StringIO()

    async def remaps() -> bool:
        async with Docker(paths.url) as docker:
            return "name=userns" in (await docker.system.info())["SecurityOptions"]

    async with engine_in_use("", REPORT, paths=paths, remap="false", keep=True):
        before = daemon.running_pid(paths)
        mark = json.loads(paths.mark_file.read_text())
        del mark["remaps"]
        paths.mark_file.write_text(json.dumps(mark))
        async with engine_in_use("", Report(said), paths=paths) as engine:
            assert engine.origin == "adopted"
    assert "without user namespaces, and goes on so, as it is in use" in said.getvalue()

    async def running(_: str) -> list[str]:
        return ["a-session"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provision_engine, "_running_containers", running)
        async with engine_in_use("", Report(said), paths=paths) as engine:
            assert engine.origin == "adopted"
    assert "goes on so, as containers run in it (a-session)" in said.getvalue()
    assert daemon.running_pid(paths) == before

    async with engine_in_use("", Report(said), paths=paths) as engine:
        assert engine.origin == "started"
        assert await remaps()
        async with engine_in_use("", Report(said), paths=paths) as second:
            assert second.origin == "adopted"
    assert "started again" in said.getvalue()
    assert "images are kept apart" in said.getvalue()
    assert daemon.running_pid(paths) not in {None, before}, "that one was kept, so this one is, too"
    async with engine_in_use("", REPORT, paths=paths, remap="false"):
        assert not await remaps(), "and back"
    await end_engine(REPORT, paths)
    assert_nothing_left(paths)


async def an_engine_without_user_namespaces(paths: EnginePaths) -> None:
    global engine_in_use
    engine_in_use = partial(engine_in_use, remap="false")
    await a_crash_is_cleared_away(paths)
    assert not remapping.remapped_roots(paths)


async def a_disk_at_its_data_root_stays(paths: EnginePaths) -> None:
    """One of its own, or a directory of another one: that is the administrator's, whatever happens."""
    paths.data.mkdir(parents=True)
    # What is covered is out of reach, and nobody's concern. A namespace for mounts inherits such.
    await trio.run_process(["mount", "--bind", str(paths.data), str(paths.data)])
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", str(paths.data.parent)])
    elsewhere = paths.data.with_name("disk")
    elsewhere.mkdir()
    paths.data.mkdir()
    await trio.run_process(["mount", "-t", "tmpfs", "tmpfs", str(elsewhere)])
    (elsewhere / paths.data.name).mkdir(mode=0o711)
    disks = [
        ["mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", str(paths.data)],
        ["mount", "--bind", str(elsewhere / paths.data.name), str(paths.data)],
    ]
    for disk, remap in itertools.product(disks, ["true", "false"]):
        await trio.run_process(disk)
        (paths.data / "mine").touch()
        async with engine_in_use("", REPORT, paths=paths, remap=remap, keep=True):
            pid = daemon.running_pid(paths)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while look_at(pid):
            await trio.sleep(0.01)
        await ending.end(paths, [])
        assert (paths.data / "mine").exists(), (disk, remap)
        assert ending.mounts_below(paths.data) == []
        await teardown(REPORT, delete=True, paths=paths)
        assert list(paths.data.iterdir()) == []
        await trio.run_process(["umount", str(paths.data)])  # and nothing else lies on it
        assert not paths.data.is_mount(), (disk, remap)


async def main(scenario: str, directory: Path) -> None:
    paths = EnginePaths(directory / "lib/data", directory / "run", "ts-cycle0")
    try:
        with trio.fail_after(120):
            await globals()[scenario](paths)
    finally:
        with trio.move_on_after(30, shield=True):
            await ending.end(paths, [])


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    have_own_etc(Path(sys.argv[2]))
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
