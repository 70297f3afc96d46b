"""Trouble with the engine, each kind with an engine of its own in a network namespace that the test made: run
as a program.

unshare --net --mount python trouble.py SCENARIO DIRECTORY ENGINE

ENGINE is where the workbench image is taken from. What was measured goes to standard output.
"""

import io
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import trio
from conftest import opt_outs
from egress.world import VISITOR, words
from provision.own_etc import have_own_etc
from sandbox.conftest import execute

from faults.supervised import WORKBENCH, Supervised, is_running, supervised
from faults.visitor import PROMPT, SessionOverError, Visitor, visit
from supervisor.attacks.outside import ENDPOINT, HOST_RESOLVER, UNLISTED
from supervisor.attacks.world import world_outside
from supervisor.commands import EXIT_LEFT_OVER
from supervisor.egress import nftables
from supervisor.engine import Docker, DockerError
from supervisor.provision import daemon, ending, remapping
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.engine import answers, engine_in_use
from supervisor.provision.processes import all_processes, look_at
from supervisor.provision.report import Report
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

REPORT = Report(io.StringIO())
NETWORK = "ably_cli_restricted"
REFUSAL_LIMIT = 8.0  # seconds until the first visitor is told that there is no sandbox; 4 on a quiet machine
HANG = 30.0  # seconds that the engine hangs
FULL_DISK = "600m"  # size of the engine's whole disk, most of it free before it is filled


@asynccontextmanager
async def prompt(one: Supervised) -> AsyncIterator[Visitor]:
    async with visit(one.url) as visitor:
        await visitor.read_until(PROMPT)
        yield visitor


@asynccontextmanager
async def prompt_in(one: Supervised) -> AsyncIterator[tuple[Visitor, str]]:
    """A visitor at its prompt, and the id of its container."""
    before = await one.containers()
    async with prompt(one) as visitor:
        [container] = await one.containers() - before
        yield visitor, container


async def refused(one: Supervised) -> float:
    """Visit in vain; return the seconds until the refusal came."""
    began = trio.current_time()
    async with visit(one.url) as visitor:
        over: SessionOverError | None = None
        while over is None:
            try:
                assert PROMPT not in await visitor.read(), "not refused"
            except SessionOverError as error:
                over = error
    assert [error["reason"] for error in visitor.errors] == ["unavailable"], (over, visitor.errors)
    assert (over.code, over.reason) == (1013, "unavailable")
    return trio.current_time() - began


async def leave(visitor: Visitor) -> None:
    await visitor.tell({"type": "leave"})
    await visitor.read_to_end()


async def until_gone(one: Supervised, container: str) -> float:
    began = trio.current_time()
    while container in await one.containers():
        await trio.sleep(0.05)
    return trio.current_time() - began


async def others_meddle(paths: EnginePaths, directory: Path) -> None:
    """Somebody removes and pauses containers, removes the image, and the network."""
    async with (
        Docker(paths.url) as docker,
        supervised(paths.url, directory, WARM_POOL_SIZE="0") as one,
        prompt(one) as bystander,
    ):
        async with prompt_in(one) as (visitor, container):
            await docker.containers.container(container).delete(force=True)
            over = await visitor.read_to_end()
            assert (over.code, over.reason) == (4004, "ended"), over
        await bystander.echo("after-removal")

        async with prompt_in(one) as (visitor, container):
            began = trio.current_time()
            await docker.containers.container(container).pause()
            await visitor.echo("thawed")
            print(f"a paused container: thawed, and its session went on after {since(began):.1f} s")
            await leave(visitor)
        await bystander.echo("after-pause")

        await leave(bystander)
        while await one.containers():
            await trio.sleep(0.05)
        archive = directory / "image.tar"
        assert await readiness(one) == (200, 200)
        await docker.images.delete(WORKBENCH, force=True)
        await until_ready(one, False)
        print(f"without an image: refused after {await refused(one):.1f} s")
        await load_image(docker, archive)
        await until_ready(one, True)
        async with prompt(one) as visitor:
            await leave(visitor)
        while await one.containers():
            await trio.sleep(0.05)

        network = await docker.networks.get(NETWORK)
        await network.delete()
        await until_ready(one, False)
        print(f"without a network: refused after {await refused(one):.1f} s")
        assert await one.containers() == set()
        await stop(one)


def since(began: float) -> float:
    return trio.current_time() - began


async def readiness(one: Supervised) -> tuple[int, int]:
    """The statuses of /health and /ready."""
    base = one.url.replace("ws", "http", 1).removesuffix("ws")
    async with httpx.AsyncClient(timeout=5) as client:
        return tuple([(await client.get(base + path)).status_code for path in ("health", "ready")])  # type: ignore[return-value]


async def until_ready(one: Supervised, ready: bool) -> None:
    with trio.fail_after(30):
        while await readiness(one) != (200, 200 if ready else 503):
            await trio.sleep(0.05)


async def stop(one: Supervised) -> None:
    began = trio.current_time()
    one.process.send_signal(signal.SIGTERM)
    status = await one.process.wait()
    assert status == 0, (status, one.log.read_text()[-6000:])
    print(f"SIGTERM: ended after {trio.current_time() - began:.1f} s")
    await one.wait_gone(set())


async def the_engine_hangs(paths: EnginePaths, directory: Path) -> None:
    """The engine is stopped by SIGSTOP for a while, twice: the second time the supervisor dies meanwhile."""
    pid = engine_pid(paths)
    async with (
        supervised(paths.url, directory, WARM_POOL_SIZE="0") as one,
        prompt_in(one) as (stays, _),
    ):
        async with prompt_in(one) as (leaves, container):
            os.kill(pid, signal.SIGSTOP)
            stopped = trio.current_time()
            try:
                await stays.echo("while-stopped")
                began = trio.current_time()
                await leave(leaves)
                print(f"engine stopped: a visitor left after {trio.current_time() - began:.1f} s")
                with trio.fail_after(REFUSAL_LIMIT):
                    seconds = await refused(one)
                print(f"engine stopped: a new visitor was refused after {seconds:.1f} s")
                assert await readiness(one) == (200, 503)
                with trio.fail_after(1):
                    seconds = await refused(one)
                print(f"engine stopped: the next one was refused after {seconds:.2f} s")
                while since(stopped) < HANG:
                    await trio.sleep(1)
                    await stays.echo(f"after-{int(since(stopped))}")
                with trio.fail_after(1):
                    await refused(one)
                assert await readiness(one) == (200, 503)
            finally:
                os.kill(pid, signal.SIGCONT)
            await stays.echo("after")
            await until_ready(one, True)
            print(f"engine back: the left container was gone after {await until_gone(one, container):.1f} s")
        while len(await one.containers()) > 1:  # the refused visitor's may have been created after all
            await trio.sleep(0.05)
        await stays.echo("one-left")
        async with prompt(one) as visitor:
            await leave(visitor)
        while len(await one.containers()) > 1:
            await trio.sleep(0.05)
        processes = await one.processes()
        os.kill(pid, signal.SIGSTOP)
        try:
            one.kill()
            await one.process.wait()
            await trio.sleep(2)
            assert one.guards(), "it waits for the engine"
        finally:
            os.kill(pid, signal.SIGCONT)
        _, gone = await one.wait_gone(processes)
        print(f"killed while the engine was stopped: containers gone {gone:.1f} s after it was back")


async def the_engine_hangs_and_nothing_tells_the_gates(paths: EnginePaths, directory: Path) -> None:
    """On transport `attach` a supervisor dies while the engine is stopped: its guard ends what runs."""
    pid = engine_pid(paths)
    async with (
        supervised(paths.url, directory, WARM_POOL_SIZE="0", SANDBOX_TRANSPORT="attach") as one,
        prompt_in(one),
    ):
        processes = await one.processes()
        assert processes
        os.kill(pid, signal.SIGSTOP)
        try:
            one.kill()
            dead = await one.wait_dead(processes)
            assert one.guards(), "it waits for the engine"
        finally:
            os.kill(pid, signal.SIGCONT)
        _, gone = await one.wait_gone(processes)
        print(f"killed while it was stopped: dead after {dead:.2f} s, gone {gone:.1f} s later")


async def the_engine_hangs_at_the_end(paths: EnginePaths, directory: Path) -> None:
    """Asked to stop while the engine is stopped, the supervisor ends within its bound all the same, says what
    it could not remove, and leaves it to its guard.
    """
    pid = engine_pid(paths)
    async with supervised(paths.url, directory, WARM_POOL_SIZE="0") as one, prompt_in(one) as (_, container):
        processes = await one.processes()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = trio.current_time()
            one.process.send_signal(signal.SIGTERM)
            with trio.fail_after(45):  # 2 s of grace, 18 for a lease, 15 for what is left
                assert await one.process.wait() == EXIT_LEFT_OVER
            print(f"asked to stop while the engine was stopped: ended after {since(began):.1f} s")
            assert not any(map(is_running, processes)), "lifelines take no engine"
            [told] = one.events("containers could not be removed: ")
            assert "ts-session-" in told
            assert one.guards(), "it waits for the engine"
        finally:
            os.kill(pid, signal.SIGCONT)
        _, gone = await one.wait_gone(processes)
        assert container not in await one.containers()
        print(f"engine back: containers gone after {gone:.1f} s")


async def the_engine_is_killed(paths: EnginePaths, directory: Path) -> None:
    """The engine is killed and started again; it was started with live-restore."""
    pid = engine_pid(paths)
    async with supervised(paths.url, directory, WARM_POOL_SIZE="1") as one, prompt(one) as stays:
        await one.wait_pool(1)
        os.kill(pid, signal.SIGKILL)
        while look_at(pid):
            await trio.sleep(0.01)
        await stays.echo("engine-away")
        async with prompt(one) as warm:
            await warm.echo("from-the-pool")
            await leave(warm)
        print(f"engine away: a new visitor was refused after {await refused(one):.1f} s")
        assert await readiness(one) == (200, 503)
        await stays.echo("still-away")
        await start_again(paths)
        async with Docker(paths.url) as docker:
            version = (await docker.version())["Version"]
        # Engines before 24.0 kill containers with AutoRemove a moment after they answer again.
        await trio.sleep(2)
        await stays.echo("restarted")
        print(f"engine {version} back: the open session goes on")
        await until_ready(one, True)  # its rules are new, and packets prove the network's isolation anew
        async with prompt(one) as visitor:
            await visitor.echo("new")
            await leave(visitor)
        await leave(stays)
        await stop(one)


async def the_engine_is_killed_without_user_namespaces(paths: EnginePaths, directory: Path) -> None:
    """Where containers' users are this host's."""
    await the_engine_is_killed(paths, directory)


async def the_engine_stays_away(paths: EnginePaths, directory: Path) -> None:
    """The engine is killed and nobody starts it again: ending it clears away what its containers held."""
    async with supervised(paths.url, directory, WARM_POOL_SIZE="0") as one, prompt(one) as stays:
        pid = engine_pid(paths)
        os.kill(pid, signal.SIGKILL)
        while look_at(pid):
            await trio.sleep(0.01)
        await stays.echo("still-here")
        assert any(each.name == "merged" for each in ending.mounts_below(paths.data))
        began = trio.current_time()
        await ending.end(paths, [])
        print(f"engine killed: what it held was cleared away after {since(began):.1f} s")
        assert ending.mounts_below(directory) == []
        held = [info for info in all_processes() if daemon.names(info, f"{paths.run}/")]
        assert [info.arguments for info in held if info.pid not in one.guards()] == []
        over = await stays.read_to_end()
        assert (over.code, over.reason) == (4004, "ended"), over
        one.kill()
        await one.process.wait()
        for guard in one.guards():  # it would wait for an engine
            os.kill(guard, signal.SIGKILL)


async def the_engine_restarts_and_egress_stays_filtered(paths: EnginePaths, directory: Path) -> None:
    """The engine, which writes firewall rules when it starts, is killed and started again."""
    settings = Settings(
        docker_host=paths.url,
        image=WORKBENCH,
        container_user="1000:1000",
        network=f"ts-trouble-{secrets.token_hex(3)}",
        command=("sleep", "120"),
        egress_domains=("*.listed.example",),
        egress_dns_servers=(HOST_RESOLVER,),
        hardening_without=tuple(name for name in opt_outs() if name != "egress"),
    )
    listed = "api.listed.example"
    asked = (("dns", "127.0.0.11", 53, listed),)
    tried = (("tls", ENDPOINT, 443, listed), ("tls", UNLISTED, 443, listed), ("tcp", UNLISTED, 80, ""))

    async def look(provider: DockerProvider, session: str) -> None:
        container = provider.occupied[session].container
        script = await trio.Path(VISITOR).read_text()
        found: list[str] = []
        for attempts in (asked, tried):
            status, output = await execute(container, "python3", "-c", script, *words(attempts))
            assert status == 0, output
            found += output.replace("\r", "").split("\n")[:-1]
        assert found[:2] == [ENDPOINT, f"outside {ENDPOINT} 443"], found
        assert all(not each or each.startswith("-") for each in found[2:]), found

    async with (
        world_outside("br-") as arrived,
        open_docker_provider(settings, verify=False) as provider,
        provider.lease(LeaseRequest("before", lifetime=120.0)),
    ):
        assert provider.egress is not None
        await look(provider, "before")
        rules = await nftables.listing(provider.egress.plan)
        pid = engine_pid(paths)
        os.kill(pid, signal.SIGKILL)
        while look_at(pid):
            await trio.sleep(0.01)
        await start_again(paths)
        assert await nftables.listing(provider.egress.plan) == rules
        assert provider.egress.problem is None
        await look(provider, "before")
        async with provider.lease(LeaseRequest("after", lifetime=120.0)):
            await look(provider, "after")
        assert not any(UNLISTED in line for line in arrived), arrived
    print("engine killed and started again: sessions reach listed names only, before and after")


async def the_engine_restarts_without_live_restore(paths: EnginePaths, directory: Path) -> None:
    """An engine without live-restore is stopped in order, and started again."""
    pid = engine_pid(paths)
    async with supervised(paths.url, directory, WARM_POOL_SIZE="1") as one, prompt(one) as stays:
        began = trio.current_time()
        os.kill(pid, signal.SIGTERM)
        over = await stays.read_to_end()
        # The engine tells gates to stop, and a gate that hangs up tells how its command ended.
        assert over.reason in {"ended", "user-exit"}, over
        print(f"engine without live-restore stopped: {over.reason} {since(began):.1f} s later")
        while look_at(pid):
            await trio.sleep(0.01)
        await until_ready(one, False)
        print(f"engine away: a new visitor was refused after {await refused(one):.1f} s")
        await start_again(paths)
        await until_ready(one, True)
        async with prompt(one) as visitor:
            await visitor.echo("new")
            await leave(visitor)
        await stop(one)


async def the_socket_vanishes(paths: EnginePaths, directory: Path) -> None:
    """Somebody removes the engine's socket while it runs on; later there is an engine at its place again."""
    aside = paths.run / "aside.sock"
    async with supervised(paths.url, directory, WARM_POOL_SIZE="0") as one, prompt(one) as stays:
        async with prompt_in(one) as (leaves, container):
            paths.socket.rename(aside)
            await stays.echo("no-socket")
            await until_ready(one, False)  # connections that rest would do for a while, if nobody looked
            await leave(leaves)
            with trio.fail_after(1):
                await refused(one)
            aside.rename(paths.socket)
            await until_ready(one, True)
            print(f"socket back: the left container was gone after {await until_gone(one, container):.1f} s")
        await stays.echo("same-engine")
        paths.socket.unlink()
        await until_ready(one, False)
        os.kill(engine_pid(paths), signal.SIGKILL)
        await start_again(paths)
        await until_ready(one, True)
        await stays.echo("next-engine")
        async with prompt(one) as visitor:
            await leave(visitor)
        await leave(stays)
        await stop(one)


async def the_disk_is_full(paths: EnginePaths, directory: Path) -> None:
    """The engine's disk, a small one of its own, fills up; later there is room again."""
    filler = paths.data / "filler"
    async with supervised(paths.url, directory, WARM_POOL_SIZE="0") as one, prompt(one) as stays:
        await trio.to_thread.run_sync(fill, filler)
        await stays.echo("disk-full")
        print(f"disk full: a new visitor was refused after {await refused(one):.1f} s")
        await until_ready(one, False)
        assert len(await one.containers()) == 1, "what could not be started is gone"
        await stays.echo("still-full")
        filler.unlink()
        async with prompt(one) as visitor:
            await visitor.echo("room-again")
            await leave(visitor)
        await until_ready(one, True)
        await leave(stays)
        await stop(one)
        assert await one.containers() == set()


def fill(path: Path) -> None:
    """Write until there is no room left."""
    piece = bytes(1 << 20)
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while stream.write(piece):
            pass


async def start_again(paths: EnginePaths) -> None:
    """Start the engine, and wait until it answers."""
    while daemon.running_pid(paths) is not None:
        await trio.sleep(0.01)
    await daemon.launch(paths, remap=bool(remapping.remapped_roots(paths)))
    while not await answers(paths.url):
        await trio.sleep(0.1)


def engine_pid(paths: EnginePaths) -> int:
    pid = daemon.running_pid(paths)
    assert pid is not None
    return pid


async def load_image(docker: Docker, archive: Path) -> None:
    async with await trio.open_file(archive, "rb") as stream:

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await stream.read(1 << 20):
                yield piece

        await docker.images.import_image(pieces())


async def save_image(url: str, archive: Path) -> None:
    async with (
        Docker(url) as docker,
        docker.images.export_image(WORKBENCH) as content,
        await trio.open_file(archive, "wb") as stream,
    ):
        async for piece in content.iter_chunked(1 << 20):
            await stream.write(piece)


async def main(scenario: str, directory: Path, url: str) -> None:
    paths = EnginePaths(directory / "data", directory / "run", "ts-trouble0")
    if scenario == "the_disk_is_full":
        paths.data.mkdir()
        await trio.run_process(["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK}", "tmpfs", str(paths.data)])
    if scenario.endswith("without_live_restore"):
        command_line = daemon.command_line
        daemon.command_line = lambda paths, plan, *, remap: [
            word for word in command_line(paths, plan, remap=remap) if word != "--live-restore"
        ]
    remap = "auto"
    if scenario.endswith("without_user_namespaces"):
        remap = "false"
        os.environ["HARDENING_WITHOUT"] = ",".join({*opt_outs(), "userns"})
    try:
        with trio.fail_after(150):
            await save_image(url, directory / "image.tar")
            async with engine_in_use(paths.url, REPORT, paths=paths, keep=True, remap=remap):
                async with Docker(paths.url) as docker:
                    await load_image(docker, directory / "image.tar")
                await globals()[scenario](paths, directory)
    finally:
        with trio.move_on_after(40, shield=True):
            bridges: list[str] = []
            async with Docker(paths.url) as docker:
                with suppress(DockerError):  # it is not there: what failed says why
                    bridges = [f"br-{each['Id'][:12]}" for each in await docker.networks.list()]
            await ending.end(paths, bridges)


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    have_own_etc(Path(sys.argv[2]))
    trio.run(main, sys.argv[1], Path(sys.argv[2]), sys.argv[3])
