"""One scripted scenario through aiodocker and through our client on the same engine, with the same results.

The script uses only what both have. Ids, times and the like are replaced before comparing.
"""

import ast
import asyncio
import io
import os
import re
import sys
import tarfile
from collections.abc import Awaitable, Callable
from typing import Any

import aiodocker
import pytest
import trio

from engine.conftest import IMAGE, LABEL
from supervisor.engine import Docker

pytestmark = pytest.mark.engine

# DetachKeys: ours are random. Processes: numbers and times.
VOLATILE = {
    "Created",
    "CreatedAt",
    "StartedAt",
    "FinishedAt",
    "Pid",
    "pid",
    "IPAddress",
    "MacAddress",
    "Gateway",
    "SandboxKey",
    "HostsPath",
    "HostnamePath",
    "ResolvConfPath",
    "LogPath",
    "Hostname",
    "GraphDriver",
    "MergedDir",
    "read",
    "preread",
    "SystemTime",
    "NFd",
    "NGoroutines",
    "NEventsListener",
    "Containers",
    "ContainersRunning",
    "ContainersPaused",
    "ContainersStopped",
    "Images",
    "Status",
    "SizeRw",
    "SizeRootFs",
    "LastTagTime",
    "Mountpoint",
    "Endpoints",
    "Subnet",
    "IPAM",
    "DetachKeys",
    "Processes",
}
HEX = re.compile(r"\b(sha256:)?[0-9a-f]{12,64}\b|docker-import-\d+")


def scrub(value: Any) -> Any:
    """Take out of `value` what differs from run to run."""
    if isinstance(value, dict):
        return {scrub(key): scrub(each) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list | tuple):
        return [scrub(each) for each in value]
    if isinstance(value, str):
        return HEX.sub("<id>", value)
    if isinstance(value, bytes):
        return value
    return value if isinstance(value, int | float | bool | None) else type(value).__name__


def archive(**files: bytes) -> bytes:
    data = io.BytesIO()
    with tarfile.open(mode="w", fileobj=data) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Script:
    """Runs the scenario on one client and records what came of each step."""

    def __init__(self, docker: Any, label: str) -> None:
        self.docker = docker
        self.label = label
        self.record: list[tuple[str, Any]] = []

    async def step(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do something, and record its result or its error."""
        try:
            result = await call()
        except Exception as error:
            outcome = [
                type(error).__name__,
                getattr(error, "status", None),
                getattr(error, "message", str(error)),
            ]
            self.record.append((name, scrub(outcome)))
            return None
        self.record.append((name, scrub(result)))
        return result

    async def all(self) -> list[tuple[str, Any]]:
        await self.engine()
        await self.containers()
        await self.streams()
        await self.images()
        await self.networks_and_volumes()
        return self.record

    def config(self, *command: str, **options: Any) -> dict[str, Any]:
        return {
            "Image": IMAGE,
            "Cmd": list(command),
            "Labels": {LABEL: self.label},
            "HostConfig": {"NetworkMode": "none", "Init": True},
            **options,
        }

    async def engine(self) -> None:
        docker = self.docker
        await self.step("version", docker.version)
        await self.step("info", docker.system.info)
        await self.step("auth", lambda: docker.auth(username="u", password="p", serveraddress="127.0.0.1:1"))

    async def containers(self) -> None:
        containers = self.docker.containers
        filters = {"label": [f"{LABEL}={self.label}"]}
        name = f"{LABEL}-same-{self.label[:6]}"
        await self.step("bad config", lambda: containers.create({"Image": "no/such:image"}))
        await self.step("bad name", lambda: containers.create(self.config("true"), name="a b"))
        container = await containers.create(
            self.config("sh", "-c", "echo out; echo err >&2; sleep 600"), name=name
        )
        self.record.append(("new", [sorted(key for key in ("id", "Id", "State") if key in container)]))
        await self.step("name is taken", lambda: containers.create(self.config("true"), name=name))
        await self.step("none running", lambda: containers.list(filters=filters))
        listed = await containers.list(all=1, filters=filters)
        self.record.append(("listed", [(each["State"], each["Names"], each["Image"]) for each in listed]))
        await self.step("kill the dead", container.kill)
        await self.step("resize the dead", lambda: container.resize(h=1, w=1))
        await self.step("start", container.start)
        await self.step("start again", container.start)
        await self.step("show", container.show)
        self.record.append(("item", [container["Name"], "State" in container, "Nothing" in container]))
        await self.step("top", container.top)
        await self.step("top with arguments", lambda: container.top(ps_args="-o pid,comm"))
        await self.step("port", lambda: container.port(80))
        await self.step("pause", container.pause)
        await self.step("exec in the paused", lambda: container.exec(["true"]))
        await self.step("unpause", container.unpause)
        await self.step("rename", lambda: container.rename(f"{name}-2"))
        await self.step("get by name", lambda: containers.get(f"{name}-2"))
        logged = await container.log(stdout=True, stderr=True)
        self.record.append(("log", sorted(logged)))
        await self.step("log of stderr", lambda: container.log(stderr=True))
        (sample,) = await container.stats(stream=False)
        self.record.append(("stats", sorted(sample)))
        samples = container.stats()
        self.record.append(("stats streamed", sorted(await anext(samples))))
        await samples.aclose()
        await container.put_archive("/tmp", archive(a=b"1", b=b"22"))
        got = await container.get_archive("/tmp/b")
        self.record.append(("get", [(each.name, each.size, got.extractfile(each).read()) for each in got]))
        got.close()
        await self.step("get nothing", lambda: container.get_archive("/nothing"))
        await self.step("put nowhere", lambda: container.put_archive("/nothing", archive()))
        await self.step("restart", lambda: container.restart(t=0))
        await self.step(
            "commit", lambda: container.commit(repository=LABEL, tag="same-commit", changes=["ENV A=b"])
        )
        await self.step("delete the running", container.delete)
        await self.step("stop", lambda: container.stop(t=0))
        await self.step("wait", container.wait)
        await self.step("delete", lambda: container.delete(v=True))
        await self.step("delete again", container.delete)
        await self.step("show none", container.show)
        await self.step("get none", lambda: containers.get("none-such"))
        run = await self.step("run", lambda: containers.run(self.config("sh", "-c", "exit 7"), name=name))
        await self.step("its end", run.wait)
        await self.step("replace", lambda: containers.create_or_replace(name, self.config("false")))
        await self.step("it is another", lambda: containers.get(name))
        await self.step("prune", lambda: containers.prune(filters={"label": f"{LABEL}={self.label}"}))

    async def streams(self) -> None:
        containers = self.docker.containers
        script = "read a; echo out $a; echo err >&2; exit 3"
        for tty in (True, False):
            config = self.config("sh", "-c", script, Tty=tty, OpenStdin=True, StdinOnce=True)
            container = await containers.create(config)
            async with container.attach(stdin=True, stdout=True, stderr=True) as stream:
                await container.start()
                await stream.write_in(b"hello\n")
                self.record.append((f"attach tty={tty}", await collect(stream)))
            await self.step("wait", container.wait)
            await container.delete()
            container = await containers.run(self.config("sleep", "600"))
            execution = await container.exec(
                ["sh", "-c", "echo $A; pwd; id -u; " + script],
                stdin=True,
                tty=tty,
                environment=["A=b"],
                workdir="/tmp",
                user="65534:65534",
            )
            await self.step("exec before", execution.inspect)
            async with execution.start() as stream:
                await stream.write_in(b"hello\n")
                self.record.append((f"exec tty={tty}", lines(await collect(stream))))
            state = await execution.inspect()
            self.record.append(("exec after", [state["Running"], state["ExitCode"]]))
            await self.step("exec again", lambda e=execution: e.start(detach=True))  # type: ignore[misc]
            detached = await container.exec("true")
            await self.step("exec detached", lambda d=detached: d.start(detach=True))  # type: ignore[misc]
            await self.step("exec none", containers.exec("none").inspect)
            await container.delete(force=True)

    async def images(self) -> None:
        images = self.docker.images
        tag = f"{LABEL}:same"
        context = archive(Dockerfile=f"FROM {IMAGE}\nLABEL {LABEL}={self.label}\nENV A=b\n".encode())
        build = {
            "fileobj": io.BytesIO(context),
            "encoding": "identity",
            "tag": tag,
            "nocache": True,
            "labels": {"c": "d"},
        }
        await self.step("build", lambda: images.build(**build))
        await self.step("inspect", lambda: images.inspect(tag))
        history = await images.history(tag)
        self.record.append(("history", [each["CreatedBy"] for each in history]))
        await self.step("list", lambda: images.list(filters={"label": [f"{LABEL}={self.label}"]}))
        await self.step("tag", lambda: images.tag(tag, LABEL, tag="same-2"))
        await self.step("tag none", lambda: images.tag("none-such", LABEL))
        broken = archive(Dockerfile=f"FROM {IMAGE}\nCOPY none /\n".encode())
        await self.step(
            "failing build", lambda: images.build(fileobj=io.BytesIO(broken), encoding="identity")
        )
        broken = archive(Dockerfile=b"NONSENSE\n")
        await self.step("broken build", lambda: images.build(fileobj=io.BytesIO(broken), encoding="identity"))
        await self.step("pull", lambda: images.pull("127.0.0.1:1/none"))
        await self.step("push", lambda: images.push("127.0.0.1:1/none"))
        small = archive(file=b"x")
        async with images.export_image(tag) as content:
            exported = await content.read(512)
        self.record.append(("exported", len(exported) > 0))
        await self.step("load", lambda: images.import_image(small))
        await self.step("delete", lambda: images.delete(f"{tag}-2"))
        deleted = await images.delete(tag, force=True)
        self.record.append(("deleted", scrub(deleted)[0]))
        await self.step("delete the commit", lambda: images.delete(f"{LABEL}:same-commit", force=True))
        await self.step("delete none", lambda: images.delete("none-such"))
        await self.step("prune", lambda: images.prune(filters={"label": [f"{LABEL}={self.label}"]}))

    async def networks_and_volumes(self) -> None:
        networks, volumes = self.docker.networks, self.docker.volumes
        definition = {
            "Name": f"{LABEL}-same",
            "Driver": "bridge",
            "Labels": {LABEL: self.label},
            "CheckDuplicate": True,
        }
        network = await networks.create(definition)
        await self.step("network twice", lambda: networks.create(definition))
        await self.step("network", network.show)
        await self.step("networks", lambda: networks.list(filters={"label": f"{LABEL}={self.label}"}))
        container = await self.docker.containers.create(
            self.config("true", HostConfig={"NetworkMode": "bridge"})
        )
        await self.step("connect", lambda: network.connect({"Container": container.id}))
        await self.step("disconnect", lambda: network.disconnect({"Container": container.id}))
        await self.step("disconnect again", lambda: network.disconnect({"Container": container.id}))
        await container.delete()
        await self.step("delete", network.delete)
        await self.step("delete again", network.delete)
        await self.step("no network", lambda: networks.get("none-such"))
        await self.step("prune", lambda: networks.prune(filters={"label": f"{LABEL}={self.label}"}))
        volume = await volumes.create(
            {"Name": f"{LABEL}-same-{self.label[:6]}", "Labels": {LABEL: self.label}}
        )
        await self.step("volume", volume.show)
        await self.step("volumes", lambda: volumes.list(filters={"label": f"{LABEL}={self.label}"}))
        await self.step("same volume", lambda: volumes.get(volume.name))
        await self.step("delete", volume.delete)
        await self.step("delete again", volume.delete)
        await self.step("prune", lambda: volumes.prune(filters={"label": f"{LABEL}={self.label}"}))


async def collect(stream: Any) -> list[tuple[int, bytes]]:
    """What a stream says, by stream; cuts between messages mean nothing."""
    said: dict[int, bytes] = {}
    while message := await stream.read_out():
        said[message.stream] = said.get(message.stream, b"") + message.data
    return sorted(said.items())


def lines(said: list[tuple[int, bytes]]) -> list[Any]:
    """Lines in no order: a terminal's echo comes when it comes."""
    return [(stream, sorted(data.split())) for stream, data in said]


async def _aiodocker(url: str, label: str) -> list[tuple[str, Any]]:
    docker = aiodocker.Docker(url)
    try:
        return await Script(docker, label).all()
    finally:
        await docker.close()


async def through_aiodocker(url: str, label: str) -> list[Any]:
    """Run the script in a process of its own: asyncio, and warnings for what aiodocker leaves open."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", __file__, url, label]
    done = await trio.run_process(command, capture_stdout=True, env=environment)
    result: list[Any] = ast.literal_eval(done.stdout.decode())
    return result


async def test_the_same_scenario_gives_the_same_results(docker: Docker, docker_host: str, label: str) -> None:
    with trio.fail_after(120):
        theirs = await through_aiodocker(docker_host, label)
        mine = await Script(docker, label).all()
    assert len(mine) > 80
    assert [name for name, _ in mine] == [name for name, _ in theirs]
    pairs = zip(mine, theirs, strict=True)
    assert [(name, one, other) for (name, one), (_, other) in pairs if one != other] == []


if __name__ == "__main__":
    sys.stdout.write(repr(asyncio.run(_aiodocker(*sys.argv[1:]))))
