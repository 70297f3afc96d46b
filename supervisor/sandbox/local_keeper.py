"""The keeper of one local session: the gate's twin for a plain PTY on this host. Run as a script, `python -I
-S`, never imported.

It speaks docs/gate.md's frames over the socket that is its standard input, so that the supervisor's side is
the same as for a container's lifeline. What PID 1 and the kernel do in a container, it has to do by itself:
as a child subreaper (prctl(2)) it becomes the parent of whatever its session's processes leave behind, and it
kills children until there are none.

It keeps the supervisor's user (it must be able to end programs of the other one) and looks at nothing that
they write.

It runs before anything else, and many times: it imports only what it needs, and nothing of this package.
"""

# ruff: noqa: PTH123, PTH208
# pathlib would take longer to import than all the rest.

import array
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import time
import warnings
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

_HAVE_IMPORTED = warnings  # os.execvpe imports it, and then the session's user may not read Python's files
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38  # linux/prctl.h
IUTF8 = 0o40000  # asm-generic/termbits.h; termios has no name for it
REAP_TIME = 10.0  # seconds for killed processes to go
MAX_EXEC_PAYLOAD = 65536
NO_TERMINAL, CANNOT_EXECUTE, NOT_FOUND = 125, 126, 127


# Exit statuses, as docs/gate.md has them.
DEATH_FRAME, DEATH_LIFELINE, DEATH_LIFETIME, DEATH_TERMINATED, DEATH_SURVIVORS = (
    244,
    245,
    247,
    248,
    249,
)


def die(status: int) -> NoReturn:
    """End everything at once."""
    end_all()
    sys.exit(status)


def prctl(option: int, value: int) -> None:
    """prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads; [] when it has gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(word) for word in file.read().split()]
    return found


def descendants(pid: int) -> list[int]:
    """Return all processes below `pid` that there are at a glance."""
    found = children(pid)
    for child in found:
        found.extend(children(child))  # the loop reaches these, too
    return found


def signal_all(number: int) -> None:
    """Signal all processes of the session."""
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all() -> bool:
    """Kill and reap until no child is left; False when some are there still after `REAP_TIME`."""
    deadline = time.monotonic() + REAP_TIME
    while time.monotonic() < deadline:
        signal_all(signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.002)
    return False


def noted(number: int, frame: FrameType | None) -> None:
    """Handle a signal: the wakeup descriptor has told of it already."""


class Keeper:
    """One session, from REDY to EXIT."""

    def __init__(self, lifeline: socket.socket, options: dict[str, Any]) -> None:
        self.lifeline = lifeline
        self.options = options
        self.deadline = float("inf")
        self.grace = 0.0
        self.hung_up = False
        self.terminal = -1

    def offer_terminal(self) -> None:
        """Open the PTY and send REDY with its master, of which no copy is kept."""
        master, self.terminal = os.openpty()
        modes = termios.tcgetattr(self.terminal)
        modes[0] |= IUTF8
        termios.tcsetattr(self.terminal, termios.TCSANOW, modes)
        if self.options["uid"] is not None:
            os.fchown(self.terminal, self.options["uid"], self.options["gid"])
        os.fchmod(self.terminal, 0o600)
        rights = array.array("i", [master])
        self.lifeline.sendmsg(
            [struct.pack(">4sII", b"REDY", 4, 3)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
        )
        os.close(master)

    def receive_exactly(self, count: int) -> bytes:
        """Return `count` bytes; die when the lifeline ends before."""
        data = b""
        while len(data) < count:
            piece = self.lifeline.recv(count - len(data))
            if not piece:
                die(DEATH_LIFELINE)
            data += piece
        return data

    def receive_exec(self) -> tuple[list[bytes], dict[bytes, bytes]]:
        """Return the command and its environment."""
        kind, size = struct.unpack(">4sI", self.receive_exactly(8))
        if kind == b"TERM":
            die(DEATH_TERMINATED)
        if kind != b"EXEC" or not 16 < size <= MAX_EXEC_PAYLOAD:
            die(DEATH_FRAME)
        payload = self.receive_exactly(size)
        lifetime, grace, options, words, entries = struct.unpack_from(">IIIHH", payload)
        texts = payload[16:].split(b"\0")
        if options or texts.pop() != b"" or len(texts) != words + entries or not words:
            die(DEATH_FRAME)
        self.deadline = time.monotonic() + lifetime
        self.grace = grace / 1000
        environment = [entry.partition(b"=") for entry in texts[words:]]
        return texts[:words], {name: value for name, _, value in environment}

    def become_command(self, command: list[bytes], environment: dict[bytes, bytes]) -> NoReturn:
        """In the child: take the terminal, give up rights, execute."""
        status = NO_TERMINAL
        try:
            os.setsid()
            fcntl.ioctl(self.terminal, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(self.terminal, fd)
            for name, value in self.options["limits"].items():
                resource.setrlimit(getattr(resource, name), (value, value))
            if self.options["uid"] is not None:
                os.setgroups([])
                os.setresgid(*[self.options["gid"]] * 3)
                os.setresuid(*[self.options["uid"]] * 3)
            prctl(PR_SET_DUMPABLE, 1)
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which resets it
            os.chdir(self.options["directory"])
            for each in range(1, signal.NSIG):
                with suppress(OSError):  # KILL, STOP and the C library's own
                    signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            status = NOT_FOUND
            os.execvpe(command[0], command, environment)  # noqa: S606 - this is what it is for
        except OSError as error:
            status = CANNOT_EXECUTE if isinstance(error, PermissionError) else status
            os.write(2, b"cannot run %s: %s\n" % (command[0], (error.strerror or "").encode()))
        except Exception as error:
            os.write(2, b"cannot run %s: %r\n" % (command[0], str(error).encode()))
        finally:
            os._exit(status)

    def run(self) -> None:
        """Do it all."""
        wake_in, wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_out)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, noted)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # meant for the supervisor, whose end we see in any case
        self.offer_terminal()
        command, environment = self.receive_exec()
        pid = os.fork()
        if pid == 0:
            self.become_command(command, environment)
        status = self.attend(pid, wake_in)
        if not end_all():
            sys.exit(DEATH_SURVIVORS)
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + ended_by if ended_by else os.WEXITSTATUS(status)
        self.lifeline.send(struct.pack(">4sIII", b"EXIT", 8, code, ended_by))

    def attend(self, pid: int, wake_in: int) -> int:
        """Wait for the command's end and return its wait status. Heeds lifeline and deadline, and reaps
        orphans.
        """
        lifeline = self.lifeline.fileno()
        while True:
            timeout = max(0, min(self.deadline - time.monotonic(), 1e6))
            ready = select.select([lifeline, wake_in], [], [], timeout)[0]
            if time.monotonic() >= self.deadline:
                die(DEATH_TERMINATED if self.hung_up else DEATH_LIFETIME)
            if wake_in in ready and signal.SIGTERM in os.read(wake_in, 4096):
                self.hang_up()
            if lifeline in ready:
                if self.receive_exactly(8) != b"TERM\0\0\0\0":
                    die(DEATH_FRAME)
                self.hang_up()
            while True:
                reaped, status = os.waitpid(-1, os.WNOHANG)
                if reaped == pid:
                    return status
                if not reaped:
                    break

    def hang_up(self) -> None:
        """Tell the session to go; whoever is left after the grace is killed."""
        if not self.hung_up:
            self.hung_up = True
            signal_all(signal.SIGHUP)
            signal_all(signal.SIGCONT)
            self.deadline = min(self.deadline, time.monotonic() + self.grace)


def main() -> None:
    """Entry point. Standard input is the lifeline, the only argument the options as JSON; nothing of it is
    secret.
    """
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    lifeline = socket.socket(fileno=os.dup(0))
    os.set_inheritable(lifeline.fileno(), False)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    try:
        Keeper(lifeline, json.loads(sys.argv[1])).run()
    except (BrokenPipeError, ConnectionResetError):
        die(DEATH_LIFELINE)
    except OSError:
        end_all()
        raise


if __name__ == "__main__":
    main()
