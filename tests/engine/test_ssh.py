"""ssh: the system's `ssh` to an OpenSSH server of the test's own, behind which the real engine is."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest
import trio

from engine.conftest import IMAGE, LABEL
from engine.test_tls import use
from supervisor.engine import Docker, DockerConnectionError

pytestmark = pytest.mark.engine

SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {directory}/host
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv DOCKER_HOST={engine}
"""
CLIENT = """#!/bin/sh
exec {ssh} -F none -i {directory}/key -o IdentitiesOnly=yes -o UserKnownHostsFile={directory}/known_hosts "$@"
"""


def ssh_processes() -> int:
    """How many children of ours are ssh, zombies included."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(" (")[2].rpartition(") ")
        except OSError:
            continue
        found += name == "ssh" and int(rest.split()[1]) == os.getpid()
    return found


@pytest.fixture
def server(
    tmp_path: Path, docker_host: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """An `ssh://` URL at which the engine is."""
    everywhere = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
    sshd, ssh, cli = (shutil.which(name, path=everywhere) for name in ("sshd", "ssh", "docker"))
    if not (sshd and ssh and cli) or os.geteuid() != 0:
        conftest.missing(request, "sshd, ssh or the Docker CLI is not installed, or we are not root")
        raise AssertionError
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "key.pub").rename(tmp_path / "authorized_keys")
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{port} {(tmp_path / 'host.pub').read_text()}")
    (tmp_path / "config").write_text(SERVER.format(port=port, directory=tmp_path, engine=docker_host))
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    program = tmp_path / "bin/ssh"
    program.parent.mkdir()
    program.write_text(CLIENT.format(ssh=ssh, directory=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{everywhere}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", tmp_path / "config"], stderr=log)
        try:
            yield f"ssh://root@127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


async def until_it_listens(server: str) -> None:
    port = int(server.rpartition(":")[2])
    while True:
        try:
            async with await trio.open_tcp_stream("127.0.0.1", port):
                return
        except OSError:
            await trio.sleep(0.05)


async def test_everything_over_ssh(docker: Docker, server: str, label: str) -> None:
    with trio.fail_after(60):
        await until_it_listens(server)
        async with Docker(server) as remote:
            assert (await remote.version())["ApiVersion"] == (await docker.version())["ApiVersion"]
            await use(remote, label)
            config = {"Image": IMAGE, "Cmd": ["wc", "-c"], "OpenStdin": True, "StdinOnce": True}
            container = await remote.containers.create(
                {**config, "Labels": {LABEL: label}, "HostConfig": {"NetworkMode": "none"}}
            )
            async with container.attach(stdin=True, stdout=True) as stream:
                await container.start()
                await stream.send_all(b"x" * 1_000_000)
                await stream.send_eof()
                assert await stream.receive_some() == b"1000000\n"
            await container.delete(force=True)
            with trio.move_on_after(0.01):  # in the middle of a login
                await remote.containers.container("none").attach(stdout=True, tty=True).read_out()
            assert ssh_processes() >= 1
        assert ssh_processes() == 0


async def test_what_ssh_says_is_told(server: str, tmp_path: Path) -> None:
    async def refusal(url: str) -> str:
        async with Docker(url) as remote:
            with pytest.raises(DockerConnectionError) as caught:
                await remote.version()
        return caught.value.message

    with trio.fail_after(60):
        await until_it_listens(server)
        assert "/no/engine.sock: connect: no such file" in await refusal(f"{server}/no/engine.sock")
        (tmp_path / "known_hosts").write_text("")
        assert "Host key verification failed" in await refusal(server)
        assert "Connection refused" in await refusal("ssh://127.0.0.1:1")
        (tmp_path / "bin/ssh").unlink()
        (tmp_path / "bin/ssh").symlink_to("/bin/true")
        assert "ended without a word" in await refusal(server)
        assert ssh_processes() == 0
