"""A second line behind the lifeline: a small process that removes a dead supervisor's containers.

The guard holds the read end of a pipe whose write end only the supervisor has. When the supervisor is gone,
however it went, the pipe ends, and the guard kills what runs in the instance's control group, where it has
one on this host, and has the engine remove every container of that instance, by label. It covers what the
lifeline cannot: transport `attach`, a gate that misbehaves, a create call that was under way. It has a
session of its own, ignores TERM, INT and HUP, and imports nothing that it does not need while it waits.

The supervisor's side (`keep_guard`) notices when the guard dies, says so, and starts another.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor.reaping.cgroups import end_all, remove_groups_of

if TYPE_CHECKING:
    import trio

PARALLEL: Final = 8
"""Removals at once."""
RETRY_PAUSE: Final = 1.0
"""Seconds between two looks at the engine."""
GIVE_UP_MARGIN: Final = 600.0
"""Seconds without an answer from the engine, beyond the longest life of a container, after which the guard
leaves the rest to the next supervisor: by then all have ended by themselves, graces included, and are at most
listed."""
CALL_TIMEOUT: Final = 30.0
"""Seconds for one call of the engine."""
KILL_TIME: Final = 0.5
"""Seconds at most to kill what runs in the containers, before the engine is asked to remove them."""
IGNORED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAREWELL: Final = b"q"
"""Sent by a supervisor that leaves in order, with nothing left to remove."""


class Guard:
    """The supervisor's end of the pipe, across the lives of several guard processes.

    Args:
        docker_host: address of the engine.
        instance: whose containers to remove.
        directory: to remove with them, once the ends of the sessions that it has records of are told.
        audit_log: where to: see `configure_audit`.
        longest_life: seconds that a container may wait and then serve a session.
        inherited: the pipe of a guard that watches already, and a pidfd of its process; owned from now on.

    Attributes:
        pid: of the guard process, once there is one of this process's own.

    Resource handling: `close` ends the guard's watch. Without `farewell` it then looks for left-overs; a
    killed supervisor does the same by dying.
    """

    def __init__(
        self,
        docker_host: str,
        instance: str,
        directory: Path | None = None,
        *,
        longest_life: float = 3600.0,
        inherited: tuple[int, int] | None = None,
        audit_log: str = "true",
    ) -> None:
        self._arguments = [docker_host, instance, str(longest_life), audit_log]
        if directory:
            self._arguments.append(str(directory))
        self._pipe: int | None = None
        self._process: int | None = None
        if inherited is not None:
            self._pipe, self._process = inherited
        self.pid: int | None = None

    def descriptors(self) -> tuple[int, int]:
        """Return the pipe and a pidfd of the guard process, for a process that inherits both. They stay the
        guard's."""
        assert self._pipe is not None
        assert self._process is not None
        return self._pipe, self._process

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a guard process, in place of an earlier one that has died. Forks and executes; nothing is
        inherited but the pipe.

        Raises:
            OSError: this host has no process, memory or descriptor to spare. There is no guard then.
        """
        self.close()
        reader, self._pipe = os.pipe()  # both close-on-exec
        # The child inherits the mask, so there is no moment at which these signals could end it.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "supervisor.reaping.guard", *self._arguments],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                close_fds=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            os.close(reader)
        try:
            self._process = os.pidfd_open(process.pid)
        except OSError:
            process.kill()  # before the pipe is closed, which would mean that the supervisor has died
            process.wait()
            raise
        self.pid = process.pid
        return process

    async def wait_dead(self) -> None:
        """Wait for the end of the guard process."""
        import trio

        assert self._process is not None
        await trio.lowlevel.wait_readable(self._process)

    @property
    def watches(self) -> bool:
        """Whether there is a guard process, as far as is known."""
        return self._process is not None

    def farewell(self) -> None:
        """Tell the guard that nothing is left to do."""
        if self._pipe is not None:
            try:
                os.write(self._pipe, FAREWELL)
            except BrokenPipeError:
                return  # the guard is dead, and nothing was left for it

    def close(self) -> None:
        """Let go of the pipe."""
        for descriptor in (self._pipe, self._process):
            if descriptor is not None:
                os.close(descriptor)
        self._pipe = self._process = None


async def keep_guard(
    guard: Guard, shared: Callable[[], bool] = lambda: False, *, task_status: "trio.TaskStatus[int | None]"
) -> None:
    """Keep a guard process running until cancelled; `started` gets the first one's pid, None if it was
    inherited.

    Args:
        guard: the supervisor's end.
        shared: tells whether another process holds this one's place, too. Then no guard is started: the other
            process would not hold its pipe, and all would be removed when this one ends.
    """
    import trio

    from supervisor.observability.log import get_logger

    log = get_logger(__name__)
    process = None if guard.watches else guard.start()
    task_status.started(guard.pid)
    while True:
        status: int | None = None
        if process is None:
            await guard.wait_dead()
        else:
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        log.error("the guard process died; starting another", pid=guard.pid, status=status)
        process = None
        while process is None:
            await trio.sleep(RETRY_PAUSE)
            if shared():
                continue
            try:
                process = guard.start()
            except OSError as error:  # what killed the last one, perhaps; the sessions go on meanwhile
                log.error("no guard process could be started; trying again", problem=str(error))


def main() -> None:
    """Wait for the end of the pipe on standard input, then remove. Arguments: the engine's address, the
    instance, its containers' longest life, where audit events go, and the instance's directory, if it has
    one."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    docker_host, instance, longest_life, audit_log, *directories = sys.argv[1:]
    if os.read(0, 1) == FAREWELL:
        return
    _attempt(end_all, instance, KILL_TIME)

    # Each part loads what it needs when its turn comes: it takes the CPU from the engine, which clears away.
    import trio

    patience = float(longest_life) + GIVE_UP_MARGIN
    done = trio.run(_remove_all, docker_host, instance, patience)

    from supervisor.observability.audit import audit, configure_audit
    from supervisor.observability.log import configure_logging
    from supervisor.reaping.directories import remove_dead_directory
    from supervisor.reaping.places import OPERATORS, private
    from supervisor.reaping.sockets import remove_dead_sockets

    configure_logging("json", "info")
    configure_audit(audit_log)
    if not done:
        audit("guard gave up", "critical", instance=instance[:8], seconds=round(patience))
    _attempt(remove_groups_of, instance)
    for directory in directories:
        _attempt(remove_dead_directory, Path(directory))
    for place in private(OPERATORS):
        _attempt(remove_dead_sockets, place)


def _attempt(part: Callable[..., object], *arguments: object) -> None:
    """Do a part of the cleaning. What it fails of is told, and keeps none of the others from being done:
    nobody starts another guard now.
    """
    try:
        part(*arguments)
    except Exception as error:
        _tell(
            {"event": "guard could not do all", "part": getattr(part, "__name__", ""), "problem": repr(error)}
        )


def _tell(report: dict[str, object]) -> None:
    with suppress(OSError):  # whoever read that may have died with the supervisor
        sys.stderr.write(json.dumps(report) + "\n")


async def _remove_all(docker_host: str, instance: str, patience: float) -> bool:
    """Remove the instance's containers until two lists in a row are empty: a create may have been under way.

    Returns:
        False when it gave up, after `patience` seconds without an answer from the engine.
    """
    import trio

    from supervisor.engine import Docker, DockerError
    from supervisor.sandbox.identity import LABEL_INSTANCE

    removed, empty_lists = 0, 0
    limiter = trio.CapacityLimiter(PARALLEL)
    give_up = trio.current_time() + patience

    async def remove(container: str) -> None:
        nonlocal removed
        async with limiter:
            try:
                await docker.containers.container(container).delete(force=True, v=True, timeout=CALL_TIMEOUT)
                removed += 1
            except DockerError:
                return  # listed again, if it is still there

    async with Docker(docker_host) as docker:
        while empty_lists < 2:
            try:
                found = await docker.containers.list(
                    all=True, filters={"label": [f"{LABEL_INSTANCE}={instance}"]}, timeout=CALL_TIMEOUT
                )
            except DockerError:
                if trio.current_time() > give_up:
                    break
                await trio.sleep(RETRY_PAUSE)
                continue
            give_up = trio.current_time() + patience
            empty_lists = 0 if found else empty_lists + 1
            async with trio.open_nursery() as nursery:
                for container in found:
                    nursery.start_soon(remove, container.id)
            if empty_lists < 2:
                await trio.sleep(RETRY_PAUSE)
    if removed:
        event = "guard removed containers of a dead supervisor"
        _tell({"event": event, "instance": instance[:8], "count": removed})
    return empty_lists == 2


if __name__ == "__main__":
    main()
