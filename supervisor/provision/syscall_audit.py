"""The seccomp profile against what is known of the programs in a sandbox: what was seen of them (traces), and
what is let through, or refused, for a reason.

The profile is what the traces and the reasons say and nothing else: `audit` names every difference, and a
test wants none. `docker/syscalls/traced.json` is made by `trace_syscalls`; `docker/syscalls/reasons.toml` is
written by hand, so that whoever adds a call to the profile has to say why.
"""

import fnmatch
import functools
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

# A line of `strace -f -X raw -o FILE`: the process, the name, what is in the parentheses.
_CALL = re.compile(r"^\d+ +([a-z][a-z0-9_]*)\((.*)$")
# A number, or several with bars between them: strace separates the flags of a value even so.
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)(?:\|(?:0x[0-9a-f]+|\d+))*")
_SOCKET_KIND = 15  # of socket()'s second argument, the part that is no flag
_LOWER = 0xFFFF_FFFF

# Calls of which an argument decides, and which: positions; for clone, the one that strace calls so.
_TELLING: Final[Mapping[str, tuple[int, ...]]] = {
    "ioctl": (1,),
    "prctl": (0,),
    "socket": (0, 1, 2),
    "socketpair": (0,),
    "personality": (0,),
}
_CLONE_FLAGS = re.compile(r"flags=(0x[0-9a-f]+)")
_NAMESPACES: Final = 0x7E02_0000  # the flags of clone(2) that make namespaces
_BY_NUMBER: Final = ("ioctl", "prctl")  # allowed number by number, each with a rule of its own

Seen = dict[str, set[str]]


def calls_in(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each call in a trace: its name, and those of its arguments that decide (`argument`),
    or none.
    """
    for line in lines:
        if found := _CALL.match(line):
            name, rest = found[1], found[2]
            yield name, _telling(name, rest)


def _telling(name: str, rest: str) -> str:
    if name == "clone":
        flags = _CLONE_FLAGS.search(rest)
        return argument([int(flags[1], 16) & ~0xFF]) if flags else ""  # the low byte is a signal
    if name not in _TELLING:
        return ""
    texts = _NUMBER.findall(rest.split("<unfinished")[0])[:3]
    numbers = [functools.reduce(int.__or__, (int(part, 0) for part in text.split("|"))) for text in texts]
    chosen = [numbers[position] & _LOWER for position in _TELLING[name] if position < len(numbers)]
    if name == "socket":
        chosen[1] &= _SOCKET_KIND
    return argument(chosen)


def argument(numbers: Iterable[int]) -> str:
    """Return arguments as the summary and the reasons spell them: `0x5401`, `0x2 0x1 0x0`."""
    return " ".join(f"{number:#x}" for number in numbers)


@attrs.frozen
class Reasons:
    """What is let through, and refused, for a reason: by call, or by call and arguments (`ioctl 0x5401`).

    Attributes:
        allowed: though no trace has it.
        denied: though a trace has it.
    """

    allowed: Mapping[str, str]
    denied: Mapping[str, str]


def read_reasons(path: Path) -> Reasons:
    """Return the table in `path`: lists of calls by their reason, in the tables `allowed` and `denied`."""
    tables: dict[str, dict[str, list[str]]] = tomllib.loads(path.read_text())
    allowed, denied = (
        {call: reason for reason, calls in tables[name].items() for call in calls}
        for name in ("allowed", "denied")
    )
    return Reasons(allowed, denied)


def read_summary(path: Path) -> Seen:
    """Return the calls in a summary by their name, or name and arguments, and which workloads made them."""
    content: dict[str, dict[str, list[str]]] = json.loads(path.read_text())
    return {call: set(workloads) for call, workloads in content["calls"].items()}


def write_summary(seen: Mapping[str, set[str]], made_with: Mapping[str, str]) -> str:
    """Return the text of a summary, a line for each call."""
    calls = ",\n".join(f"  {json.dumps(call)}: {json.dumps(sorted(seen[call]))}" for call in sorted(seen))
    return f'{{"made with": {json.dumps(made_with)},\n "calls": {{\n{calls}\n }}}}\n'


def audit(profile: Mapping[str, Any], seen: Iterable[str], reasons: Reasons) -> list[str]:
    """Return what in the profile is not as traces and reasons say, and which reasons are none any more.

    Args:
        profile: the JSON of `docker/seccomp.json`.
        seen: calls of the summary.
        reasons: the table beside it.
    """
    traced = set(seen)
    allowed = set(_allowed(profile))
    wanted = (traced - reasons.denied.keys()) | reasons.allowed.keys()
    problems = [
        f"{call}: allowed, neither seen nor reasoned"
        for call in allowed
        if not any(_covers(call, each) for each in wanted)
    ]
    problems += [
        f"{call}: seen or reasoned, not allowed"
        for call in wanted
        if _has_a_rule(call) and not any(_covers(each, call) for each in allowed)
    ]
    problems += [f"{call}: a trace has it, and a reason beside" for call in traced & reasons.allowed.keys()]
    problems += [f"{call}: denied for a reason, and allowed" for call in allowed & reasons.denied.keys()]
    problems += [f"{call}: denied for a reason, no trace has it" for call in reasons.denied.keys() - traced]
    flags = [call for call in traced if call.startswith("clone ") and int(call.split()[1], 16) & _NAMESPACES]
    problems += [f"{call}: makes namespaces" for call in flags]
    return sorted(problems)


def _covers(rule: str, call: str) -> bool:
    """Whether `rule`, which may leave arguments open (`socket 0x1 * *`), lets `call` through."""
    return rule == call if rule.startswith(_BY_NUMBER) else fnmatch.fnmatchcase(call, rule)


def _has_a_rule(call: str) -> bool:
    """Whether the profile names exactly this: clone and personality are let through by a mask."""
    return not call.startswith(("clone ", "personality "))


def _allowed(profile: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the profile allows, spelled as in a summary."""
    for rule in profile["syscalls"]:
        if rule["action"] != "SCMP_ACT_ALLOW":
            continue
        for name in rule["names"]:
            yield name
            if name in (*_BY_NUMBER, "socket", "socketpair"):
                values = {each["index"]: each["valueTwo"] for each in rule.get("args", ())}
                # An index that no condition is about stands for any value.
                shown = [f"{values[at]:#x}" if at in values else "*" for at in _TELLING[name]]
                yield " ".join([name, *shown])
