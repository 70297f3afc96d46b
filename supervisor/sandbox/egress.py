"""Egress of the sessions' network, as far as it is the sandbox's: the plan for its keeper, the proof that it
holds, and whose a denied packet was.

The proof is by packets, like that of `isolation`: a container made like those of sessions tries what must not
work, and each packet must be reported as denied, with that container's address: then it is known to have
been sent, and to have met the rules. What must work is a question to the resolver, asked the way that
programs ask.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from supervisor.egress import nftables
from supervisor.egress.events import EgressEvent
from supervisor.egress.host import missing_programs_text
from supervisor.egress.keeper_files import socket_path
from supervisor.egress.rules import RELAY_PORT, RESOLVER_PORT, Plan, ruleset
from supervisor.egress.watch import EgressWatch, may_start
from supervisor.errors import ConfigurationError
from supervisor.observability.audit import audit_limited
from supervisor.observability.log import get_logger
from supervisor.observability.redaction import session_digest
from supervisor.sandbox.containers import HardenedContainer, HardenedContainers, program
from supervisor.sandbox.network import NetworkFacts
from supervisor.settings import Settings

_log = get_logger("egress")

LONGEST_CHECK: Final = 5.0
"""Seconds between two looks at rules and resolver, at most."""
NAME: Final = "packets-prove-it.invalid"
"""A name that is on nobody's list."""
NOWHERE: Final = "203.0.113.1"
"""An address that is public by the rules and belongs to nobody (RFC 5737)."""
_EMBEDDED_RESOLVER = "127.0.0.11"  # the engine's, in each container: what programs ask
_PATIENCE = 150  # milliseconds in which an answer would have come
_QUESTION_PATIENCE = 2000  # milliseconds
_REACHED = 1 | 2  # netprobe: by TCP, by UDP
_ANSWERED, _NXDOMAIN = 16, 3  # netprobe ask: 16 and the answer's code


def egress_plan(settings: Settings, network: NetworkFacts, engine_socket: str) -> Plan:
    """Return the plan for the keeper of `network`.

    Args:
        settings: what is let through.
        network: as it is.
        engine_socket: path of the engine's socket, whose group may hear of denials.
    """
    return Plan(
        network=network.name,
        bridge=network.bridge,
        gateway=network.gateway,
        domains=settings.egress_domains,
        ports=settings.egress_ports,
        dns_servers=settings.egress_dns_servers,
        group=Path(engine_socket).stat().st_gid,
        check_interval=min(LONGEST_CHECK, settings.reconcile_interval),
    )


async def missing_egress(settings: Settings, *, local: bool) -> str | None:
    """Return why egress cannot be filtered here, and how it could; None if it can.

    Args:
        settings: for the name of the network.
        local: the engine's containers are on this host.
    """
    if not local:
        return "the engine is not on this host: DOCKER_NETWORK_NAME=none gives no network at all"
    if not may_start():
        if socket_path(settings.network).exists():
            return None
        return "nobody keeps the network's rules, which takes root: sudo terminal-supervisor network up"
    if text := missing_programs_text():
        return text
    plan = Plan(network="check", bridge="check", gateway="10.0.0.1", domains=(), ports=settings.egress_ports)
    try:
        await nftables.check(ruleset(plan, 1))
    except ConfigurationError as error:
        return f"the kernel's nftables cannot do it: {error}"
    return None


def report_events(watch: EgressWatch, session_at: Callable[[str], tuple[str, str]]) -> None:
    """Put what is denied into the audit log, and what is let through into the log.

    Args:
        watch: who hears of it.
        session_at: returns the container and the session at an address, empty where there is none.
    """

    def report(event: EgressEvent) -> None:
        container, session = session_at(event.sender)
        facts = {
            "session": session_digest(session) if session else "",
            "container": container,
            "source": event.source,
            "destination": event.destination,
            "protocol": event.protocol,
            "port": event.port,
            "name": event.name,
        }
        if event.denied:
            facts |= {"reason": event.reason, "untold": event.untold}
            audit_limited("egress denied", "warning", container or event.sender, trio.current_time(), **facts)
        else:
            _log.info("egress", **facts)

    watch.listen(report)


async def prove_egress(containers: HardenedContainers, watch: EgressWatch) -> None:
    """Have a container on the policy's network try to get out. Takes a second or two.

    Raises:
        ConfigurationError: it can, or nothing was proved; the text says what.
        SandboxError: the container is not as the policy asks, or ended.
        DockerError: the engine refuses.
    """
    network, plan = containers.policy.network, watch.plan
    limit = containers.site.proof_time
    listening = math.ceil(2 * limit)  # seconds after which the prober ends by itself
    denied: set[tuple[str, str, int, str]] = set()
    heard = trio.Event()

    def hear(event: EgressEvent) -> None:
        nonlocal heard
        if event.denied:
            denied.add((event.source, event.destination, event.port, event.name))
            heard.set()
            heard = trio.Event()

    forget = watch.listen(hear)
    try:
        async with containers.create(
            [program("netprobe"), "listen", "7007", str(listening)],
            role="probe",
            lifetime=listening,
            mounts=containers.site.program_mounts("netprobe"),
        ) as container:
            await container.start()
            source = container.address
            with trio.move_on_after(limit) as scope:
                server = plan.gateway if containers.policy.runtime.kind.sentry else _EMBEDDED_RESOLVER
                code = await _probe(container, "ask", server, NAME, str(_QUESTION_PATIENCE))
                if code != _ANSWERED + _NXDOMAIN:
                    raise ConfigurationError(
                        f"egress of the network {network}: a container does not reach the resolver at "
                        f"{plan.gateway} (status {code}): does a firewall of this host drop what comes from "
                        f"{plan.bridge}? It must let in TCP and UDP port {RESOLVER_PORT} and TCP port "
                        f"{RELAY_PORT} from there"
                    )
                while (source, "", 53, NAME) not in denied:
                    await heard.wait()
                for address, port in (
                    (NOWHERE, plan.ports[0]),  # not listed
                    (NOWHERE, 53),  # another resolver
                    ("169.254.169.254", 80),  # clouds' metadata
                    (plan.gateway, RELAY_PORT),  # this host
                ):
                    await _must_be_denied(container, (source, address, port, ""), denied, lambda: heard)
            if scope.cancelled_caught:
                raise ConfigurationError(
                    f"egress of the network {network}: nothing proved, the rules have not reported all "
                    f"denied packets within {limit:g} s"
                )
    finally:
        forget()


async def _must_be_denied(
    container: HardenedContainer,
    wanted: tuple[str, str, int, str],
    denied: set[tuple[str, str, int, str]],
    heard: Callable[[], trio.Event],
) -> None:
    """Try until the rules have reported it: they do not report everything of a noisy address."""
    _, address, port, _ = wanted
    while wanted not in denied:
        code = await _probe(container, "contact", address, str(port), str(_PATIENCE))
        if code & _REACHED:
            raise ConfigurationError(
                f"egress is not filtered: a container reaches {address} port {port} (status {code})"
            )
        with trio.move_on_after(1):
            while wanted not in denied:
                await heard().wait()


async def _probe(container: HardenedContainer, *arguments: str) -> int:
    """Have the prober do something, and return its exit status."""
    execution = await container.engine.exec([program("netprobe"), *arguments])
    async with execution.start() as stream:
        while await stream.receive_some():
            pass
    # The stream can end a moment before the engine knows the status.
    while (code := (await execution.inspect())["ExitCode"]) is None:  # noqa: ASYNC110 - nothing else tells
        await trio.sleep(0.02)
    return int(code)
