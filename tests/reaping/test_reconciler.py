"""Whose containers go and whose stay: the rules as a table, and on a real engine."""

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from supervisor.engine import Docker, DockerContainer, DockerError
from supervisor.reaping.guard import GIVE_UP_MARGIN, Guard, keep_guard
from supervisor.reaping.liveness import Liveness, is_alive
from supervisor.reaping.reconciler import CLOCK_SKEW, Reconciler, Verdict, judge
from supervisor.sandbox.identity import LABEL_DEADLINE, LABEL_INSTANCE, Identity, this_process

NOW = 1_000_000.0
HERE = Identity("i" * 32, "m" * 32, "boot", "4:4026531840")


def labels(**changes: str) -> dict[str, str]:
    """Labels of a container that another supervisor made on this host at `NOW`, to live for 100 s."""
    other = attrs.evolve(HERE, instance="o" * 32, **changes)
    return {**other.labels("session", 0), LABEL_DEADLINE: str(int(NOW + 100))}


@pytest.mark.parametrize(
    ("found", "alive", "now", "verdict"),
    [
        (labels(), True, NOW, Verdict.ALIVE),
        (labels(), False, NOW, Verdict.DEAD),
        (labels(), True, NOW + 10_000, Verdict.ALIVE),
        (labels(boot="earlier"), True, NOW, Verdict.EARLIER_BOOT),
        (labels(namespace="4:1"), False, NOW, Verdict.UNKNOWN),
        (labels(namespace="4:1"), False, NOW + 100 + CLOCK_SKEW + 1, Verdict.EXPIRED),
        (labels(machine="x" * 32), False, NOW, Verdict.UNKNOWN),
        (labels(machine="x" * 32, boot="earlier"), False, NOW + 100 + CLOCK_SKEW, Verdict.UNKNOWN),
        (labels(machine="x" * 32), False, NOW + 100 + CLOCK_SKEW + 1, Verdict.EXPIRED),
        ({"terminal-supervisor": "session"}, False, NOW, Verdict.UNKNOWN),
        ({LABEL_DEADLINE: "soon"}, False, NOW * 10, Verdict.UNKNOWN),
        ({LABEL_DEADLINE: "-1"}, False, NOW * 10, Verdict.UNKNOWN),
        ({LABEL_INSTANCE: HERE.instance}, False, NOW, Verdict.FORGOTTEN),
    ],
)
def test_the_rules(found: dict[str, str], alive: bool, now: float, verdict: Verdict) -> None:
    assert judge(found, "ts-x", HERE, ["ts-y"], alive=lambda _: alive, now=now) is verdict


def test_what_is_in_use_stays_and_names_are_compared_exactly() -> None:
    mine = {LABEL_INSTANCE: HERE.instance}
    assert judge(mine, "ts-a", HERE, ["ts-a"]) is Verdict.OURS
    for name in ("ts-", "ts-a.", "ts-.", ".", "ts-ab"):
        assert judge(mine, name, HERE, ["ts-a"]) is Verdict.FORGOTTEN


def test_liveness_ends_with_the_process_however_it_dies() -> None:
    instance = secrets.token_hex(16)
    assert not is_alive(instance)
    code = (
        "import sys, time; from supervisor.reaping.liveness import Liveness\n"
        f"with Liveness({instance!r}): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert is_alive(instance)
        with pytest.raises(OSError, match="in use"):
            Liveness(instance)
        process.kill()
        process.wait()
    assert not is_alive(instance)
    with Liveness(instance):
        assert is_alive(instance)
    assert not is_alive(instance)


@asynccontextmanager
async def _container(docker: Docker, identity: Identity, **extra: str) -> AsyncIterator[DockerContainer]:
    config = {
        "Image": "terminal-supervisor-workbench:latest",
        "Cmd": ["/bin/sleep", "600"],
        "Entrypoint": [],
        "Labels": identity.labels("test", 600) | extra,
        "HostConfig": {"NetworkMode": "none"},
    }
    container = await docker.containers.create(config, name=identity.new_name("test"))
    try:
        await container.start()
        yield container
    finally:
        with trio.move_on_after(20, shield=True):
            try:
                await container.delete(force=True)
            except DockerError as error:
                if error.status != 404:
                    raise


async def _exists(docker: Docker, container: DockerContainer) -> bool:
    return container.id in {each.id for each in await docker.containers.list(all=True)}


@pytest.mark.engine
async def test_only_a_dead_supervisors_containers_go(docker_host: str, workbench_image: str) -> None:
    here, dead, alive, elsewhere = this_process(), this_process(), this_process(), this_process()
    elsewhere = attrs.evolve(elsewhere, machine="0" * 32)
    expired = {LABEL_DEADLINE: str(int(time.time() - CLOCK_SKEW - 5))}
    with trio.fail_after(60), Liveness(alive.instance):
        async with (
            Docker(docker_host) as docker,
            _container(docker, here) as known,
            _container(docker, here) as forgotten,
            _container(docker, dead) as left_over,
            _container(docker, alive) as foreign,
            _container(docker, elsewhere) as far,
            _container(docker, elsewhere, **expired) as over,
        ):
            name = (await known.show())["Name"].lstrip("/")
            reconciler = Reconciler(docker, here, lambda: [name])
            ours = {c.id for c in (known, forgotten, left_over, foreign, far, over)}
            dry = {f.container: f.verdict for f in await reconciler.find() if f.container in ours}
            assert dry == {
                known.id: Verdict.OURS,
                forgotten.id: Verdict.FORGOTTEN,
                left_over.id: Verdict.DEAD,
                foreign.id: Verdict.ALIVE,
                far.id: Verdict.UNKNOWN,
                over.id: Verdict.EXPIRED,
            }
            assert await _exists(docker, left_over)  # finding removes nothing
            done = {f.container: f.removed for f in await reconciler.reconcile()}
            assert {container for container, removed in done.items() if removed} >= {
                forgotten.id,
                left_over.id,
                over.id,
            }
            for container, stays in (
                (known, 1),
                (forgotten, 0),
                (left_over, 0),
                (foreign, 1),
                (far, 1),
                (over, 0),
            ):
                assert await _exists(docker, container) == bool(stays)


@pytest.mark.engine
async def test_the_guard_removes_what_a_dead_supervisor_leaves(
    docker_host: str, workbench_image: str
) -> None:
    dead, other = this_process(), this_process()
    guard = Guard(docker_host, dead.instance)
    with trio.fail_after(60):
        async with (
            Docker(docker_host) as docker,
            _container(docker, dead) as first,
            _container(docker, dead) as second,
            _container(docker, other) as foreign,
        ):
            process = guard.start()
            process.send_signal(signal.SIGTERM)  # ignored, as are INT and HUP
            guard.close()  # what the kernel does for a supervisor that is killed
            assert await trio.to_thread.run_sync(process.wait) == 0
            assert not await _exists(docker, first)
            assert not await _exists(docker, second)
            assert await _exists(docker, foreign)


@pytest.mark.engine
async def test_a_guard_that_is_told_farewell_does_nothing(docker_host: str, workbench_image: str) -> None:
    identity = this_process()
    guard = Guard(docker_host, identity.instance)
    with trio.fail_after(30):
        async with Docker(docker_host) as docker, _container(docker, identity) as container:
            process = guard.start()
            guard.farewell()
            guard.close()
            assert await trio.to_thread.run_sync(process.wait) == 0
            assert await _exists(docker, container)


async def test_a_dead_guard_is_replaced_and_holds_nothing_else() -> None:
    guard = Guard("unix:///nowhere.sock", "0" * 32)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(keep_guard, guard)
            descriptors = Path(f"/proc/{first}/fd")
            # Python has a file open now and then while it starts; what was inherited would stay.
            while {each.name for each in descriptors.iterdir()} != {"0", "1", "2"}:  # noqa: ASYNC240 - memory
                await trio.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            while guard.pid == first:
                await trio.sleep(0.05)
            assert guard.pid is not None
            guard.farewell()
            guard.close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("what", ["pipe", "process", "watch"])
async def test_a_guard_that_cannot_be_replaced_at_once_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What killed it, a shortage of memory perhaps, may be what another one cannot be started for."""
    attempts: list[str] = []
    module, name = {"pipe": (os, "pipe"), "process": (subprocess, "Popen"), "watch": (os, "pidfd_open")}[what]
    works = getattr(module, name)

    def short(*arguments: Any, **options: Any) -> Any:
        attempts.append(what)
        if len(attempts) < 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return works(*arguments, **options)

    guard = Guard("unix:///nowhere.sock", "0" * 32)
    monkeypatch.setattr("supervisor.reaping.guard.RETRY_PAUSE", 0.01)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(keep_guard, guard)
            monkeypatch.setattr(module, name, short)
            os.kill(first, signal.SIGKILL)
            while guard.pid == first:
                await trio.sleep(0.01)
            assert len(attempts) >= 3  # subprocess itself makes pipes, too
            assert guard.watches
            guard.farewell()
            guard.close()
            nursery.cancel_scope.cancel()


async def test_a_guard_whose_engine_never_returns_gives_up_and_says_so(tmp_path: Path) -> None:
    """After the longest life of a container and a margin; its directory goes, the next start has the rest."""
    audit_log, directory = tmp_path / "audit", tmp_path / "instance-of-nobody"
    directory.mkdir()
    guard = Guard(
        "unix:///nowhere.sock",
        "0" * 32,
        directory,
        longest_life=0.5 - GIVE_UP_MARGIN,
        audit_log=str(audit_log),
    )
    with trio.fail_after(30):
        process = guard.start()
        guard.close()
        assert await trio.to_thread.run_sync(process.wait) == 0
    assert not directory.exists()
    [event] = [json.loads(line) for line in audit_log.read_text().splitlines()]
    assert (event["event"], event["severity"], event["instance"]) == ("guard gave up", "critical", "0" * 8)
