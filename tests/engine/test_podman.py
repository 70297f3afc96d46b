"""The client on Podman's Docker-compatible socket, for the calls that Podman supports."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import conftest
import pytest
import trio

from engine.conftest import IMAGE, LABEL
from supervisor.engine import Docker, DockerConnectionError, DockerError, Message

pytestmark = pytest.mark.engine

# Podman asks for as many open files and processes as it may have itself, which is too many for a container.
LIMITS = [{"Name": name, "Soft": 1024, "Hard": 1024} for name in ("nofile", "nproc")]


def _end_monitors(directory: Path) -> None:
    """End the processes that have `directory` in their arguments: Podman's monitors of containers and execs.

    They would tidy up later (after an exec, in five minutes), and make the directories anew.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = False
        for arguments in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(directory).encode() in arguments.read_bytes():
                    os.kill(int(arguments.parent.name), signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.05)


@pytest.fixture(scope="session")
def _podman() -> Iterator[str | None]:
    """URL of a Podman service of our own, with storage of its own."""
    program = shutil.which("podman")
    if program is None or os.geteuid() != 0:
        yield None
        return
    directory = Path(tempfile.mkdtemp(prefix="podman-"))
    storage = [f"--{name}={directory / name}" for name in ("root", "runroot", "tmpdir")]
    options = ["--storage-driver=overlay", "--cgroup-manager=cgroupfs", "--events-backend=file"]
    url = f"unix://{directory}/podman.sock"
    with (directory / "log").open("wb") as log:
        service = subprocess.Popen(
            [program, *storage, *options, "system", "service", "--time=0", url], stdout=log, stderr=log
        )
        try:
            yield url
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(20)
            _end_monitors(directory)
            mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
            for mount in reversed([mount for mount in mounts if mount.startswith(f"{directory}/")]):
                subprocess.run(["umount", mount], check=True)
            shutil.rmtree(directory)


@pytest.fixture
async def podman(
    _podman: str | None, docker: Docker, request: pytest.FixtureRequest
) -> AsyncIterator[Docker]:
    """A client of Podman, which has the tests' image."""
    if _podman is None:
        conftest.missing(request, "Podman is not installed, or we are not root")
        raise AssertionError
    with trio.fail_after(60):
        async with Docker(_podman) as podman:
            while True:
                try:
                    await podman.version()
                    break
                except DockerConnectionError:
                    await trio.sleep(0.1)
            if not await podman.images.list():
                async with docker.images.export_image(IMAGE) as content:
                    await podman.images.import_image(content.iter_chunked(1024 * 1024))
    async with Docker(_podman) as podman:
        yield podman


def config(*command: str, **options: Any) -> dict[str, Any]:
    return {
        "Image": IMAGE,
        "Cmd": list(command),
        "Labels": {LABEL: "podman"},
        "HostConfig": {"NetworkMode": "none", "Ulimits": LIMITS},
        **options,
    }


async def test_a_containers_life(podman: Docker) -> None:
    with trio.fail_after(60):
        assert podman.api_version == "auto"
        assert (await podman.system.info())["OSType"] == "linux"
        assert podman.api_version == "v1.41"
        container = await podman.containers.create(
            config("cat", Tty=True, OpenStdin=True), name=f"{LABEL}-podman"
        )
        try:
            async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
                await container.start()
                await container.resize(h=30, w=100)
                await stream.send_all(b"\x10\x11abc\n")
                got = b""
                while got.count(b"abc\r\n") < 2:
                    data = await stream.receive_some()
                    assert data, "the stream has ended"
                    got += data
            assert (await container.show())["State"]["Running"]
            assert [each.id for each in await podman.containers.list()] == [container.id]
            assert (await container.top())["Titles"]
            await container.pause()
            await container.unpause()
            await container.rename(f"{LABEL}-podman-2")
            await container.kill()
            assert (await container.wait())["StatusCode"] == 137
            assert "abc" in "".join(await container.log(stdout=True))
        finally:
            await container.delete(force=True)
        with pytest.raises(DockerError) as caught:
            await container.show()
        assert caught.value.status == 404


async def test_streams_and_archives(podman: Docker) -> None:
    data = io.BytesIO()
    with tarfile.open(mode="w", fileobj=data) as archive:
        info = tarfile.TarInfo("file")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    with trio.fail_after(60):
        container = await podman.containers.run(config("sleep", "600"))
        try:
            execution = await container.exec(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=True)
            async with execution.start() as stream:
                await stream.write_in(b"typed\n")
                await stream.send_eof()
                messages = {await stream.read_out() for _ in range(3)}
                assert messages == {Message(1, b"typed\n"), Message(2, b"err\n"), None}
            assert (await execution.inspect())["ExitCode"] == 3
            await container.put_archive("/tmp", data.getvalue())
            with await container.get_archive("/tmp/file") as got:
                assert got.getnames() == ["file"]
            await container.stop(t=0)
        finally:
            await container.delete(force=True)


async def test_events_networks_volumes_images(podman: Docker) -> None:
    with trio.fail_after(60):
        async with podman.events.subscribe(filters={"type": "container"}) as events:
            container = await podman.containers.create(config("true"))
            while (event := await events.get()) and event["Action"] != "create":
                pass
            assert event is not None
            assert event["Actor"]["ID"] == container.id
        await container.delete(force=True)
        network = await podman.networks.create({"Name": f"{LABEL}-podman", "Driver": "bridge"})
        assert (await network.show())["Name"] == f"{LABEL}-podman"
        assert f"{LABEL}-podman" in [each["Name"] for each in await podman.networks.list()]
        assert await network.delete()
        volume = await podman.volumes.create({"Name": f"{LABEL}-podman"})
        assert (await volume.show())["Driver"] == "local"
        await volume.delete(force=True)
        await podman.images.tag(IMAGE, f"localhost/{LABEL}", tag="podman")
        assert (await podman.images.inspect(f"localhost/{LABEL}:podman"))["Id"]
        await podman.images.delete(f"localhost/{LABEL}:podman")
        with pytest.raises(DockerError) as caught:
            await podman.images.inspect("localhost/none-such")
        assert caught.value.status == 404
