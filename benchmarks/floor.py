"""The floors: what the parts cost without this project in between, measured in the same run.

`bare_pty_…` is a local PTY without anything: the physical limit of an echo and a flood. `bare_engine` is the
engine alone: create, start and the prompt of a container with the same HostConfig, over the same engine
    client.
"""

import os
import pty
import select
import subprocess
import time

from benchmarks.measure import PROMPT, READY, Distribution, Throughput, distribution
from supervisor.engine import Docker
from supervisor.sandbox.providers import open_docker_provider
from supervisor.settings import Settings


def _spawn(command: str) -> tuple[int, "subprocess.Popen[bytes]"]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"stty raw -echo; printf 'raw-%s' ready; {command}"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    while READY not in seen:
        seen += os.read(master, 65536)
    return master, process


def bare_pty_echo(count: int, interval: float) -> Distribution:
    """Echo of a local PTY, by a plain blocking reader."""
    master, process = _spawn("exec cat")
    times: list[float] = []
    for _ in range(count):
        time.sleep(interval)
        began = time.perf_counter()
        os.write(master, b"k")
        os.read(master, 16)
        times.append(time.perf_counter() - began)
    process.kill()
    process.wait()
    os.close(master)
    return distribution(times)


def bare_pty_flood(size: int) -> Throughput:
    """Output rate of a local PTY, by a plain blocking reader."""
    expected = size // 65536 * 65536
    master, process = _spawn(f"dd if=/dev/zero bs=64k count={size // 65536} 2>/dev/null; sleep 5")
    got, began = 0, time.perf_counter()
    while got < expected and select.select([master], [], [], 10)[0]:
        got += len(os.read(master, 65536))
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    os.close(master)
    return Throughput(got, seconds)


async def bare_engine(settings: Settings, count: int) -> dict[str, Distribution]:
    """The engine alone, with the HostConfig that the policy makes: create, attach, start, first byte; one
    after another.
    """
    times: list[float] = []
    async with (
        open_docker_provider(settings, verify=False) as provider,
        Docker(settings.docker_host or None) as docker,
    ):
        config = provider.containers.policy.to_create_config(
            ["/bin/bash", "--norc", "--noprofile"],
            labels=provider.containers.site.identity.labels("benchmark", 60),
            mounts=[],
            tty=True,
        )
        for number in range(count):
            began = time.perf_counter()
            container = await docker.containers.create(config, name=f"ts-bench-floor-{os.getpid()}-{number}")
            try:
                async with container.attach(stdout=True, stderr=True, stdin=True) as stream:
                    await container.start()
                    seen = b""
                    while PROMPT not in seen:
                        message = await stream.read_out()
                        if message is None:
                            raise RuntimeError("the floor's container ended without a prompt")
                        seen += message.data
                    times.append(time.perf_counter() - began)
            finally:
                await container.delete(force=True)
    return {"start": distribution(times)}
