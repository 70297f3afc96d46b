"""What Landlock takes away from a session: each attack shown to succeed without it, and to fail with it."""

import attrs
import pytest
import trio
from conftest import opt_outs

from sandbox.conftest import IMAGE, docker_settings
from supervisor.provision.compiler import docker_directory
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.landlock import gate_arguments, kernel_version
from supervisor.sandbox.policy import HardeningPolicy
from supervisor.sandbox.providers import open_docker_provider
from supervisor.sandbox.runtimes import Runtime
from supervisor.sandbox.seccomp import load_profile
from supervisor.sandbox.terminal import LeaseRequest
from supervisor.settings import Settings

LIMIT = 60.0


# Each prints its name when it succeeds. Versions of Landlock's interface: TCP needs 4, signals 6.
ATTACKS = {
    "pty": (1, "(exec 3<>/dev/ptmx) && echo @pty"),
    "shm": (1, "touch /dev/shm/x && echo @shm"),
    "listen": (
        4,
        """python3 -c 'import socket; socket.socket().bind(("127.0.0.1", 8000)); print("@" + "listen")'""",
    ),
    "signal": (6, "kill -0 1 && echo @signal"),
    "escape": (1, "bash -c 'setsid -w bash -c \"(exec 3<>/dev/ptmx) && echo @escape\"'"),
}
# What must go on working, likewise.
HARMLESS = {
    "own terminal": "echo x >$(tty) && stty -a </dev/tty >/dev/null && echo @own",
    "devices": "head -c 4 /dev/urandom >/dev/null && cat /dev/null && echo @devices",
    "files": "cd /tmp && echo a >f && mv f g && ln -s g h && rm g h && mkfifo p && mkdir d && echo @files",
    "pipes": "echo @pipes | cat >/dev/stdout; cat <(echo x) >/dev/null",
    "programs": "/usr/bin/env true && ls / /etc /proc/self >/dev/null && echo @programs",
    "own processes": "sleep 60 & kill $! && echo @own-processes",
    "unix sockets": "python3 -c 'import socket; a, b = socket.socketpair(); print(\"@unix\")'",
}


async def output_of(provider: DockerProvider, script: str) -> str:
    async with provider.lease(LeaseRequest("test", ("bash", "-c", script))) as terminal:
        output = b""
        while data := await terminal.receive_some():
            output += data
    return output.decode()


@pytest.mark.engine
@pytest.mark.parametrize("transport", ["lifeline", "attach"])
async def test_attacks(request: pytest.FixtureRequest, transport: str) -> None:
    assert kernel_version(), "this kernel has no Landlock"
    possible = {name for name, (version, _) in ATTACKS.items() if version <= kernel_version()}
    script = "; ".join(attack for _, attack in ATTACKS.values())
    with trio.fail_after(LIMIT):
        settings = docker_settings(request, transport=transport, hardening_without=(*opt_outs(), "landlock"))
        async with open_docker_provider(settings, verify=False) as without:
            output = await output_of(without, script)
            assert {name for name in ATTACKS if f"@{name}" in output} == ATTACKS.keys()
        settings = docker_settings(request, transport=transport)
        async with open_docker_provider(settings, verify=False) as provider:
            output = await output_of(provider, script)
            assert {name for name in possible if f"@{name}" in output} == set(), output
            harmless = await output_of(provider, "; ".join(HARMLESS.values()))
            assert harmless.count("@") == len(HARMLESS), harmless


def test_rules() -> None:
    arguments = gate_arguments(
        path="/app/bin:relative::/usr/bin", home="/home/me", programs=["/nix"], writable=["/tmp"], ports=None
    )
    rules = arguments[1::2]
    assert set(arguments[::2]) == {"--allow"}
    assert {"l:/", "x:/usr", "x:/app/bin", "x:/nix", "r:/etc", "r:/home/me", "w:/tmp", "d:/dev/null"} <= set(
        rules
    )
    assert len(rules) == len(set(rules))
    assert not any(rule.endswith(("relative", ":", "ptmx", "shm")) for rule in rules)
    with_ports = gate_arguments(path="", home="/", programs=[], writable=[], ports=[443, 53])
    assert with_ports[-4:] == ["--connect", "443", "--connect", "53"]


def test_ports_are_those_of_egress() -> None:
    profile = load_profile(docker_directory() / "seccomp.json")

    def ports(**changes: object) -> tuple[int, ...] | None:
        settings = Settings(**changes)  # type: ignore[arg-type]
        return HardeningPolicy.from_settings(settings, IMAGE, profile, Runtime("runc")).ports

    assert ports(egress_ports=(443, 8443)) == (53, 443, 8443)
    assert ports(hardening_without=("egress",)) is None, "then packets may go anywhere"
    assert ports(network="none") is None, "there is nothing to connect to"


@pytest.mark.engine
async def test_no_connection_to_other_ports(hardened: DockerProvider) -> None:
    assert kernel_version() >= 4, "this kernel's Landlock knows no ports"
    attempt = (
        "python3 -c 'import errno, socket\n"
        'for port in (443, 80): print(errno.errorcode[socket.socket().connect_ex(("127.0.0.1", port))])\''
    )
    containers = hardened.containers
    with trio.fail_after(LIMIT):
        assert (await output_of(hardened, attempt)).split() == ["ECONNREFUSED", "ECONNREFUSED"]
        containers.policy = attrs.evolve(containers.policy, ports=(443,))
        assert (await output_of(hardened, attempt)).split() == ["ECONNREFUSED", "EACCES"]
