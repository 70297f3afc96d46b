"""What the kernel says it denied: records of a real kernel, and of processes that choose their names well."""

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from supervisor.observability.audit import BURST, configure_audit
from supervisor.observability.denials import Denial, parse_record
from supervisor.sandbox.denials import report

# As Linux 6.1 wrote them.
EXEC = (
    'audit(1795388374.044:8): apparmor="DENIED" operation="exec" profile="ably-cli-sandbox-profile" '
    'name="/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" pid=458 comm="bash" requested_mask="x" '
    'denied_mask="x" fsuid=1911104836 ouid=0'
)
SIGNAL = (
    'audit(1795388374.060:9): apparmor="DENIED" operation="signal" '
    'profile="ably-cli-sandbox-session-317de9a498e0f8b6" pid=446 comm="bash" requested_mask="send" '
    'denied_mask="send" signal=exists peer="ably-cli-sandbox-profile"'
)
SECCOMP = (
    "audit(1795388374.060:9): auid=4294967295 uid=1911104836 gid=1000 ses=4294967295 "
    'subj=ably-cli-sandbox-profile//&ably-cli-sandbox-session-317de9a498e0f8b6 (enforce) pid=77 comm="x" '
    'exe="/usr/local/bin/attack" sig=31 arch=40000003 syscall=20 compat=1 ip=0x401b6f code=0x80000000'
)
LABEL = "ably-cli-sandbox-profile//&ably-cli-sandbox-session-317de9a498e0f8b6"


def test_records_of_a_kernel() -> None:
    assert parse_record(1400, EXEC) == Denial(
        "apparmor",
        "ably-cli-sandbox-profile",
        "exec",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "bash",
        458,
        1911104836,
    )
    signal = parse_record(1400, SIGNAL)
    assert signal is not None
    assert (signal.operation, signal.target, signal.uid) == ("signal", "ably-cli-sandbox-profile", None)
    assert parse_record(1326, SECCOMP) == Denial(
        "seccomp", LABEL, "20", "/usr/local/bin/attack", "x", 77, 1911104836
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (1400, EXEC.replace("DENIED", "ALLOWED")),
        (1400, EXEC.replace("DENIED", "STATUS")),
        (1300, EXEC),
        (1326, "audit(1:2): uid=0"),
        (1400, EXEC.replace("pid=458", "pid=x")),
        (1400, ""),
        (0, '"="="'),
    ],
)
def test_what_is_no_denial(kind: int, text: str) -> None:
    assert parse_record(kind, text) is None


def encoded(name: bytes) -> str:
    """As audit_log_untrustedstring() in the kernel does."""
    if any(byte == ord('"') or byte < 0x21 or byte > 0x7E for byte in name):
        return name.hex().upper()
    return f'"{name.decode()}"'


@given(st.binary(min_size=1, max_size=16).filter(lambda name: b"\0" not in name), st.binary(max_size=80))
def test_names_that_processes_choose(comm: bytes, path: bytes) -> None:
    text = EXEC.replace('"bash"', encoded(comm))
    if path:
        text = text.replace('"/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"', encoded(path))
    denial = parse_record(1400, text)
    assert denial is not None
    assert (denial.pid, denial.uid) == (458, 1911104836)
    assert denial.profile == "ably-cli-sandbox-profile"
    for said in (denial.command, denial.target):
        assert said.isascii()
        assert said.isprintable()
    if comm.isalnum() and comm.isascii():
        assert denial.command == comm.decode()


@given(st.sampled_from([1326, 1400]), st.text(max_size=200))
def test_anything_at_all(kind: int, text: str) -> None:
    for record in (text, EXEC + text, f"{text} {EXEC}", text.join(EXEC.split(" "))):
        if denial := parse_record(kind, record):
            assert all(part.isprintable() for part in (denial.command, denial.target, denial.profile))


def test_a_command_that_looks_like_a_record() -> None:
    comm = b'x" pid=1 fsuid=0'
    denial = parse_record(1400, EXEC.replace('"bash"', encoded(comm)))
    assert denial is not None
    assert (denial.pid, denial.uid, denial.command) == (458, 1911104836, comm.decode())
    newline = parse_record(1400, EXEC.replace('"bash"', encoded(b"a\n\x1b[2J")))
    assert newline is not None
    assert newline.command == "a\\n\\x1b[2J"


async def test_whose_it_was(autojump_clock: object) -> None:
    def session_of(uid: int) -> tuple[str, str]:
        return ("ts-session-1", "session-id") if uid == 1911104836 else ("", "")

    configure_audit("true")
    ours, unknown = parse_record(1400, EXEC), parse_record(1400, SIGNAL.replace("446", "4294967294"))
    other = parse_record(1400, SIGNAL.replace("446", "4294967294").replace("ably-cli", "somebody"))
    assert ours is not None
    assert unknown is not None
    assert other is not None
    with structlog.testing.capture_logs() as logs:
        for _ in range(BURST + 3):
            report(ours, session_of)
        report(unknown, session_of)
        report(other, session_of)
    told = [event for event in logs if event["event"] == "apparmor denied"]
    assert len(told) == BURST + 1
    assert told[0]["container"] == "ts-session-1"
    assert told[0]["session"] not in {"", "session-id"}, "its digest"
    assert told[-1]["container"] == told[-1]["session"] == ""
