"""Network namespaces with everything that egress is about: a machine with a bridge, sessions on it, and the
world outside. They are connected to each other and to nothing else, so no packet can leave this machine.
"""

import json
import secrets
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervisor.attacks.outside import HOST_RESOLVER
from supervisor.attacks.world import connect_outside, ip, namespace, serving, set_kernel
from supervisor.egress.keeper import plan_as_json
from supervisor.egress.keeper_files import socket_path
from supervisor.egress.rules import Plan
from supervisor.egress.watch import EgressWatch

VISITOR = Path(__file__).with_name("visitor.py")
Attempt = tuple[str, str, int, str]
GATEWAY = "10.250.7.1"
SESSIONS = ("10.250.7.2", "10.250.7.3")


@attrs.define
class World:
    """The namespaces, by the prefixes of commands that run in them."""

    tag: str
    machine: list[str]
    sessions: list[list[str]]
    outside: list[str]
    arrived: list[str] = attrs.field(factory=list)
    """What the world outside has seen: see `outside`."""

    def plan(self, **changes: object) -> Plan:
        values: dict[str, object] = {
            "network": f"ts-test-{self.tag}",
            "bridge": "sessions",
            "gateway": GATEWAY,
            "domains": ("*.listed.example", "listed.example"),
            "ports": (443, 8443),
            "dns_servers": (HOST_RESOLVER,),
            "check_interval": 0.3,
        }
        return Plan(**{**values, **changes})  # type: ignore[arg-type]

    async def attempts(self, *attempts: Attempt, session: int = 0) -> list[str]:
        """Have a session try things, all at once: see `visitor`."""
        command = [*self.sessions[session], sys.executable, "-I", str(VISITOR), *words(attempts)]
        done = await trio.run_process(command, capture_stdout=True)
        return done.stdout.decode().split("\n")[:-1]

    async def nft(self, text: str) -> str:
        done = await trio.run_process(
            [*self.machine, "nft", "-f", "-"], stdin=text.encode(), capture_stdout=True
        )
        return done.stdout.decode()

    @asynccontextmanager
    async def kept(
        self, plan: Plan, *options: str, within: tuple[str, ...] = ()
    ) -> AsyncGenerator[EgressWatch]:
        """Run a keeper on the machine, by way of a command `within`; a watch that is ready."""
        command = [sys.executable, "-m", "supervisor.egress.keeper", "--foreground", *options]
        socket_path(plan.network).unlink(missing_ok=True)  # of one that was killed
        process = await trio.lowlevel.open_process(
            [*self.machine, *within, *command, json.dumps(plan_as_json(plan))]
        )
        watch = EgressWatch(plan, starts=False)
        try:
            with trio.fail_after(20):
                while not socket_path(plan.network).exists():
                    assert process.poll() is None
                    await trio.sleep(0.02)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                with trio.fail_after(20):
                    await watch.wait_ready()
                yield watch
                nursery.cancel_scope.cancel()
        finally:
            process.terminate()
            with trio.CancelScope(shield=True), trio.move_on_after(10) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()


def words(attempts: Iterable[Attempt]) -> list[str]:
    """Attempts as the arguments of `visitor`."""
    return [",".join(map(str, attempt)) for attempt in attempts]


@asynccontextmanager
async def world(*, certificate: Path | None = None) -> AsyncGenerator[World]:
    """Make it all, and take it away again."""
    tag = secrets.token_hex(3)
    names = [f"ts-{tag}-{role}" for role in ("machine", "outside", "s0", "s1")]
    with ExitStack() as stack:
        machine, outside, *sessions = (stack.enter_context(namespace(name)) for name in names)
        ip("-n", names[0], "link", "add", "sessions", "type", "bridge")
        # As engines have it; else packets between two ports of a bridge meet no rules.
        set_kernel(machine, "net.bridge.bridge-nf-call-iptables=1")
        ip("-n", names[0], "address", "add", f"{GATEWAY}/24", "dev", "sessions")
        ip("-n", names[0], "link", "set", "sessions", "up")
        for name, address in zip(names[2:], SESSIONS, strict=True):
            peer = f"v{address.rpartition('.')[2]}"
            ip("-n", names[0], "link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("-n", names[0], "link", "set", peer, "master", "sessions", "up")
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "route", "add", "default", "via", GATEWAY)
        ip("-n", names[0], "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        connect_outside(names[1], machine, ["-n", names[0]])
        async with serving(outside, certificate) as arrived:
            yield World(tag, machine, sessions, outside, arrived)
