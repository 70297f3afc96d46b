"""`docker/syscalls/traced.json`: the system calls that programs of a sandbox make, by tracing them in one.

    python -m supervisor.provision.trace_syscalls NODE > docker/syscalls/traced.json

Needs root, strace, an engine on this host with the workbench image, and a Node for Linux (its executable;
`make setup` leaves one in `.state/cli-*/tree/bin/node`). Each workload runs as a session does: claimed from a
gate, on a terminal of its own, in a container that is hardened but for what would hide calls (the seccomp
profile itself, Landlock). strace is attached to the gate and to the process that becomes the command before
the claim, so what it sees includes the gate's part. The gate's other calls are read off its source.

Prints to standard error what differs between the profile and the result: see `syscall_audit`.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.engine import Docker
from supervisor.provision.archive import BuildContext
from supervisor.provision.compiler import docker_directory
from supervisor.provision.image import WORKBENCH
from supervisor.provision.syscall_audit import Seen, audit, calls_in, read_reasons, write_summary
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.identity import PRODUCT
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.seen import only_child
from supervisor.sandbox.terminal import LeaseRequest, Terminal
from supervisor.settings.load import load_settings

TRACED_IMAGE: Final = f"{PRODUCT}-traced:latest"
_HIDES_CALLS: Final = ("seccomp", "landlock")  # what a program is refused by these, it does not try twice
_NOT_NEEDED: Final = ("apparmor", "userns", "egress", "isolation")
_TIME: Final = 120.0  # seconds for a workload; ended then, what was seen counts
_FILES: Final = "/usr/local/share/workloads"

WORKLOADS: Final[dict[str, tuple[tuple[str, ...], bytes]]] = {
    "bash": (("bash",), b"sleep 9 &\rjobs; fg\r\x03ls /u\t\x1b[A\x1b[D\x12ls\r\x1a\x04exit\r"),
    "restricted-shell": (("restricted-shell",), b"help\rnode -e 1\rnope\rnode\t\t \x1b[A\x03\r\x04exit\r"),
    "tools": (("bash", f"{_FILES}/shell.sh"), b""),
    "node": (("node", "--expose-gc", f"{_FILES}/node.js"), b""),
    "node, interactive": (("node",), b"1+1\r\t\t.help\r.exit\r"),
    "python": (("python3", f"{_FILES}/python.py"), b""),
    "python, interactive": (("python3",), b"1+1\rexit()\r"),
    "vi": (("vi", "/run/file"), b"ihello\x1b:!ls\r\r:w\r:wq\r"),
    "less": (("less", "/etc/passwd"), b" /root\rv\x1b:q!\rGq"),
    "htop": (("htop", "-d", "2"), b"htF6\x1b\x1bq"),
    "top": (("top",), b"1cq"),
    "watch": (("bash", "-c", "timeout -s INT 2 watch -n1 ls"), b""),
}
"""For each workload: its command, and what is typed, one key after the other."""


def gate_calls() -> set[str]:
    """Return the names of the calls in the gate's source."""
    headers = (docker_directory() / "gate").glob("sys_*.h")
    return {name for header in headers for name in re.findall(r"\bNR_(\w+) =", header.read_text())}


async def _strace(
    processes: list[int], log: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Trace `processes` and their children into `log`, until the last of them ends."""
    attached = [argument for process in processes for argument in ("-p", str(process))]
    command = ["strace", "-f", "-X", "raw", "-s", "0", "-e", "signal=none", "-o", str(log), *attached]
    tracer = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    said = b""
    while said.count(b" attached") < len(processes):
        if not (more := await tracer.stderr.receive_some()):
            raise RuntimeError(f"strace: {said.decode()}")
        said += more
    task_status.started()
    async for _ in tracer.stderr:
        pass
    await tracer.wait()


async def _run(provider: DockerProvider, name: str, log: Path) -> None:
    command, typed = WORKLOADS[name]
    async with trio.open_nursery() as nursery, provider.prepare(_TIME) as sandbox:
        child = only_child(sandbox.pid)
        assert child is not None
        await nursery.start(_strace, [sandbox.pid, child], log)
        request = provider.complete(LeaseRequest("trace", command, {"SHELL": "/bin/bash"}))
        async with sandbox.claim(request) as terminal:
            end = f"ended after {_TIME:g} s"
            with trio.move_on_after(_TIME):
                async with trio.open_nursery() as keys:
                    keys.start_soon(_type, terminal, typed)
                    while output := await terminal.receive_some():
                        sys.stderr.buffer.write(output)
                    keys.cancel_scope.cancel()
                end = str(await terminal.wait_closed())
            sys.stderr.write(f"\n== {name}: {end}\n")


async def _type(terminal: Terminal, typed: bytes) -> None:
    for key in re.findall(rb"\x1b\[.|.", typed, re.DOTALL):
        await trio.sleep(0.3)  # programs drop what is typed before they are ready for it
        await terminal.send_all(key)


async def _make_image(docker: Docker, node: Path) -> None:
    context = BuildContext()
    text = f"FROM {WORKBENCH}\nCOPY node /usr/local/bin/node\nCOPY workloads/ {_FILES}/\n"
    context.add("Dockerfile", f"{text}COPY commands /etc/terminal-supervisor/commands\n".encode())
    context.add("node", node.resolve(), program=True)
    context.add("commands", b"node\n")
    for name in ("node.js", "shell.sh", "python.py"):
        context.add(f"workloads/{name}", docker_directory() / "syscalls" / name)
    with tempfile.TemporaryFile() as archive:
        context.pack(archive)
        archive.seek(0)
        async with docker.images.build(
            fileobj=archive, tag=TRACED_IMAGE, forcerm=True, networkmode="none", stream=True, timeout=600
        ) as lines:
            async for _line in lines:
                pass


async def trace(node: Path) -> Seen:
    """Run all workloads, one after the other, and return what was seen of them."""
    settings = attrs.evolve(
        load_settings(),
        image=TRACED_IMAGE,
        hardening_without=(*_HIDES_CALLS, *_NOT_NEEDED),
        transport="lifeline",
    )
    async with Docker(settings.docker_host or None) as docker:
        await _make_image(docker, node)
    seen: Seen = {name: {"gate"} for name in gate_calls()}
    with tempfile.TemporaryDirectory() as scratch:
        async with open_docker_provider(settings, verify=False) as provider:
            for name in WORKLOADS:
                log = Path(scratch) / "trace"
                await _run(provider, name, log)
                for call, arguments in calls_in(log.read_text().splitlines()):
                    seen.setdefault(call, set()).add(name)
                    if arguments:
                        seen.setdefault(f"{call} {arguments}", set()).add(name)
    return seen


def main(node: Path) -> None:
    """Trace, print the summary, and complain."""
    seen = trio.run(trace, node)
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    sys.stdout.write(write_summary(seen, {"image": WORKBENCH, "node": version.stdout.strip()}))
    profile = json.loads((docker_directory() / "seccomp.json").read_text())
    for problem in audit(profile, seen, read_reasons(docker_directory() / "syscalls/reasons.toml")):
        sys.stderr.write(f"{problem}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
