"""The client on a real engine: what it promises, and what engines do that their documentation leaves out."""

import io
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from engine.conftest import IMAGE, LABEL
from supervisor.engine import Docker, DockerContainerError, DockerError, DockerStreamError, Message

pytestmark = pytest.mark.engine

UNTIL_DETACH = b"\x10\x11"  # Ctrl-P Ctrl-Q, which ends an attach stream by default


def config(label: str, *command: str, **options: Any) -> dict[str, Any]:
    host = {"NetworkMode": "none", "Init": True, **options.pop("HostConfig", {})}
    return {"Image": IMAGE, "Cmd": list(command), "Labels": {LABEL: label}, "HostConfig": host, **options}


def tar(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(mode="w", fileobj=data) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


async def output(stream: Any) -> list[Message]:
    messages = []
    while message := await stream.read_out():
        messages.append(message)
    return messages


async def test_versions(docker: Docker) -> None:
    with trio.fail_after(10):
        version = await docker.version()
        info = await docker.system.info()
    assert docker.api_version.startswith("v1.")
    assert info["ServerVersion"] == version["Version"]


async def test_a_containers_life(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.create(config(label, "sleep", "600"), name=f"{LABEL}-{label}")
        assert container["Warnings"] == []
        assert "State" not in container
        assert (await container.show())["State"]["Status"] == "created"
        assert "State" in container
        await container.start()
        await container.start()  # 304 is no error
        assert (await container.top())["Processes"]
        assert [each.id for each in await docker.containers.list(filters={"label": f"{LABEL}={label}"})] == [
            container.id
        ]
        await container.pause()
        assert (await container.show())["State"]["Paused"]
        await container.unpause()
        await container.rename(f"{LABEL}-{label}-renamed")
        assert (await docker.containers.get(f"{LABEL}-{label}-renamed")).id == container.id
        assert await container.port(80) is None
        (sample,) = await container.stats(stream=False)
        assert sample["pids_stats"]["current"] >= 1
        async with container.stats() as samples:
            assert (await anext(samples))["id"] == container.id
        await container.restart(t=0)
        await container.stop(t=0)
        assert (await container.wait())["StatusCode"] in (137, 143)
        with pytest.raises(DockerError) as caught:
            await container.kill()
        assert caught.value.status == 409
        await container.delete(v=True)
        with pytest.raises(DockerError) as caught:
            await container.show()
        assert caught.value.status == 404


async def test_names_are_taken_and_freed(docker: Docker, label: str) -> None:
    name = f"{LABEL}-{label}"
    with trio.fail_after(20):
        container = await docker.containers.create(config(label, "true"), name=name)
        with pytest.raises(DockerError) as caught:
            await docker.containers.create(config(label, "true"), name=name)
        assert caught.value.status == 409
        same = await docker.containers.create_or_replace(name, config(label, "true"))
        assert same.id == container.id
        other = await docker.containers.create_or_replace(name, config(label, "false"))
        assert other.id != container.id
        await other.delete()
        again = await docker.containers.create_or_replace(name, config(label, "false"))
        assert again["Warnings"] == []


async def test_run(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.run(config(label, "sh", "-c", "exit 4"))
        assert (await container.wait())["StatusCode"] == 4
        with pytest.raises(DockerContainerError) as caught:
            await docker.containers.run(config(label, "/no/such/program", HostConfig={"Init": False}))
        with pytest.raises(DockerError) as gone:
            await docker.containers.get(caught.value.container_id)
        assert gone.value.status == 404


@pytest.mark.parametrize("tty", [True, False])
async def test_attach_from_the_first_byte_to_the_last(docker: Docker, label: str, tty: bool) -> None:
    command = "read line; echo out $line; echo err >&2; head -c 300000 /dev/zero | tr '\\0' x; exit 3"
    options = {
        "Tty": tty,
        "OpenStdin": True,
        "StdinOnce": True,
        "HostConfig": {"LogConfig": {"Type": "none"}},
    }
    with trio.fail_after(30):
        container = await docker.containers.create(config(label, "sh", "-c", command, **options))
        async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
            await container.start()
            await stream.write_in(b"hello\n")
            messages = await output(stream)
        assert (await container.wait())["StatusCode"] == 3
    out = b"".join(message.data for message in messages if message.stream == 1)
    err = b"".join(message.data for message in messages if message.stream == 2)
    assert out.endswith(b"x" * 300_000)
    assert (b"out hello" in out, b"err" in out, err == b"err\n") == (True, tty, not tty)


async def test_detach_keys_do_nothing_unless_asked_for(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.create(config(label, "cat", Tty=True, OpenStdin=True))
        await container.start()
        async with container.attach(stdin=True, stdout=True) as stream:
            await stream.send_all(UNTIL_DETACH + b"\x00\xff\xfeabc\n")
            got = b""
            while b"abc\r\n" not in got.replace(b"^P", b""):
                data = await stream.receive_some()
                assert data, "the stream has ended"
                got += data
        async with container.attach(stdin=True, stdout=True, detach_keys="ctrl-p,ctrl-q") as stream:
            await stream.send_all(UNTIL_DETACH)
            await output(stream)
        assert (await container.show())["State"]["Running"]
        execution = await container.exec(["cat"], stdin=True, tty=True)
        async with execution.start() as stream:
            await stream.send_all(UNTIL_DETACH + b"abc\n")
            got = b""
            while b"abc\r\n" not in got:
                data = await stream.receive_some()
                assert data, "the stream has ended"
                got += data


async def test_half_close_reaches_the_program(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.create(config(label, "wc", "-c", OpenStdin=True, StdinOnce=True))
        async with container.attach(stdin=True, stdout=True) as stream:
            await container.start()
            await stream.send_all(b"x" * 200_000)
            await stream.send_eof()
            assert await output(stream) == [Message(1, b"200000\n")]


async def test_exec(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.run(config(label, "sleep", "600"))
        script = "cat; echo $A; pwd; id -u; echo err >&2; exit 5"
        execution = await container.exec(
            ["sh", "-c", script], stdin=True, environment={"A": "b c"}, workdir="/tmp", user="65534"
        )
        async with execution.start() as stream:
            await stream.write_in(b"typed\n")
            await stream.send_eof()
            messages = await output(stream)
        assert (
            b"".join(message.data for message in messages if message.stream == 1)
            == b"typed\nb c\n/tmp\n65534\n"
        )
        assert b"".join(message.data for message in messages if message.stream == 2) == b"err\n"
        assert (await execution.inspect())["ExitCode"] == 5
        detached = await container.exec("touch '/tmp/a b'")
        assert await detached.start(detach=True) == b""
        while (await docker.containers.exec(detached.id).inspect())["Running"]:
            await trio.sleep(0.05)
        terminal = await container.exec(["sh"], stdin=True, tty=True)
        async with docker.containers.exec(terminal.id).start() as stream:
            await terminal.resize(h=33, w=99)
            await stream.send_all(b"stty size; exit\n")
            assert b"33 99" in b"".join(message.data for message in await output(stream))


async def test_an_unread_stream_does_not_hold_up_who_closes_it_first(docker: Docker, label: str) -> None:
    with trio.fail_after(40):
        container = await docker.containers.create(
            config(label, "yes", Tty=True, HostConfig={"LogConfig": {"Type": "none"}})
        )
        async with container.attach(stdout=True) as stream:
            await container.start()
            await stream.receive_some()
            await trio.sleep(0.5)  # until the engine's buffers are full and the program waits
            await container.resize(h=10, w=10)
        await container.kill(timeout=10)
        await container.delete(force=True, timeout=10)


async def test_logs(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.run(
            config(label, "sh", "-c", "echo ä; echo b >&2; sleep 1; echo c")
        )
        async with container.logs.subscribe() as log:
            assert sorted([await anext(log), await anext(log)]) == ["b\n", "ä\n"]
            assert await anext(log) == "c\n"
            assert [piece async for piece in log] == []
        assert await container.log(stdout=True) == ["ä\n", "c\n"]
        assert await container.log(stderr=True, timestamps=False) == ["b\n"]


async def test_archives(docker: Docker, label: str) -> None:
    big = bytes(range(256)) * 40_000
    with trio.fail_after(30):
        container = await docker.containers.create(config(label, "true"))
        await container.put_archive("/tmp", tar(small=b"abc", big=big))
        with await container.get_archive("/tmp") as archive:
            assert sorted(archive.getnames()) == ["tmp", "tmp/big", "tmp/small"]
            content = archive.extractfile("tmp/big")
            assert content is not None
            assert content.read() == big
        with pytest.raises(DockerError) as caught:
            await container.get_archive("/no/such")
        assert caught.value.status == 404
        with pytest.raises(DockerError):
            await container.put_archive("/tmp", b"no archive")


async def test_events(docker: Docker, label: str) -> None:
    filters = {
        "type": "container",
        "label": f"{LABEL}={label}",
        "event": ["create", "start", "die", "destroy"],
    }
    with trio.fail_after(30):
        async with docker.events.subscribe(filters=filters) as events:
            container = await docker.containers.run(config(label, "true"))
            await container.wait()
            await container.delete()
            got = [await events.get() for _ in range(4)]
        assert [event["Action"] for event in got if event] == ["create", "start", "die", "destroy"]
        now = int(time.time()) + 1
        async with docker.events.subscribe(filters=filters, since=0, until=now) as events:
            assert [event["Action"] async for event in events] == ["create", "start", "die", "destroy"]


async def test_networks(docker: Docker, label: str) -> None:
    definition = {
        "Name": f"{LABEL}-{label[:8]}",
        "Driver": "bridge",
        "Labels": {LABEL: label},
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
    }
    with trio.fail_after(30):
        network = await docker.networks.create(definition)
        with pytest.raises(DockerError) as caught:
            await docker.networks.create(definition)
        assert caught.value.status == 409
        shown = await network.show()
        assert shown["Options"] == definition["Options"]
        assert (await docker.networks.get(f"{LABEL}-{label[:8]}")).id == network.id
        listed = await docker.networks.list(filters={"label": f"{LABEL}={label}"})
        assert [each["Id"] for each in listed] == [network.id]
        container = await docker.containers.create(
            config(label, "sleep", "60", HostConfig={"NetworkMode": "bridge"})
        )
        await network.connect({"Container": container.id})
        await container.start()
        assert container.id in (await network.show())["Containers"]
        await network.disconnect({"Container": container.id, "Force": True})
        await container.delete(force=True)
        assert await network.delete()
        assert (await docker.networks.prune(filters={"label": f"{LABEL}={label}"}))["NetworksDeleted"] is None


async def test_volumes(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        volume = await docker.volumes.create({"Name": f"{LABEL}-{label}", "Labels": {LABEL: label}})
        assert (await volume.show())["Driver"] == "local"
        assert (await docker.volumes.get(volume.name)).name == volume.name
        listed = await docker.volumes.list(filters={"label": f"{LABEL}={label}"})
        assert [each["Name"] for each in listed["Volumes"] or []] == [volume.name]
        await volume.delete()
        anonymous = await docker.volumes.create({"Labels": {LABEL: label}})
        assert len(anonymous.name) == 64
        await anonymous.delete(force=True)


async def test_images(docker: Docker, label: str, tmp_path: Path) -> None:
    tag = f"{LABEL}:{label}"
    with trio.fail_after(90):
        messages = await docker.images.import_rootfs(
            tar(hello=b"world"), repo=LABEL, tag=label, changes=['CMD ["/hello"]', f"LABEL {LABEL}={label}"]
        )
        assert messages[-1]["status"].startswith("sha256:")
        assert (await docker.images.inspect(tag))["Config"]["Cmd"] == ["/hello"]
        (entry,) = await docker.images.list(filters={"label": f"{LABEL}={label}"})
        assert entry["RepoTags"] == [tag]
        assert len(await docker.images.history(tag)) == 1
        async with docker.images.export_image(tag) as content:
            exported = await content.read()
        assert await docker.images.tag(tag, LABEL, tag=f"{label}-2")
        await docker.images.delete(f"{tag}-2")
        await docker.images.delete(tag)
        loaded = await docker.images.import_image(exported)
        assert tag in loaded[-1]["stream"]
        dockerfile = f"FROM {tag}\nLABEL more=yes\nENV A=b\n".encode()
        context = tmp_path / "context.tar"
        context.write_bytes(tar(Dockerfile=dockerfile))
        with context.open("rb") as file:
            lines = [line async for line in docker.images.build(fileobj=file, tag=tag, stream=True)]
        assert any("Successfully tagged" in line.get("stream", "") for line in lines)
        built = await docker.images.inspect(tag)
        assert built["Config"]["Env"][-1] == "A=b"
        context.write_bytes(tar(Dockerfile=b"FROM scratch\nBAD\n"))
        with context.open("rb") as file, pytest.raises(DockerError):
            await docker.images.build(fileobj=file)
        context.write_bytes(tar(Dockerfile=f"FROM {tag}\nCOPY nothing /\n".encode()))
        with context.open("rb") as file, pytest.raises(DockerStreamError, match="nothing"):
            await docker.images.build(fileobj=file)
        await docker.images.delete(tag, force=True)
        with pytest.raises(DockerError):
            await docker.images.inspect(tag)


async def test_a_failing_pull_is_an_error(docker: Docker) -> None:
    with trio.fail_after(60), pytest.raises(DockerError):
        await docker.images.pull("localhost:1/no/such", timeout=50)


async def test_commit(docker: Docker, label: str) -> None:
    tag = f"{LABEL}:{label}-commit"
    with trio.fail_after(60):
        container = await docker.containers.create(config(label, "true"))
        answer = await container.commit(
            repository=LABEL, tag=f"{label}-commit", message="m", changes=["ENV X=y"]
        )
        assert (await docker.images.inspect(tag))["Id"] == answer["Id"]
        await docker.images.delete(tag)
        assert "SpaceReclaimed" in await docker.containers.prune(filters={"label": f"{LABEL}={label}"})
        assert "SpaceReclaimed" in await docker.images.prune(filters={"label": f"{LABEL}={label}"})
        assert await docker.containers.list(all=True, filters={"label": f"{LABEL}={label}"}) == []


async def test_attach_over_a_websocket(docker: Docker, label: str) -> None:
    with trio.fail_after(30):
        container = await docker.containers.run(config(label, "cat", Tty=True, OpenStdin=True))
        async with container.websocket() as websocket:
            await websocket.send_message("hello\n")
            got = b""
            while b"hello\r\nhello" not in got:
                message = await websocket.get_message()
                assert isinstance(message, bytes)
                got += message
        with pytest.raises(ZeroDivisionError):
            async with container.websocket(stream=True, stdout=True):
                raise ZeroDivisionError
        with pytest.raises(DockerError) as caught:
            async with docker.containers.container("no-such").websocket():
                raise AssertionError
        assert caught.value.status == 404


async def test_many_streams_at_once(docker: Docker, label: str) -> None:
    with trio.fail_after(60):
        container = await docker.containers.run(config(label, "cat", Tty=True, OpenStdin=True))
        streams = [container.attach(stdin=True, stdout=True) for _ in range(120)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.receive_some, 1)
            await trio.sleep(0.3)
            await container.show()
            await streams[0].send_all(b"x\n")
        for stream in streams:
            await stream.aclose()
