"""Strict, on a kernel that has it all, under systemd: every measure holds, a session works and goes.

Nothing is opted out of. The unit file is the project's own. A session survives a reload of the unit, which
is a hand-over to a new process, and leaves nothing behind; neither does one whose server is killed.
"""

import json
import re
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio
from faults.visitor import SessionOverError, Visitor, visit

from supervisor.measures import Measure
from supervisor.sandbox.identity import LABEL_PRODUCT
from vm.guest.installed import TOKEN, UNIT, require, run, say

URL = "ws://127.0.0.1:8080/ws"
SESSION_LIMIT = 600.0  # seconds for the session, a reload included
MINE = Path("/srv/anybody-may-write")  # but not with the profile of a session
AUDIT_LIMIT = 60.0  # seconds for a denial to be audited
GONE_LIMIT = 60.0  # seconds for its container to go


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


def first_process(name: str) -> Path:
    """Where the kernel tells of the first process of a session's container."""
    pid = run("docker", "inspect", "--format", "{{.State.Pid}}", name).strip()
    return Path(f"/proc/{Path(f'/proc/{pid}/task/{pid}/children').read_text().split()[0]}")


def look_at(name: str) -> None:
    """See for oneself what the kernel says of it."""
    process = first_process(name)
    label = (process / "attr/current").read_text().strip()
    first, outside, _ = (process / "uid_map").read_text().split()
    cgroup = (process / "cgroup").read_text().strip()
    say(f"session's process: {label}; uid_map {first} {outside}; cgroup {cgroup}")
    require(holds=label.endswith("(enforce)"), what="AppArmor label, enforced")
    require(holds=(first, outside != "0") == ("0", True), what="uid_map: other users of the host")
    require(holds=re.fullmatch(r"0::/.+", cgroup) is not None, what="cgroup version 2")


async def be_denied(name: str) -> None:
    """Have AppArmor deny something to the session, and see it audited. The image has nothing to try that
    with, and Landlock would be asked first: a program of the host's does, under the session's profile, as its
    user.
    """
    process = first_process(name)
    profile = re.findall(r"ably-cli-sandbox-session-\w+", (process / "attr/current").read_text())[0]
    uid = re.findall(r"^Uid:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)[0]
    MINE.touch()
    MINE.chmod(0o666)
    steps = (
        f"import os; os.setgroups([]); os.setgid({uid}); os.setuid({uid})",
        f"open({str(MINE)!r}, 'a').close()",
        f"open('/proc/self/attr/apparmor/current', 'w').write('changeprofile {profile}')",
        f"open({str(MINE)!r}, 'a').close()",
    )
    tried = await trio.to_thread.run_sync(
        partial(
            subprocess.run, ["python3", "-c", "\n".join(steps)], capture_output=True, text=True, check=False
        )
    )
    said = tried.stderr.strip().rpartition("\n")[2]
    require(holds=str(MINE) in said, what=f"denied to {profile}: {said}")
    line = None
    with trio.move_on_after(AUDIT_LIMIT):
        while line is None:
            journal = run("journalctl", "--no-pager", "--unit", UNIT)
            line = re.search(rf"apparmor denied.*\bcontainer={re.escape(name)}\b.*", journal)
            await trio.sleep(0.5)
    require(holds=line is not None, what=f"the denial is audited: {line[0] if line else 'no'}")
    require(holds=line is not None and "session=" in line[0], what="with the session")


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
        await be_denied(name)
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


async def killed() -> None:
    """The server is killed with a session open: nothing is left of that, and the unit serves again."""
    with suppress(SessionOverError):
        async with visit(URL, credentials={"token": TOKEN}) as visitor:
            await visitor.read_until(b"> ")
            (name,) = containers()
            process, before = first_process(name), main_pid()
            run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
            began = trio.current_time()
            with trio.fail_after(GONE_LIMIT):
                while process.exists():
                    await trio.sleep(0.02)
            require(
                holds=True, what=f"killed: its session was dead after {trio.current_time() - began:.2f} s"
            )
            await visitor.read_to_end()
    with trio.fail_after(GONE_LIMIT):
        while name in await trio.to_thread.run_sync(containers):
            await trio.sleep(0.2)
    while main_pid() in {before, "0"} or run("systemctl", "is-active", UNIT, allowed=(0, 3)) != "active\n":
        await trio.sleep(0.5)
    require(holds=True, what="killed: the unit has started again")
    async with visit(URL, credentials={"token": TOKEN}) as visitor:
        await visitor.read_until(b"> ")
        await greet(visitor)
    require(holds=True, what="killed: there are sessions again")
    journal = run("journalctl", "--no-pager", "--unit", UNIT)
    require(holds="supervisor_lost" in journal, what="killed: the end of the session is told")


async def limited(what: Callable[[], Awaitable[None]]) -> None:
    """Try something that does not hang; a failure is one, and the rest is looked at all the same."""
    try:
        with trio.fail_after(SESSION_LIMIT):
            await what()
    except (SessionOverError, trio.TooSlowError) as error:
        require(holds=False, what=f"{what.__name__} ({error!r})")


def smoke() -> None:
    """Try it all; what comes after a failure too, as far as it makes sense."""
    run("systemctl", "start", UNIT)  # installs the profiles of AppArmor first
    say("serving under systemd")
    held = re.search(r"hardening +holds=(\[.*?\])", run("journalctl", "--no-pager", "--unit", UNIT))
    require(
        holds=held is not None and set(json.loads(held[1])) == set(Measure),
        what=f"measures that hold: {held[1] if held else 'none'}",
    )
    trio.run(limited, session)
    trio.run(limited, killed)
    run("systemctl", "stop", UNIT)
    require(
        holds=run("systemctl", "is-failed", UNIT, allowed=(0, 1)).strip() == "inactive",
        what="stopped in order",
    )
    require(holds=not containers(), what="nothing left behind")
