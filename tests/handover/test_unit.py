"""The unit file's confinement: what it must ask for, and a server that is confined by it, on the engine."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from conftest import missing, opt_outs
from faults.supervised import containers_of, guards_of, instance_of, is_running, processes_in
from sandbox.conftest import command_lines, network_name

from handover import confined
from handover.harness import Faithful, server, until
from handover.test_packaging import UNIT
from supervisor.egress.host import missing_programs
from supervisor.engine import Docker
from supervisor.reaping.cgroups import hierarchies
from supervisor.sandbox.seen import NAMESPACES
from supervisor.sandbox.shares import INSTANCES

__all__ = ["network_name"]

TIMEOUT = 150.0
INSTANCES_FILE = Path("/proc/sys/user/max_inotify_instances")
WITHIN = (
    *("unshare", "--mount", "--propagation", "slave"),
    *(sys.executable, confined.__file__, "--files", str(UNIT)),
)
BOUND = "import sys, trio; from supervisor.sandbox.shares import *; trio.run(bound_shares, int(sys.argv[1]))"
LOOK = "import sys; from supervisor.sandbox.seen import *; print(*sorted(look(int(sys.argv[1])).namespaces))"
REFUSED = re.compile(r"not permitted|ermission denied|EPERM|EACCES|ead-only file system|Traceback")
"""What a log has when something is missing."""

CAPABILITIES = {  # linux/capability.h
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_AUDIT_READ": 37,
}


def test_without_capabilities_that_are_root_again() -> None:
    """Those that the server needs, and none with which a mistake of its own is as good as the whole host."""
    allowed = confined.read_unit(UNIT)["CapabilityBoundingSet"]
    assert allowed == sorted(set(allowed))
    too_much = "SYS_ADMIN SYS_MODULE SYS_RAWIO SYS_BOOT BPF MAC_ADMIN MKNOD SETFCAP SETPCAP"
    assert not {f"CAP_{name}" for name in too_much.split(" ")} & set(allowed)


def test_settings_of_the_unit() -> None:
    unit = confined.read_unit(UNIT)
    on = (
        *("LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateTmp"),
        *("ProtectClock", "ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
        *("RestrictRealtime", "RestrictSUIDSGID"),
    )
    assert [name for name in on if unit.get(name) != ["yes"]] == []
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["RestrictNamespaces"] == ["user"]
    assert unit["SystemCallArchitectures"] == ["native"]
    # Would break it; the file says why.
    assert not {"PrivateNetwork", "PrivateUsers", "ProtectProc", "ProcSubset", "PrivateMounts"} & unit.keys()
    assert not {"ProtectControlGroups", "ProtectKernelTunables"} & unit.keys()
    # What becomes code of the kernel's, or of root's: no way around the limits of the process.
    dangerous = {"mount", "pivot_root", "chroot", "ptrace", "bpf"} | {"init_module", "kexec_load"}
    assert not dangerous & confined.calls_of(unit["SystemCallFilter"])


def test_what_is_limited_in_a_user_namespace_takes_no_sys_admin(request: pytest.FixtureRequest) -> None:
    """Where the engine remaps users, the owner of a container's namespace is root: that is enough."""
    if os.geteuid() != 0:
        missing(request, "the unit's server is root")
    with subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; exec sleep 60"], stdout=PIPE) as container:
        try:
            assert container.stdout
            container.stdout.read(1)
            for kind in ("uid", "gid"):
                Path(f"/proc/{container.pid}/{kind}_map").write_text("0 100000 65536")
            bound = [*WITHIN, sys.executable, "-c", BOUND, str(container.pid)]
            subprocess.run(bound, check=True, timeout=60)
            look = ["nsenter", "--user", "--target", str(container.pid), "cat", str(INSTANCES_FILE)]
            assert int(subprocess.check_output(look, timeout=60)) == INSTANCES
            assert int(INSTANCES_FILE.read_text()) > INSTANCES
        finally:
            container.kill()


@pytest.mark.engine
@pytest.mark.netns
async def test_a_server_that_is_confined_by_the_unit_lacks_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, docker_host: str, workbench_image: str, network_name: str
) -> None:
    """Filtered egress, session, pool, hand-over to a successor that it starts itself, end: as without, and no
    refusal in the log.
    """
    if os.geteuid() != 0:
        missing(request, "the unit's server is root")
    if absent := missing_programs():
        missing(request, f"egress needs {' and '.join(absent)}")
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = f"@{secrets.token_hex(8)}"  # no file: the server has a /tmp of its own
    manager.bind(f"\0{address[1:]}")
    told: list[str] = []
    arguments = ("serve", "--no-setup", "--port", "0")
    settings = {
        "DOCKER_HOST": docker_host,
        "DOCKER_NETWORK_NAME": network_name,
        "HARDENING_WITHOUT": ",".join(name for name in opt_outs() if name != "egress"),
        "NOTIFY_SOCKET": address,
        "WARM_POOL_SIZE": "1",
    }
    with manager, trio.fail_after(TIMEOUT):
        listener = trio.socket.from_stdlib_socket(manager)

        async def listen() -> None:
            while True:
                told.append((await listener.recv(4096)).decode())

        async with (
            Docker(docker_host) as docker,
            server(tmp_path, *arguments, within=WITHIN, **settings) as one,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(listen)
            await one.wait_open()
            instance = instance_of(one.process.pid)
            await until(lambda: any("READY=1" in each for each in told))
            assert confinement(one.process.pid) == expected_confinement()
            # What a refusal would only be a warning about.
            assert [group for root in set(hierarchies().values()) for group in root.glob(f"*{instance}*")]
            visitor = Faithful(one.url)
            await nursery.start(visitor.run)
            await visitor.type(b"echo be''fore\r")
            await visitor.wait_for(b"before\r")
            # Of what cannot be seen there is only the report from inside, and nothing in the log.
            for process in processes_in(await containers_of(docker, instance)):
                look = [*WITHIN, sys.executable, "-c", LOOK, str(process)]
                done = await trio.run_process(look, capture_stdout=True)
                assert done.stdout.decode().split() == list(NAMESPACES)
            del told[:]
            one.process.send_signal(signal.SIGHUP)
            assert await one.ended() == 0, one.log.read_text()
            await until(lambda: any("READY=1" in each for each in told))
            [main] = [each for each in told if each.startswith("MAINPID=")]
            pid = int(main.strip().removeprefix("MAINPID="))
            assert confinement(pid) == expected_confinement()
            await visitor.type(b"echo af''ter\r")
            await visitor.wait_for(b"after\r")
            os.kill(pid, signal.SIGTERM)
            await until(lambda: not is_running(pid), 60)
            await until(lambda: guards_of(instance) == [], 60)
            assert await containers_of(docker, instance) == set()
            await until(
                lambda: command_lines(network_name) == []
            )  # the keeper and its dnsmasq, a user of its own
            assert not [group for root in set(hierarchies().values()) for group in root.glob(f"*{instance}*")]
            assert not [line for line in one.log.read_text().splitlines() if REFUSED.search(line)]
            nursery.cancel_scope.cancel()


def confinement(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {name: status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "NoNewPrivs", "Seccomp")}


def expected_confinement() -> dict[str, str]:
    """Return what it must say: these capabilities, and a filter."""
    numbers = (CAPABILITIES[name] for name in confined.read_unit(UNIT)["CapabilityBoundingSet"])
    mask = f"{sum(1 << number for number in numbers):016x}"
    rest = {"CapInh": f"{0:016x}", "NoNewPrivs": "1", "Seccomp": "2"}
    return {"CapPrm": mask, "CapEff": mask, "CapBnd": mask, **rest}
