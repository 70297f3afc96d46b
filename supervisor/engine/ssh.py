"""Engines behind ssh: each connection is a process of the system's `ssh`, with `docker system dial-stdio` on
the other side, as the Docker CLI does it.

So keys, agents, jump hosts and known hosts are what `~/.ssh/config` says, and the other side needs the Docker
CLI (18.09 or later). `ssh` is told to ask nobody anything: what it would ask (an unknown host, a passphrase)
is an error. A connection takes as long as a login does; `ControlMaster` in `~/.ssh/config` makes the later
ones quick.
"""

import shlex
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO
from urllib.parse import SplitResult

import trio

from supervisor.engine.connection import Connection, Connector

LAST_WORDS = 1.0
"""Seconds that an `ssh` which has closed its output may take to say why, and to end."""
MAX_WORDS = 4096
"""Bytes of them that are told."""


def ssh_command(parts: SplitResult) -> list[str]:
    """Return the command that connects to the engine at `ssh://[user@]host[:port][/path/of/docker.sock]`;
    without a path, to the one that the Docker CLI over there uses.

    Raises:
        ValueError: the URL is no such URL.
    """
    url = parts.geturl()
    if not parts.hostname:
        raise ValueError(f"no host in {url!r}")
    if parts.password is not None:
        raise ValueError("no password belongs in an ssh:// URL: use a key or an agent")
    if parts.query or parts.fragment:
        raise ValueError(f"an ssh:// URL is user, host, port and path only: {url!r}")
    command = ["ssh", "-T", "-o", "BatchMode=yes"]
    command += ["-l", parts.username] if parts.username else []
    command += ["-p", str(parts.port)] if parts.port else []
    remote = ["docker", "system", "dial-stdio"]
    if parts.path not in ("", "/"):
        remote[1:1] = ["--host", f"unix://{parts.path}"]
    begin = parts.netloc.lower().rindex(parts.hostname)  # `hostname` is in lower case, aliases need not be
    host = parts.netloc[begin : begin + len(parts.hostname)]
    return [*command, "--", host, shlex.join(remote)]


def ssh_connector(command: Sequence[str]) -> Connector:
    """Return a connector whose connections are processes of `command`, with the engine at their standard
    streams.

    Resource handling: a connection that is cut kills its process and waits until the kernel has let it go,
    which takes about a millisecond (measured: 0.4 to 4).

    Error handling: `OSError` says what `ssh` said.
    """

    async def connect() -> Connection:
        with tempfile.TemporaryFile() as words:
            connection, process = await _start(command, words)
            try:
                # `ssh` says nothing when it is through: the engine's answer is the sign.
                await connection.exchange(b"GET", b"/_ping", [(b"Host", b"docker")])
                while await connection.receive():
                    pass
            except (trio.BrokenResourceError, ValueError) as error:
                with suppress(subprocess.TimeoutExpired):
                    await trio.to_thread.run_sync(process.wait, LAST_WORDS)
                connection.cut()
                raise OSError(_last_words(words) or f"{command[0]} has ended without a word") from error
            except BaseException:
                connection.cut()
                raise
        return connection

    return connect


async def _start(command: Sequence[str], words: IO[bytes]) -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    sock = trio.socket.from_stdlib_socket(ours)
    with theirs:
        try:
            process = await trio.to_thread.run_sync(
                lambda: subprocess.Popen(  # noqa: S603 - an argument vector; the host cannot be an option
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=words,
                    start_new_session=True,  # a Ctrl-C is ours to deal with
                )
            )
        except BaseException:
            sock.close()
            raise

    def end() -> None:
        process.kill()
        process.wait()

    return Connection(trio.SocketStream(sock), sock, ours, end), process


def _last_words(words: IO[bytes]) -> str:
    words.seek(0)
    return "; ".join(words.read(MAX_WORDS).decode(errors="replace").split("\n")).strip("; \r")
