"""An engine of the test's own that knows Debian's runsc: run as a program.

unshare --net --mount python own_engine.py DIRECTORY ENGINE

ENGINE is where the workbench image is taken from. A line on standard output says that it is up; at the end of
standard input it ends. Its socket is DIRECTORY/run/docker.sock.
"""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import trio
from faults.trouble import load_image, save_image

from supervisor.engine import Docker, DockerError
from supervisor.provision import daemon, ending
from supervisor.provision.daemon import EnginePaths
from supervisor.provision.engine import bridge_name, engine_in_use
from supervisor.provision.report import Report

# Runsc of 2022 takes a network namespace in which it finds /proc/sys/net/core/rmem_default for the host's,
# and newer kernels have that in each. Of /proc/sys it needs one file.
WRAPPER = """#!/bin/sh
exec unshare --mount --propagation slave sh -c '
    least=$(cat /proc/sys/vm/mmap_min_addr) &&
    mount -t tmpfs none /proc/sys && mkdir /proc/sys/vm && echo "$least" >/proc/sys/vm/mmap_min_addr &&
    exec runsc "$@"' sh "$@"
"""
PLATFORM = "--platform=ptrace"
SECCOMP = "--oci-seccomp"


def runtimes(directory: Path) -> dict[str, dict[str, object]]:
    """Runtimes of the engine, as its daemon.json has them."""
    wrapper = directory / "runsc-wrapper"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    nameless = directory / "sandboxed"
    nameless.write_text('#!/bin/sh\nexec runsc "$@"\n')
    nameless.chmod(0o755)
    runsc = shutil.which("runsc")
    return {
        "runsc": {"path": runsc, "runtimeArgs": [PLATFORM, "--network=none", SECCOMP]},
        "runsc-plain": {"path": runsc, "runtimeArgs": [PLATFORM, "--network=none"]},
        "runsc-host-stack": {"path": runsc, "runtimeArgs": [PLATFORM, "--network=host", SECCOMP]},
        "runsc-own-stack": {"path": str(wrapper), "runtimeArgs": [PLATFORM, SECCOMP]},
        "runsc-in-name-only": {"path": shutil.which("runc")},
        "nameless": {"path": str(nameless), "runtimeArgs": [PLATFORM, "--network=none", SECCOMP]},
    }


async def main(directory: Path, url: str) -> None:
    paths = EnginePaths(directory / "data", directory / "run", "ts-gvisor0")
    configuration = directory / "daemon.json"
    configuration.write_text(json.dumps({"runtimes": runtimes(directory)}))
    command_line = daemon.command_line
    daemon.command_line = lambda paths, plan, *, remap: [
        *command_line(paths, plan, remap=remap),
        f"--config-file={configuration}",
    ]
    bridges: list[str] = []
    try:
        with trio.fail_after(90):
            await save_image(url, directory / "image.tar")
        async with engine_in_use(paths.url, Report(io.StringIO()), paths=paths, keep=True):
            async with Docker(paths.url) as docker:
                await load_image(docker, directory / "image.tar")
            print("up", flush=True)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
    finally:
        with trio.move_on_after(40, shield=True):
            async with Docker(paths.url) as docker:
                try:
                    bridges = [bridge_name(network) for network in await docker.networks.list()]
                except DockerError as error:  # it is not there: what failed says why
                    print(error, file=sys.stderr)
            await ending.end(paths, bridges)


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    trio.run(main, Path(sys.argv[1]), sys.argv[2])
