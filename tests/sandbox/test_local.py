"""Provider local: what it takes away although it isolates from nothing, and that it leaves nothing behind."""

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from sandbox.conftest import command_lines
from supervisor.errors import ConfigurationError
from supervisor.reaping.estate import new_estate
from supervisor.sandbox.local import find_user, open_local_provider
from supervisor.sandbox.providers import open_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

LIMIT = 30.0
LOCAL = Settings(provider="local")


async def output_of(script: str) -> str:
    with trio.fail_after(LIMIT):
        async with (
            open_provider(LOCAL) as provider,
            provider.lease(
                LeaseRequest("test", ("sh", "-c", f"exec 2>&1; {script}"), hangup_grace=0)
            ) as terminal,
        ):
            output = b""
            while data := await terminal.receive_some():
                output += data
            await terminal.wait_closed()
    return output.decode().replace("\r\n", "\n")


@pytest.mark.usefixtures("root")
async def test_root_is_dropped_for_good() -> None:
    status = dict(line.split(":\t", 1) for line in (await output_of("cat /proc/self/status")).splitlines())
    nobody = find_user("nobody")
    assert set(status["Uid"].split()) == {str(nobody.uid)}
    assert set(status["Gid"].split()) == {str(nobody.gid)}
    assert status["Groups"].split() == []
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == 0
    assert "root" not in await output_of("su root -c id </dev/null; sudo -n id; cat /etc/shadow; id -un")


async def test_limits() -> None:
    output = await output_of("ulimit -c; ulimit -n; ulimit -f")
    assert output == f"0\n512\n{64 * 2048}\n"


async def test_only_the_terminal_is_open() -> None:
    assert await output_of("ls /proc/self/fd | head -3 | tr '\\n' ' '") == "0 1 2 "
    assert "socket" not in await output_of("ls -l /proc/$$/fd")


@pytest.mark.usefixtures("root")
async def test_the_keeper_cannot_be_touched() -> None:
    keeper = "/proc/$PPID"
    output = await output_of(f"ls {keeper}/fd; cat {keeper}/environ; kill -9 $PPID; echo alive")
    assert output.count("ermission denied") + output.count("ermitted") >= 3
    assert output.endswith("alive\n")


async def test_the_terminal_is_a_good_one() -> None:
    assert "iutf8" in await output_of("stty -a")
    assert (await output_of("tty")).startswith("/dev/pts/")
    assert await output_of("echo x > /dev/tty") == "x\n"
    assert await output_of("echo x > $(tty)") == "x\n"


def test_users() -> None:
    if os.geteuid() != 0:
        assert find_user("nobody").uid is None
        return
    for name, complaint in (("root", "never run as root"), ("no-such-user", "no such user")):
        with pytest.raises(ConfigurationError, match=complaint):
            find_user(name)


async def test_other_hosts_are_kept_out(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1"):
        with pytest.raises(ConfigurationError, match="loopback only"):
            Settings(host=host, provider="local", signing_secret="x" * 32, insecure_plain_ws=True)
    settings = Settings(host="192.0.2.1", signing_secret="x" * 32, insecure_plain_ws=True)
    with pytest.raises(ConfigurationError, match="loopback only"), new_estate(tmp_path) as estate:
        async with open_local_provider(settings, estate):
            raise AssertionError


SUPERVISOR = """
import sys, trio
from supervisor.sandbox.providers import open_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings
async def main():
    nap = f"sleep {sys.argv[1]}"
    script = f"trap '' HUP TERM; (setsid {nap} &); {nap} & echo ready; while :; do echo flood; done"
    async with open_provider(Settings(provider="local")) as provider:
        async with provider.lease(LeaseRequest("x", ("bash", "-c", script))) as terminal:
            while b"ready" not in await terminal.receive_some():
                pass
            print("ready", flush=True)
            await trio.sleep_forever()
trio.run(main)
"""


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def exists(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_supervisor_that_is_killed_leaves_no_process() -> None:
    marker = f"8{secrets.randbelow(10**6):06}"
    with (
        trio.fail_after(LIMIT),
        subprocess.Popen([sys.executable, "-c", SUPERVISOR, marker], stdout=subprocess.PIPE) as supervisor,  # noqa: ASYNC220
    ):
        assert supervisor.stdout is not None
        assert await trio.to_thread.run_sync(supervisor.stdout.readline) == b"ready\n"
        while len(command_lines(f"sleep {marker}")) < 3:
            await trio.sleep(0.05)
        (keeper,) = children(supervisor.pid)
        supervisor.send_signal(signal.SIGKILL)
        begin = trio.current_time()
        while command_lines(f"sleep {marker}") or exists(keeper):
            await trio.sleep(0.02)
        assert trio.current_time() - begin < 5
