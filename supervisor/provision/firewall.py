"""The firewall rules of an engine of the project's own: an engine leaves all of them behind when it ends.

What an ending engine left is told from what was there before in two ways: rules that name its devices are its
own, and so are the chains called `DOCKER…` that were not there when it started. Listings are those of
`iptables -S`.
"""

from collections.abc import Mapping, Sequence

from supervisor.provision.host import CommandError, find_program, run

Chains = dict[str, list[str]]
"""Names of chains called `DOCKER…`, by program and table (`iptables filter`)."""

_TABLES = [
    f"{program} {table}" for program in ("iptables", "ip6tables") for table in ("filter", "nat", "raw")
]
_DEADLINE = 30.0  # seconds


async def engine_chains() -> Chains:
    """Return the chains of engines that are there now."""
    return {place: _chains(await _listing(place)) for place in _TABLES}


async def clean(devices: Sequence[str], before: Mapping[str, Sequence[str]]) -> None:
    """Delete the rules that name one of `devices`, and the engines' chains that were not there `before`.

    A `DOCKER-USER` chain into which somebody has put rules stays. Nothing is done where there is no iptables.
    """
    for place in _TABLES:
        for arguments in cleaning(await _listing(place), devices, before.get(place, [])):
            await run([*_command(place), *arguments], timeout=_DEADLINE)


def cleaning(listing: str, devices: Sequence[str], before: Sequence[str]) -> list[list[str]]:
    """Return the arguments of the calls that clean the table which `listing` shows, in their order."""
    rules = [line.split() for line in listing.splitlines() if line.startswith("-A ")]
    own = [chain for chain in _chains(listing) if chain not in before]
    if any(rule[1] == "DOCKER-USER" and rule[2:] != ["-j", "RETURN"] for rule in rules):
        own = [chain for chain in own if chain != "DOCKER-USER"]
    calls = [
        ["-D", *rule[1:]]
        for rule in rules
        if rule[1] not in own and (set(devices) & set(rule) or _target(rule) in own)
    ]
    return [*calls, *(["-F", chain] for chain in own), *(["-X", chain] for chain in own)]


def _chains(listing: str) -> list[str]:
    return [line.split()[1] for line in listing.splitlines() if line.startswith("-N DOCKER")]


def _target(rule: Sequence[str]) -> str | None:
    return rule[rule.index("-j") + 1] if "-j" in rule else None


def _command(place: str) -> list[str]:
    program, table = place.split()
    return [program, "-w", "-t", table]


async def _listing(place: str) -> str:
    if find_program(place.split()[0]) is None:
        return ""
    try:
        return await run([*_command(place), "-S"], timeout=_DEADLINE)
    except CommandError:
        return ""  # this kernel has no such table, so there is nothing in it
