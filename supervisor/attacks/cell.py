"""A session's container with some of its defences, and attacks in it: started through its gate, as sessions
are.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import attrs
import trio

from supervisor.attacks.attack import DEFENCES, Attack, Defence, Outcome
from supervisor.attacks.weakened import JSON, weakened
from supervisor.errors import SandboxError
from supervisor.measures import Measure
from supervisor.sandbox.containers import HardenedContainer, HardenedContainers, program
from supervisor.sandbox.docker import CONNECT_TIMEOUT, LIFELINE
from supervisor.sandbox.inside import judged
from supervisor.sandbox.leaving import claimed
from supervisor.sandbox.lifeline import SOCKET_NAME, Lifeline, open_lifeline_socket
from supervisor.sandbox.policy import HardeningPolicy, Mount
from supervisor.sandbox.terminal import LeaseRequest

LIFETIME: Final = 300.0
"""Seconds after which a cell ends itself."""
_IDLE = 30
_MARK = "@@ "


Try = Callable[[AbstractSet[Defence], Sequence[Attack]], Awaitable[dict[str, Outcome]]]
"""Tries attacks with some defences; returns what came of each, by name."""


async def tried(
    containers: HardenedContainers,
    on: AbstractSet[Defence],
    tools: Sequence[Mount],
    words: Sequence[str],
    at_once: Sequence[str] = (),
) -> dict[str, Outcome]:
    """Try attacks in a new container with the protection of `on` alone, one after the other.

    Args:
        containers: by which policy; on transport `lifeline`.
        on: see `weakened`; all defences: the container is judged as each session's is.
        tools: the attacker among them, beside our own programs.
        words: what the attacker is to do, one after the other, `NAME=ARGUMENT` each.
        at_once: what it is to do then, all at the same time: for what takes long and little.

    Returns: what came of each that was tried, by name.

    Raises:
        SandboxError: the container did not come up, or ended before the last attack.
    """
    command = (program("attacker"), " ".join(words), " ".join(at_once))
    request = LeaseRequest(
        "attack",
        command,
        {"TERM": "dumb"},
        lifetime=LIFETIME,
        hangup_grace=0,
    )
    output = b""
    with trio.fail_after(LIFETIME):
        async with started(containers, on, tools) as gate, claimed(gate, request) as terminal:
            while data := await terminal.receive_some():
                output += data
    outcomes = parsed(output.decode(errors="replace"))
    missing = {each.partition("=")[0] for each in (*words, *at_once)} - outcomes.keys()
    if missing:
        raise SandboxError(
            f"nothing was heard of the attacks {', '.join(sorted(missing))}: {output[-300:]!r}"
        )
    return outcomes


def word(attack: Attack, values: Mapping[str, str]) -> str:
    """Return what to tell the attacker."""
    return f"{attack.name}={attack.argument.format_map(values)}"


def parsed(output: str) -> dict[str, Outcome]:
    """Return what the attacker said, by attack."""
    found: dict[str, Outcome] = {}
    for line in output.replace("\r", "").split("\n"):
        if _MARK in line:
            name, verdict, text = line.partition(_MARK)[2].split(" ", 2)
            found[name] = Outcome(verdict == "succeeded", text)
    return found


@asynccontextmanager
async def started(
    containers: HardenedContainers, on: AbstractSet[Defence], tools: Sequence[Mount]
) -> AsyncGenerator[Lifeline]:
    """Start a container with the protection of `on`, and yield its gate, ready for a command.

    Raises:
        SandboxError: it did not come up, or is not what the policy asks for although nothing was taken away.
        DockerError: the engine refuses.
    """
    site, own_user = containers.site, Measure.SESSION_UID in on
    async with AsyncExitStack() as stack:
        policy = stack.enter_context(containers.policy_for_one()) if own_user else containers.policy
        with containers.passwd_mounts(policy) as passwd:
            # By whichever user; who it was is looked at all the same.
            async with open_lifeline_socket(site.sockets) as listener:
                rules = confined(policy, on).gate_arguments
                config = policy.to_create_config(
                    [program("gate"), "--idle", str(_IDLE), *rules, f"{LIFELINE}/{SOCKET_NAME}"],
                    labels=site.identity.labels("attack", LIFETIME),
                    mounts=[
                        *site.program_mounts("gate"),
                        Mount(str(listener.directory), LIFELINE),
                        *passwd,
                        *tools,
                    ],
                )
                container = await stack.enter_async_context(made(containers, weakened(config, on)))
                await container.engine.start(timeout=None)
                pid = (await container.engine.show(timeout=None))["State"]["Pid"]
                gate = await stack.enter_async_context(await listener.accept(pid, CONNECT_TIMEOUT))
        report, process = await gate.receive_report()
        if on >= set(DEFENCES) - policy.without:
            judged(policy, report, process, local=True)
        yield gate


def confined(policy: HardeningPolicy, on: AbstractSet[Defence]) -> HardeningPolicy:
    """Return `policy` with what the gate adds of `on` alone."""
    profile = policy.session_profile if Measure.APPARMOR in on else ""
    without = policy.without if Measure.LANDLOCK in on else policy.without | {Measure.LANDLOCK}
    return attrs.evolve(policy, session_profile=profile, without=without)


@asynccontextmanager
async def made(containers: HardenedContainers, config: JSON) -> AsyncGenerator[HardenedContainer]:
    """Create a container by `config`, which is not compared with the policy.

    Resource handling: leaving removes it and makes sure, as `HardenedContainers.create` does.
    """
    site, pending = containers.site, containers.pending
    name = site.identity.new_name("attack")
    container = HardenedContainer(site, containers.policy, pending, name, lambda: config)
    pending.register(name)
    try:
        await container.create()
        yield container
    finally:
        with trio.CancelScope(shield=True):  # `remove` has a deadline
            if name in pending:
                await pending.remove(name)
