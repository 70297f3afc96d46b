"""Strict, on a kernel that has it all, under systemd: every measure holds, a session works and goes.

Nothing is opted out of. The unit file is the project's own. A session survives a reload of the unit, which
is a hand-over to a new process, and leaves nothing behind.
"""

import json
import re
import subprocess
from pathlib import Path

import trio
from faults.visitor import SessionOverError, Visitor, visit

from supervisor.sandbox.identity import LABEL_PRODUCT
from vm.guest.installed import OUT, TOKEN, UNIT, install, run, say

URL = "ws://127.0.0.1:8080/ws"
SESSION_LIMIT = 600.0  # seconds for the session, a reload included
GONE_LIMIT = 60.0  # seconds for its container to go
FAILURES: list[str] = []


def require(*, holds: bool, what: str) -> None:
    """Note whether `what` is so; the machine's status tells in the end."""
    say(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        FAILURES.append(what)


def check() -> None:
    """Have every measure shown."""
    done = subprocess.run(
        [
            "terminal-supervisor",
            "--env-file",
            "/etc/terminal-supervisor/env",
            "check",
            "--no-setup",
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
        timeout=SESSION_LIMIT,
        check=False,
    )
    (OUT / "check.json").write_text(done.stdout)
    status = json.loads(done.stdout or "{}")
    rows = status.get("measures", {})
    width = max(map(len, rows), default=0)
    table = "\n".join(
        f"{name:{width}}  {', '.join(row['verified']) or 'NOT VERIFIED'}: {row['how']}"
        for name, row in rows.items()
    )
    (OUT / "check.txt").write_text(f"{table}\n")
    say(f"terminal-supervisor check: exit status {done.returncode}\n{table}")
    require(holds=done.returncode == 0 and status.get("without") == [], what="every measure that is required")


def containers() -> list[str]:
    """Names of the product's containers."""
    command = (
        "docker",
        "ps",
        "--all",
        "--filter",
        f"label={LABEL_PRODUCT}=session",
        "--format",
        "{{.Names}}",
    )
    return run(*command).split()


def look_at(name: str) -> None:
    """See for oneself what the kernel says of the first process of a session's container."""
    pid = run("docker", "inspect", "--format", "{{.State.Pid}}", name).strip()
    process = Path(f"/proc/{Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0]}")
    label = (process / "attr/current").read_text().strip()
    first, outside, _ = (process / "uid_map").read_text().split()
    cgroup = (process / "cgroup").read_text().strip()
    say(f"session's process: {label}; uid_map {first} {outside}; cgroup {cgroup}")
    require(holds=label.endswith("(enforce)"), what="AppArmor label, enforced")
    require(holds=(first, outside != "0") == ("0", True), what="uid_map: other users of the host")
    require(holds=re.fullmatch(r"0::/.+", cgroup) is not None, what="cgroup version 2")


async def greet(visitor: Visitor) -> None:
    """Have a command run."""
    await visitor.type(b"help\r")
    await visitor.read_until(b"exit")


def main_pid() -> str:
    """The unit's main process."""
    return run("systemctl", "show", "--property=MainPID", "--value", UNIT).strip()


async def session() -> None:
    """A visitor types, sees, stays through a reload, and leaves by `exit`."""
    async with visit(URL, credentials={"token": TOKEN}) as visitor:
        await visitor.read_until(b"> ")
        say("session: prompt")
        await greet(visitor)
        require(holds=True, what="session: typed, and seen")
        (name,) = containers()
        look_at(name)
        before = main_pid()
        await trio.to_thread.run_sync(run, "systemctl", "reload", UNIT)
        # The reload itself only asks for a successor, which takes as long as a start.
        while main_pid() == before:
            await trio.sleep(0.5)
        require(holds=True, what="reload: another process has taken over")
        hello = visitor.hello
    async with visit(
        URL, credentials={"token": TOKEN}, session_id=hello["sessionId"], offset=visitor.offset
    ) as visitor:
        await greet(visitor)
        require(holds=containers() == [name], what="reload: the session goes on")
        await visitor.type(b"exit\r")
        over = await visitor.read_to_end()
        say(f"session: over ({over})")
    with trio.fail_after(GONE_LIMIT):
        while containers():
            await trio.sleep(0.2)
    require(holds=True, what="container gone")


async def main() -> None:
    """Run it all; the parts after a failure too, as far as they make sense."""
    install()
    check()
    run("systemctl", "start", UNIT)
    say("serving under systemd")
    try:
        with trio.fail_after(SESSION_LIMIT):
            await session()
    except (SessionOverError, trio.TooSlowError) as error:
        require(holds=False, what=f"a session ({error!r})")
    run("systemctl", "stop", UNIT)
    require(
        holds=run("systemctl", "is-failed", UNIT, allowed=(0, 1)).strip() == "inactive",
        what="stopped in order",
    )
    require(holds=not containers(), what="nothing left behind")


if __name__ == "__main__":
    try:
        trio.run(main)
    finally:
        (OUT / "journal.txt").write_text(run("journalctl", "--no-pager", "--unit", UNIT, "--unit", "docker"))
    raise SystemExit(len(FAILURES) > 0)
