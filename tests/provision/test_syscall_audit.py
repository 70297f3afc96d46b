"""The seccomp profile is what the traces and the reasons say: nothing more, nothing less."""

import copy
import json
from typing import Any

import pytest

from supervisor.provision.compiler import docker_directory
from supervisor.provision.syscall_audit import (
    Reasons,
    audit,
    calls_in,
    read_reasons,
    read_summary,
    write_summary,
)
from supervisor.provision.trace_syscalls import gate_calls
from supervisor.sandbox.seccomp import known_calls

SYSCALLS = docker_directory() / "syscalls"


def profile() -> Any:
    return json.loads((docker_directory() / "seccomp.json").read_text())


def test_the_profile_is_derived() -> None:
    seen = read_summary(SYSCALLS / "traced.json")
    assert audit(profile(), seen, read_reasons(SYSCALLS / "reasons.toml")) == []


def test_the_traces_have_the_gate_as_it_is() -> None:
    seen = read_summary(SYSCALLS / "traced.json")
    assert gate_calls() == {call for call, workloads in seen.items() if "gate" in workloads}


def test_traces_and_reasons_name_calls_that_there_are() -> None:
    reasons = read_reasons(SYSCALLS / "reasons.toml")
    named = {*read_summary(SYSCALLS / "traced.json"), *reasons.allowed, *reasons.denied}
    assert {call.split()[0] for call in named} - known_calls() == set()


NO_REASONS = Reasons({}, {})


@pytest.mark.parametrize(
    ("seen", "reasons", "problem"),
    [
        ({"read"}, NO_REASONS, ["write: allowed, neither seen nor reasoned"]),
        ({"read", "write", "mount"}, NO_REASONS, ["mount: seen or reasoned, not allowed"]),
        ({"read", "write", "mount"}, Reasons({}, {"mount": "no"}), []),
        ({"read"}, Reasons({"write": "yes"}, {}), []),
        ({"read", "write"}, Reasons({"write": "yes"}, {}), ["write: a trace has it, and a reason beside"]),
        ({"read", "write"}, Reasons({}, {"bpf": "no"}), ["bpf: denied for a reason, no trace has it"]),
        ({"read", "write", "clone 0x10000000"}, NO_REASONS, ["clone 0x10000000: makes namespaces"]),
        (
            {"read", "write", "socket 0x11 0x3 0x0"},
            NO_REASONS,
            ["socket 0x11 0x3 0x0: seen or reasoned, not allowed"],
        ),
    ],
)
def test_differences_are_named(seen: set[str], reasons: Reasons, problem: list[str]) -> None:
    small = {"syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]}
    assert audit(small, seen, reasons) == problem


def test_arguments_that_are_not_justified_are_named() -> None:
    wider = copy.deepcopy(profile())
    sti = {"index": 1, "value": 0xFFFFFFFF, "valueTwo": 0x5412, "op": "SCMP_CMP_MASKED_EQ"}
    wider["syscalls"] += [
        {"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [sti]},
        {"names": ["prctl"], "action": "SCMP_ACT_ALLOW"},
    ]
    problems = audit(wider, read_summary(SYSCALLS / "traced.json"), read_reasons(SYSCALLS / "reasons.toml"))
    assert problems == [
        "ioctl 0x5412: allowed, neither seen nor reasoned",
        "prctl *: allowed, neither seen nor reasoned",
    ]


def test_traces_are_read() -> None:
    lines = [
        "17    read(0x3, 0x7ffc, 0x40)           = 64",
        "17    socket(0x2, 0x1|0x80800, 0)       = 3",
        "18    socket(0xa, 0x2, 0x11 <unfinished ...>",
        "18    <... socket resumed>)             = 4",
        "17    ioctl(0, 0x5413, {ws_row=0x18})   = 0",
        "17    clone(child_stack=NULL, flags=0x1200000|0x11, child_tidptr=0x7f) = 19",
        "17    prctl(0xf, 0x55aa)                = 0",
        "19    +++ exited with 0 +++",
    ]
    assert list(calls_in(lines)) == [
        ("read", ""),
        ("socket", "0x2 0x1 0x0"),
        ("socket", "0xa 0x2 0x11"),
        ("ioctl", "0x5413"),
        ("clone", "0x1200000"),
        ("prctl", "0xf"),
    ]


def test_summaries_are_written_to_be_read(tmp_path: Any) -> None:
    seen = {"read": {"b", "a"}, "ioctl 0x5401": {"a"}}
    (tmp_path / "summary").write_text(write_summary(seen, {"node": "v1"}))
    assert read_summary(tmp_path / "summary") == seen
