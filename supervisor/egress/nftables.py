"""nft(8), as far as the rules need it. Everything here needs root (CAP_NET_ADMIN)."""

import json
import socket
from typing import Any, Final, cast

import trio

from supervisor.egress.host import program
from supervisor.egress.rules import ANSWERED, PREFIX, Plan
from supervisor.errors import ConfigurationError

_DEADLINE: Final = 30.0  # seconds for one call: ten milliseconds, and the first has the kernel load modules
_CHANGING: Final = frozenset({"handle", "packets", "bytes"})  # keys that change by themselves
_FILLED: Final = frozenset(
    {*ANSWERED, "asking", "talkative", "talkative_by_ipv6"}
)  # sets that the traffic fills


async def apply(text: str) -> None:
    """Put a ruleset in place, all of it or nothing.

    Raises:
        ConfigurationError: nft is missing or refuses.
    """
    await _nft("-f", "-", text=text)


async def check(text: str) -> None:
    """Have the kernel look at a ruleset without putting it in place.

    Raises:
        ConfigurationError: nft is missing or refuses.
    """
    await _nft("--check", "-f", "-", text=text)


async def remove(plan: Plan) -> None:
    """Remove the table of `plan`; nothing happens when there is none.

    Raises:
        ConfigurationError: nft is missing or refuses.
    """
    await apply(f"table inet {plan.table} {{}}\ndelete table inet {plan.table}\n")


async def remove_stale() -> None:
    """Remove the tables of bridges that are no more: rules outlive the network that they are for.

    Raises:
        ConfigurationError: nft is missing or refuses.
    """
    bridges = {name for _, name in socket.if_nameindex()}
    shown = json.loads(await _nft("--json", "list", "tables", "inet"))
    names = [entry["table"]["name"] for entry in shown["nftables"] if "table" in entry]
    stale = [name for name in names if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in bridges]
    for name in stale:
        await apply(f"table inet {name} {{}}\ndelete table inet {name}\n")


async def listing(plan: Plan) -> str | None:
    """Return what stands in the table of `plan`, without what changes by itself; None if there is no table.

    Two listings are equal when nobody has changed a rule in between.

    Raises:
        ConfigurationError: nft is missing.
    """
    try:
        shown = json.loads(await _nft("--json", "list", "table", "inet", plan.table))
    except NftError:
        return None
    return json.dumps([_lasting(entry) for entry in shown["nftables"]], sort_keys=True)


async def empty(plan: Plan, name: str) -> None:
    """Empty one set of the table of `plan`.

    Raises:
        ConfigurationError: there is none, or nft is missing.
    """
    await apply(f"flush set inet {plan.table} {name}\n")


async def denied_packets(plan: Plan) -> int:
    """Return how many packets the rules have denied since they were put in place.

    Raises:
        ConfigurationError: there are no such rules, or nft is missing.
    """
    shown = json.loads(await _nft("--json", "list", "counter", "inet", plan.table, "denied"))
    return sum(entry["counter"]["packets"] for entry in shown["nftables"] if "counter" in entry)


class NftError(ConfigurationError):
    """nft refused. The text has its message."""


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value)
        filled = entries.get("name") in _FILLED
        return {
            key: _lasting(part)
            for key, part in entries.items()
            if key not in _CHANGING and not (filled and key == "elem")
        }
    if isinstance(value, list):
        parts: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
        return [_lasting(part) for part in parts]
    return value


async def _nft(*arguments: str, text: str = "") -> bytes:
    try:
        with trio.fail_after(_DEADLINE):
            done = await trio.run_process(
                [program("nft"), *arguments],
                stdin=text.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    except trio.TooSlowError:
        raise ConfigurationError(f"nft {arguments[0]} did not end within {_DEADLINE:g} s") from None
    if done.returncode:
        raise NftError(f"nft {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout
